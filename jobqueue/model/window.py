"""How many in how long."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from limits import parse_many

from jobqueue.errors import ConfigurationError

BUCKETED_ABOVE = 2000
"""Limits above this are counted in buckets of a 1/1024 window, so that memory does not grow with the limit."""

BUCKETS_PER_WINDOW = 1024
MICROSECONDS = 1_000_000


class WindowMode(StrEnum):
    """When a request stops counting.

    ``strict``: one window after its answer, so the provider never sees more than the limit, whatever instant between
    grant and answer it counts the request at.
    """

    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class Window:
    """At most *limit* in any *length_s* seconds.

    Attributes:
        is_weighted: Counts the provider's cost units instead of requests.
    """

    limit: int
    length_s: int
    text: str
    is_weighted: bool = False

    @property
    def length_us(self) -> int:
        """The length in microseconds, the unit of the scripts."""
        return self.length_s * MICROSECONDS

    @property
    def quantum_us(self) -> int:
        """Answers are booked at multiples of this, rounded up; 0 books each at its own microsecond."""
        return self.length_us // BUCKETS_PER_WINDOW if self.limit > BUCKETED_ABOVE else 0

    @property
    def id(self) -> str:
        """Names the window's count: by length and what it counts, so that a changed limit keeps what was counted."""
        return f"{'u' if self.is_weighted else 'r'}{self.length_s}"


@lru_cache(maxsize=512)
def parse_windows(expressions: str, *, is_weighted: bool = False) -> tuple[Window, ...]:
    """Read ``10/second; 100 per minute; 5000 per 2 hours``, as `limits.parse_many` does.

    Raises:
        ConfigurationError: Not an expression, a limit below 1, or two limits for one window length.
    """
    if not expressions.strip():
        return ()
    try:
        items = parse_many(expressions)
    except ValueError:
        raise ConfigurationError(
            f"windows {expressions!r} is not a list of limits.",
            remedy='Write them like "10/second; 100 per minute; 5000 per 2 hours".',
        ) from None
    windows = tuple(
        Window(item.amount, item.get_expiry(), f"{item!r}{' (units)' if is_weighted else ''}", is_weighted)
        for item in items
    )
    for window in windows:
        if window.limit < 1 or window.length_s < 1:
            raise ConfigurationError(
                f"windows {expressions!r}: {window.text} grants nothing.", remedy="Use a limit of at least 1."
            )
    if len({window.length_s for window in windows}) < len(windows):
        raise ConfigurationError(
            f"windows {expressions!r} limits one length of time twice.", remedy="Keep the smaller of the two."
        )
    return windows
