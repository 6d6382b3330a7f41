"""Saved tracks and followed artists, by the current endpoints and the older ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from handlers.sandbox.clock import iso_seconds
from handlers.sandbox.provider import Answer, Call, Refusal
from handlers.sandbox.spotify_wire import (
    MAX_IDS,
    MAX_LIBRARY_URIS,
    body_of,
    check_id,
    check_timestamp,
    checked,
    integer,
    items_by_uri,
    page,
    raw_ids,
    split_uri,
    thing,
)
from handlers.sandbox.state import Change, State, set_change

_SAVABLE = frozenset({"track", "album", "episode", "show", "audiobook", "user", "playlist"})
_Thing = tuple[str, str]


def _changes(call: Call, state: State, things: Iterable[_Thing], *, is_saved: bool) -> tuple[Change, ...]:
    """Describe saving or removing things; one that is already as wanted changes nothing."""
    account, changes = state.accounts[call.account], []
    for kind, thing_id in dict.fromkeys(things):
        was = account.collection(f"{kind}s").get(thing_id)
        if (was is not None) == is_saved:
            continue
        # The API shows no date for a followed artist, so none is kept.
        dated = {} if kind == "artist" else {"added_at": iso_seconds(call.at_epoch_ns)}
        now = dated if is_saved else None
        changes.append(set_change(f"spotify:{kind}:{thing_id}", f"{kind}s", thing_id, was=was, now=now))
    return tuple(changes)


def _contains(call: Call, state: State, things: Iterable[_Thing]) -> Answer:
    account = state.accounts[call.account]
    return Answer(200, [thing_id in account.collection(f"{kind}s") for kind, thing_id in things])


def _library_things(call: Call, *, takes_artists: bool) -> list[_Thing]:
    kinds = _SAVABLE | {"artist"} if takes_artists else _SAVABLE
    return [split_uri(uri, kinds) for uri in checked(items_by_uri(call), "uris", MAX_LIBRARY_URIS)]


def change_library(*, is_saved: bool, takes_artists: bool) -> Callable[[Call, State], Answer]:
    """Make ``PUT`` or ``DELETE /me/library``; the reference does not list artists there, so that can be switched."""

    def handle(call: Call, state: State) -> Answer:
        things = _library_things(call, takes_artists=takes_artists)
        return Answer(200, changes=_changes(call, state, things, is_saved=is_saved))

    return handle


def library_contains(call: Call, state: State) -> Answer:
    """Answer ``GET /me/library/contains``."""
    return _contains(call, state, _library_things(call, takes_artists=True))


def _id_things(call: Call, kind: str) -> list[_Thing]:
    body_of(call)  # refuses a malformed body
    return [(kind, check_id(one)) for one in checked(raw_ids(call), "ids", MAX_IDS)]


def list_tracks(call: Call, state: State) -> Answer:
    """Answer ``GET /me/tracks``, the latest first."""
    limit, offset = integer(call, "limit", 20, smallest=1, largest=50), integer(call, "offset", 0)
    tracks = state.accounts[call.account].collection("tracks")
    items = [
        {"added_at": value["added_at"], "track": thing("track", track_id)}
        for track_id, value in tracks.newest_first(offset, limit)
    ]
    return Answer(200, page(call, items, total=len(tracks), limit=limit, offset=offset))


def save_tracks(call: Call, state: State) -> Answer:
    """Answer ``PUT /me/tracks``: ``ids``, or ``timestamped_ids``, which set the date of new and of saved tracks."""
    stamped = body_of(call).get("timestamped_ids")
    if "ids" in call.query or stamped is None:
        return Answer(200, changes=_changes(call, state, _id_things(call, "track"), is_saved=True))
    if not isinstance(stamped, list) or not all(isinstance(one, dict) for one in stamped):
        raise Refusal(400, "Invalid timestamped_ids")
    tracks = state.accounts[call.account].collection("tracks")
    wanted = {}
    for one in stamped:
        wanted[check_id(str(one.get("id")))] = {"added_at": check_timestamp(one.get("added_at"))}
    checked(list(wanted), "ids", MAX_IDS)
    changes = [
        set_change(f"spotify:track:{track_id}", "tracks", track_id, was=tracks.get(track_id), now=value)
        for track_id, value in wanted.items()
        if tracks.get(track_id) != value
    ]
    return Answer(200, changes=tuple(changes))


def remove_tracks(call: Call, state: State) -> Answer:
    """Answer ``DELETE /me/tracks``."""
    return Answer(200, changes=_changes(call, state, _id_things(call, "track"), is_saved=False))


def tracks_contain(call: Call, state: State) -> Answer:
    """Answer ``GET /me/tracks/contains``."""
    return _contains(call, state, _id_things(call, "track"))


def _check_artist_type(call: Call) -> None:
    if call.query.get("type") != "artist":
        raise Refusal(400, "Invalid type" if "type" in call.query else "Missing required field: type")


def list_following(call: Call, state: State) -> Answer:
    """Answer ``GET /me/following``: ordered by id, so a cursor holds although artists come and go."""
    _check_artist_type(call)
    limit, after = integer(call, "limit", 20, smallest=1, largest=50), call.query.get("after", "")
    artists = state.accounts[call.account].collection("artists")
    ids = artists.after(check_id(after) if after else "", limit + 1)
    shown, more = ids[:limit], len(ids) > limit
    origin = f"http://{call.headers.get('host', 'localhost')}{call.path}?type=artist&limit={limit}"
    body = {
        "href": f"{origin}&after={after}" if after else origin,
        "items": [thing("artist", one) for one in shown],
        "limit": limit,
        "next": f"{origin}&after={shown[-1]}" if more else None,
        "cursors": {"after": shown[-1] if more else None},
        "total": len(artists),
    }
    return Answer(200, {"artists": body})


def change_following(*, is_saved: bool) -> Callable[[Call, State], Answer]:
    """Make ``PUT`` or ``DELETE /me/following``, which answer 204."""

    def handle(call: Call, state: State) -> Answer:
        _check_artist_type(call)
        return Answer(204, changes=_changes(call, state, _id_things(call, "artist"), is_saved=is_saved))

    return handle


def following_contains(call: Call, state: State) -> Answer:
    """Answer ``GET /me/following/contains``."""
    _check_artist_type(call)
    return _contains(call, state, _id_things(call, "artist"))
