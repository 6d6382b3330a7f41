"""Pages of a Spotify playlist, and where in one a run of items belongs. Uses no state but the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.providers.answers import read_json, unexpected
from handlers.providers.http import Answer
from jobqueue.errors import ProviderUnavailable
from jobqueue.handler import Reading
from jobqueue.model.item import State

PAGE_SIZE = 50
MAX_RESTARTS = 3
UNREADABLE = ""
"""The URI of an item that Spotify no longer shows (``null``); it keeps its position."""


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive URIs of a playlist.

    Attributes:
        offset: Position of the first of *uris*, counted from 0.
        total: Items in the whole playlist.
    """

    offset: int
    total: int
    uris: tuple[str, ...]

    @property
    def end(self) -> int:
        """Position behind the last of *uris*."""
        return self.offset + len(self.uris)

    def at(self, position: int) -> str | None:
        """The URI at *position*; None before the first and behind the last item of the playlist.

        Raises:
            LookupError: The page does not reach there.
        """
        if position < 0 or position >= self.total:
            return None
        if not self.offset <= position < self.end:
            raise LookupError(position)
        return self.uris[position - self.offset]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a run belongs; *is_there* when it stands at *position* already."""

    position: int
    is_there: bool


def read_page(answer: Answer, *, offset: int) -> Page:
    """Read the answer to ``GET /playlists/{id}/items``.

    Raises:
        ProviderUnavailable: It is no page of items: one without a URI must never pass for an absent one.
    """
    body = read_json(answer)
    total = body.get("total") if isinstance(body, dict) else None
    entries = body.get("items") if isinstance(body, dict) else None
    if type(total) is not int or total < 0 or not isinstance(entries, list):
        raise unexpected(answer, "a page with a total and items was expected")
    return Page(offset, total, tuple(_uri(entry, answer) for entry in entries))


def _uri(entry: Any, answer: Answer) -> str:
    if isinstance(entry, dict) and ("item" in entry or "track" in entry):
        thing = entry["item"] if entry.get("item") is not None else entry.get("track")
        if thing is None:
            return UNREADABLE
        if isinstance(thing, dict) and isinstance(thing.get("uri"), str):
            return str(thing["uri"])
    raise unexpected(answer, "a playlist item without a URI")


class Scan:
    """Looks for the copies of *uris* page by page; `carry` is all that must be kept between pages."""

    def __init__(self, uris: Sequence[str], carry: Mapping[str, Any]) -> None:
        self._uris = tuple(uris)
        self._wanted = frozenset(uris)
        self.offset = int(carry.get("offset", 0))
        self._total: int | None = carry.get("total")
        self._restarts = int(carry.get("restarts", 0))
        self._last: str | None = carry.get("last")
        # Rows of [position, uri, previous, following]; the last `open` ones still wait for their following item.
        self._found: list[list[Any]] = [list(row) for row in carry.get("found", [])]
        self._open = int(carry.get("open", 0))

    def take(self, page: Page) -> Reading:
        """Add *page* and say whether that was the last.

        Raises:
            ProviderUnavailable: The playlist changed between pages too often.
        """
        is_short = not page.uris and page.offset < page.total
        if is_short or (self._total is not None and page.total != self._total):
            if self._restarts >= MAX_RESTARTS:
                raise ProviderUnavailable("the playlist keeps changing while it is read.")
            return Reading(carry={"restarts": self._restarts + 1})
        for position, uri in enumerate(page.uris, page.offset):
            self._add(position, uri)
        if page.end >= page.total:
            return Reading(self._states(page.total))
        return Reading(carry=self._carry(page))

    def _add(self, position: int, uri: str) -> None:
        if uri in self._wanted:
            self._found.append([position, uri, self._last, None])
            self._open += 1
        else:
            for row in self._found[len(self._found) - self._open :]:
                row[3] = uri
            self._open = 0
        self._last = uri

    def _carry(self, page: Page) -> dict[str, Any]:
        return {
            "offset": page.end,
            "total": page.total,
            "restarts": self._restarts,
            "last": self._last,
            "found": self._found,
            "open": self._open,
        }

    def _states(self, total: int) -> tuple[State, ...]:
        rows: dict[str, list[list[Any]]] = {uri: [] for uri in self._uris}
        for row in self._found:
            rows[row[1]].append(row)
        return tuple(
            {
                "positions": [row[0] for row in rows[uri]],
                "neighbours": [[row[2], row[3]] for row in rows[uri]],
                "total": total,
            }
            for uri in self._uris
        )


def find_slot(
    page: Page, run: Sequence[str], *, wanted: int, previous: str | None, following: str | None
) -> Slot | None:
    """Where *run* belongs among items that may have moved since it was taken out.

    Its old neighbours decide, nearest to *wanted* first: between both; else behind the one before it; else before the
    one after it. None when neither is near, or when part of the run stands there already: then somebody rearranged the
    playlist.

    Args:
        page: Items around *wanted*.
        run: URIs that follow one another.
        wanted: The position of the first of them in the original playlist.
        previous: The URI before it there; None when it was the first.
        following: The next URI that stayed in the playlist; None when there was none.
    """
    reach = range(max(page.offset, 0), page.end + 1)
    near = sorted(reach, key=lambda position: (abs(position - wanted), position))
    sides = {position: (_at(page, position - 1), _at(page, position)) for position in near}
    for position in near:
        is_framed = position == wanted or _at(page, position + len(run)) == following
        if is_framed and sides[position][0] == previous and _stands(page, run, position):
            return Slot(position, is_there=True)
        if sides[position] == (previous, following):
            return Slot(position, is_there=False)
    for side, neighbour in ((0, previous), (1, following)):
        for position in near:
            if sides[position][side] == neighbour:
                return None if sides[position][1 - side] in run else Slot(position, is_there=False)
    return None


_BEYOND = "\0"


def _at(page: Page, position: int) -> str | None:
    """Like `Page.at`, with a value equal to nothing where the page does not reach."""
    try:
        return page.at(position)
    except LookupError:
        return _BEYOND


def _stands(page: Page, run: Sequence[str], position: int) -> bool:
    return all(_at(page, position + index) == uri for index, uri in enumerate(run))
