"""The breaker in Lua and the breaker in Python are one machine."""

from __future__ import annotations

from random import Random

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from ratelimit_world import Clock, MemoryHistory, provider_limits

from jobqueue.model.breaker import Breaker, BreakerConfig, BreakerStatus, decide, lease, record
from jobqueue.model.limit import DenialReason, Denied, Granted, Scope, Slot, SlotResult, SlotUse
from jobqueue.ratelimit.limiter import Limiter

SCOPE = Scope("spotify")
KEY = "{spotify}:limit:scope:"
CONFIG = BreakerConfig(
    failure_rate=0.5, minimum_calls=3, window_s=2.0, open_s=1.0, open_max_s=4.0, jitter=0.3, probes=2
)
OUTCOMES = {SlotUse.OK: True, SlotUse.FAILURE: False, SlotUse.UNUSED: None, SlotUse.THROTTLED: None}


class BothBreakers(RuleBasedStateMachine):
    """Sends the same events to both and compares them after each."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.redis.flushall()
        self.clock = Clock()
        limits = provider_limits("1000/second", breaker=CONFIG, cooldown_default_s=0.001, longest_request_s=3.0)
        self.limiter = Limiter(
            url, {"spotify": limits}, MemoryHistory(self.clock), clock_us=self.clock, random=Random(7)
        )
        self.random = Random(7)
        self.model = Breaker()
        self.open: list[tuple[Slot, int]] = []

    def teardown(self) -> None:
        self.limiter.close()
        self.redis.close()

    @rule(want=st.integers(1, 4), deadline_s=st.sampled_from([0.2, 1.0, 3.0]))
    def reserve(self, want: int, deadline_s: float) -> None:
        """Both let the same number pass, and lease it."""
        expected = decide(self.model, self.clock.now_us, CONFIG)
        decision = self.limiter.reserve(SCOPE, want=want, deadline_s=deadline_s)
        if isinstance(decision, Denied):
            assert decision.reason is DenialReason.BREAKER, decision
            assert expected.permits == 0
            return
        assert isinstance(decision, Granted)
        assert len(decision.slots) == (want if expected.permits is None else min(want, expected.permits))
        until_us = self.clock.now_us + round(deadline_s * 1_000_000)
        ids = tuple(slot.id for slot in decision.slots)
        self.model = lease(self.model, ids, until_us, self.clock.now_us)
        self.open += [(slot, until_us) for slot in decision.slots]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), uses=st.lists(st.sampled_from(list(OUTCOMES)), min_size=1, max_size=4))
    def settle(self, data: st.DataObject, uses: list[SlotUse]) -> None:
        """Both learn the same answers in the same order; a slot past its deadline says nothing."""
        chosen = data.draw(st.permutations(range(len(self.open))))[: len(uses)]
        results = []
        jitter = self.random.randrange(1001)
        for index, use in zip(chosen, uses, strict=False):
            slot, until_us = self.open[index]
            results.append(SlotResult(slot, use))
            if until_us > self.clock.now_us:
                self.model = record(
                    self.model, slot.id, OUTCOMES[use], self.clock.now_us, CONFIG, jitter_permille=jitter
                )
        self.open = [entry for index, entry in enumerate(self.open) if index not in chosen]
        before = self.redis.hget(KEY, "breaker")
        settled = self.limiter.settle(results)
        if settled.breakers:
            assert settled.breakers[0].status == self.redis.hget(KEY, "breaker")
        else:
            assert before == self.redis.hget(KEY, "breaker")
        self.clock.now_us += 1000  # beyond the cool-down of a throttled answer

    @rule(us=st.one_of(st.integers(1, 3_000_000), st.sampled_from([200_000, 1_000_000, 1_300_000])))
    def advance(self, us: int) -> None:
        """Time passes for both."""
        self.clock.now_us += us

    @precondition(lambda self: self.model.status is BreakerStatus.OPEN)
    @rule(early=st.integers(-1, 1))
    def wait(self, early: int) -> None:
        """Until the open time is just about over."""
        self.clock.now_us = max(self.clock.now_us, self.model.open_until_us + early)

    @invariant()
    def are_alike(self) -> None:
        """Every stored field equals the model's."""
        stored = self.redis.hgetall(KEY)
        if not stored:
            assert self.model == Breaker()
            return
        buckets = tuple(tuple(map(int, part.split(":"))) for part in stored["buckets"].split())
        leases = self.redis.zrangebyscore(KEY + ":probes", f"({self.clock.now_us}", "+inf", withscores=True)
        assert (
            stored["breaker"],
            int(stored["open_until"]),
            int(stored["opens"]),
            int(stored["successes"]),
            buckets,
            {slot: int(until) for slot, until in leases},
        ) == (
            self.model.status,
            self.model.open_until_us,
            self.model.opens,
            self.model.successes,
            self.model.buckets,
            self.model.live_leases(self.clock.now_us),
        )


def test_lua_and_model_agree_on_every_sequence_of_events(redis_url):
    """Grants, answers, deadlines and waits in any order leave the same breaker in Redis as in the model."""
    run_state_machine_as_test(
        lambda: BothBreakers(redis_url),
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
