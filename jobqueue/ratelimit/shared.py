"""One limiter for several threads, and waiting in line for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from secrets import token_hex
from typing import TypeVar

from jobqueue.errors import InvalidInputError, ServerUnavailableError
from jobqueue.model.job import Priority
from jobqueue.model.limit import (
    DenialReason,
    Denied,
    Granted,
    ProviderLimits,
    RateLimitState,
    Scope,
    Settled,
    Slot,
    SlotResult,
)
from jobqueue.ratelimit.limiter import Limiter

D = TypeVar("D", bound=Granted | Denied | None)

LOOK_AGAIN_S = 1.0
"""Longest sleep: a place in line whose turn comes early is kept for two seconds."""

_RELOADS = 3


class SharedLimiter:
    """Lets threads take turns at one limiter, one call to Redis each; none holds it while it waits.

    Args:
        limiter: Used here alone.
        reload: As in `RateLimitService`.
        sleep: Called with seconds.
        monotonic_s: The clock of *ends_at_s*.
    """

    def __init__(
        self,
        limiter: Limiter,
        reload: Callable[[], Mapping[str, ProviderLimits]] | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limiter = limiter
        self._reload = reload
        self._sleep = sleep
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()

    def why(self, scope: Scope, *, cost_units: int, owner: str, priority: Priority) -> Denied | None:
        """As `Limiter.why`, under the limits in force."""
        return self._decided(lambda: self._limiter.why(scope, cost_units=cost_units, owner=owner, priority=priority))

    def wait(self, scope: Scope, ends_at_s: float, *, cost_units: int, owner: str, priority: Priority) -> Slot | Denied:
        """Wait in line for one slot, until *ends_at_s* at most; see `RateLimitService.wait_for_rate_limit`."""
        name = owner or f"wait-{token_hex(8)}"
        is_in_line = False
        try:
            while True:
                decision = self._decided(
                    lambda: self._limiter.reserve(scope, cost_units=cost_units, owner=name, priority=priority)
                )
                if isinstance(decision, Granted):
                    is_in_line = False
                    return decision.slots[0]
                is_in_line = decision.is_in_line
                is_too_late = self._monotonic_s() + decision.retry_after_s > ends_at_s
                if is_too_late or decision.reason is DenialReason.OUTDATED:
                    return decision if owner else replace(decision, is_in_line=False)
                self._sleep(min(decision.retry_after_s, LOOK_AGAIN_S))
        finally:
            if is_in_line and not owner:
                self._leave(scope, name)

    def settle(self, results: Sequence[SlotResult]) -> Settled:
        """As `Limiter.settle`."""
        with self._lock:
            return self._limiter.settle(results)

    def snapshot(self, scope: Scope) -> RateLimitState:
        """As `Limiter.snapshot`."""
        with self._lock:
            return self._limiter.snapshot(scope)

    def close(self) -> None:
        """As `Limiter.close`."""
        with self._lock:
            self._limiter.close()

    def _decided(self, ask: Callable[[], D]) -> D:
        with self._lock:
            decision = ask()
            for _ in range(_RELOADS):
                is_outdated = isinstance(decision, Denied) and decision.reason is DenialReason.OUTDATED
                if not is_outdated or self._reload is None:
                    break
                self._limiter.configure(self._reload())
                decision = ask()
            return decision

    def _leave(self, scope: Scope, name: str) -> None:
        # The place lapses by itself; only those behind it would stand a little longer.
        with suppress(ServerUnavailableError), self._lock:
            self._limiter.leave(scope, name)


def seconds_to_wait(timeout_s: float) -> float:
    """*timeout_s* as given.

    Raises:
        InvalidInputError: It is negative or not a number.
    """
    if not timeout_s >= 0:
        raise InvalidInputError(
            f"timeout_s {timeout_s} is no wait.", remedy="Use 0 or more seconds.", field="timeout_s"
        )
    return timeout_s
