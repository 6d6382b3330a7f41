"""The limiter's state, counted from the history of what was sent."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from typing import Any

from jobqueue.errors import InvalidInputError
from jobqueue.model.breaker import BreakerStatus
from jobqueue.model.limit import (
    CircuitBreakerState,
    Cooldown,
    LearnedLimit,
    ProviderLimits,
    Scope,
    ScopeLimits,
    Window,
)
from jobqueue.model.window import MICROSECONDS
from jobqueue.ratelimit.history import NoHistory, RequestHistory, SentRequests
from jobqueue.ratelimit.layout import counted_windows, lay_out
from jobqueue.ratelimit.script import REBUILD, ScriptRunner

_CALENDAR_QUANTUM_US = 1_000_000
"""A calendar window may hold a day's requests; only the day matters, and its guard is longer than this."""


def microseconds(duration_s: float) -> int:
    """Whole microseconds, rounded up."""
    return math.ceil(duration_s * 1_000_000)


def rebuild(
    runner: ScriptRunner,
    history: RequestHistory,
    limits: ProviderLimits,
    scopes: Iterable[Scope],
    *,
    key_prefix: str,
    now: str,
) -> None:
    """Count a provider's state from the history and install it, unless a later one is there.

    The epoch is raised first: from then on no grant of an earlier one can be committed, and all that were are counted.
    It holds for one server process; if that is replaced meanwhile, nothing is installed.
    """
    provider, run_id = limits.provider, runner.run_id()
    epoch = history.begin_epoch(provider, run_id)
    counts = count_history(
        limits,
        scopes,
        history.sent_since(provider, limits.longest_window_s + limits.longest_request_s),
        history.cooldowns(provider),
        history.breakers(provider),
        history.learned(provider),
    )
    now_s = int(now) / MICROSECONDS if now else time.time()
    layout = lay_out(limits, [count.level for count in counts], key_prefix, now_s=now_s)
    state = json.dumps([count.state() for count in counts], separators=(",", ":"))
    # Without a history what Redis still has is the best there is, whichever process wrote it.
    is_adopted = int(isinstance(history, NoHistory))
    runner.run(REBUILD, layout.keys, layout.configuration, epoch, is_adopted, state, now, run_id)


class ScopeCount:
    """What one scope has to remember."""

    def __init__(self, level: ScopeLimits) -> None:
        self.level = level
        self._windows = counted_windows(level)
        self._answered: list[dict[int, int]] = [{} for _ in self._windows]
        self._held: dict[tuple[int, int], int] = {}
        self._cooldown: Cooldown | None = None
        self._breaker: CircuitBreakerState | None = None
        self._learned: list[tuple[int, int, int, int, int]] = []

    def hold(self, remaining_us: int, cost_units: int, count: int) -> None:
        """Requests that may be in flight for *remaining_us* more."""
        self._held[remaining_us, cost_units] = self._held.get((remaining_us, cost_units), 0) + count

    def add(self, ago_us: int, cost_units: int, count: int) -> None:
        """Requests answered *ago_us* ago."""
        for window, counts in zip(self._windows, self._answered, strict=True):
            weight = count * cost_units if window.is_weighted else count
            if weight and ago_us <= window.length_us:
                ago = _younger(ago_us, window)
                counts[ago] = counts.get(ago, 0) + weight

    def pause(self, cooldown: Cooldown) -> None:
        """Keep the longest cool-down."""
        if self._cooldown is None or cooldown.remaining_s > self._cooldown.remaining_s:
            self._cooldown = cooldown

    def restore(self, breaker: CircuitBreakerState) -> None:
        """Take over a breaker; probes that were under way are forgotten, so half-open starts again."""
        self._breaker = breaker

    def remember(self, learned: LearnedLimit) -> None:
        """Take over what was learned of a window that is still counted."""
        for number, window in enumerate(self._windows, start=1):
            if window.id == learned.window_id and window.is_learnable:
                ago_us = max(0, int(learned.throttled_ago_s * MICROSECONDS))
                self._learned.append((number, learned.known, learned.base, ago_us, learned.proofs))

    def state(self) -> dict[str, Any]:
        """As ``lua/rebuild.lua`` reads it; answers oldest first."""
        breaker = self._breaker or CircuitBreakerState(self.level.scope.name, BreakerStatus.CLOSED)
        return {
            "blocked_us": microseconds(self._cooldown.remaining_s) if self._cooldown else 0,
            "blocked_why": self._cooldown.reason if self._cooldown else "",
            "breaker": breaker.status.value,
            "opens": breaker.opens,
            "open_us": microseconds(breaker.open_remaining_s),
            "slots": [[remaining, cost, count] for (remaining, cost), count in self._held.items()],
            "windows": [[[ago, counts[ago]] for ago in sorted(counts, reverse=True)] for counts in self._answered],
            "learned": self._learned,
        }


def _younger(ago_us: int, window: Window) -> int:
    """Rounded towards now, so that it is never forgotten too early."""
    quantum_us = _CALENDAR_QUANTUM_US if window.calendar else window.quantum_us
    return ago_us // quantum_us * quantum_us if quantum_us else ago_us


def count_history(
    limits: ProviderLimits,
    scopes: Iterable[Scope],
    sent: Iterable[SentRequests],
    cooldowns: Iterable[Cooldown],
    breakers: Iterable[CircuitBreakerState],
    learned: Iterable[LearnedLimit] = (),
) -> list[ScopeCount]:
    """The state of every scope named by *scopes* or by the history, the provider's first.

    A request without an answer is held until it must have ended, `ProviderLimits.longest_request_s` after its sending;
    if that has passed its holder died, and it counts as answered at that instant.
    """
    counts: dict[str, ScopeCount] = {}

    def levels(scope: Scope) -> list[ScopeCount]:
        if scope.provider != limits.provider:
            raise InvalidInputError(
                f"the history of {limits.provider} names the scope {scope.name!r}.",
                remedy="RequestHistory must give the scopes of the provider it is asked for.",
                field="scope_name",
            )
        found = limits.limits_for(scope)
        return [counts.setdefault(level.scope.name, ScopeCount(level)) for level in found]

    for scope in (Scope(limits.provider), *scopes):
        levels(scope)
    for entry in sent:
        for count in levels(Scope.parse(entry.scope_name)):
            _remember(count, entry, limits.longest_request_s)
    for cooldown in cooldowns:
        levels(Scope.parse(cooldown.scope_name))[-1].pause(cooldown)
    for breaker in breakers:
        levels(Scope.parse(breaker.scope_name))[-1].restore(breaker)
    for limit in learned:
        levels(Scope.parse(limit.scope_name))[-1].remember(limit)
    return list(counts.values())


def _remember(count: ScopeCount, entry: SentRequests, longest_request_s: float) -> None:
    if entry.answered_ago_s is not None:
        count.add(max(0, int(entry.answered_ago_s * 1_000_000)), entry.cost_units, entry.count)
        return
    remaining_s = longest_request_s - entry.sent_ago_s
    if remaining_s > 0:
        count.hold(microseconds(remaining_s), entry.cost_units, entry.count)
    else:
        count.add(int(-remaining_s * 1_000_000), entry.cost_units, entry.count)
