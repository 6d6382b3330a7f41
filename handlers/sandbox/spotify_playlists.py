"""Playlists: positions, repeated tracks and snapshots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from handlers.sandbox import fields
from handlers.sandbox.clock import iso_seconds
from handlers.sandbox.provider import Answer, Call, Refusal
from handlers.sandbox.spotify_wire import (
    MAX_PLAYLIST_ITEMS,
    body_of,
    check_id,
    checked,
    integer,
    items_by_uri,
    page,
    split_uri,
    thing,
)
from handlers.sandbox.state import Change, ItemList, State, Value

_PLAYABLE = frozenset({"track", "episode"})


def _find(call: Call, state: State, *, only_owner: bool) -> ItemList:
    playlist = state.lists.get(check_id(call.params["playlist_id"]))
    if playlist is None:
        raise Refusal(404, "Resource not found")
    if only_owner and playlist.owner != call.account:
        raise Refusal(403, "Forbidden")
    return playlist


def _selected(call: Call, body: dict[str, Any]) -> Any:
    if "fields" not in call.query:
        return body
    try:
        return fields.select(body, fields.parse(call.query["fields"]))
    except ValueError as error:
        raise Refusal(400, f"Invalid fields: {error}") from None


def _item(entry: Value) -> dict[str, Any]:
    _, kind, thing_id = entry["uri"].split(":")
    shown = thing(kind, thing_id)
    by = {"id": entry["added_by"], "type": "user", "uri": f"spotify:user:{entry['added_by']}"}
    return {"added_at": entry["added_at"], "added_by": by, "is_local": False, "item": shown, "track": shown}


def _summary(playlist: ItemList) -> dict[str, Any]:
    return {
        "id": playlist.list_id,
        "name": playlist.name,
        "owner": {"id": playlist.owner, "type": "user", "uri": f"spotify:user:{playlist.owner}"},
        "collaborative": False,
        "public": False,
        "snapshot_id": playlist.snapshot_id(),
        "type": "playlist",
        "uri": f"spotify:playlist:{playlist.list_id}",
    }


def get_playlist(call: Call, state: State) -> Answer:
    """Answer ``GET /playlists/{id}``: anyone's summary; with the first page of items for the owner only."""
    playlist = _find(call, state, only_owner=False)
    body = _summary(playlist)
    if playlist.owner == call.account:
        items = [_item(entry) for entry in playlist.entries[:100]]
        first = page(call, items, total=len(playlist.entries), limit=100, offset=0)
        body |= {"items": first, "tracks": first}
    return Answer(200, _selected(call, body))


def list_playlists(call: Call, state: State) -> Answer:
    """Answer ``GET /me/playlists``."""
    limit, offset = integer(call, "limit", 20, smallest=1, largest=50), integer(call, "offset", 0)
    mine = [playlist for playlist in state.lists.values() if playlist.owner == call.account]
    items = [_summary(playlist) for playlist in mine[offset : offset + limit]]
    return Answer(200, page(call, items, total=len(mine), limit=limit, offset=offset))


def list_items(*, largest: int) -> Callable[[Call, State], Answer]:
    """Make ``GET /playlists/{id}/items`` (pages of at most 50) or ``…/tracks`` (100)."""

    def handle(call: Call, state: State) -> Answer:
        playlist = _find(call, state, only_owner=True)
        limit, offset = integer(call, "limit", 20, smallest=1, largest=largest), integer(call, "offset", 0)
        items = [_item(entry) for entry in playlist.entries[offset : offset + limit]]
        return Answer(200, _selected(call, page(call, items, total=len(playlist.entries), limit=limit, offset=offset)))

    return handle


def remove_items(*, key: str) -> Callable[[Call, State], Answer]:
    """Make ``DELETE /playlists/{id}/items`` (key ``items``) or ``…/tracks`` (key ``tracks``).

    Every copy goes. A known but old snapshot is accepted and the removal made on the list as it is now.
    """

    def handle(call: Call, state: State) -> Answer:
        playlist, body = _find(call, state, only_owner=True), body_of(call)
        if not isinstance(body.get(key), list):
            raise Refusal(400, f"Missing required field: {key}")
        listed: list[Any] = checked(body[key], key, MAX_PLAYLIST_ITEMS)
        if not all(isinstance(one, dict) and isinstance(one.get("uri"), str) for one in listed):
            raise Refusal(400, "Invalid URI format")
        uris = set(items_by_uri(call))
        for uri in uris:
            split_uri(uri, _PLAYABLE)
        snapshot_id = body.get("snapshot_id")
        if snapshot_id is not None and not playlist.knows_snapshot(str(snapshot_id)):
            raise Refusal(400, "Invalid snapshot_id")
        # From the end, so that each position is right both before the request and when it is applied.
        changes = tuple(
            _change(playlist, "remove", position, playlist.entries[position])
            for position in reversed(range(len(playlist.entries)))
            if playlist.entries[position]["uri"] in uris
        )
        return Answer(200, {"snapshot_id": playlist.snapshot_id(len(changes))}, changes)

    return handle


def add_items(call: Call, state: State) -> Answer:
    """Answer ``POST /playlists/{id}/items`` or ``…/tracks``: in one run from *position*, by default at the end."""
    playlist, body = _find(call, state, only_owner=True), body_of(call)
    uris = checked(items_by_uri(call), "uris", MAX_PLAYLIST_ITEMS)
    for uri in uris:
        split_uri(uri, _PLAYABLE)
    position = body.get("position")
    if "position" in call.query:
        position = integer(call, "position", 0)
    if position is None:
        position = len(playlist.entries)
    if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position <= len(playlist.entries):
        raise Refusal(400, "Index out of bounds.")
    added_at = iso_seconds(call.at_epoch_ns)
    changes = tuple(
        _change(playlist, "insert", at, {"uri": uri, "added_at": added_at, "added_by": call.account})
        for at, uri in enumerate(uris, start=position)
    )
    return Answer(201, {"snapshot_id": playlist.snapshot_id(len(changes))}, changes)


def _change(playlist: ItemList, verb: str, position: int, entry: Value) -> Change:
    return {"item": entry["uri"], "list": playlist.list_id, verb: position, "entry": entry}
