"""Reserving and settling slots on a real Redis."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from ratelimit_world import provider_limits

from jobqueue.model.limit import (
    BreakerConfig,
    CostExceedsLimitError,
    DenialReason,
    Denied,
    Granted,
    Scope,
    ScopeKind,
    SlotResult,
    SlotUse,
)
from jobqueue.ratelimit.history import NoHistory
from jobqueue.ratelimit.limiter import Limiter

SPOTIFY, ALICE, BOB = Scope("spotify"), Scope("spotify", "alice"), Scope("spotify", "bob")


def granted(decision, count=None):
    """The slots of a decision that must be a grant."""
    assert isinstance(decision, Granted), decision
    assert count is None or len(decision.slots) == count
    return decision.slots


def denied(decision, reason):
    """A decision that must be a denial for *reason*."""
    assert isinstance(decision, Denied), decision
    assert decision.reason is reason, decision
    return decision


def test_concurrent_workers_never_overspend_a_window(redis_url):
    """Thirty reservations race for ten slots over thirty connections; exactly ten win."""
    gate = threading.Barrier(30, timeout=30)
    first = Limiter(redis_url, {"spotify": provider_limits("10/minute")}, NoHistory())
    assert first.why(SPOTIFY) is None
    first.close()

    def attempt(_):
        limiter = Limiter(redis_url, {"spotify": provider_limits("10/minute")}, NoHistory())
        try:
            limiter.why(SPOTIFY)
            gate.wait()
            return limiter.reserve(SPOTIFY)
        finally:
            limiter.close()

    with ThreadPoolExecutor(30) as pool:
        decisions = list(pool.map(attempt, range(30)))

    assert sum(isinstance(decision, Granted) for decision in decisions) == 10


def test_a_slot_in_flight_blocks_until_one_window_after_its_answer(make, clock):
    """A window's length after the grant it still holds; a window's length after the answer it does not."""
    limiter = make("1/second")
    slots = granted(limiter.reserve(SPOTIFY))
    clock.advance(5)
    denied(limiter.reserve(SPOTIFY), DenialReason.WINDOW)
    limiter.settle([SlotResult(slots[0])])
    clock.advance(1)
    assert denied(limiter.reserve(SPOTIFY), DenialReason.WINDOW).retry_after_s == 0.001
    clock.advance(0.001)
    granted(limiter.reserve(SPOTIFY))


def test_two_windows_are_taken_together_or_not_at_all(make, clock):
    """What the longer window denies leaves no trace in the shorter one."""
    limiter = make("3/second; 4/minute")
    limiter.settle([SlotResult(slot) for slot in granted(limiter.reserve(SPOTIFY, want=3), 3)])
    clock.advance(1.1)
    limiter.settle([SlotResult(slot) for slot in granted(limiter.reserve(SPOTIFY, want=3), 1)])
    denial = denied(limiter.reserve(SPOTIFY), DenialReason.WINDOW)
    assert denial.constraint == "spotify: 4 per 1 minute"
    assert denial.retry_after_s == 58.901
    second, minute = limiter.snapshot(SPOTIFY).windows
    assert (second.used, second.in_flight, minute.used, minute.in_flight) == (1, 0, 4, 0)


def test_an_account_takes_its_providers_limit_too(make):
    """One account's denial leaves the provider's quota alone, and the provider's binds all accounts together."""
    limiter = make("5/minute", account_windows="3/minute")
    granted(limiter.reserve(ALICE, want=9), 3)
    assert denied(limiter.reserve(ALICE), DenialReason.WINDOW).constraint == "spotify/alice: 3 per 1 minute"
    granted(limiter.reserve(BOB, want=9), 2)
    assert denied(limiter.reserve(BOB), DenialReason.WINDOW).scope_name == "spotify"


def test_fewer_slots_are_granted_when_fewer_are_left(make):
    """A grant is as large as the tightest of all limits allows."""
    limiter = make("10/second; 7/minute", max_concurrency=5)
    granted(limiter.reserve(SPOTIFY, want=100), 5)


def test_slots_of_a_crashed_holder_end_at_their_deadline(make, clock):
    """Never settled, a slot counts as answered at its deadline and frees one window later; settling it is harmless."""
    limiter = make("2/second", max_concurrency=2)
    slots = granted(limiter.reserve(SPOTIFY, want=2, deadline_s=4), 2)
    clock.advance(3.9)
    denied(limiter.reserve(SPOTIFY), DenialReason.WINDOW)
    clock.advance(0.2)
    state = limiter.snapshot(SPOTIFY)
    assert (state.in_flight, state.windows[0].used) == (0, 2)
    assert limiter.reserve(SPOTIFY).retry_after_s == 0.901
    clock.advance(0.901)
    assert limiter.settle([SlotResult(slot) for slot in slots]).slots == 0
    granted(limiter.reserve(SPOTIFY, want=2), 2)


def test_an_unused_slot_is_given_back_wholly(make):
    """It counts in no window and in no cap from that moment."""
    limiter = make("2/minute", unit_windows="10/day", max_concurrency=2)
    slots = granted(limiter.reserve(SPOTIFY, want=2, cost_units=5), 2)
    denied(limiter.reserve(SPOTIFY), DenialReason.WINDOW)
    assert limiter.settle([SlotResult.unused(slot) for slot in slots]).slots == 2
    granted(limiter.reserve(SPOTIFY, want=2, cost_units=5), 2)


def test_settling_twice_counts_once(make):
    """A repeated settle changes neither windows nor breaker nor batch health."""
    limiter = make("5/minute", breaker=BreakerConfig(minimum_calls=2, failure_rate=1))
    slot = granted(limiter.reserve(SPOTIFY))[0]
    result = SlotResult(slot, SlotUse.FAILURE, operation="save", is_size_caused=True)
    assert [limiter.settle([result, result]).slots, limiter.settle([result]).slots] == [1, 0]
    state = limiter.snapshot(SPOTIFY)
    assert (state.windows[0].used, state.breakers[0].status, state.batch_health) == (1, "closed", {"save": 0.5})


def test_weighted_windows_count_units_and_others_requests(make):
    """Fifty units a write fit a window of 100 units twice, however many requests are left."""
    limiter = make("100/minute", unit_windows="100/day")
    granted(limiter.reserve(SPOTIFY, want=5, cost_units=50), 2)
    assert denied(limiter.reserve(SPOTIFY), DenialReason.WINDOW).constraint == "spotify: 100 per 1 day (units)"
    granted(limiter.reserve(SPOTIFY, want=200, cost_units=0), 98)
    with pytest.raises(CostExceedsLimitError, match="101"):
        limiter.reserve(SPOTIFY, cost_units=101)


def test_no_more_than_the_cap_are_in_flight(make):
    """An answer makes room at once."""
    limiter = make("100/minute", max_concurrency=3)
    slots = granted(limiter.reserve(SPOTIFY, want=9), 3)
    assert denied(limiter.reserve(SPOTIFY), DenialReason.CONCURRENCY).constraint == "spotify: 3 requests in flight"
    limiter.settle([SlotResult(slots[0], latency_s=0.2)])
    granted(limiter.reserve(SPOTIFY, want=9), 1)


@pytest.mark.parametrize(("retry_after_s", "lasts_s"), [(90_000.5, 90_000.5), (0.0, 0.001)])
def test_a_throttle_pauses_the_provider_as_long_as_it_asked(make, clock, retry_after_s, lasts_s):
    """Nothing passes until the time is over, a day long too."""
    limiter = make("100/minute", account_windows="50/minute", cooldown_default_s=7)
    slot = granted(limiter.reserve(ALICE))[0]
    (cooldown,) = limiter.settle([SlotResult.throttled(slot, retry_after_s)]).cooldowns
    assert (cooldown.scope_name, cooldown.remaining_s) == ("spotify", lasts_s)
    assert denied(limiter.reserve(BOB), DenialReason.COOLDOWN).retry_after_s == lasts_s
    clock.advance(lasts_s)
    granted(limiter.reserve(BOB))


def test_a_throttle_of_one_account_leaves_the_others_alone(make):
    """An account-level pause binds that account only."""
    limiter = make("100/minute", account_windows="50/minute")
    slot = granted(limiter.reserve(ALICE))[0]
    limiter.settle([SlotResult.throttled(slot, 30, ScopeKind.ACCOUNT)])
    assert denied(limiter.reserve(ALICE), DenialReason.COOLDOWN).scope_name == "spotify/alice"
    granted(limiter.reserve(BOB))


def test_a_late_throttle_pauses_all_the_same(make, clock):
    """The slot ended by its deadline, but what the provider said holds; a shorter pause does not end a longer one."""
    limiter = make("100/minute")
    slots = granted(limiter.reserve(SPOTIFY, want=2, deadline_s=1), 2)
    clock.advance(2)
    settled = limiter.settle([SlotResult.throttled(slots[0], 60), SlotResult.throttled(slots[1], 5)])
    assert (settled.slots, settled.cooldowns[0].remaining_s) == (0, 60.0)


def test_throttles_never_open_the_breaker_and_failures_do(make, clock):
    """Twenty 429s leave it closed; two failures open it, probes pass when its time is over, and success closes it."""
    config = BreakerConfig(minimum_calls=2, failure_rate=0.5, open_s=5, jitter=0, probes=1, slow_start_s=0)
    limiter = make("100/minute", breaker=config, learned_floor=100)
    for _ in range(20):
        limiter.settle([SlotResult.throttled(granted(limiter.reserve(SPOTIFY))[0], 0.001)])
        clock.advance(0.01)
    slots = granted(limiter.reserve(SPOTIFY, want=2), 2)
    (opened,) = limiter.settle([SlotResult(slot, SlotUse.FAILURE) for slot in slots]).breakers
    assert (opened.status, opened.open_remaining_s) == ("open", 5.0)
    assert denied(limiter.reserve(SPOTIFY), DenialReason.BREAKER).retry_after_s == 5.0
    clock.advance(5)
    probe = granted(limiter.reserve(SPOTIFY, want=9, deadline_s=3), 1)[0]
    assert denied(limiter.reserve(SPOTIFY), DenialReason.BREAKER).retry_after_s == 1.0
    (closed,) = limiter.settle([SlotResult(probe)]).breakers
    assert closed.status == "closed"
    granted(limiter.reserve(SPOTIFY, want=9), 9)


def test_the_constraint_that_lifts_last_is_named(make):
    """With the window full and a pause on, the longer wait is told."""
    limiter = make("1/minute")
    slot = granted(limiter.reserve(SPOTIFY))[0]
    limiter.settle([SlotResult.throttled(slot, 10)])
    assert denied(limiter.reserve(SPOTIFY), DenialReason.WINDOW).retry_after_s == 60.001
    limiter.settle([SlotResult.throttled(slot, 100)])
    assert denied(limiter.reserve(SPOTIFY), DenialReason.COOLDOWN).retry_after_s == 100.0


def test_why_takes_nothing(make):
    """Asking names what would bind and leaves every slot free."""
    limiter = make("5/minute")
    granted(limiter.reserve(SPOTIFY, want=2), 2)
    assert limiter.why(SPOTIFY) is None
    assert limiter.why(SPOTIFY, 3) is None
    assert limiter.why(SPOTIFY, 4).constraint == "spotify: 5 per 1 minute"
    assert limiter.why(SPOTIFY, 400).reason is DenialReason.WINDOW
    granted(limiter.reserve(SPOTIFY, want=3), 3)


def test_batch_health_is_halved_grown_and_shared(make):
    """A size-caused failure halves an operation's health for every client; successes bring it back."""
    one, other = make("100/minute"), make("100/minute")
    slots = granted(one.reserve(SPOTIFY, want=9), 9)
    one.settle([SlotResult(slots[0], SlotUse.FAILURE, operation="save", is_size_caused=True)])
    one.settle([SlotResult(slots[1], SlotUse.OK, operation="save", is_size_caused=True)])
    assert other.snapshot(SPOTIFY).batch_health == {"save": 0.25}
    other.settle([SlotResult(slot, operation="save") for slot in slots[2:5]])
    assert one.snapshot(SPOTIFY).batch_health == {"save": 0.4}


def test_every_key_lies_under_the_providers_tag_and_has_a_time_to_live(make, redis_url):
    """Nothing stays in Redis for ever, and a cluster keeps a provider's keys together."""
    limiter = make("5/second; 3000/hour", account_windows="50/minute", breaker=BreakerConfig(minimum_calls=1, jitter=0))
    slots = granted(limiter.reserve(ALICE, want=3), 3)
    limiter.settle([SlotResult(slots[0], operation="save", is_size_caused=True)])
    limiter.settle([SlotResult.throttled(slots[1], 90_000)])
    with redis.Redis.from_url(redis_url) as client:
        ttls = {key: client.pttl(key) for key in client.scan_iter()}
    assert len(ttls) >= 7
    assert all(key.startswith(b"{spotify}:") for key in ttls), ttls
    assert all(ttl > 0 for ttl in ttls.values()), ttls
    assert ttls[b"{spotify}:limit:scope:"] > 90_000_000


def test_memory_does_not_grow_with_the_limit(make, redis_url, clock):
    """A hundred thousand answers in a window of a million take no more entries than there are buckets."""
    limiter = make("1000000/minute")
    for _ in range(100):
        slots = granted(limiter.reserve(SPOTIFY, want=1000), 1000)
        limiter.settle([SlotResult(slot) for slot in slots])
        clock.advance(0.01)
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("{spotify}:limit:scope::r60") < 25
    assert limiter.snapshot(SPOTIFY).windows[0].used == 100_000
