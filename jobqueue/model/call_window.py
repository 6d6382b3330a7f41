"""The calls a circuit breaker looks back on: those of the last seconds, or the last so many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

BUCKETS = 10
"""A time-based window is counted in this many parts, so it forgets a tenth of its length at a time."""

LARGEST_COUNT = 1000
"""The most calls a count-based window remembers: its state is one byte a call, read with every reservation."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What a window holds.

    Attributes:
        calls: Answers that say something of the provider's health.
        failures: Those among them that failed.
        slow: Those among them that took too long, failed or not.
    """

    calls: int = 0
    failures: int = 0
    slow: int = 0


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The calls of the last `BUCKETS` buckets, the running one included.

    Attributes:
        bucket_us: Length of a bucket; buckets are numbered by the clock divided by it.
        buckets: (number, calls, failures, slow), oldest first.
    """

    bucket_us: int
    buckets: tuple[tuple[int, int, int, int], ...] = ()

    def add(self, *, is_failure: bool, is_slow: bool, now_us: int) -> Self:
        """The window with one call more."""
        number = now_us // self.bucket_us
        kept = list(self._live(number))
        # A clock that was set back goes on in the last bucket.
        number, calls, failures, slow = kept.pop() if kept and kept[-1][0] >= number else (number, 0, 0, 0)
        return replace(self, buckets=(*kept, (number, calls + 1, failures + is_failure, slow + is_slow)))

    def calls(self, now_us: int) -> Calls:
        """What it holds at *now_us*."""
        live = self._live(now_us // self.bucket_us)
        return Calls(sum(b[1] for b in live), sum(b[2] for b in live), sum(b[3] for b in live))

    def _live(self, number: int) -> tuple[tuple[int, int, int, int], ...]:
        return tuple(bucket for bucket in self.buckets if number - BUCKETS < bucket[0])


@dataclass(frozen=True, slots=True)
class CountWindow:
    """The last *size* calls.

    Attributes:
        size: How many it remembers.
        ring: One digit a call, oldest first: 0 for a good one, plus 1 if it failed, plus 2 if it was slow.
    """

    size: int
    ring: str = ""

    def add(self, *, is_failure: bool, is_slow: bool, now_us: int) -> Self:
        """The window with one call more, and the oldest forgotten if it was full."""
        return replace(self, ring=(self.ring + str(is_failure + 2 * is_slow))[-self.size :])

    def calls(self, now_us: int) -> Calls:
        """What it holds, at any time."""
        ring = self.ring
        return Calls(len(ring), ring.count("1") + ring.count("3"), ring.count("2") + ring.count("3"))


CallWindow = TimeWindow | CountWindow
