"""What answers say: pauses, what is left, what others take, and what is learned of it."""

from __future__ import annotations

import pytest
import redis
from ratelimit_world import SPOTIFY, send

from jobqueue.errors import RateLimited
from jobqueue.model.limit import (
    Adjustment,
    Denied,
    Granted,
    LearnedLimit,
    ProviderLimits,
    RateLimitConfig,
    Scope,
    SlotResult,
)
from jobqueue.model.quota import QuotaReport, QuotaUnit
from jobqueue.ratelimit.feedback import result_of


def test_less_left_than_we_know_of_means_somebody_else_took_it(make, clock):
    """Our count goes up to the provider's until its reset, what is in flight here not counted twice."""
    limiter = make("100/minute")
    slots = limiter.reserve(SPOTIFY, want=12).slots
    report = QuotaReport(remaining=40, limit=100, window_s=60, reset_in_s=20.0)
    limiter.settle([SlotResult(slots[0]), SlotResult(slots[1], reports=(report,))])
    (window,) = limiter.snapshot(SPOTIFY).windows
    assert (window.used, window.in_flight, window.foreign, window.remaining) == (2, 10, 48, 40)
    assert len(limiter.reserve(SPOTIFY, want=100, deadline_s=10).slots) == 40
    denial = limiter.reserve(SPOTIFY)
    assert denial.retry_after_s == pytest.approx(20.001), "when the provider's window ends, not ours"
    clock.advance(20.001)
    assert limiter.snapshot(SPOTIFY).windows[0].foreign == 0


def test_more_left_than_we_know_of_changes_nothing_and_a_later_report_replaces_an_earlier(make):
    """The provider may count late; and what others took, they may not take again."""
    limiter = make("100/minute")
    for remaining, foreign in ((95, 4), (99, 0), (50, 47), (40, 56), (60, 35)):
        send(limiter, 1, reports=(QuotaReport(remaining, 100, 60, 30.0),))
        assert limiter.snapshot(SPOTIFY).windows[0].foreign == foreign


@pytest.mark.parametrize(
    ("report", "found"),
    [
        (QuotaReport(10, 300, 60), "300 per 1 minute"),
        (QuotaReport(10, None, 60), "300 per 1 minute"),
        (QuotaReport(2, 10), "10 per 1 second"),
        (QuotaReport(2, 77), None),
        (QuotaReport(2, None, 3600), None),
        (QuotaReport(7, None, 86_400, unit=QuotaUnit.UNITS), "50 per 1 day (units)"),
        (QuotaReport(7, 10, unit=QuotaUnit.CONTENT_BYTES), None),
    ],
)
def test_a_report_is_held_against_the_window_it_speaks_of(make, report, found):
    """By its length, else by its limit; one that fits no window says nothing."""
    limiter = make("10/second; 300/minute", unit_windows="50/day")
    send(limiter, 1, reports=(report,))
    assert [w.text for w in limiter.snapshot(SPOTIFY).windows if w.foreign] == ([found] if found else [])


def test_malformed_headers_are_counted_and_change_nothing(make):
    """So somebody can see that a provider's form is not understood."""
    limiter = make("9/minute")
    send(limiter, 2, malformed_headers=3)
    assert limiter.snapshot(SPOTIFY).malformed_headers == 6
    assert limiter.snapshot(SPOTIFY).windows[0].remaining == 7


def test_throttles_without_a_hint_pause_twice_as_long_each_time(make, clock):
    """With jitter on top, never below the default, and from the default again after a success."""
    limiter = make("1000/minute", cooldown_default_s=10, learned_floor=1000)
    lasted = []
    for _ in range(7):
        clock.advance(1000)
        (slot,) = limiter.reserve(SPOTIFY).slots
        clock.advance(0.001)
        lasted.append(limiter.settle([SlotResult.throttled(slot)]).cooldowns[0].remaining_s)
    for index, pause_s in enumerate(lasted):
        base_s = 10 * 2 ** min(4, index)
        assert base_s <= pause_s <= 1.5 * base_s
    assert len(set(lasted)) == 7
    clock.advance(1000)
    send(limiter, 1, latency_s=0.1)
    clock.advance(1)
    (slot,) = limiter.reserve(SPOTIFY).slots
    clock.advance(0.001)
    assert limiter.settle([SlotResult.throttled(slot)]).cooldowns[0].remaining_s <= 15


def test_nothing_left_until_a_reset_is_as_good_as_a_named_pause(make):
    """A throttle without Retry-After, whose headers say when there will be something again."""
    limiter = make("9/minute")
    (slot,) = limiter.reserve(SPOTIFY).slots
    report = QuotaReport(0, 9, 60, 42.0)
    result = SlotResult.throttled(slot)
    (pause,) = limiter.settle([SlotResult(slot, result.use, 0.1, result.throttle, reports=(report,))]).cooldowns
    assert pause.remaining_s == 42.0


def test_where_no_window_can_be_learned_a_minute_is_watched(make, clock):
    """A provider without configured limits: what it throttles at is found, and forgotten when it says no more."""
    limiter = make("", limits=ProviderLimits("spotify", (RateLimitConfig(breaker=None),), 10.0))
    slots = limiter.reserve(SPOTIFY, want=30).slots
    clock.advance(0.2)
    settled = limiter.settle([SlotResult(slot, latency_s=0.2) for slot in slots[:20]])
    assert settled.learned == {}
    settled = limiter.settle([SlotResult.throttled(slot, 5) for slot in slots[20:]])
    (learned,) = settled.learned["spotify"]
    assert (learned.window_id, learned.known, learned.limit) == ("r60", 20, 19)
    clock.advance(6)
    assert isinstance(limiter.reserve(SPOTIFY), Denied), "what passed, and not half of a million millions"
    assert limiter.snapshot(SPOTIFY).windows == (), "it is no limit of anybody's"


def test_what_was_learned_outlives_redis(make, clock, history, redis_url):
    """Flushed, it comes back from the history, as old as it is by then; forgotten by a person it does not."""
    limiter = make("100/minute")
    history.known = [LearnedLimit("spotify", "r60", "100 per 1 minute", 31, 30, 20, 30.0, 1)]
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert len(limiter.reserve(SPOTIFY, want=100).slots) == 30
    (learned,) = limiter.snapshot(SPOTIFY).learned
    assert learned.throttled_ago_s == pytest.approx(30, abs=0.01)
    assert limiter.adjust(SPOTIFY, Adjustment.FORGET_LEARNED).learned == {"spotify": ()}
    assert len(limiter.reserve(SPOTIFY, want=100).slots) == 70


def test_a_lifted_cool_down_is_over_and_the_first_in_line_is_called(make):
    """By a person's word."""
    limiter = make("9/minute")
    (slot,) = limiter.reserve(SPOTIFY).slots
    limiter.settle([SlotResult.throttled(slot, 3600)])
    limiter.reserve(SPOTIFY, owner="5")
    settled = limiter.adjust(SPOTIFY, Adjustment.LIFT_COOLDOWN)
    assert [pause.remaining_s for pause in settled.cooldowns] == [0.0]
    assert settled.called == ("5",)
    assert isinstance(limiter.reserve(SPOTIFY, owner="5"), Granted)


def test_a_throttle_of_one_site_leaves_the_others_alone(make):
    """A handler says whom it is about; without limits per account there is nothing smaller to pause."""
    error = RateLimited("slow down", retry_after_s=86_400, is_of_account=True)
    one, other = Scope("spotify", "one.example"), Scope("spotify", "other.example")
    limiter = make("100/minute", account_windows="50/minute")
    limiter.settle([result_of(limiter.reserve(one).slots[0], error, latency_s=0.1)])
    assert limiter.reserve(one).scope_name == "spotify/one.example"
    assert isinstance(limiter.reserve(other), Granted)
