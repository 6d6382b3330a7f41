"""Spotify's forms: ids, URIs, pages, objects, and the words of its refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

from handlers.sandbox.provider import Call, Refusal

MAX_LIBRARY_URIS = 40
MAX_IDS = 50
MAX_PLAYLIST_ITEMS = 100

T = TypeVar("T")

_ID = re.compile(r"[0-9A-Za-z]{22}")


def split_list(text: str) -> list[str]:
    """Split a comma-separated parameter."""
    return [part.strip() for part in text.split(",") if part.strip()]


def string_list(value: Any) -> list[str]:
    """Return *value* when it is a list of strings, else nothing."""
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else []


def body_of(call: Call) -> dict[str, Any]:
    """Return the JSON object of a body; empty without a body.

    Raises:
        Refusal: The body is no JSON object.
    """
    if call.is_malformed or not isinstance(call.body, dict | None):
        raise Refusal(400, "Error parsing JSON.")
    return call.body or {}


def loose_body(call: Call) -> dict[str, Any]:
    """Return the JSON object of a body, empty when it is anything else; for naming items, not for judging."""
    return call.body if isinstance(call.body, dict) else {}


def raw_ids(call: Call) -> list[str]:
    """Name the ids of a call of the older form: from the query, else the body's ``ids`` or ``timestamped_ids``."""
    if "ids" in call.query:
        return split_list(call.query["ids"])
    body = loose_body(call)
    stamped = body.get("timestamped_ids")
    if isinstance(stamped, list):
        return [one["id"] for one in stamped if isinstance(one, dict) and isinstance(one.get("id"), str)]
    return string_list(body.get("ids"))


def items_by_id(kind: str) -> Callable[[Call], list[str]]:
    """Return a namer of items for calls that give bare ids of one *kind*: items are always URIs in the ledger."""
    return lambda call: [f"spotify:{kind}:{one}" for one in raw_ids(call)]


def items_by_uri(call: Call) -> list[str]:
    """Name the items of a call that gives URIs: the query's, or the body's ``uris``, ``items`` or ``tracks``."""
    if "uris" in call.query:
        return split_list(call.query["uris"])
    body = loose_body(call)
    listed = body.get("items", body.get("tracks"))
    if isinstance(listed, list):
        return [one["uri"] for one in listed if isinstance(one, dict) and isinstance(one.get("uri"), str)]
    return string_list(body.get("uris"))


def checked(values: list[T], field: str, largest: int) -> list[T]:
    """Return *values* when they are 1 to *largest*.

    Raises:
        Refusal: None or too many.
    """
    if not values:
        raise Refusal(400, f"Missing required field: {field}")
    if len(values) > largest:
        raise Refusal(400, f"Too many {field} requested")
    return values


def check_id(value: str) -> str:
    """Return a Spotify id when it is 22 base62 digits.

    Raises:
        Refusal: It is not.
    """
    if not _ID.fullmatch(value):
        raise Refusal(400, "invalid id")
    return value


def split_uri(uri: str, kinds: frozenset[str]) -> tuple[str, str]:
    """Split ``spotify:kind:id``.

    Raises:
        Refusal: The form, the kind or the id is wrong.
    """
    scheme, _, rest = uri.partition(":")
    kind, _, thing_id = rest.partition(":")
    if scheme != "spotify" or not thing_id:
        raise Refusal(400, "Invalid URI format")
    if kind not in kinds:
        raise Refusal(400, f"Unsupported URI type: {kind}")
    # User names are no base62 ids.
    return kind, thing_id if kind == "user" else check_id(thing_id)


def check_timestamp(value: Any) -> str:
    """Return an ``added_at`` of the form ``YYYY-MM-DDTHH:MM:SSZ``.

    Raises:
        Refusal: It has another form.
    """
    try:
        datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise Refusal(400, "Invalid timestamp") from None
    return str(value)


def integer(call: Call, name: str, default: int, *, smallest: int = 0, largest: int | None = None) -> int:
    """Read a number of the query.

    Raises:
        Refusal: It is no number or out of range.
    """
    text = call.query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < smallest or (largest is not None and int(text) > largest):
        raise Refusal(400, f"Invalid {name}")
    return int(text)


def page(call: Call, items: list[Any], *, total: int, limit: int, offset: int) -> dict[str, Any]:
    """Build a paging object; its links keep the other parameters of the call."""
    origin = f"http://{call.headers.get('host', 'localhost')}{call.path}"

    def link(at: int) -> str:
        return f"{origin}?{urlencode({**call.query, 'offset': at, 'limit': limit})}"

    return {
        "href": link(offset),
        "items": items,
        "limit": limit,
        "next": link(offset + limit) if offset + limit < total else None,
        "offset": offset,
        "previous": link(max(0, offset - limit)) if offset > 0 else None,
        "total": total,
    }


def thing(kind: str, thing_id: str) -> dict[str, Any]:
    """Build a track or artist object, as far as it can be known from an id."""
    return {"id": thing_id, "name": f"{kind.title()} {thing_id[:6]}", "type": kind, "uri": f"spotify:{kind}:{thing_id}"}
