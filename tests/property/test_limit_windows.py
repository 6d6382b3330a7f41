"""No provider ever sees more than its limit, whatever happens to workers and to Redis."""

from __future__ import annotations

import json
from random import Random

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ratelimit_world import Clock, MemoryHistory, provider_limits, worst_case

from jobqueue.model.limit import Denied, Granted, ProviderLimits, Scope, ScopeKind, Slot, SlotResult
from jobqueue.ratelimit.limiter import Limiter

SCOPES = (Scope("spotify"), Scope("spotify", "a"), Scope("spotify", "b"))
LIMITS = {
    "several": provider_limits("4/second; 6/3second", unit_windows="20/5second", account_windows="3/2second"),
    "bucketed": provider_limits("2100/second; 2200/3second", unit_windows="50000/5second", longest_request_s=2.0),
    "one": provider_limits("1/second", longest_request_s=0.5),
}

reserve = st.tuples(
    st.just("reserve"), st.integers(0, 2), st.integers(1, 6), st.integers(0, 9), st.sampled_from([0.1, 0.4, 1.0])
)
settle = st.tuples(
    st.just("settle"), st.none() | st.integers(0, 2**32), st.sampled_from(["ok", "ok", "failure", "unused"])
)
# What brings the limits to their edges: taking all there is, waiting as told, or until the oldest slot or count ends.
fill = st.tuples(st.just("reserve"), st.just(0), st.just(6), st.integers(0, 9), st.sampled_from([0.1, 1.0]))
advance = st.tuples(st.just("advance"), st.integers(0, 3_000_000))
wait = st.tuples(st.just("wait"), st.sampled_from(["told", "told", "deadline", "second"]), st.integers(-1, 1))
lose = st.tuples(st.just("lose"), st.sampled_from(["flush", "foreign", "key"]), st.integers(0, 20))
QUIET_STEPS = st.lists(st.one_of(reserve, fill, settle, advance, wait, wait), min_size=3, max_size=40)
LOSSY_STEPS = st.lists(st.one_of(reserve, fill, settle, advance, wait, lose), min_size=3, max_size=40)


class World:
    """Limiter, database and provider under one clock."""

    def __init__(self, url: str, limits: ProviderLimits, scale: int) -> None:
        self.redis = redis.Redis.from_url(url)
        self.redis.flushall()
        self.clock = Clock()
        self.history = MemoryHistory(self.clock)
        self.limiter = Limiter(url, {"spotify": limits}, self.history, clock_us=self.clock, random=Random(1))
        self.limits = limits
        self.scale = scale
        self.open: list[Slot] = []
        self.retry_after_s = 0.0

    def step(self, name: str, *args: object) -> None:
        getattr(self, name)(*args)

    def reserve(self, scope: int, want: int, cost: int, life: float) -> None:
        deadline_s = self.limits.longest_request_s * life
        want = min(1000, want * self.scale)
        decision = self.limiter.reserve(SCOPES[scope], want=want, cost_units=cost, deadline_s=deadline_s)
        if isinstance(decision, Granted):
            self.history.commit(decision.slots, decision.epoch, deadline_s)
            self.open.extend(decision.slots)
        else:
            assert decision.retry_after_s >= 0.001
            self.retry_after_s = decision.retry_after_s

    def settle(self, seed: int | None, use: str) -> None:
        random = Random(seed)
        chosen = self.open if seed is None else random.sample(self.open, random.randint(0, len(self.open)))
        settled = {slot.id for slot in chosen}
        self.open = [slot for slot in self.open if slot.id not in settled]
        for slot in chosen:
            self.history.answer(slot, is_unused=use == "unused")
        self.limiter.settle([SlotResult.unused(s) if use == "unused" else SlotResult(s) for s in chosen])

    def advance(self, us: int) -> None:
        self.clock.now_us += us

    def wait(self, what: str, more_us: int) -> None:
        if what == "told":
            self.clock.advance(self.retry_after_s)
        elif what == "second":
            self.clock.now_us += 1_000_000 + more_us
        elif self.open:
            ends_us = min(self.history.sent[slot.id].ends_by_us for slot in self.open)
            self.clock.now_us = max(self.clock.now_us, ends_us + more_us)

    def lose(self, how: str, which: int) -> None:
        if how == "flush":
            self.redis.flushall()
        elif how == "foreign":
            self.redis.hset("{spotify}:limit:meta", "run_id", "0" * 40)
        elif keys := [key for key in self.redis.scan_iter() if self.redis.type(key) in (b"list", b"zset")]:
            self.redis.delete(sorted(keys)[which % len(keys)])

    def check(self) -> None:
        for kind, scopes in ((ScopeKind.PROVIDER, SCOPES[:1]), (ScopeKind.ACCOUNT, SCOPES[1:])):
            config = self.limits.config(kind)
            for window in config.parsed_windows() if config else ():
                for scope in scopes:
                    seen = worst_case(self.history.sent.values(), window, scope)
                    assert seen <= window.limit, f"{scope.name}: {seen} in {window.text}"


@pytest.mark.parametrize("steps", [QUIET_STEPS, LOSSY_STEPS], ids=["quiet", "lossy"])
@pytest.mark.parametrize(("name", "scale"), [("several", 1), ("bucketed", 500), ("one", 1)])
def test_no_window_sees_more_than_its_limit(redis_url, name, scale, steps):
    """Grants, answers, crashes, waits and losses at random never let a sliding window see more than the limit."""

    @settings(max_examples=120 if scale == 1 else 60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps)
    def run(steps):
        world = World(redis_url, LIMITS[name], scale)
        try:
            for step in steps:
                world.step(*step)
            world.check()
        finally:
            world.limiter.close()
            world.redis.close()

    run()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 900_000), min_size=10, max_size=10))
def test_a_settled_window_is_granted_again_exactly_when_told(redis_url_shared, gaps):
    """With nothing in flight, asking at ``retry_after_s`` succeeds, and one whole millisecond earlier does not."""
    clock = Clock()
    limiter = Limiter(
        redis_url_shared, {"spotify": provider_limits("3/second; 5/4second")}, MemoryHistory(clock), clock_us=clock
    )
    with redis.Redis.from_url(redis_url_shared) as client:
        client.flushall()
    try:
        for gap in gaps:
            clock.now_us += gap
            decision = limiter.reserve(SCOPES[0])
            if isinstance(decision, Denied):
                clock.advance(decision.retry_after_s - 0.001)
                assert isinstance(limiter.reserve(SCOPES[0]), Denied)
                clock.advance(0.001)
                decision = limiter.reserve(SCOPES[0])
            assert isinstance(decision, Granted), json.dumps(gaps)
            limiter.settle([SlotResult(decision.slots[0])])
    finally:
        limiter.close()


@pytest.fixture(scope="module")
def redis_url_shared(stack):
    """The session's Redis, for tests that empty it themselves before each example."""
    return stack.redis_url
