"""The circuit breaker: one table of transitions and the two pure functions that follow it.

======== ============ ========= =================================================
from     event        to        when
======== ============ ========= =================================================
closed   tripped      open      enough calls in the window and too many failed
open     waited       half_open the open time is over: a few probes may pass
half_open probe_failed open     one probe failed; the open time doubles
half_open proved      closed    as many probes as configured succeeded
======== ============ ========= =================================================

``lua/breaker.lua`` executes the same on the shared state; a property test drives both with the same events. A probe is
leased: if its holder dies, the lease ends by the slot's deadline and another may try. A 429 is never recorded as
success or failure. Times are whole microseconds of one clock, rates and jitter are per mille, so that both sides
compute exactly the same.

Source: the state machine of Resilience4j's CircuitBreaker (permitted calls in half-open, minimum calls, failure rate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from jobqueue.errors import ConfigurationError

BUCKETS = 10
"""The failure rate is taken over this many buckets of the window."""


class BreakerStatus(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerEvent(StrEnum):
    """What moves a breaker."""

    TRIPPED = "tripped"
    WAITED = "waited"
    PROBE_FAILED = "probe_failed"
    PROVED = "proved"


TRANSITIONS: Mapping[tuple[BreakerStatus, BreakerEvent], BreakerStatus] = {
    (BreakerStatus.CLOSED, BreakerEvent.TRIPPED): BreakerStatus.OPEN,
    (BreakerStatus.OPEN, BreakerEvent.WAITED): BreakerStatus.HALF_OPEN,
    (BreakerStatus.HALF_OPEN, BreakerEvent.PROBE_FAILED): BreakerStatus.OPEN,
    (BreakerStatus.HALF_OPEN, BreakerEvent.PROVED): BreakerStatus.CLOSED,
}


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When a breaker opens and how it closes again.

    Attributes:
        failure_rate: Share of failed calls, 0..1, at which it opens.
        minimum_calls: Calls the window must hold before the rate is looked at.
        window_s: Over which the rate is taken.
        open_s: Open time after the first trip; doubles with each failed probe.
        open_max_s: Longest open time, before jitter.
        jitter: Up to this share is added to the open time.
        probes: Calls that must succeed in half-open; at most as many are leased at once.

    Raises:
        ConfigurationError: A value is out of range.
    """

    failure_rate: float = 0.5
    minimum_calls: int = 10
    window_s: float = 60.0
    open_s: float = 15.0
    open_max_s: float = 600.0
    jitter: float = 0.2
    probes: int = 2

    def __post_init__(self) -> None:
        checks = {
            "failure_rate": 0 < self.failure_rate <= 1,
            "minimum_calls": self.minimum_calls >= 1,
            "window_s": 0.01 <= self.window_s <= 86_400,
            "open_s": 0 < self.open_s <= self.open_max_s,
            "open_max_s": self.open_max_s <= 3600,
            "jitter": 0 <= self.jitter <= 1,
            "probes": self.probes >= 1,
        }
        for name, is_right in checks.items():
            if not is_right:
                raise ConfigurationError(
                    f"breaker: {name} {getattr(self, name)} is out of range.",
                    remedy="See BreakerConfig for what each value means.",
                )

    @property
    def failure_permille(self) -> int:
        """The failure rate in whole per mille."""
        return max(1, round(self.failure_rate * 1000))

    @property
    def jitter_permille(self) -> int:
        """The largest jitter in whole per mille."""
        return round(self.jitter * 1000)

    @property
    def bucket_us(self) -> int:
        """Length of one bucket of the window."""
        return max(1, round(self.window_s * 1_000_000) // BUCKETS)

    def open_us(self, opens: int, jitter_permille: int) -> int:
        """How long the *opens*-th opening in a row lasts (from 1), *jitter_permille* of the largest jitter added."""
        base_us = min(round(self.open_max_s * 1_000_000), round(self.open_s * 1_000_000) * (1 << min(opens - 1, 20)))
        return base_us + base_us * self.jitter_permille * jitter_permille // 1_000_000


@dataclass(frozen=True, slots=True)
class CircuitBreakerState:
    """A breaker as reported and stored.

    Attributes:
        opens: Openings in a row without a successful close.
        open_remaining_s: Until probes may pass; 0 unless open.
    """

    scope_name: str
    status: BreakerStatus
    opens: int = 0
    open_remaining_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """The whole state of one breaker.

    Attributes:
        open_until_us: When probes may pass; meaningful while open.
        opens: Openings in a row.
        successes: Probes that succeeded in this half-open phase.
        buckets: (bucket number, calls, failures), oldest first.
        leases: Slot id to the instant its probe's lease ends.
    """

    status: BreakerStatus = BreakerStatus.CLOSED
    open_until_us: int = 0
    opens: int = 0
    successes: int = 0
    buckets: tuple[tuple[int, int, int], ...] = ()
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
        lifts_at_us: When it may let one pass, if it lets none pass now.
    """

    permits: int | None
    status: BreakerStatus
    lifts_at_us: int = 0


def decide(breaker: Breaker, now_us: int, config: BreakerConfig) -> BreakerDecision:
    """How many requests may pass at *now_us*."""
    if breaker.status is BreakerStatus.CLOSED:
        return BreakerDecision(None, BreakerStatus.CLOSED)
    if breaker.status is BreakerStatus.OPEN:
        if now_us < breaker.open_until_us:
            return BreakerDecision(0, BreakerStatus.OPEN, breaker.open_until_us)
        return BreakerDecision(config.probes, TRANSITIONS[breaker.status, BreakerEvent.WAITED])
    leases = breaker.live_leases(now_us)
    permits = config.probes - breaker.successes - len(leases)
    return BreakerDecision(max(0, permits), BreakerStatus.HALF_OPEN, min(leases.values(), default=now_us))


def lease(breaker: Breaker, slot_ids: tuple[str, ...], until_us: int, now_us: int) -> Breaker:
    """*breaker* after *slot_ids* were let through, within the permits of `decide` at *now_us*."""
    if breaker.status is BreakerStatus.CLOSED:
        return breaker
    if breaker.status is BreakerStatus.OPEN:
        breaker = replace(
            breaker, status=TRANSITIONS[breaker.status, BreakerEvent.WAITED], successes=0, leases=None, open_until_us=0
        )
    return replace(breaker, leases=breaker.live_leases(now_us) | dict.fromkeys(slot_ids, until_us))


def record(
    breaker: Breaker,
    slot_id: str,
    is_success: bool | None,
    now_us: int,
    config: BreakerConfig,
    *,
    jitter_permille: int = 0,
) -> Breaker:
    """*breaker* after the answer to *slot_id*.

    Args:
        breaker: The state before.
        slot_id: Whose answer; in half-open only leased probes count, and while open nothing does.
        is_success: None when the answer says nothing of the provider's health (unused, throttled): only the lease ends.
        now_us: When.
        config: The breaker's configuration.
        jitter_permille: Drawn by the caller, 0..1000, for the open time if this opens the breaker.
    """
    if breaker.status is BreakerStatus.OPEN:
        return breaker
    if breaker.status is BreakerStatus.HALF_OPEN:
        return _record_probe(breaker, slot_id, is_success, now_us, config, jitter_permille)
    if is_success is None:
        return breaker
    buckets = _counted(breaker.buckets, now_us // config.bucket_us, is_success)
    calls, failures = sum(b[1] for b in buckets), sum(b[2] for b in buckets)
    if calls >= config.minimum_calls and failures * 1000 >= config.failure_permille * calls:
        return _opened(breaker, BreakerEvent.TRIPPED, now_us, config, jitter_permille)
    return replace(breaker, buckets=buckets)


def _record_probe(
    breaker: Breaker, slot_id: str, is_success: bool | None, now_us: int, config: BreakerConfig, jitter_permille: int
) -> Breaker:
    leases = breaker.live_leases(now_us)
    if leases.pop(slot_id, None) is None:
        return breaker
    if is_success is None:
        return replace(breaker, leases=leases)
    if not is_success:
        return _opened(breaker, BreakerEvent.PROBE_FAILED, now_us, config, jitter_permille)
    if breaker.successes + 1 >= config.probes:
        return Breaker(TRANSITIONS[breaker.status, BreakerEvent.PROVED])
    return replace(breaker, successes=breaker.successes + 1, leases=leases)


def _opened(breaker: Breaker, event: BreakerEvent, now_us: int, config: BreakerConfig, jitter_permille: int) -> Breaker:
    opens = breaker.opens + 1
    status = TRANSITIONS[breaker.status, event]
    return Breaker(status, now_us + config.open_us(opens, jitter_permille), opens)


def _counted(
    buckets: tuple[tuple[int, int, int], ...], number: int, is_success: bool
) -> tuple[tuple[int, int, int], ...]:
    kept = [bucket for bucket in buckets if number - BUCKETS < bucket[0]]
    failed = 0 if is_success else 1
    if kept and kept[-1][0] >= number:
        last = kept.pop()
        return (*kept, (last[0], last[1] + 1, last[2] + failed))
    return (*kept, (number, 1, failed))
