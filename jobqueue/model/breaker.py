"""The circuit breaker: one table of transitions and the pure functions that follow it.

=========== ============ =========== ==================================================================
from        event        to          when
=========== ============ =========== ==================================================================
closed      tripped      open        enough calls in the window, and too many of them failed or were slow
open        waited       half_open   the open time is over: a few probes may pass
half_open   probe_failed open        one probe failed or was slow; the open time doubles
half_open   proved       closed      as many probes as configured succeeded: slow start
any         force_open   forced_open by command: nothing passes until another command
any         disable      disabled    by command: everything passes and nothing is counted
any         reset        closed      by command: as new, without a slow start
=========== ============ =========== ==================================================================

``lua/breaker.lua`` executes the same on the shared state; a property test drives both with the same events. A probe is
leased: if its holder dies, the lease ends by the slot's deadline and another may try. A 429 is never recorded as
success or failure. Times are whole microseconds of one clock, rates and jitter are per mille, so that both sides
compute exactly the same.

While the slow start lasts, the requests in flight are limited: to as many as there are probes in the first fifth of it,
and to twice as many in each fifth that follows. So a provider that has just come back meets a crowd that grows.

Source: the state machine of Resilience4j's CircuitBreaker (permitted calls in half-open, minimum calls, failure and
slow-call rate, forced open, disabled). The slow start is the idea of nginx's and Envoy's, in steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from jobqueue.errors import InvalidInputError
from jobqueue.model.breaker_config import SLOW_START_STEPS, BreakerConfig
from jobqueue.model.call_window import Calls, CallWindow

__all__ = [
    "COMMANDS",
    "LOOK_AGAIN_US",
    "TRANSITIONS",
    "Breaker",
    "BreakerConfig",
    "BreakerDecision",
    "BreakerEvent",
    "BreakerStatus",
    "CircuitBreakerState",
    "calls",
    "decide",
    "force",
    "lease",
    "record",
    "slow_start_left_us",
]

LOOK_AGAIN_US = 1_000_000
"""After how long to ask again when what holds a request back may end any moment: an answer, or a command."""


class BreakerStatus(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


class BreakerEvent(StrEnum):
    """What moves a breaker."""

    TRIPPED = "tripped"
    WAITED = "waited"
    PROBE_FAILED = "probe_failed"
    PROVED = "proved"
    FORCE_OPEN = "force_open"
    DISABLE = "disable"
    RESET = "reset"


COMMANDS: Mapping[BreakerStatus, BreakerEvent] = {
    BreakerStatus.FORCED_OPEN: BreakerEvent.FORCE_OPEN,
    BreakerStatus.DISABLED: BreakerEvent.DISABLE,
    BreakerStatus.CLOSED: BreakerEvent.RESET,
}
"""Where a person may put a breaker at any time, and the event that does it."""

TRANSITIONS: Mapping[tuple[BreakerStatus, BreakerEvent], BreakerStatus] = {
    (BreakerStatus.CLOSED, BreakerEvent.TRIPPED): BreakerStatus.OPEN,
    (BreakerStatus.OPEN, BreakerEvent.WAITED): BreakerStatus.HALF_OPEN,
    (BreakerStatus.HALF_OPEN, BreakerEvent.PROBE_FAILED): BreakerStatus.OPEN,
    (BreakerStatus.HALF_OPEN, BreakerEvent.PROVED): BreakerStatus.CLOSED,
} | {(status, command): target for target, command in COMMANDS.items() for status in BreakerStatus}


@dataclass(frozen=True, slots=True)
class CircuitBreakerState:
    """A breaker as reported and stored.

    Attributes:
        opens: Openings in a row without a successful close.
        open_remaining_s: Until probes may pass; 0 unless open.
        calls: Calls in the window.
        failures: Failed calls in the window.
        slow: Slow calls in the window.
        slow_start_remaining_s: Until requests in flight are no longer held back; 0 outside a slow start.
    """

    scope_name: str
    status: BreakerStatus
    opens: int = 0
    open_remaining_s: float = 0.0
    calls: int = 0
    failures: int = 0
    slow: int = 0
    slow_start_remaining_s: float = 0.0

    @property
    def failure_rate(self) -> float:
        """Share of failed calls in the window, 0..1."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Share of slow calls in the window, 0..1."""
        return self.slow / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """The whole state of one breaker.

    Attributes:
        open_until_us: When probes may pass; meaningful while open.
        opens: Openings in a row.
        successes: Probes that succeeded in this half-open phase.
        closed_at_us: When it was proved, 0 if it never was; the slow start counts from here.
        window: The calls it looks back on; None before the first.
        leases: Slot id to the instant its probe's lease ends.
    """

    status: BreakerStatus = BreakerStatus.CLOSED
    open_until_us: int = 0
    opens: int = 0
    successes: int = 0
    closed_at_us: int = 0
    window: CallWindow | None = None
    leases: Mapping[str, int] | None = None

    def live_leases(self, now_us: int) -> dict[str, int]:
        """Probes whose holder may still answer."""
        return {slot: until for slot, until in (self.leases or {}).items() if until > now_us}


@dataclass(frozen=True, slots=True)
class BreakerDecision:
    """What a breaker allows now.

    Attributes:
        permits: Requests it lets pass; None for any number.
        status: Where it stands once a request is let through.
        lifts_at_us: When to ask again, if it lets none pass now: what holds it back lifts then or may lift earlier.
    """

    permits: int | None
    status: BreakerStatus
    lifts_at_us: int = 0


def decide(breaker: Breaker, now_us: int, config: BreakerConfig, *, in_flight: int = 0) -> BreakerDecision:
    """How many requests may pass at *now_us*, while *in_flight* others are under way in the scope."""
    match breaker.status:
        case BreakerStatus.DISABLED:
            return BreakerDecision(None, breaker.status)
        case BreakerStatus.FORCED_OPEN:
            return BreakerDecision(0, breaker.status, now_us + LOOK_AGAIN_US)
        case BreakerStatus.CLOSED:
            return _decide_closed(breaker, now_us, config, in_flight)
        case BreakerStatus.OPEN if now_us < breaker.open_until_us:
            return BreakerDecision(0, breaker.status, breaker.open_until_us)
        case BreakerStatus.OPEN:
            return BreakerDecision(config.probes, TRANSITIONS[breaker.status, BreakerEvent.WAITED])
        case BreakerStatus.HALF_OPEN:
            leases = breaker.live_leases(now_us)
            # One at least is missing, else it would be closed; a configuration with fewer probes must not lock it.
            permits = max(1, config.probes - breaker.successes) - len(leases)
            lifts_at_us = min([*leases.values(), now_us + LOOK_AGAIN_US])
            return BreakerDecision(max(0, permits), breaker.status, lifts_at_us)


def _decide_closed(breaker: Breaker, now_us: int, config: BreakerConfig, in_flight: int) -> BreakerDecision:
    if not slow_start_left_us(breaker, now_us, config):
        return BreakerDecision(None, breaker.status)
    since_us, length_us = max(0, now_us - breaker.closed_at_us), config.slow_start_us
    step = since_us * SLOW_START_STEPS // length_us
    step_ends_us = breaker.closed_at_us - (-(step + 1) * length_us // SLOW_START_STEPS)
    permits = max(0, (config.probes << step) - in_flight)
    return BreakerDecision(permits, breaker.status, min(step_ends_us, now_us + LOOK_AGAIN_US))


def slow_start_left_us(breaker: Breaker, now_us: int, config: BreakerConfig) -> int:
    """How much of the slow start is left; 0 outside of one."""
    if breaker.status is not BreakerStatus.CLOSED or not breaker.closed_at_us:
        return 0
    # A clock that was set back begins it again at most.
    return max(0, config.slow_start_us - max(0, now_us - breaker.closed_at_us))


def calls(breaker: Breaker, now_us: int, config: BreakerConfig) -> Calls:
    """What the window holds at *now_us*."""
    return config.window_after(breaker.window).calls(now_us)


def lease(breaker: Breaker, slot_ids: tuple[str, ...], until_us: int, now_us: int) -> Breaker:
    """*breaker* after *slot_ids* were let through, within the permits of `decide` at *now_us*."""
    if breaker.status is BreakerStatus.OPEN:
        breaker = Breaker(TRANSITIONS[breaker.status, BreakerEvent.WAITED], opens=breaker.opens)
    if breaker.status is not BreakerStatus.HALF_OPEN:
        return breaker
    return replace(breaker, leases=breaker.live_leases(now_us) | dict.fromkeys(slot_ids, until_us))


def record(
    breaker: Breaker,
    slot_id: str,
    is_success: bool | None,
    now_us: int,
    config: BreakerConfig,
    *,
    latency_us: int = 0,
    jitter_permille: int = 0,
) -> Breaker:
    """*breaker* after the answer to *slot_id*.

    Args:
        breaker: The state before.
        slot_id: Whose answer; in half-open only leased probes count, and open, forced open or disabled nothing does.
        is_success: None when the answer says nothing of the provider's health (unused, throttled): only the lease ends.
        now_us: When.
        config: The breaker's configuration.
        latency_us: From sending to the answer; 0 when it is not known, which is never slow.
        jitter_permille: Drawn by the caller, 0..1000, for the open time if this opens the breaker.
    """
    is_slow = 0 < config.slow_call_us <= latency_us
    if breaker.status is BreakerStatus.HALF_OPEN:
        is_good = is_success and not is_slow if is_success is not None else None
        return _record_probe(breaker, slot_id, is_good, now_us, config, jitter_permille)
    if breaker.status is not BreakerStatus.CLOSED or is_success is None:
        return breaker
    window = config.window_after(breaker.window).add(is_failure=not is_success, is_slow=is_slow, now_us=now_us)
    if config.is_tripped_by(window.calls(now_us)):
        return _opened(breaker, BreakerEvent.TRIPPED, now_us, config, jitter_permille)
    return replace(breaker, window=window)


def force(breaker: Breaker, status: BreakerStatus) -> Breaker:
    """*breaker* after a person put it to *status*, one of `COMMANDS`: fresh, whatever it was.

    Raises:
        InvalidInputError: No command leads to *status*.
    """
    if status not in COMMANDS:
        raise InvalidInputError(
            f"status {str(status)!r} cannot be commanded.", remedy=f"Use one of: {', '.join(COMMANDS)}.", field="status"
        )
    return Breaker(TRANSITIONS[breaker.status, COMMANDS[status]])


def _record_probe(
    breaker: Breaker, slot_id: str, is_good: bool | None, now_us: int, config: BreakerConfig, jitter_permille: int
) -> Breaker:
    leases = breaker.live_leases(now_us)
    if leases.pop(slot_id, None) is None:
        return breaker
    if is_good is None:
        return replace(breaker, leases=leases)
    if not is_good:
        return _opened(breaker, BreakerEvent.PROBE_FAILED, now_us, config, jitter_permille)
    if breaker.successes + 1 >= config.probes:
        return Breaker(TRANSITIONS[breaker.status, BreakerEvent.PROVED], closed_at_us=now_us)
    return replace(breaker, successes=breaker.successes + 1, leases=leases)


def _opened(breaker: Breaker, event: BreakerEvent, now_us: int, config: BreakerConfig, jitter_permille: int) -> Breaker:
    opens = breaker.opens + 1
    status = TRANSITIONS[breaker.status, event]
    return Breaker(status, now_us + config.open_us(opens, jitter_permille), opens)
