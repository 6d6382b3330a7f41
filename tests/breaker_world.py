"""The breaker in Lua and the breaker in Python, driven by the same events."""

from __future__ import annotations

from collections import Counter
from random import Random

import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from ratelimit_world import Clock, MemoryHistory, provider_limits

from jobqueue.model.breaker import (
    COMMANDS,
    Breaker,
    BreakerConfig,
    BreakerStatus,
    calls,
    decide,
    force,
    lease,
    record,
    slow_start_left_us,
)
from jobqueue.model.call_window import CallWindow, CountWindow, TimeWindow
from jobqueue.model.limit import (
    Adjustment,
    CircuitBreakerState,
    DenialReason,
    Denied,
    Granted,
    ProviderLimits,
    Scope,
    Slot,
    SlotResult,
    SlotUse,
    Throttle,
)
from jobqueue.ratelimit.limiter import Limiter

SCOPE = Scope("spotify")
KEY = "{spotify}:limit:scope:"
OUTCOMES = {
    SlotUse.OK: True,
    SlotUse.FAILURE: False,
    SlotUse.UNUSED: None,
    SlotUse.THROTTLED: None,
    SlotUse.UNKNOWN: None,
}
TIMED = BreakerConfig(
    failure_rate=0.5, minimum_calls=3, window_s=2, open_s=1, open_max_s=4, jitter=0.3, probes=2, slow_start_s=1
)
COUNTED = BreakerConfig(
    failure_rate=0.6, minimum_calls=3, window_calls=4, slow_call_s=0.1, slow_rate=0.5, open_s=0.5, open_max_s=3,
    jitter=0.5, probes=1, slow_start_s=0.7,
)  # fmt: skip
CONFIGS = {
    "timed": TIMED,
    "timed, slow calls": BreakerConfig(
        failure_rate=1, minimum_calls=2, window_s=3, slow_call_s=0.1, slow_rate=0.7, open_s=1, open_max_s=1, jitter=0,
        probes=3, slow_start_s=2.000003,
    ),
    "counted": COUNTED,
    "counted, no slow start": BreakerConfig(
        failure_rate=0.5, minimum_calls=7, window_calls=7, open_s=1, open_max_s=9, probes=2, slow_start_s=0
    ),
}  # fmt: skip
USES = st.sampled_from(list(OUTCOMES))
LATENCIES = st.sampled_from([None, 0.05, 0.099999, 0.1, 0.5])


class BothBreakers(RuleBasedStateMachine):
    """Sends the same events to both and compares them after each.

    Attributes:
        seen: How often what happened.
    """

    def __init__(self, url: str, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.redis.flushall()
        self.clock = Clock()
        self.limits: dict[str, ProviderLimits] = {}
        self.limiter = Limiter(url, self.limits, MemoryHistory(self.clock), clock_us=self.clock, random=Random(7))
        self.random = Random(7)
        self.model = Breaker()
        self.open: list[tuple[Slot, int]] = []

    def teardown(self) -> None:
        self.limiter.close()
        self.redis.close()

    @initialize(
        name=st.sampled_from(list(CONFIGS)), is_quiet=st.booleans(), already=st.integers(0, 4), is_slow=st.booleans()
    )
    def begin(self, name: str, is_quiet: bool, already: int, is_slow: bool) -> None:
        """Somewhere on the way; half of the runs go without commands and new configurations, which cut all else short."""
        self.is_quiet = is_quiet
        self.configure(name)
        if already >= 1:
            can_be_slow = is_slow and self.config.slow_call_s is not None
            self.meet(9, SlotUse.OK if can_be_slow else SlotUse.FAILURE, 0.2)
            assert self.model.status is BreakerStatus.OPEN
        if already >= 2:
            self.clock.now_us = self.model.open_until_us
        if already == 3:
            self.reserve(1, 1.0)
            assert self.model.status is BreakerStatus.HALF_OPEN
        if already == 4:
            self.meet(9, SlotUse.OK, None)
            assert self.model.status is BreakerStatus.CLOSED

    def configure(self, name: str) -> None:
        self.config = CONFIGS[name]
        self.limits["spotify"] = provider_limits(
            "1000/second", breaker=self.config, longest_request_s=3.0, learned_floor=1000
        )

    @precondition(lambda self: not self.is_quiet)
    @rule(name=st.sampled_from(list(CONFIGS)))
    def reconfigure(self, name: str) -> None:
        """Another one, while the state stays."""
        self.configure(name)
        self.seen["reconfigured"] += 1

    @property
    def now_us(self) -> int:
        return self.clock.now_us

    @property
    def in_flight(self) -> int:
        return sum(until_us > self.now_us for _, until_us in self.open)

    def expected_state(self) -> CircuitBreakerState:
        """The model as the limiter reports it."""
        held, model = calls(self.model, self.now_us, self.config), self.model
        open_us = max(0, model.open_until_us - self.now_us)
        return CircuitBreakerState(
            "spotify", model.status, model.opens, _seconds(open_us), held.calls, held.failures, held.slow,
            _seconds(slow_start_left_us(model, self.now_us, self.config)),
        )  # fmt: skip

    @rule(want=st.integers(1, 9), deadline_s=st.sampled_from([0.2, 1.0, 3.0]))
    def reserve(self, want: int, deadline_s: float) -> None:
        """Both let the same number pass and lease it, or name the same time to ask again."""
        expected = decide(self.model, self.now_us, self.config, in_flight=self.in_flight)
        decision = self.limiter.reserve(SCOPE, want=want, deadline_s=deadline_s)
        held_back = "slow start" if self.model.status is BreakerStatus.CLOSED else self.model.status
        if isinstance(decision, Denied):
            assert decision.reason is DenialReason.BREAKER, decision
            assert expected.permits == 0
            assert decision.retry_after_s == max(0.001, _seconds(expected.lifts_at_us - self.now_us))
            self.seen[f"denied: {held_back}"] += 1
            return
        assert isinstance(decision, Granted)
        assert len(decision.slots) == (want if expected.permits is None else min(want, expected.permits))
        self.seen[f"granted fewer: {held_back}"] += len(decision.slots) < want
        until_us = self.now_us + round(deadline_s * 1_000_000)
        self.seen["a dead probe's lease was used again"] += len(self.model.live_leases(self.now_us)) < len(
            self.model.leases or ()
        )
        self.model = lease(self.model, tuple(slot.id for slot in decision.slots), until_us, self.now_us)
        self.open += [(slot, until_us) for slot in decision.slots]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), answers=st.lists(st.tuples(USES, LATENCIES), min_size=1, max_size=4))
    def settle(self, data: st.DataObject, answers: list[tuple[SlotUse, float | None]]) -> None:
        """Both learn the same answers in the same order; a slot past its deadline says nothing."""
        chosen = data.draw(st.permutations(self.open))[: len(answers)]
        self._settle([(slot, until, *answer) for (slot, until), answer in zip(chosen, answers, strict=False)])

    @precondition(lambda self: decide(self.model, self.now_us, self.config).permits != 0)
    @rule(want=st.integers(1, 9), use=st.sampled_from([SlotUse.OK, SlotUse.FAILURE]), latency_s=LATENCIES)
    def meet(self, want: int, use: SlotUse, latency_s: float | None) -> None:
        """The provider is well, out or slow for a moment: all that may pass is sent and answered alike."""
        self.reserve(want, 3.0)
        self._settle([(slot, until, use, latency_s) for slot, until in self.open])

    def _settle(self, answered: list[tuple[Slot, int, SlotUse, float | None]]) -> None:
        if not answered:
            return
        jitter, changed = self.random.randrange(1001), False
        for slot, until_us, use, latency_s in answered:
            if until_us > self.now_us:
                changed = self._record(slot, use, latency_s, jitter) or changed
            self.open.remove((slot, until_us))
        pause = Throttle(0.001)
        settled = self.limiter.settle(
            [
                SlotResult(slot, use, latency_s, pause if use is SlotUse.THROTTLED else None)
                for slot, _, use, latency_s in answered
            ]
        )
        assert settled.breakers == ((self.expected_state(),) if changed else ())
        self.clock.now_us += 1000  # beyond the cool-down of a throttled answer

    def _record(self, slot: Slot, use: SlotUse, latency_s: float | None, jitter: int) -> bool:
        before = self.model
        latency_us = round((latency_s or 0) * 1_000_000)
        self.model = record(
            before, slot.id, OUTCOMES[use], self.now_us, self.config, latency_us=latency_us, jitter_permille=jitter
        )
        if before.status is self.model.status:
            return False
        kind = "slow" if use is SlotUse.OK and self.model.status is BreakerStatus.OPEN else use
        self.seen[f"{before.status} to {self.model.status}: {kind}"] += 1
        return True

    @precondition(lambda self: not self.is_quiet)
    @rule(status=st.sampled_from(list(COMMANDS)))
    def command(self, status: BreakerStatus) -> None:
        """A person has the last word."""
        self.seen[f"{self.model.status} commanded to {status}"] += 1
        self.model = force(self.model, status)
        assert self.limiter.adjust(SCOPE, Adjustment(status.value)).breakers == (self.expected_state(),)

    @precondition(lambda self: self.model.status in (BreakerStatus.FORCED_OPEN, BreakerStatus.DISABLED))
    @rule()
    def lift(self) -> None:
        """What was commanded seldom stays for long, or nothing else would be seen."""
        self.command(BreakerStatus.CLOSED)

    @rule(
        us=st.one_of(
            st.integers(1, 100_000), st.integers(1, 3_000_000), st.sampled_from([200_000, 1_000_000, 1_300_000])
        )
    )
    def advance(self, us: int) -> None:
        """Time passes for both."""
        self.clock.now_us += us

    @rule(data=st.data(), early=st.integers(-1, 1))
    def wait(self, data: st.DataObject, early: int) -> None:
        """Until the open time, a lease, or a step of the slow start is just about over."""
        length_us = self.config.slow_start_us
        instants = [self.model.open_until_us, *(self.model.leases or {}).values()]
        instants += [self.model.closed_at_us - (-length_us * step // 5) for step in range(1, 6)]
        later = [instant for instant in instants if instant > self.now_us]
        if later:
            self.clock.now_us = max(self.now_us, data.draw(st.sampled_from(later)) + early)

    @rule(want=st.integers(1, 9))
    def look(self, want: int) -> None:
        """What the limiter reports is what the model holds, and asking changes nothing."""
        (reported,) = self.limiter.snapshot(SCOPE).breakers
        assert reported == self.expected_state()
        expected = decide(self.model, self.now_us, self.config, in_flight=self.in_flight)
        denial = self.limiter.why(SCOPE, want)
        assert (denial is None) == (expected.permits is None or expected.permits >= want)

    @invariant()
    def are_alike(self) -> None:
        """Every stored field equals the model's."""
        stored = self.redis.hgetall(KEY)
        leases = self.redis.zrangebyscore(KEY + ":probes", f"({self.now_us}", "+inf", withscores=True)
        assert (
            stored.get("breaker", "closed"),
            *(int(stored.get(field, 0)) for field in ("open_until", "opens", "successes", "closed_at")),
            stored.get("breaker_calls", ""),
            {slot: int(until) for slot, until in leases},
        ) == (
            self.model.status,
            self.model.open_until_us,
            self.model.opens,
            self.model.successes,
            self.model.closed_at_us,
            _text(self.model.window),
            self.model.live_leases(self.now_us),
        )


def _seconds(us: int) -> float:
    return -(-us // 1000) / 1000


def _text(window: CallWindow | None) -> str:
    """As Lua writes it."""
    match window:
        case TimeWindow(bucket_us, buckets):
            return " ".join([f"t{bucket_us}", *(":".join(map(str, bucket)) for bucket in buckets)])
        case CountWindow(size, ring):
            held = window.calls(0)
            return f"c{size} {held.failures} {held.slow} {ring}"
    return ""
