"""The provider's own rate limit, exact to the nanosecond.

Requests are stamped at arrival, under one lock. A rolling limit of q per W admits a request at t when fewer than q were
admitted in (t - W, t]; a fixed limit counts in [n * W, (n + 1) * W). A refused request is not counted. Written for the
sandbox alone: nothing here is shared with the limiter it judges.

Source:
    Sliding-window log; Retry-After as in RFC 9110 section 10.2.3, whole seconds rounded up.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from handlers.sandbox.clock import NS_PER_S

WindowKind = Literal["rolling", "fixed"]

_PRUNE_AT = 4096


@dataclass(frozen=True, slots=True)
class Limit:
    """At most *requests* in a window of *window_s* seconds."""

    requests: int
    window_s: float

    @property
    def window_ns(self) -> int:
        """The window in nanoseconds."""
        return round(self.window_s * NS_PER_S)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far one limit is used up.

    Args:
        quota: The requests it allows now, scaled.
        window_s: Its window.
        remaining: Requests left.
        resets_at_ns: Ledger time at which more become available.
    """

    quota: int
    window_s: float
    remaining: int
    resets_at_ns: int


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of one arrival.

    Args:
        at_ns: Its ledger time.
        retry_after_s: Seconds to wait when it was refused.
        standings: Each limit right afterwards; empty for an arrival that no limit counts.
    """

    at_ns: int
    retry_after_s: int | None = None
    standings: tuple[Standing, ...] = ()

    @property
    def is_admitted(self) -> bool:
        """True when the request may be served."""
        return self.retry_after_s is None


@dataclass(slots=True)
class _Competitor:
    """Another client of the same app, taking slots at a steady rate until it ends."""

    interval_ns: int
    next_ns: int
    until_ns: int


@dataclass(slots=True)
class _Sharer:
    """Another client that keeps *share* of every limit: in one burst when a window opens, else as slots free.

    It asks without pause, so it is first at every slot that frees, and it holds no more than its share.
    """

    share: float
    looked_ns: int
    until_ns: int
    taken_ns: list[int]


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Read ``100/60`` or ``100/60,10/1``: requests per seconds.

    Raises:
        ValueError: The text names no limit, or a number in it is not positive.
    """
    limits = []
    for part in text.replace(";", ",").split(","):
        requests, slash, window_s = part.strip().partition("/")
        try:
            limit = Limit(int(requests), float(window_s))
        except ValueError:
            limit = Limit(0, 0)
        if not slash or limit.requests < 1 or not 0 < limit.window_s < math.inf:
            raise ValueError(f"limit {part.strip()!r} is not REQUESTS/SECONDS, such as 100/60")
        limits.append(limit)
    return tuple(limits)


class Limiter:
    """All limits of one app, checked together: a request is counted by all of them or by none.

    Args:
        limits: What to hold.
        kind: How windows lie; ``fixed`` ones begin at multiples of their length.
        clock: Gives ledger time in nanoseconds; never falls.
    """

    def __init__(self, limits: Iterable[Limit], *, kind: WindowKind, clock: Callable[[], int]) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._kind: WindowKind = kind
        self._limits = tuple(limits)
        self._longest_ns = max(limit.window_ns for limit in self._limits)
        self._admitted_ns: list[int] = []
        self._scale: tuple[float, int] | None = None
        self._competitor: _Competitor | None = None
        self._sharer: _Sharer | None = None
        self._blocked_until_ns = 0

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits as configured, without a temporary scale."""
        return self._limits

    @property
    def kind(self) -> WindowKind:
        """How the windows lie."""
        return self._kind

    def admit(self) -> Admission:
        """Stamp an arrival and count it, or refuse it."""
        with self._lock:
            now_ns = self._clock()
            self._run_others(now_ns)
            free_at_ns = max(self._free_at_ns(now_ns), self._blocked_until_ns)
            if free_at_ns > now_ns:
                return Admission(now_ns, max(1, -((now_ns - free_at_ns) // NS_PER_S)), self._standings(now_ns))
            self._admitted_ns.append(now_ns)
            self._prune(now_ns)
            return Admission(now_ns, None, self._standings(now_ns))

    def stamp(self) -> Admission:
        """Stamp an arrival that no limit counts, such as a token refresh."""
        return Admission(self._clock())

    def restore(self, admitted_ns: Iterable[int]) -> None:
        """Take over what an earlier process admitted, so that a restart forgets nothing."""
        with self._lock:
            self._admitted_ns = sorted([*admitted_ns, *self._admitted_ns])
            self._prune(self._clock())

    def configure(self, limits: Iterable[Limit], kind: WindowKind | None = None) -> None:
        """Replace the limits; what was admitted stays counted."""
        with self._lock:
            self._run_others(self._clock())
            self._limits = tuple(limits)
            self._kind = kind or self._kind
            self._longest_ns = max(self._longest_ns, *(limit.window_ns for limit in self._limits))

    def scale(self, factor: float, *, for_s: float) -> None:
        """Multiply every limit by *factor* (at least one request stays) for *for_s* seconds."""
        with self._lock:
            now_ns = self._clock()
            self._run_others(now_ns)
            self._scale = (factor, now_ns + round(for_s * NS_PER_S))

    def compete(self, rate_per_s: float, *, for_s: float) -> None:
        """Let another client take *rate_per_s* slots for *for_s* seconds; it respects the limit as well."""
        with self._lock:
            now_ns = self._clock()
            until_ns = now_ns + round(for_s * NS_PER_S)
            self._competitor, self._sharer = _Competitor(max(1, round(NS_PER_S / rate_per_s)), now_ns, until_ns), None

    def share(self, share: float, *, for_s: float) -> None:
        """Let another client take *share* of every limit for *for_s* seconds, ahead of everybody at each free slot.

        It replaces the client of `compete`, as that replaces this one.

        Raises:
            ValueError: *share* is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise ValueError(f"share_taken {share} is not between 0 and 1")
        with self._lock:
            now_ns = self._clock()
            self._competitor, self._sharer = None, _Sharer(share, now_ns, now_ns + round(for_s * NS_PER_S), [])
            self._run_others(now_ns)

    def shared_ns(self) -> list[int]:
        """When the client of the last `share` took its slots, up to now."""
        with self._lock:
            self._run_others(self._clock())
            return list(self._sharer.taken_ns) if self._sharer else []

    def block(self, *, for_s: float) -> None:
        """Refuse everything for *for_s* seconds, as providers do after a long Retry-After."""
        with self._lock:
            self._blocked_until_ns = max(self._blocked_until_ns, self._clock() + round(for_s * NS_PER_S))

    def _free_at_ns(self, now_ns: int) -> int:
        """Return the first instant at which every limit has a slot; at most *now_ns* when all have one now."""
        return max(self._free_at_of(limit, now_ns) for limit in self._limits)

    def _free_at_of(self, limit: Limit, now_ns: int) -> int:
        quota = self._quota(limit, now_ns)
        used = self._used(self._admitted_ns, limit, now_ns)
        return now_ns if used < quota else self._frees_at(self._admitted_ns, limit, now_ns, quota)

    def _used(self, times_ns: list[int], limit: Limit, now_ns: int) -> int:
        if self._kind == "fixed":
            return len(times_ns) - bisect_left(times_ns, now_ns - now_ns % limit.window_ns)
        return len(times_ns) - bisect_right(times_ns, now_ns - limit.window_ns)

    def _frees_at(self, times_ns: list[int], limit: Limit, now_ns: int, count: int) -> int:
        """When the request *count* before the end of the log counts no more, and all before it."""
        if self._kind == "fixed":
            return now_ns - now_ns % limit.window_ns + limit.window_ns
        return times_ns[-count] + limit.window_ns

    def _standings(self, now_ns: int) -> tuple[Standing, ...]:
        found = []
        blocked_ns = self._blocked_until_ns if self._blocked_until_ns > now_ns else 0
        for limit in self._limits:
            quota, used = self._quota(limit, now_ns), self._used(self._admitted_ns, limit, now_ns)
            resets_ns = self._frees_at(self._admitted_ns, limit, now_ns, min(used, quota)) if used else now_ns
            remaining = 0 if blocked_ns else max(0, quota - used)
            found.append(Standing(quota, limit.window_s, remaining, max(resets_ns, blocked_ns)))
        return tuple(found)

    def _quota(self, limit: Limit, now_ns: int) -> int:
        if self._scale is None or now_ns >= self._scale[1]:
            return limit.requests
        return max(1, math.floor(limit.requests * self._scale[0]))

    def _run_others(self, now_ns: int) -> None:
        """Catch up with the other clients: they need no thread, because nobody looks in between."""
        self._run_sharer(now_ns)
        self._run_competitor(now_ns)

    def _run_sharer(self, now_ns: int) -> None:
        other = self._sharer
        if other is None:
            return
        end_ns = min(now_ns, other.until_ns)
        while other.looked_ns <= end_ns:
            at_ns = other.looked_ns
            free_at_ns = max(at_ns, self._blocked_until_ns, self._free_at_ns(at_ns))
            for limit in self._limits:
                most = math.floor(self._quota(limit, at_ns) * other.share)
                if not most:
                    free_at_ns = max(free_at_ns, end_ns + 1)
                elif self._used(other.taken_ns, limit, at_ns) >= most:
                    free_at_ns = max(free_at_ns, self._frees_at(other.taken_ns, limit, at_ns, most))
            if free_at_ns > at_ns:
                other.looked_ns = free_at_ns
                continue
            self._admitted_ns.append(at_ns)
            other.taken_ns.append(at_ns)
        # Not where the next slot would free: limits may change, and others take slots, before that.
        other.looked_ns = now_ns if now_ns < other.until_ns else other.until_ns + 1

    def _run_competitor(self, now_ns: int) -> None:
        other = self._competitor
        if other is None:
            return
        while other.next_ns <= min(now_ns, other.until_ns):
            if self._free_at_ns(other.next_ns) <= other.next_ns:
                self._admitted_ns.append(other.next_ns)
            other.next_ns += other.interval_ns
        if other.next_ns > other.until_ns:
            self._competitor = None

    def _prune(self, now_ns: int) -> None:
        if len(self._admitted_ns) >= _PRUNE_AT:
            # One window more than counted: a fixed window may have opened just before.
            del self._admitted_ns[: bisect_left(self._admitted_ns, now_ns - 2 * self._longest_ns)]
