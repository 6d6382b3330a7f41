"""How many in how long."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMonth, parse_many

from jobqueue.errors import ConfigurationError

BUCKETED_ABOVE = 2000
"""Limits above this are counted in buckets of a 1/512 window, so that memory does not grow with the limit."""

BUCKETS_PER_WINDOW = 512
MICROSECONDS = 1_000_000

EAGER_UP_TO_S = 2
"""Windows up to this length are eager when nothing else is said: holding slots until the answer costs them most."""

CALENDAR_GUARD_S = 2
"""What was answered this close to a calendar boundary counts on both sides of it: two clocks never agree exactly."""

LEARNING_WINDOW_S = 60
LONGEST_LEARNABLE_S = 3600
UNLIMITED = 1 << 40
LARGEST_LIMIT = 1_000_000_000
LONGEST_WINDOW_S = 366 * 86_400


class WindowMode(StrEnum):
    """When a request stops counting.

    ``strict``: one window after its answer, so the provider never sees more than the limit, whatever instant between
    grant and answer it counts the request at. That costs the share latency/window of the quota.
    ``eager``: one window and a margin after it was sent; the margin is learned from answers. For windows too short for
    strict: seldom, a request is throttled.
    ``auto``: eager for windows up to two seconds, strict for all others.
    """

    AUTO = "auto"
    STRICT = "strict"
    EAGER = "eager"


class Calendar(StrEnum):
    """A window that begins at midnight somewhere."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Window:
    """At most *limit* in any *length_s* seconds, or in any day or month of a calendar.

    Attributes:
        length_s: Of a calendar window the longest it can be: a day has 25 hours when summer time ends.
        is_weighted: Counts the provider's cost units instead of requests.
        calendar: Whether it begins at midnight instead of rolling.
        zone: Whose midnight; empty for rolling windows.
        is_eager: Whether requests count from their sending instead of until their answer.
    """

    limit: int
    length_s: int
    text: str
    is_weighted: bool = False
    calendar: Calendar | None = None
    zone: str = ""
    is_eager: bool = False

    @property
    def length_us(self) -> int:
        """The length in microseconds, the unit of the scripts."""
        return self.length_s * MICROSECONDS

    @property
    def quantum_us(self) -> int:
        """Answers are booked at multiples of this, rounded up; 0 books each at its own microsecond."""
        return self.length_us // BUCKETS_PER_WINDOW if self.limit > BUCKETED_ABOVE and not self.calendar else 0

    @property
    def id(self) -> str:
        """Names the window's count: by length and what it counts, so that a changed limit keeps what was counted."""
        unit = "u" if self.is_weighted else "r"
        return f"{unit}{self.calendar}@{self.zone}" if self.calendar else f"{unit}{self.length_s}"

    @property
    def is_learnable(self) -> bool:
        """Whether a throttle can say something about it: longer ones are learned by their pauses alone."""
        return not self.is_weighted and self.calendar is None and self.length_s <= LONGEST_LEARNABLE_S

    def boundaries_us(self, now_s: float) -> tuple[int, ...]:
        """The ends of the calendar periods around *now_s* (seconds since 1970): the last one, the running one's, two
        more. In microseconds; empty for rolling windows.
        """
        if self.calendar is None:
            return ()
        zone = ZoneInfo(self.zone)
        midnight = datetime.fromtimestamp(now_s, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        if self.calendar is Calendar.MONTH:
            first = midnight.replace(day=1)
            starts = [_months_later(first, count) for count in range(4)]
        else:
            starts = [midnight + timedelta(days=count) for count in range(4)]
        return tuple(_instant_us(start, zone) for start in starts)


def _months_later(first: datetime, count: int) -> datetime:
    months = first.month - 1 + count
    return first.replace(year=first.year + months // 12, month=months % 12 + 1)


def _instant_us(local: datetime, zone: ZoneInfo) -> int:
    """The first instant of a wall-clock time; one that summer time skips is the instant of the skip (fold 0)."""
    return round(local.replace(tzinfo=zone).timestamp()) * MICROSECONDS


LEARNING_WINDOW = Window(UNLIMITED, LEARNING_WINDOW_S, f"{LEARNING_WINDOW_S} seconds, as learned")
"""Counted where no window is short enough to be learned: what the provider does not tell is learned there."""

_RESETS = re.compile(r"^(?P<limit>.+?)\s+resets\s+at\s+midnight(?:\s+(?P<zone>\S+))?$", re.IGNORECASE)
_NO_LENGTH = re.compile(r"(?:/|per)\s*0+(?!\d)", re.IGNORECASE)
_EXAMPLE = 'Write them like "10/second; 100 per minute; 10000/day resets at midnight America/Los_Angeles".'


@lru_cache(maxsize=512)
def parse_windows(
    expressions: str, *, is_weighted: bool = False, mode: WindowMode = WindowMode.STRICT
) -> tuple[Window, ...]:
    """Read ``10/second; 100 per minute; 10000/day resets at midnight America/Los_Angeles``.

    Limits are written as `limits.parse_many` reads them; a day or a month may begin at midnight of a time zone (UTC
    where none is named).

    Args:
        expressions: Separated by semicolons; empty for none.
        is_weighted: Whether they count cost units.
        mode: When a request stops counting; calendar windows are always strict.

    Raises:
        ConfigurationError: Not an expression, a limit below 1 or above `LARGEST_LIMIT`, a window of no length or longer
            than a year, an unknown time zone, or two limits for one window.
    """
    windows: list[Window] = []
    for expression in re.split(r"[;,|]", expressions) if expressions.strip() else ():
        if not expression.strip():
            raise _unreadable(expressions)
        calendar = _RESETS.match(expression.strip())
        if calendar is None:
            windows += [_rolling(item, is_weighted, mode) for item in _parse(expression, expressions)]
        else:
            (item,) = _parse(calendar["limit"], expressions)
            windows.append(_calendar(item, calendar["zone"] or "UTC", expressions, is_weighted))
    for window in windows:
        if window.limit < 1 or window.length_s < 1:
            raise ConfigurationError(
                f"windows {expressions!r}: {window.text} grants nothing.", remedy="Use a limit of at least 1."
            )
        if window.limit > LARGEST_LIMIT or window.length_s > LONGEST_WINDOW_S:
            raise ConfigurationError(
                f"windows {expressions!r}: {window.text} is more than can be counted.",
                remedy=f"Use at most {LARGEST_LIMIT} in at most a year, or no limit.",
            )
    if len({window.id for window in windows}) < len(windows):
        raise ConfigurationError(
            f"windows {expressions!r} limits one length of time twice.", remedy="Keep the smaller of the two."
        )
    return tuple(windows)


def _parse(expression: str, expressions: str) -> list[RateLimitItem]:
    if _NO_LENGTH.search(expression):  # the library reads it as one
        raise ConfigurationError(f"windows {expressions!r}: a window has no length.", remedy=_EXAMPLE)
    try:
        return parse_many(expression.strip())
    except ValueError:
        raise _unreadable(expressions) from None


def _unreadable(expressions: str) -> ConfigurationError:
    return ConfigurationError(f"windows {expressions!r} is not a list of limits.", remedy=_EXAMPLE)


def _rolling(item: RateLimitItem, is_weighted: bool, mode: WindowMode) -> Window:
    length_s = item.get_expiry()
    is_eager = mode is WindowMode.EAGER or (mode is WindowMode.AUTO and length_s <= EAGER_UP_TO_S)
    return Window(item.amount, length_s, f"{item!r}{' (units)' if is_weighted else ''}", is_weighted, is_eager=is_eager)


def _calendar(item: RateLimitItem, zone: str, expressions: str, is_weighted: bool) -> Window:
    kinds = {RateLimitItemPerDay: Calendar.DAY, RateLimitItemPerMonth: Calendar.MONTH}
    kind = kinds.get(type(item))
    if kind is None or item.multiples != 1:
        raise ConfigurationError(
            f"windows {expressions!r}: {item!r} does not end at midnight.", remedy="Only one day or one month does."
        )
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, LookupError):
        raise ConfigurationError(
            f"windows {expressions!r}: time zone {zone!r} is unknown.",
            remedy="Use a name of the IANA time zone database, such as America/Los_Angeles.",
        ) from None
    longest = timedelta(days=31 if kind is Calendar.MONTH else 1, hours=1)
    text = f"{item!r}, resets at midnight {zone}{' (units)' if is_weighted else ''}"
    return Window(item.amount, int(longest.total_seconds()), text, is_weighted, kind, zone)
