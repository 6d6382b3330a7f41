"""What is learned from throttles: the model's own properties, and Lua beside it with the same events."""

from __future__ import annotations

from collections import Counter

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from ratelimit_world import SPOTIFY, Clock, MemoryHistory, provider_limits

from jobqueue.model.learned import Learned, after_success, after_throttle, learned_limit
from jobqueue.model.limit import Adjustment, Granted, SlotResult
from jobqueue.model.window import UNLIMITED
from jobqueue.ratelimit.limiter import Limiter

LIMIT, WINDOW_US, FLOOR = 12, 1_000_000, 2
KEY = "{spotify}:limit:scope:"


class BothLearners(RuleBasedStateMachine):
    """The limiter under one clock with the model; the model is told what the limiter's window held."""

    def __init__(self, url: str, seen: Counter[str]) -> None:
        super().__init__()
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.redis.flushall()
        self.clock, self.seen = Clock(), seen
        limits = provider_limits(f"{LIMIT}/second", learned_floor=FLOOR, longest_request_s=3.0)
        self.limiter = Limiter(url, {"spotify": limits}, MemoryHistory(self.clock), clock_us=self.clock)
        self.model = Learned()
        self.throttled_at_us = 0
        self.open = []

    def teardown(self) -> None:
        self.limiter.close()
        self.redis.close()

    def limit(self) -> int:
        return learned_limit(self.model, self.clock.now_us, limit=LIMIT, window_us=WINDOW_US, floor=FLOOR)

    @rule(want=st.integers(1, 15))
    def reserve(self, want):
        """Never more is held and counted than what is known to pass, and not less than that is let through."""
        state = self.limiter.snapshot(SPOTIFY)
        held = state.windows[0].used + state.windows[0].in_flight
        decision = self.limiter.reserve(SPOTIFY, want=want)
        allowed = max(0, max(1, self.limit()) - held)
        if isinstance(decision, Granted):
            assert len(decision.slots) == min(want, allowed)
            self.open += [(slot, self.clock.now_us) for slot in decision.slots]
        elif not state.cooldowns:
            assert allowed == 0
            self.seen["held back by what was learned"] += held < LIMIT

    @precondition(lambda self: self.open)
    @rule(data=st.data(), is_throttled=st.sampled_from([False, False, False, True]))
    def settle(self, data, is_throttled):
        """One answer; a throttle pauses for a moment only."""
        self.answer(*data.draw(st.sampled_from(self.open)), is_throttled)

    @rule(
        throttles=st.sampled_from([0, 0, 0, 1, 7]), after_us=st.sampled_from([1_100_000, 1_500_000, 900_000, 2_000_000])
    )
    def saturate(self, throttles, after_us):
        """All that may be sent is, and the last answers are throttles."""
        self.clock.now_us += after_us
        self.reserve(15)
        self.clock.now_us += 1_001
        while self.open:
            self.answer(*self.open[0], len(self.open) <= throttles)
        self.clock.now_us += 1_001
        self.reserve(1)

    def answer(self, slot, sent_us, is_throttled):
        """Report it to both."""
        self.open.remove((slot, sent_us))
        if self.clock.now_us - sent_us >= 3_000_000:
            return
        used = self.limiter.snapshot(SPOTIFY).windows[0].used
        latency_s = (self.clock.now_us - sent_us) / 1_000_000
        result = SlotResult.throttled(slot, 0.001) if is_throttled else SlotResult(slot)
        result = SlotResult(slot, result.use, latency_s, result.throttle)
        self.limiter.settle([result])
        if not is_throttled:
            proofs, was = self.model.proofs, self.model
            self.model = after_success(
                self.model, level=used + 1, sent_us=sent_us, now_us=self.clock.now_us, limit=LIMIT, window_us=WINDOW_US
            )
            self.seen["proved more"] += self.model.proofs > proofs
            self.seen["forgot"] += was.at_us > 0 and self.model.at_us == 0
        elif sent_us > self.throttled_at_us:
            self.throttled_at_us = self.clock.now_us
            self.model = after_throttle(
                self.model,
                level=self.answered_in_its_window(),
                answered_us=self.clock.now_us,
                limit=LIMIT,
                window_us=WINDOW_US,
                floor=FLOOR,
            )
            self.seen["throttled"] += 1
        else:
            self.seen["throttled by the same burst"] += 1

    def answered_in_its_window(self):
        """What the provider can still count, the throttled one left out: later than one window before, and a latency."""
        since_us = self.clock.now_us - WINDOW_US + float(self.redis.hget(KEY, "latency"))
        entries = [entry.split(":") for entry in self.redis.lrange(KEY + ":r1", 0, -1)]
        return max(0, sum(int(weight) for at_us, weight in entries if int(at_us) > since_us) - 1)

    @rule(us=st.one_of(st.integers(1_001, 300_000), st.integers(1_001, 8_000_000)))
    def advance(self, us):
        """Time passes for both."""
        self.clock.now_us += us

    @precondition(lambda self: self.model.at_us)
    @rule()
    def reset(self):
        """A person forgets it."""
        self.limiter.adjust(SPOTIFY, Adjustment.FORGET_LEARNED)
        self.model, self.throttled_at_us = Learned(), 0

    @invariant()
    def are_alike(self):
        """What is stored is what the model holds, and what is shown is what it computes."""
        stored = self.redis.hget(KEY, "extra_r1") or "0:0:0:0:0:0"
        known, base, at_us, proofs = (int(number) for number in stored.split(":")[2:])
        assert Learned(known, base, at_us, proofs) == self.model
        shown = self.limiter.snapshot(SPOTIFY).learned
        assert [limit.limit for limit in shown] == ([self.limit()] if self.model.at_us else [])


def test_lua_and_model_learn_the_same_from_every_sequence_of_events(redis_url):
    """And on the way everything happened that can."""
    seen = Counter()
    run_state_machine_as_test(
        lambda: BothLearners(redis_url, seen),
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    expected = {"held back by what was learned", "proved more", "forgot", "throttled", "throttled by the same burst"}
    assert expected <= {what for what, times in seen.items() if times}, seen


STATES = st.builds(Learned, st.integers(0, 500), st.integers(0, 500), st.integers(1, 10**9), st.integers(0, 30))
LIMITS = st.integers(1, 1000)


@given(STATES, LIMITS, st.integers(1, 50), st.integers(0, 10**10), st.integers(0, 10**10))
def test_with_time_alone_the_limit_only_grows_and_never_leaves_its_bounds(learned, limit, floor, one_us, other_us):
    """From the floor (or what is sure) to the configured limit, however much later one looks."""
    early, late = sorted((learned.at_us + one_us, learned.at_us + other_us))
    before, after = (
        learned_limit(learned, now_us, limit=limit, window_us=10**6, floor=floor) for now_us in (early, late)
    )
    assert min(limit, floor) <= before <= after <= limit


@given(STATES, LIMITS, st.integers(0, 1000))
def test_a_throttle_leaves_at_least_half_and_at_most_what_was_thought(learned, limit, level):
    """So one throttle out of the blue does not stop everything, and ten in a row come down to the floor."""
    at_us = learned.at_us + 10
    most = learned_limit(learned, at_us, limit=limit, window_us=10**6, floor=1)
    then = after_throttle(learned, level=level, answered_us=at_us, limit=limit, window_us=10**6, floor=1)
    assert most // 2 <= then.sure <= most
    for _ in range(10):
        then = after_throttle(then, level=0, answered_us=at_us, limit=limit, window_us=10**6, floor=1)
    assert learned_limit(then, at_us, limit=limit, window_us=10**6, floor=1) == 1


def test_while_half_is_taken_one_request_a_window_is_tried_and_afterwards_all_is_found_within_one():
    """The course of it, by hand: 100 a minute of which 50 are somebody else's for three minutes."""
    minute_us = 60_000_000
    learned = after_throttle(Learned(), level=50, answered_us=1, limit=100, window_us=minute_us, floor=1)
    for minute, tried in ((1, 51), (2, 48)):
        now_us = minute * minute_us + minute
        assert learned_limit(learned, now_us, limit=100, window_us=minute_us, floor=1) == tried
        while (limit := learned_limit(learned, now_us, limit=100, window_us=minute_us, floor=1)) <= 50:
            learned = after_success(learned, level=limit, sent_us=now_us, now_us=now_us, limit=100, window_us=minute_us)
        assert limit == 51, "one at a time"
        learned = after_throttle(learned, level=50, answered_us=now_us, limit=100, window_us=minute_us, floor=1)
        assert learned_limit(learned, now_us + 1, limit=100, window_us=minute_us, floor=1) == 47
    tries, now_us = 0, 3 * minute_us + 10
    while learned.at_us:
        limit = learned_limit(learned, now_us, limit=100, window_us=minute_us, floor=1)
        learned = after_success(learned, level=limit, sent_us=now_us, now_us=now_us, limit=100, window_us=minute_us)
        tries, now_us = tries + 1, now_us + 200_000
    assert tries <= 20, "answers of 200 ms: four seconds"


@given(st.integers(0, 10**6))
def test_without_a_configured_limit_what_passed_is_what_is_known(level):
    """Nothing was thought before that could be halved; one throttle of the very first request still leaves ten."""
    then = after_throttle(Learned(), level=level, answered_us=9, limit=UNLIMITED, window_us=60_000_000, floor=1)
    assert learned_limit(then, 10, limit=UNLIMITED, window_us=60_000_000, floor=1) == max(10, level - level // 16)
