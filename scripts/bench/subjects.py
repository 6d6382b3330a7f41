"""What `reserve` measures: our reserve and settle, and one hit of each strategy of the `limits` library.

All count in one window of the same limit, on the same server, each over one connection of its caller.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from limits import RateLimitItem, parse
from limits.storage import storage_from_string
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from jobqueue.model.limit import BreakerConfig, Denied, ProviderLimits, RateLimitConfig, Scope, Slot, SlotResult
from jobqueue.ratelimit.history import NoHistory
from jobqueue.ratelimit.limiter import Limiter

MICROSECONDS = 1_000_000
ANSWER_S = 0.2
LARGEST_STEP = 1000
PREFILL_STEPS = 1024


class RefusedError(Exception):
    """A limit that should never bind did: the measurement means nothing."""


class Subject(Protocol):
    """Something that takes one unit of a window."""

    def prepare(self, scopes: Sequence[str]) -> None:
        """Do what only the first call of a scope does."""

    def once(self, scope: str) -> None:
        """Take one unit, or raise `RefusedError`."""

    def fill(self, scope: str, count: int) -> None:
        """Take *count* units, spread over the window just past where that matters."""


class Ours:
    """`Limiter`, one window, no breaker: what the strategies of `limits` do, and the answer awaited besides."""

    def __init__(self, url: str, limit: str) -> None:
        self._url = url
        self._config = RateLimitConfig(windows=limit, breaker=None)
        self._configs: dict[str, ProviderLimits] = {}
        self._limiter = Limiter(url, self._configs, NoHistory())

    def prepare(self, scopes: Sequence[str]) -> None:
        """Configure and count anew: a scope's first call does that."""
        for scope in scopes:
            if scope not in self._configs:
                self._configs[scope] = ProviderLimits(scope, (self._config,))
                self._limiter.snapshot(Scope(scope))

    def once(self, scope: str) -> None:
        """Reserve, and settle as answered."""
        settle_one(self._limiter, reserve_one(self._limiter, Scope(scope)))

    def fill(self, scope: str, count: int) -> None:
        """*count* settled requests, spread evenly over the window that ends now."""
        now_us = time.time_ns() // 1000
        (window,) = self._config.parsed_windows()
        steps = min(count, max(PREFILL_STEPS, -(-count // LARGEST_STEP)))
        # A thousandth of the window stays free of them, lest the first ones leave it before they are looked at.
        times = [now_us - round(window.length_us * 0.999 * (steps - 1 - step) / steps) for step in range(steps)]
        at_us = times[0]
        limiter = Limiter(self._url, self._configs, NoHistory(), clock_us=lambda: at_us)
        self.prepare([scope])
        try:
            for step, at_us in enumerate(times):  # noqa: B007 - the limiter's clock reads it
                wanted = count * (step + 1) // steps - count * step // steps
                decision = limiter.reserve(Scope(scope), want=wanted)
                if isinstance(decision, Denied) or len(decision.slots) < wanted:
                    raise RefusedError(f"{scope} could not be filled: {decision}")
                limiter.settle([SlotResult(slot, latency_s=ANSWER_S) for slot in decision.slots])
        finally:
            limiter.close()


class Hits:
    """One strategy of `limits`."""

    def __init__(self, strategy: type[RateLimiter], url: str, limit: str) -> None:
        self._limiter = strategy(storage_from_string(url))
        self._item: RateLimitItem = parse(limit)
        # The strategies give one key to what they store in different forms.
        self._mark = strategy.__name__

    def prepare(self, scopes: Sequence[str]) -> None:
        """Nothing is to be done once for a scope; one look opens the connection."""
        self._limiter.test(self._item, self._mark, scopes[0])

    def once(self, scope: str) -> None:
        """One hit."""
        if not self._limiter.hit(self._item, self._mark, scope):
            raise RefusedError(scope)

    def fill(self, scope: str, count: int) -> None:
        """*count* hits, now."""
        for start in range(0, count, LARGEST_STEP):
            if not self._limiter.hit(self._item, self._mark, scope, cost=min(LARGEST_STEP, count - start)):
                raise RefusedError(scope)


STRATEGIES: dict[str, type[RateLimiter]] = {
    "limits, fixed window": FixedWindowRateLimiter,
    "limits, moving window": MovingWindowRateLimiter,
    "limits, sliding window counter": SlidingWindowCounterRateLimiter,
}
OURS = "jobqueue, reserve + settle"
NAMES = (OURS, *STRATEGIES)


def subject(name: str, url: str, limit: str) -> Subject:
    """The subject of that name, counting *limit* such as ``100 per 1 minute`` on the server at *url*."""
    return Ours(url, limit) if name == OURS else Hits(STRATEGIES[name], url, limit)


def full_limiter(url: str, windows: str, scopes: Sequence[str]) -> Limiter:
    """A limiter that looks at *windows*, a breaker and a concurrency for each of *scopes*, all of them known to it."""
    config = RateLimitConfig(windows=windows, max_concurrency=64, breaker=BreakerConfig())
    limiter = Limiter(url, {scope: ProviderLimits(scope, (config,)) for scope in scopes}, NoHistory())
    for scope in scopes:
        limiter.snapshot(Scope(scope))
    return limiter


def reserve_one(limiter: Limiter, scope: Scope) -> Slot:
    """One slot.

    Raises:
        RefusedError: There was none.
    """
    decision = limiter.reserve(scope)
    if isinstance(decision, Denied):
        raise RefusedError(f"{scope.name}: {decision.constraint}")
    return decision.slots[0]


def settle_one(limiter: Limiter, slot: Slot) -> None:
    """It was answered."""
    limiter.settle([SlotResult(slot, latency_s=ANSWER_S)])
