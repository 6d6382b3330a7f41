"""Values on the command line that need reading."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click

from jobqueue.errors import InvalidInputError
from jobqueue.model.job import Priority
from jobqueue.model.label import ConcurrencyLimit

_UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_PIECE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_LONGEST_S = 10 * 366 * 86_400.0


class DurationType(click.ParamType):  # type: ignore[type-arg]
    """``90s``, ``15m``, ``2h``, ``1h30m``, ``1d`` as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip().lower()
        pieces = _PIECE.findall(text)
        if not pieces or _PIECE.sub("", text).strip():
            self.fail(f"{value!r} is no duration. Write it like 90s, 15m, 2h, 1h30m or 1d.", param, ctx)
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in pieces)
        if seconds > _LONGEST_S:
            self.fail(f"{value!r} is longer than ten years.", param, ctx)
        return seconds


class DeadlineType(DurationType):
    """A duration from now, or an instant like ``2026-12-24T18:00+01:00``, as seconds from now.

    An instant without an offset is in this machine's time zone.
    """

    name = "deadline"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds from now."""
        text = str(value).strip()
        if not _DATE.match(text):
            seconds = super().convert(value, param, ctx)
        else:
            try:
                at = datetime.fromisoformat(text).astimezone()
            except ValueError:
                self.fail(f"{value!r} is no instant. Write it like 2026-12-24T18:00+01:00, or 2h.", param, ctx)
            seconds = (at - datetime.now(UTC)).total_seconds()
        if seconds <= 0:
            self.fail(f"{value!r} has passed already.", param, ctx)
        return seconds


class PriorityType(click.ParamType):  # type: ignore[type-arg]
    """``high``, ``default`` or ``low``."""

    name = "priority"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Priority:
        """The priority."""
        if isinstance(value, Priority):
            return value
        try:
            return Priority.parse(str(value))
        except InvalidInputError as error:
            self.fail(f"{error}", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names."""
        return "[high|default|low]"


class SizesType(click.ParamType):  # type: ignore[type-arg]
    """``OPERATION=MIN,OPTIMAL,MAX`` batch sizes."""

    name = "sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int, int, int]:
        """The operation and its three sizes."""
        if isinstance(value, tuple):
            return value
        operation, _, sizes = str(value).partition("=")
        numbers = [word.strip() for word in sizes.split(",")]
        if not operation.strip() or len(numbers) != 3 or not all(n.isascii() and n.isdecimal() for n in numbers):
            self.fail(
                f"{value!r} is not OPERATION=MIN,OPTIMAL,MAX, such as unsave_tracks=1,20,40 or '*=1,20,40'.", param, ctx
            )
        smallest, optimal, largest = (int(number[:9]) for number in numbers)
        return operation.strip(), smallest, optimal, largest


class ConcurrencyType(click.ParamType):  # type: ignore[type-arg]
    """``LABEL=CAPACITY``, such as ``rechunk:{account}=1``; the label may hold ``=`` itself."""

    name = "concurrency"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ConcurrencyLimit:
        """The limit."""
        if isinstance(value, ConcurrencyLimit):
            return value
        label, equals, capacity = str(value).rpartition("=")
        capacity = capacity.strip()
        if not equals or not (capacity.isascii() and capacity.isdecimal()):
            self.fail(f"{value!r} is not LABEL=N, such as 'rechunk:{{account}}=1'.", param, ctx)
        try:
            return ConcurrencyLimit(label.strip(), int(capacity[:9]))
        except InvalidInputError as error:
            self.fail(f"{error}", param, ctx)


CONCURRENCY = ConcurrencyType()
DURATION = DurationType()
DEADLINE = DeadlineType()
PRIORITY = PriorityType()
SIZES = SizesType()


def read_options(pairs: Iterable[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as a mapping.

    Raises:
        InvalidInputError: One is no pair, or a name comes twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InvalidInputError(
                f"--option {pair!r} is not NAME=VALUE.",
                remedy="Write it like --option playlist=37i9dQZF1DX…",
                field="option",
            )
        if name in options:
            raise InvalidInputError(f"the option {name!r} is given twice.", remedy="Keep one.", field=name)
        if name == "batch_size":
            raise InvalidInputError("batch_size has an option of its own.", remedy="Use --batch-size N.", field=name)
        options[name] = value
    return options
