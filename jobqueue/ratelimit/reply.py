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
    LearnedLimit,
    RateLimitState,
    Scope,
    Settled,
    Waiter,
    Window,
    WindowState,
)
from jobqueue.model.window import UNLIMITED
from jobqueue.ratelimit.layout import Layout

_WORDS = {
    DenialReason.COOLDOWN: "cooling down, as the provider asked",
    DenialReason.BREAKER: "circuit breaker open",
    DenialReason.PRIORITY: "a job of higher priority is next",
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


OUTDATED = -2


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
        words = layout.windows[int(reply.rest[1]) - 1][int(reply.rest[2]) - 1].text
    elif reason is DenialReason.CONCURRENCY:
        words = f"{level.max_concurrency} requests in flight"
    else:
        words = _WORDS[reason]
    retry_after_s = max(0.001, seconds(int(reply.rest[3])))
    return Denied(reason, f"{name}: {words}", retry_after_s, name, is_in_line=bool(int(reply.rest[4] or 0)))


def read_settled(raw: Any, layout: Layout) -> Settled:
    """The answer of ``lua/settle.lua`` and ``lua/adjust.lua``."""
    cooldowns, breakers = [], []
    learned: dict[str, tuple[LearnedLimit, ...]] = {}
    for change in json.loads(raw[1]):
        index = change["scope"] - 1
        name = layout.levels[index].scope.name
        if change["paused"]:
            cooldowns.append(Cooldown(name, seconds(change["blocked_us"])))
        if change["breaker_changed"]:
            breakers.append(_breaker(name, change["breaker"]))
        if change["learned_changed"]:
            learned[name] = _learned(name, layout.windows[index], change)
    return Settled(int(raw[0]), tuple(cooldowns), tuple(breakers), learned, tuple(json.loads(raw[2])))


def read_state(reply: Reply, scope: Scope, layout: Layout) -> RateLimitState:
    """The details a ``look`` carries."""
    details = json.loads(reply.rest[5])
    scopes = details["scopes"]
    names = [level.scope.name for level in layout.levels]
    health = details["health"] or []
    places = list(zip(names, layout.windows, scopes, strict=True))
    return RateLimitState(
        scope=scope,
        epoch=reply.epoch,
        windows=tuple(state for name, windows, seen in places for state in _windows(name, windows, seen)),
        in_flight=scopes[-1]["n"],
        cooldowns=tuple(
            Cooldown(name, seconds(seen["blocked_us"]), seen["blocked_why"])
            for name, _, seen in places
            if seen["blocked_us"] > 0
        ),
        breakers=tuple(
            _breaker(level.scope.name, seen["breaker"])
            for level, seen in zip(layout.levels, scopes, strict=True)
            if level.breaker
        ),
        batch_health={
            operation: int(permille) / FULL_HEALTH_PERMILLE
            for operation, permille in zip(health[::2], health[1::2], strict=True)
        },
        learned=tuple(limit for name, windows, seen in places for limit in _learned(name, windows, seen)),
        waiting=tuple(_waiter(name, place) for name, _, seen in places for place in seen["waiting"] or ()),
        margins_s={
            name: seconds(seen["margin_us"]) for name, windows, seen in places if any(w.is_eager for w in windows)
        },
        latency_s=scopes[-1]["latency"] / 1_000_000,
        malformed_headers=int(details["malformed"]),
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


def _windows(name: str, windows: Sequence[Window], seen: Mapping[str, Any]) -> list[WindowState]:
    return [
        WindowState(
            scope_name=name,
            text=window.text,
            limit=window.limit,
            used=counted["used"],
            in_flight=counted["in_flight"],
            remaining=max(0, int(counted["limit"]) - counted["used"] - counted["in_flight"] - counted["foreign"]),
            frees_in_s=max(0.0, seconds(counted["first_us"])),
            resets_in_s=max(0.0, seconds(counted["last_us"])),
            foreign=counted["foreign"],
        )
        for window, counted in zip(windows, seen["windows"], strict=True)
        if window.limit < UNLIMITED
    ]


def _learned(name: str, windows: Sequence[Window], seen: Mapping[str, Any]) -> tuple[LearnedLimit, ...]:
    return tuple(
        LearnedLimit(
            name,
            window.id,
            window.text,
            int(counted["limit"]),
            counted["known"],
            counted["base"],
            counted["ago_us"] / 1_000_000,
            counted["proofs"],
        )
        for window, counted in zip(windows, seen["windows"], strict=True)
        if counted["ago_us"] >= 0
    )


def _waiter(name: str, place: Mapping[str, Any]) -> Waiter:
    return Waiter(
        name,
        place["owner"],
        place["class"] - 1,
        place["want"],
        seconds(place["wake_us"]),
        seconds(place["waited_us"]),
    )
