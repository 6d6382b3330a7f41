"""The circuit breaker as workers meet it, on a real Redis."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from ratelimit_world import Clock, MemoryHistory, provider_limits

from jobqueue.errors import InvalidInputError
from jobqueue.model.breaker import COMMANDS, BreakerConfig, BreakerStatus
from jobqueue.model.limit import Adjustment, DenialReason, Denied, Granted, Scope, SlotResult, SlotUse
from jobqueue.ratelimit.limiter import Limiter

SPOTIFY, ALICE = Scope("spotify"), Scope("spotify", "alice")
KEY = "{spotify}:limit:scope:"
CONFIG = BreakerConfig(minimum_calls=2, open_s=5, jitter=0, probes=3, slow_start_s=10)
CALLERS = 12


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def make(redis_url, clock):
    """Make limiters of ``spotify`` on the standing clock; closed after the test."""
    made = []

    def make(config=CONFIG, history=None, **options):
        limits = {"spotify": provider_limits("100000/minute", breaker=config, **options)}
        made.append(Limiter(redis_url, limits, history or MemoryHistory(clock), clock_us=clock))
        return made[-1]

    yield make
    for limiter in made:
        limiter.close()


def slots_of(decision):
    """The slots of a grant, none of a denial by the breaker."""
    if isinstance(decision, Granted):
        return list(decision.slots)
    assert decision.reason is DenialReason.BREAKER, decision
    return []


def denied_for_s(limiter):
    """How long the breaker asks to wait."""
    decision = limiter.reserve(SPOTIFY)
    assert isinstance(decision, Denied), decision
    assert decision.reason is DenialReason.BREAKER
    return decision.retry_after_s


def trip(limiter, clock):
    """Open it, and wait until probes may pass."""
    slots = slots_of(limiter.reserve(SPOTIFY, want=2))
    (opened,) = limiter.settle([SlotResult(slot, SlotUse.FAILURE) for slot in slots]).breakers
    assert opened.status is BreakerStatus.OPEN
    clock.advance(opened.open_remaining_s)


def all_at_once(limiters, want=1):
    """The slots that callers win who ask at the same moment, each over a connection of its own."""
    gate = threading.Barrier(len(limiters))

    def attempt(limiter):
        gate.wait()
        return slots_of(limiter.reserve(SPOTIFY, want=want, deadline_s=3))

    with ThreadPoolExecutor(len(limiters)) as pool:
        return [slot for won in pool.map(attempt, limiters) for slot in won]


@pytest.mark.parametrize("want", [1, 2])
def test_a_crowd_gets_no_more_probes_than_configured(make, clock, want):
    """Twelve callers at once find it half-open: three probes pass, and after a crash of all three, three more."""
    limiters = [make() for _ in range(CALLERS)]
    trip(limiters[0], clock)
    assert len(all_at_once(limiters, want)) == 3
    assert all_at_once(limiters, want) == []
    clock.advance(2.5)
    assert denied_for_s(limiters[0]) == 0.5
    clock.advance(0.5)
    assert len(all_at_once(limiters, want)) == 3


def test_a_crowd_waits_for_its_turn_in_the_slow_start(make, clock):
    """After closing 3, 6 and 12 requests are in flight at most, whoever asks, and in the end any number."""
    limiters = [make() for _ in range(CALLERS)]
    trip(limiters[0], clock)
    probes = all_at_once(limiters)
    (closed,) = limiters[0].settle([SlotResult(slot) for slot in probes]).breakers
    assert (closed.status, closed.slow_start_remaining_s) == (BreakerStatus.CLOSED, 10.0)
    in_flight = all_at_once(limiters, want=2)
    assert (len(in_flight), denied_for_s(limiters[0])) == (3, 1.0)
    limiters[0].settle([SlotResult(slot) for slot in in_flight])
    in_flight = all_at_once(limiters, want=2)
    clock.advance(1.9)
    assert (len(in_flight), denied_for_s(limiters[0])) == (3, 0.1)
    clock.advance(0.1)
    assert len(all_at_once(limiters, want=2)) == 3
    clock.advance(2)
    assert len(all_at_once(limiters, want=2)) >= 6
    clock.advance(6)
    assert len(all_at_once(limiters, want=9)) == 9 * CALLERS
    assert limiters[0].snapshot(SPOTIFY).breakers[0].slow_start_remaining_s == 0


def test_answers_that_take_too_long_open_it(make):
    """Half of four answers are slow: open, though none failed; what it counted is shown on the way."""
    limiter = make(BreakerConfig(minimum_calls=4, window_calls=4, slow_call_s=2))
    slots = slots_of(limiter.reserve(SPOTIFY, want=4))
    limiter.settle([SlotResult(slots[0], latency_s=2.0), SlotResult(slots[1], latency_s=1.9), SlotResult(slots[2])])
    (state,) = limiter.snapshot(SPOTIFY).breakers
    assert (state.status, state.calls, state.failures, state.slow) == (BreakerStatus.CLOSED, 3, 0, 1)
    (opened,) = limiter.settle([SlotResult(slots[3], latency_s=9.0)]).breakers
    assert opened.status is BreakerStatus.OPEN


@pytest.mark.parametrize("size", [7, 1000])
def test_a_count_based_window_stays_small(make, redis_url, size):
    """However many answers came, a byte for each of the last ones is kept, and only those count."""
    limiter = make(BreakerConfig(failure_rate=1, minimum_calls=size, window_calls=size))
    for use in (SlotUse.FAILURE, SlotUse.OK, SlotUse.FAILURE):
        for _ in range(3):
            slots = slots_of(limiter.reserve(SPOTIFY, want=size // 3))
            limiter.settle([SlotResult(slot, use) for slot in slots])
    (state,) = limiter.snapshot(SPOTIFY).breakers
    assert (state.calls, state.failures) == (size, 3 * (size // 3))
    with redis.Redis.from_url(redis_url) as client:
        assert client.hstrlen(KEY, "breaker_calls") <= size + 20


def test_forced_open_holds_until_it_is_lifted(make, clock, redis_url):
    """Nothing passes, answers and time change nothing, the state outlives an idle scope; then it is as new."""
    limiter = make()
    (late,) = slots_of(limiter.reserve(SPOTIFY))
    (forced,) = limiter.adjust(SPOTIFY, Adjustment.FORCE_OPEN).breakers
    assert forced.status is BreakerStatus.FORCED_OPEN
    assert denied_for_s(limiter) == 1.0
    assert limiter.settle([SlotResult(late, SlotUse.FAILURE)]).breakers == ()
    clock.advance(100_000)
    assert denied_for_s(limiter) == 1.0
    with redis.Redis.from_url(redis_url) as client:
        assert 30 * 86_400 <= client.ttl(KEY) <= 31 * 86_400
    (closed,) = limiter.adjust(SPOTIFY, Adjustment.CLOSE_BREAKER).breakers
    assert (closed.status, closed.calls) == (BreakerStatus.CLOSED, 0)
    assert len(slots_of(limiter.reserve(SPOTIFY, want=99))) == 99


def test_disabled_counts_nothing(make):
    """A provider that only fails is called on; enabled again it starts from nothing."""
    limiter = make()
    limiter.adjust(SPOTIFY, Adjustment.DISABLE_BREAKER)
    slots = slots_of(limiter.reserve(SPOTIFY, want=50))
    assert limiter.settle([SlotResult(slot, SlotUse.FAILURE) for slot in slots]).breakers == ()
    (state,) = limiter.snapshot(SPOTIFY).breakers
    assert (state.status, state.calls) == (BreakerStatus.DISABLED, 0)
    limiter.adjust(SPOTIFY, Adjustment.CLOSE_BREAKER)
    trip(limiter, Clock())


@pytest.mark.parametrize("status", [BreakerStatus.FORCED_OPEN, BreakerStatus.DISABLED])
def test_a_command_outlives_redis(make, clock, redis_url, status):
    """What the command answered is stored; after a flush it holds again."""
    history = MemoryHistory(clock)
    limiter = make(history=history)
    history.opened = list(limiter.adjust(SPOTIFY, Adjustment(status.value)).breakers)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert bool(slots_of(limiter.reserve(SPOTIFY))) == (status is BreakerStatus.DISABLED)
    assert limiter.snapshot(SPOTIFY).breakers[0].status is status


def test_a_level_without_a_breaker_takes_no_command(make):
    """There is nothing to force."""
    limiter = make(account_windows="5/minute")
    with pytest.raises(InvalidInputError, match="spotify/alice has no circuit breaker"):
        limiter.adjust(ALICE, Adjustment.DISABLE_BREAKER)


def test_the_commands_are_those_of_the_model():
    """Every status a person may command has its adjustment."""
    assert {str(of) for of in Adjustment if of.is_of_breaker} == {str(status) for status in COMMANDS}
