"""Rows handed out a page at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobqueue.errors import InvalidInputError
from jobqueue.model.item import ItemStatus

_MOST_AT_ONCE = 1000
ITEM_STATES = (*(str(status) for status in ItemStatus), "waiting", "cancelled")


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and the mark that gives the next ones; empty at the end."""

    rows: list[dict[str, Any]]
    next: str


def bounded(count: int) -> int:
    """Rows to give at once; raises `InvalidInputError` unless that is 1..1000."""
    if not 1 <= count <= _MOST_AT_ONCE:
        raise InvalidInputError(
            f"count {count} is out of range.", remedy=f"Use 1 to {_MOST_AT_ONCE} and page on.", field="count"
        )
    return count


def check_choices(field: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise `InvalidInputError` for the first of *given* that is not *known*."""
    for name in given:
        if name not in known:
            raise InvalidInputError(
                f"{field} {name!r} is unknown.", remedy=f"Use one of: {', '.join(known)}.", field=field
            )


def read_mark(after: str) -> tuple[int, int]:
    """Part and number of the last item given; raises `InvalidInputError` for what is no `Page.next`."""
    if not after:
        return (-1, -1)
    part, _, seq = after.partition(".")
    if not (part.isdigit() and seq.isdigit()):
        raise InvalidInputError(
            f"after {after!r} is no mark of a page.", remedy="Use the page's own 'next'.", field="after"
        )
    return (int(part), int(seq))


def item_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """An item with its outcome, as JSON."""
    names = ("seq", "key", "status", "attempts", "payload", "result", "error")
    return {name: row[name] for name in names} | {"at": None if row["at"] is None else row["at"].isoformat()}
