"""What the suite must know of each provider: inputs with an effect on the sandbox's seed, and how to read its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handlers.providers.spotify import SpotifyProvider
from handlers.sandbox.launch import SandboxProcess
from handlers.sandbox.seed import seed_artist_id, seed_playlist_id, seed_playlist_tracks, seed_track_id
from jobqueue.handler import Provider

LIBRARY, ARTISTS, PLAYLIST_ITEMS = 120, 60, 130
TOKEN = "sandbox-demo"


@dataclass(frozen=True)
class Case:
    """One operation with rows that have an effect.

    Attributes:
        absent: Rows without an effect, because their state is as wanted already.
        sandbox: Further sandbox options.
        effect: The sandbox's name of the effect request.
    """

    provider: Provider
    operation: str
    rows: tuple[Mapping[str, str], ...]
    effect: str
    absent: tuple[Mapping[str, str], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    sandbox: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def id(self) -> str:
        return f"{self.provider.name}-{self.operation}{self.label and '-' + self.label}"


def snapshot(sandbox: SandboxProcess) -> dict[str, Any]:
    """The account's state, as far as the API can restore it: order of playlists, but no dates."""
    state = sandbox.control("state", account="demo")
    return {
        "tracks": sorted(one["id"] for one in state["tracks"]),
        "artists": sorted(one["id"] for one in state["artists"]),
        "playlists": {one["id"]: [entry["uri"] for entry in one["items"]] for one in state["playlists"]},
    }


def _tracks(numbers: range | list[int]) -> tuple[Mapping[str, str], ...]:
    return tuple({"track": seed_track_id(n)} for n in numbers)


def _artists(numbers: range) -> tuple[Mapping[str, str], ...]:
    return tuple({"artist": f"spotify:artist:{seed_artist_id(n)}"} for n in numbers)


def _spotify_cases() -> list[Case]:
    provider = SpotifyProvider()
    playlist = {"playlist": f"https://open.spotify.com/playlist/{seed_playlist_id(0)}?si=abc"}
    in_playlist = sorted(set(seed_playlist_tracks(PLAYLIST_ITEMS)))
    new = [{"track": seed_track_id(5000 + n), "position": str(7 + n) if n < 45 else str(100 + n)} for n in range(90)]
    cases = [
        Case(provider, "unsave_tracks", _tracks(range(90)), "remove_library", _tracks(range(900, 903))),
        Case(provider, "save_tracks", _tracks(range(LIBRARY, LIBRARY + 90)), "save_library", _tracks(range(3))),
        Case(
            provider,
            "remove_from_playlist",
            _tracks(in_playlist[::3]),
            "remove_playlist_items",
            _tracks([9999]),
            options=playlist,
        ),
        Case(provider, "insert_into_playlist", tuple(new), "add_playlist_items", options=playlist, label="positions"),
        Case(
            provider,
            "insert_into_playlist",
            _tracks(range(6000, 6110)),
            "add_playlist_items",
            options=playlist,
            label="end",
        ),
    ]
    for quirks, label in (({}, ""), ({"quirks": "no-library-artists"}, "older")):
        out, into = ("unfollow_artists", "follow_artists") if quirks else ("remove_library", "save_library")
        followed, others = _artists(range(50)), _artists(range(ARTISTS, ARTISTS + 50))
        absent, present = _artists(range(900, 903)), _artists(range(3))
        cases += [
            Case(provider, "unfollow_artists", followed, out, absent, sandbox=quirks, label=label),
            Case(provider, "follow_artists", others, into, present, sandbox=quirks, label=label),
        ]
    return cases


CASES = _spotify_cases()
