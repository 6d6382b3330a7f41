"""Reading what the scripts answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobqueue.model.batching import FULL_HEALTH_PERMILLE
from jobqueue.model.breaker import BreakerStatus
from jobqueue.model.limit import (
    CircuitBreakerState,
    Cooldown,
    DenialReason,
    Denied,
    RateLimitState,
    Scope,
    ScopeLimits,
    Settled,
    WindowState,
)
from jobqueue.ratelimit.layout import Layout

_WORDS = {
    DenialReason.COOLDOWN: "cooling down, as the provider asked",
    DenialReason.BREAKER: "circuit breaker open",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of ``lua/reserve.lua``."""

    granted: int
    epoch: int
    rest: Sequence[Any] = ()

    @classmethod
    def read(cls, raw: Any) -> Reply:
        """Take the answer as redis-py gives it."""
        return cls(int(raw[0]), int(raw[1]), raw[2:])


def rebuild_wait_ms(raw: Any) -> int | None:
    """How long another client has the rebuild to itself, 0 when it is ours; None when no rebuild is needed."""
    return int(raw[1]) if raw[0] == -1 else None


def seconds(duration_us: float) -> float:
    """Seconds, rounded up to a millisecond."""
    return math.ceil(duration_us / 1000) / 1000


def read_denial(reply: Reply, layout: Layout) -> Denied:
    """The denial a reply carries."""
    reason = DenialReason(reply.rest[0].decode())
    level = layout.levels[int(reply.rest[1]) - 1]
    name = level.scope.name
    if reason is DenialReason.WINDOW:
        words = level.windows[int(reply.rest[2]) - 1].text
    elif reason is DenialReason.CONCURRENCY:
        words = f"{level.max_concurrency} requests in flight"
    else:
        words = _WORDS[reason]
    return Denied(reason, f"{name}: {words}", max(0.001, seconds(int(reply.rest[3]))), name)


def read_settled(raw: Any, layout: Layout) -> Settled:
    """The answer of ``lua/settle.lua``."""
    cooldowns, breakers = [], []
    for change in json.loads(raw[1]):
        name = layout.levels[change["scope"] - 1].scope.name
        if change["paused"]:
            cooldowns.append(Cooldown(name, seconds(change["blocked_us"])))
        if change["breaker_changed"]:
            breakers.append(_breaker(name, change["breaker"]))
    return Settled(int(raw[0]), tuple(cooldowns), tuple(breakers))


def read_breaker(raw: Any, level: ScopeLimits) -> CircuitBreakerState:
    """The answer of ``lua/force.lua``."""
    return _breaker(level.scope.name, json.loads(raw[1]))


def read_state(reply: Reply, scope: Scope, layout: Layout) -> RateLimitState:
    """The details a ``look`` carries."""
    details = json.loads(reply.rest[4])
    pairs = list(zip(layout.levels, details["scopes"], strict=True))
    health = details["health"] or []
    return RateLimitState(
        scope=scope,
        epoch=reply.epoch,
        windows=tuple(state for level, seen in pairs for state in _windows(level, seen)),
        in_flight=pairs[-1][1]["n"],
        cooldowns=tuple(
            Cooldown(level.scope.name, seconds(seen["blocked_us"]), seen["blocked_why"])
            for level, seen in pairs
            if seen["blocked_us"] > 0
        ),
        breakers=tuple(_breaker(level.scope.name, seen["breaker"]) for level, seen in pairs if level.breaker),
        batch_health={
            operation: int(permille) / FULL_HEALTH_PERMILLE
            for operation, permille in zip(health[::2], health[1::2], strict=True)
        },
    )


def _breaker(name: str, seen: Mapping[str, Any]) -> CircuitBreakerState:
    return CircuitBreakerState(
        name,
        BreakerStatus(seen["status"]),
        opens=seen["opens"],
        open_remaining_s=seconds(seen["open_us"]),
        calls=seen["calls"],
        failures=seen["failures"],
        slow=seen["slow"],
        slow_start_remaining_s=seconds(seen["slow_start_us"]),
    )


def _windows(level: ScopeLimits, seen: Mapping[str, Any]) -> list[WindowState]:
    # An empty list comes from Lua as an empty object.
    return [
        WindowState(
            scope_name=level.scope.name,
            text=window.text,
            limit=window.limit,
            used=counted["used"],
            in_flight=counted["in_flight"],
            remaining=max(0, window.limit - counted["used"] - counted["in_flight"]),
            frees_in_s=max(0.0, seconds(counted["first_us"])),
            resets_in_s=max(0.0, seconds(counted["last_us"])),
        )
        for window, counted in zip(level.windows, seen["windows"] or (), strict=True)
    ]
