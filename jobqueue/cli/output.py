"""What the commands write: one JSON document, or plain text safe for a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from jobqueue.model import words

_WIDEST_CELL = 60

counted = words.counted
duration = words.duration


class OutputClosedError(Exception):
    """Whoever read our output has gone away, such as ``head``."""


def say(text: str) -> None:
    """Write a line to standard output."""
    try:
        click.echo(text)
    except BrokenPipeError:
        # What Python flushes at its end must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputClosedError from None


def note(text: str) -> None:
    """Write a line to standard error, where it never mixes with a result."""
    click.echo(text, err=True)


def emit(document: Any) -> None:
    """Write *document* as JSON, the only thing on standard output."""
    is_unicode = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    say(json.dumps(document, ensure_ascii=not is_unicode, indent=2, default=_as_json))


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, right: Iterable[str] = ()) -> None:
    """Write *rows* in aligned columns.

    Args:
        rows: Cells by name.
        columns: Heading by cell name, in order.
        right: Names of the cells aligned to the right.
    """
    numeric = set(right)
    lines = [[cell(row.get(name)) for name in columns] for row in rows]
    headings = list(columns.values())
    widths = [max(len(line[i]) for line in [headings, *lines]) for i in range(len(headings))]

    def aligned(cells: Sequence[str]) -> str:
        pairs = zip(columns, cells, widths, strict=True)
        return "  ".join(text.rjust(w) if name in numeric else text.ljust(w) for name, text, w in pairs).rstrip()

    say(click.style(aligned(headings), bold=True))
    for line in lines:
        say(aligned(line))


def cell(value: Any) -> str:
    """*value* as the text of one cell."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, Mapping | list):
        value = json.dumps(value, ensure_ascii=False, default=_as_json)
    text = clean(str(value))
    return text if len(text) <= _WIDEST_CELL else f"{text[: _WIDEST_CELL - 1]}…"


def clean(text: str) -> str:
    """*text* without anything a terminal would obey: keys and messages come from files and from providers."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _as_json(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
