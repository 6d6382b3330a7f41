"""Spotify: the library and playlists of one user.

Source: Spotify's Web API reference, as of its OpenAPI description 2026.5.31.
"""

from __future__ import annotations

from collections.abc import Mapping

from handlers.providers.contract import Action, by_name
from handlers.providers.spotify_library import library_action
from handlers.providers.spotify_playlist import MAX_ITEMS, InsertIntoPlaylist, RemoveFromPlaylist


class SpotifyProvider:
    """The entry point ``spotify``."""

    name = "spotify"
    operations: Mapping[str, Action] = by_name(
        library_action("save_tracks", kind="track", undo="unsave_tracks", is_saving=True),
        library_action("unsave_tracks", kind="track", undo="save_tracks", is_saving=False),
        library_action("follow_artists", kind="artist", undo="unfollow_artists", is_saving=True),
        library_action("unfollow_artists", kind="artist", undo="follow_artists", is_saving=False),
        RemoveFromPlaylist(
            name="remove_from_playlist",
            columns=("track",),
            max_size=MAX_ITEMS,
            undo="insert_into_playlist",
            is_ordered=True,
            required_options=("playlist",),
        ),
        InsertIntoPlaylist(
            name="insert_into_playlist",
            columns=("track", "position"),
            max_size=MAX_ITEMS,
            undo="remove_from_playlist",
            is_ordered=True,
            is_idempotent=False,
            required_options=("playlist",),
        ),
    )
