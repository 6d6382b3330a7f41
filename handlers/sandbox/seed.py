"""Identifiers and dates of the seed library: the same number gives the same thing, everywhere and always."""

from __future__ import annotations

import hashlib

from handlers.sandbox.clock import NS_PER_S, iso_seconds
from handlers.sandbox.provider import SeedOptions
from handlers.sandbox.state import Account, ItemList, State

_BASE62 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FIRST_ADDED_AT_S = 1_420_070_400  # 2015-01-01
FOREIGN_OWNER = "spotify"


def _base62_id(text: str, length: int = 22) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(digits)


def seed_track_id(n: int) -> str:
    """Return the id of track *n*, 22 base62 digits; tracks 0 to N-1 are the seed library."""
    return _base62_id(f"track {n}")


def seed_artist_id(n: int) -> str:
    """Return the id of artist *n*; artists 0 to N-1 are followed from the start."""
    return _base62_id(f"artist {n}")


def seed_playlist_id(n: int, account: str = "demo") -> str:
    """Return the id of playlist *n* of *account*; `FOREIGN_OWNER` has one, number 0, that nobody else may open."""
    return _base62_id(f"playlist {account} {n}")


def seed_added_at(n: int) -> str:
    """Return when track *n* was saved: a minute after the one before it, so that no two dates are equal."""
    return iso_seconds((_FIRST_ADDED_AT_S + 60 * n) * NS_PER_S)


def seed_playlist_tracks(size: int) -> list[int]:
    """Return the track numbers of a playlist: every third entry repeats an earlier track, some side by side."""
    distinct = max(1, size - size // 3)
    return [
        n if n < distinct else (n - distinct) * 2 % distinct
        for n in sorted(range(size), key=lambda n: n * 7 % max(1, size))
    ]


def seed(state: State, options: SeedOptions) -> None:
    """Fill *state* with accounts that all start alike, and one playlist that belongs to somebody else."""
    for name in options.accounts:
        account = state.accounts[name] = Account(name)
        tracks, artists = account.collection("tracks"), account.collection("artists")
        for n in range(options.library):
            tracks.set(seed_track_id(n), {"added_at": seed_added_at(n)})
        for n in range(options.artists):
            artists.set(seed_artist_id(n), {})
        for n in range(options.playlists):
            _seed_playlist(state, name, n, options.playlist_items)
    _seed_playlist(state, FOREIGN_OWNER, 0, options.playlist_items)


def _seed_playlist(state: State, owner: str, n: int, size: int) -> None:
    playlist = ItemList(seed_playlist_id(n, owner), owner, f"Playlist {n}")
    for position, track in enumerate(seed_playlist_tracks(size)):
        uri = f"spotify:track:{seed_track_id(track)}"
        playlist.entries.append({"uri": uri, "added_at": seed_added_at(position), "added_by": owner})
    state.lists[playlist.list_id] = playlist
