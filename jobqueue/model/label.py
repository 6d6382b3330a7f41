"""Concurrency by label: at most so many slices that bear the same label at once, over all workers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from string import Formatter
from typing import Any

from jobqueue.bounds import LEASE_MARGIN_S, LONGEST_EFFECT_S
from jobqueue.errors import InvalidInputError

LONGEST_LABEL = 200
"""Characters of a label, placeholders filled in."""

MOST_CAPACITY = 10_000
LONGEST_SLEEP_S = 366 * 86_400.0
LONGEST_EXPIRY_S = 3600.0

SHORTEST_EXPIRY_S = LONGEST_EFFECT_S + LEASE_MARGIN_S + 6.0
"""A permit must outlast the longest request and the time between two heartbeats, as a lease must."""

_FIELD = "concurrency"
_PLACEHOLDER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Label:
    """A label as one job bears it, placeholders filled in.

    Attributes:
        name: What is counted under.
        capacity: Most slices at once with that name; where several are declared, the smallest of those asking holds.
        max_sleep_s: How long the job waits without any permit before it fails; None for as long as it takes.
        expiry_s: How long a permit lasts without a heartbeat.

    Raises:
        InvalidInputError: A value is out of range; the message names it.
    """

    name: str
    capacity: int
    max_sleep_s: float | None = None
    expiry_s: float = SHORTEST_EXPIRY_S

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip():
            raise _wrong(f"label {self.name!r} is empty or begins or ends with white space.", "Name what is shared.")
        if len(self.name) > LONGEST_LABEL or not self.name.isprintable():
            raise _wrong(
                f"label {self.name[:40]!r} is too long or holds control characters.",
                f"Use at most {LONGEST_LABEL} printable characters, placeholders filled in.",
            )
        _check_numbers(self.capacity, self.max_sleep_s, self.expiry_s)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Label:
        """What `as_dict` gave."""
        return cls(**stored)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "name": self.name,
            "capacity": self.capacity,
            "max_sleep_s": self.max_sleep_s,
            "expiry_s": self.expiry_s,
        }

    def as_limit(self) -> ConcurrencyLimit:
        """The limit that gives this very label to whatever job it is declared for."""
        name = self.name.replace("{", "{{").replace("}", "}}")
        return ConcurrencyLimit(name, self.capacity, self.max_sleep_s, self.expiry_s)


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """At most *capacity* slices at once whose label is the same; declared on a handler, or with a job.

    Attributes:
        name: The label, with placeholders such as ``rechunk:{account}``; ``{{`` and ``}}`` stand for braces.
        capacity: Most slices at once, 1 to 10,000.
        max_sleep_s: How long a job waits without any permit before it fails, up to a year; None for no bound.
        expiry_s: How long a permit lasts without a heartbeat, 20 s to an hour: so long a lost host may block others.

    Raises:
        InvalidInputError: A value is out of range, or the name's braces do not match.
    """

    name: str
    capacity: int = 1
    max_sleep_s: float | None = None
    expiry_s: float = SHORTEST_EXPIRY_S

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise _wrong("the label is empty.", "Name what is shared, such as rechunk:{account}.")
        self.placeholders()
        _check_numbers(self.capacity, self.max_sleep_s, self.expiry_s)

    def placeholders(self) -> tuple[str, ...]:
        """The names between braces, in order.

        Raises:
            InvalidInputError: Something between braces is no plain name.
        """
        return tuple(field for _, field in self._pieces() if field is not None)

    def label(self, values: Mapping[str, object]) -> Label:
        """The label of a job whose placeholders mean *values*.

        Raises:
            InvalidInputError: A placeholder is unknown or stands for nothing, or the label becomes too long.
        """
        words = []
        for text, field in self._pieces():
            words.append(text)
            if field is not None:
                words.append(_value(self.name, field, values))
        return Label("".join(words), self.capacity, self.max_sleep_s, self.expiry_s)

    def _pieces(self) -> list[tuple[str, str | None]]:
        """Text, and the placeholder that follows it."""
        try:
            parsed = list(Formatter().parse(self.name))
        except ValueError as error:
            remedy = "Write {{ or }} for a brace itself."
            raise _wrong(f"label {self.name!r} cannot be read: {error}.", remedy) from None
        for _, field, spec, conversion in parsed:
            if field is not None and (spec or conversion or not _PLACEHOLDER.fullmatch(field)):
                raise _wrong(
                    f"label {self.name!r} holds a placeholder that is no plain name: {field!r}.",
                    "Write it like {account}.",
                )
        return [(text, field) for text, field, _, _ in parsed]


def _value(template: str, field: str, values: Mapping[str, object]) -> str:
    if field not in values:
        near = get_close_matches(field, values, n=1)
        hint = f"Did you mean {{{near[0]}}}? " if near else ""
        raise _wrong(
            f"label {template!r}: the placeholder {field!r} is unknown.",
            f"{hint}Known here: {', '.join(sorted(values))}.",
        )
    text = str(values[field])
    if not text:
        raise _wrong(
            f"label {template!r}: this job has no {field}.",
            f"Give it one, or leave {{{field}}} out: jobs without would all share one label.",
        )
    return text


def _check_numbers(capacity: object, max_sleep_s: object, expiry_s: object) -> None:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or not 1 <= capacity <= MOST_CAPACITY:
        raise _wrong(f"capacity {capacity!r} is out of range.", f"Use a whole number from 1 to {MOST_CAPACITY:,}.")
    if max_sleep_s is not None and not 0 < _number(max_sleep_s) <= LONGEST_SLEEP_S:
        raise _wrong(
            f"max_sleep_s {max_sleep_s!r} is out of range.",
            "Use more than 0 s and at most a year, or None.",
        )
    if not SHORTEST_EXPIRY_S <= _number(expiry_s) <= LONGEST_EXPIRY_S:
        raise _wrong(
            f"expiry_s {expiry_s!r} is out of range.",
            f"Use {SHORTEST_EXPIRY_S:g} to {LONGEST_EXPIRY_S:g}: a permit must outlast a request and a heartbeat.",
        )


def _number(value: object) -> float:
    """*value* if it is a number, else one that is in no range."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _wrong(message: str, remedy: str) -> InvalidInputError:
    return InvalidInputError(message, remedy=remedy, field=_FIELD)
