"""Pages of a Spotify playlist, and where in one a run of items belongs. Uses no state but the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handlers.providers.answers import read_json, unexpected
from handlers.providers.http import Answer

PAGE_SIZE = 50
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
    for position in near:
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
