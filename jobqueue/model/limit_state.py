"""Where limits stand: what is used, learned, paused, and who waits. Durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobqueue.model.breaker import CircuitBreakerState
from jobqueue.model.job import Priority
from jobqueue.model.scope import Scope


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A pause a provider asked for.

    Attributes:
        remaining_s: Until it lifts, from now.
    """

    scope_name: str
    remaining_s: float
    reason: str = "throttled"

    def as_dict(self) -> dict[str, str | float]:
        """The same as JSON."""
        return {"scope": self.scope_name, "remaining_s": round(self.remaining_s, 3), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class LearnedLimit:
    """A limit learned from throttles.

    Attributes:
        window_id: Of the window it holds for, as in `Window.id`.
        text: The window in words.
        limit: How many requests it takes now, as far as is known.
        known: How many were seen to pass.
        base: Half of what it was thought to be before the throttle.
        throttled_ago_s: Since the throttle it was learned from.
        proofs: How often more than was known has passed since.
    """

    scope_name: str
    window_id: str
    text: str
    limit: int
    known: int
    base: int
    throttled_ago_s: float
    proofs: int

    def as_dict(self) -> dict[str, str | int | float]:
        """The same as JSON."""
        return {
            "scope": self.scope_name,
            "window": self.text,
            "limit": self.limit,
            "known": max(self.known, self.base),
            "throttled_ago_s": round(self.throttled_ago_s, 3),
            "proofs": self.proofs,
        }


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody who was denied and has a place in line.

    Attributes:
        owner: As given to `reserve`.
        class_: 0 goes first.
        want: Requests it asked for.
        asks_in_s: Until its time to ask again.
        waited_s: Since it was denied first.
    """

    scope_name: str
    owner: str
    class_: int
    want: int
    asks_in_s: float
    waited_s: float

    @property
    def job_id(self) -> int | None:
        """The job that waits; None where *owner* is no job's id, as in a program that uses the limiter by itself."""
        return int(self.owner) if self.owner.isascii() and self.owner.isdecimal() else None

    def as_dict(self) -> dict[str, str | int | float | None]:
        """The same as JSON."""
        return {
            "scope": self.scope_name,
            "owner": self.owner,
            "job_id": self.job_id,
            "priority": Priority(self.class_).queue,
            "wants": self.want,
            "asks_in_s": round(self.asks_in_s, 3),
            "waited_s": round(self.waited_s, 3),
        }


@dataclass(frozen=True, slots=True)
class WindowState:
    """How far a window is used up.

    Attributes:
        used: Requests or units that were answered and still count.
        in_flight: Those of slots still held.
        remaining: What is left now, at least 0.
        frees_in_s: Until the first of what was answered counts no more; 0 when nothing counts.
        resets_in_s: Until all of it counts no more; 0 when nothing counts.
        foreign: What others take of it, as far as the provider's answers told.
    """

    scope_name: str
    text: str
    limit: int
    used: int
    in_flight: int
    remaining: int
    frees_in_s: float
    resets_in_s: float
    foreign: int = 0

    def as_dict(self) -> dict[str, str | int | float]:
        """The same as JSON."""
        return {
            "scope": self.scope_name,
            "window": self.text,
            "limit": self.limit,
            "used": self.used,
            "in_flight": self.in_flight,
            "foreign": self.foreign,
            "remaining": self.remaining,
            "frees_in_s": round(self.frees_in_s, 3),
            "resets_in_s": round(self.resets_in_s, 3),
        }


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """Where everything stands that a request of *scope* must pass.

    Attributes:
        epoch: 0 while what was sent is being counted again; then nothing else is known.
        in_flight: Slots held in the innermost level that keeps limits.
        batch_health: By operation, 1 when no batch failed for its size, down to 1/1000.
        learned: Limits learned from throttles.
        waiting: Who waits in line, the first 32 of each scope by their time.
        margins_s: By scope, how long after its sending an eager window counts a request.
        latency_s: The mean time to an answer in the innermost level; 0 when unknown.
        malformed_headers: Rate-limit headers that could not be read, since the state was last rebuilt.
    """

    scope: Scope
    epoch: int
    windows: tuple[WindowState, ...]
    in_flight: int
    cooldowns: tuple[Cooldown, ...] = ()
    breakers: tuple[CircuitBreakerState, ...] = ()
    batch_health: Mapping[str, float] = field(default_factory=dict)
    learned: tuple[LearnedLimit, ...] = ()
    waiting: tuple[Waiter, ...] = ()
    margins_s: Mapping[str, float] = field(default_factory=dict)
    latency_s: float = 0.0
    malformed_headers: int = 0

    @property
    def tightest(self) -> WindowState | None:
        """The window with the smallest share left; None without windows."""
        return min(self.windows, key=lambda w: w.remaining / w.limit, default=None)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "scope": self.scope.name,
            "is_rebuilding": self.epoch == 0,
            "in_flight": self.in_flight,
            "windows": [window.as_dict() for window in self.windows],
            "learned": [limit.as_dict() for limit in self.learned],
            "cooldowns": [pause.as_dict() for pause in self.cooldowns],
            "breakers": [_breaker(breaker) for breaker in self.breakers],
            "waiting": [waiter.as_dict() for waiter in self.waiting],
            "eager_margins_s": dict(self.margins_s),
            "latency_s": round(self.latency_s, 6),
            "malformed_headers": self.malformed_headers,
            "batch_health": dict(self.batch_health),
        }


def _breaker(state: CircuitBreakerState) -> dict[str, str | int | float]:
    return {
        "scope": state.scope_name,
        "state": str(state.status),
        "opens": state.opens,
        "open_remaining_s": round(state.open_remaining_s, 3),
        "calls": state.calls,
        "failures": state.failures,
        "slow": state.slow,
        "failure_rate": round(state.failure_rate, 4),
        "slow_rate": round(state.slow_rate, 4),
        "slow_start_remaining_s": round(state.slow_start_remaining_s, 3),
    }
