"""Spotify's playlists: taking items out and putting them back where they were.

A removal takes every copy of a URI, so the state before is every position it stood at, with its neighbours. Positions
shift with each change, so requests run one at a time; a rollback undoes the latest batch first and inserts the copies
of a batch by ascending position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

from handlers.providers.contract import Action, changed_since, may_have_happened, shown
from handlers.providers.http import Answer
from handlers.providers.spotify_ids import id_of, read_uri
from handlers.providers.spotify_page import PAGE_SIZE, Page, Scan, find_slot, read_page
from jobqueue.errors import InvalidInputError
from jobqueue.handler import Call, Decision, Effect, Reading, UndoItem
from jobqueue.model.item import SUCCEEDED, Item, ItemOutcome, JournalEntry, State

MAX_ITEMS = 100
RUN_SIZE = 30
"""Longest run put back at once: one page must show it with its surroundings."""
MARGIN = 10
"""Items read before the wanted position."""
_KINDS = ("track", "episode")


@dataclass(frozen=True)
class PlaylistAction(Action):
    """What both playlist operations share."""

    item_statuses: ClassVar[frozenset[int]] = frozenset({400})

    def check_options(self, options: Mapping[str, Any]) -> None:
        """The playlist is an id, a URI or a link."""
        playlist_id(options)

    def read_key(self, text: str) -> str:
        """A track's or an episode's URI."""
        return read_uri(text, kinds=_KINDS, field=self.columns[0])

    def read(self, call: Call, *, offset: int, limit: int = PAGE_SIZE) -> Page:
        """One page of the call's playlist, by one request."""
        params = {
            "offset": str(offset),
            "limit": str(limit),
            "additional_types": "track,episode",
            "fields": "total,items(item(uri),track(uri))",
        }
        answer = self.exchange(call, "GET", _path(call), params=params)
        return read_page(answer, offset=offset)

    def change(self, call: Call, method: str, body: Mapping[str, Any]) -> Answer:
        """Send the one effect request of *call*."""
        return self.exchange(call, method, _path(call), json=body, is_effect=True)


@dataclass(frozen=True)
class RemoveFromPlaylist(PlaylistAction):
    """Take every copy of the items out of a playlist.

    State: ``{"positions": [3, 17], "neighbours": [[previous, following], …], "total": 200}``; the positions are those
    in the playlist before the batch, *following* is the next item that is not of the batch. Reading it takes a request
    for each 50 items of the playlist.
    """

    def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
        """Read the next page; a playlist that changes between pages is read anew."""
        scan = Scan(tuple(item.key for item in call.items), carry)
        page = self.read(call, offset=scan.offset)
        return scan.take(page)

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        """Items without a copy are skipped."""
        total = before[0]["total"] - sum(len(state["positions"]) for state in before)
        gone = {"positions": [], "neighbours": [], "total": total}
        absent = ItemOutcome.skipped("not in the playlist")
        return [Effect(gone) if state["positions"] else absent for state in before]

    def decide_undo(self, call: Call, now: Sequence[State]) -> Sequence[Decision]:
        """Only copies that the undone job put there are taken out again."""
        plain = self.decide(call, now)
        return [self._undo(item, state, one) for item, state, one in zip(call.items, now, plain, strict=True)]

    @staticmethod
    def _undo(item: Item, now: State, plain: Decision) -> Decision:
        if isinstance(plain, ItemOutcome):
            return ItemOutcome.skipped("already as before")
        copies, inserted = len(now["positions"]), int(item.payload["copies"])
        if copies > inserted:
            return changed_since(
                f"the playlist holds {copies} copies, {inserted} of them put in by the job, and a removal takes all"
            )
        return plain

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """Remove them all; without a snapshot id, so that repeating it is harmless."""
        self.change(call, "DELETE", {"items": [{"uri": item.key} for item in call.items]})
        return [SUCCEEDED] * len(call.items)

    def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
        """Whether the items are gone, if one page can tell."""
        reading = self.observe_step(call, {})
        if reading.states is None:
            return [
                ItemOutcome.unconfirmed("sent, and no answer came; the playlist is too long to look through")
            ] * len(call.items)
        return [None if state["positions"] else SUCCEEDED for state in reading.states]

    def plan_undo(self, entries: Iterable[JournalEntry]) -> Iterable[UndoItem]:
        """Each copy of each item, latest batch first, by ascending position within a batch."""
        for _, batch in groupby(may_have_happened(entries), key=lambda entry: (entry.part, entry.batch_no)):
            copies = [
                (position, entry.key, previous, following)
                for entry in batch
                for position, (previous, following) in zip(
                    entry.before["positions"], entry.before["neighbours"], strict=True
                )
            ]
            for position, uri, previous, following in sorted(copies, key=lambda copy: copy[0]):
                place = {"position": position, "previous": previous, "following": following}
                yield UndoItem(f"{uri}@{position}", place)


@dataclass(frozen=True)
class InsertIntoPlaylist(PlaylistAction):
    """Put a run of items into a playlist, at a position or at its end.

    State of each item: ``{"position": 12, "total": 200, "is_there": false}``: where it stands or would go; the position
    is None when there is no such place.
    """

    def read_item(self, row: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        """URI and position; with a position the key names both, for a playlist may hold a track twice."""
        uri = self.read_key(row.get("track") or "")
        text = (row.get("position") or "").strip()
        if not text:
            return uri, {}
        if not (text.isascii() and text.isdigit() and len(text) <= 6):
            raise InvalidInputError(
                f"position {shown(text)} is no position.",
                remedy="Count from 0, or leave it empty to add at the end.",
                field="position",
            )
        return f"{uri}@{int(text)}", {"position": int(text)}

    def fits(self, items: Sequence[Item]) -> int:
        """A run: items at positions that follow one another, or items for the end."""
        first = items[0].payload.get("position")
        size = self.max_size if first is None else min(self.max_size, RUN_SIZE)
        for index, item in enumerate(items[:size]):
            if item.payload.get("position") != (None if first is None else first + index):
                return index
        return min(len(items), size)

    def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
        """One page around the place, or the total when it is the end."""
        run = [_uri_of(item) for item in call.items]
        wanted = call.items[0].payload.get("position")
        if wanted is None:
            total = self.read(call, offset=0, limit=1).total
            return Reading(_run_states(total, total, len(run), is_there=False))
        page = self.read(call, offset=max(0, wanted - MARGIN))
        if "previous" not in call.items[0].payload:
            is_inside = wanted <= page.total
            return Reading(_run_states(wanted if is_inside else None, page.total, len(run), is_there=False))
        slot = find_slot(
            page,
            run,
            wanted=wanted,
            previous=call.items[0].payload["previous"],
            following=call.items[-1].payload["following"],
        )
        if slot is None:
            return Reading(_run_states(None, page.total, len(run), is_there=False))
        return Reading(_run_states(slot.position, page.total, len(run), is_there=slot.is_there))

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        """Every item is inserted, unless its position lies beyond the end."""
        if before[0]["position"] is None:
            total = before[0]["total"]
            refused = ItemOutcome.failed(
                "invalid_position", f"the position lies beyond the end; the playlist has {total} items."
            )
            return [refused] * len(before)
        return _effects(before)

    def decide_undo(self, call: Call, now: Sequence[State]) -> Sequence[Decision]:
        """A run goes back between its old neighbours; where they cannot be found it is left out, and said so."""
        if now[0]["is_there"]:
            return [ItemOutcome.skipped("already as before")] * len(now)
        if now[0]["position"] is None:
            words = f"nothing near position {call.items[0].payload['position']} is as it was"
            return [changed_since(words)] * len(now)
        return _effects(now)

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """Insert the run where `observe_step` found its place."""
        uris = [_uri_of(item) for item in call.items]
        self.change(call, "POST", {"uris": uris, "position": call.before[0]["position"]})
        return [ItemOutcome.succeeded({"position": state["position"]}) for state in call.after]

    def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
        """Whether the run stands where it was to go, and the playlist has grown by it."""
        run = [_uri_of(item) for item in call.items]
        position, total = call.before[0]["position"], call.before[0]["total"]
        page = self.read(call, offset=position, limit=PAGE_SIZE)
        stands = page.uris[: len(run)] == tuple(run[:PAGE_SIZE])
        if stands and page.total == total + len(run):
            return [ItemOutcome.succeeded({"position": state["position"]}) for state in call.after]
        if page.total == total and not stands:
            return [None] * len(run)
        grown = page.total - total
        return [ItemOutcome.unconfirmed(f"sent, and no answer came; the playlist has grown by {grown} items")] * len(
            run
        )

    def plan_undo(self, entries: Iterable[JournalEntry]) -> Iterable[UndoItem]:
        """Each URI once, with the number of its copies; a playlist, and so this count, ends at about 10,000 items."""
        copies: dict[str, int] = {}
        for entry in may_have_happened(entries):
            uri = entry.key.partition("@")[0]
            copies[uri] = copies.get(uri, 0) + 1
        for uri, count in copies.items():
            yield UndoItem(uri, {"copies": count})


def playlist_id(options: Mapping[str, Any]) -> str:
    """The id in a job's option ``playlist``.

    Raises:
        InvalidInputError: It names no playlist.
    """
    return id_of(read_uri(str(options.get("playlist", "")), kinds=("playlist",), field="playlist"))


def _path(call: Call) -> str:
    return f"/playlists/{playlist_id(call.job.options)}/items"


def _uri_of(item: Item) -> str:
    return item.key.partition("@")[0]


def _run_states(position: int | None, total: int, size: int, *, is_there: bool) -> tuple[State, ...]:
    return tuple(
        {"position": None if position is None else position + index, "total": total, "is_there": is_there}
        for index in range(size)
    )


def _effects(before: Sequence[State]) -> list[Decision]:
    total = before[0]["total"] + len(before)
    return [Effect({"position": state["position"], "total": total, "is_there": True}) for state in before]
