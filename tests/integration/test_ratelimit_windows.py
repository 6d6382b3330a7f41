"""Windows that begin at midnight, windows that count from the sending, and configurations that change meanwhile."""

from __future__ import annotations

import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
import redis
from ratelimit_world import SPOTIFY, Clock, MemoryHistory, provider_limits, send

from jobqueue.model.limit import (
    DenialReason,
    Denied,
    Granted,
    ProviderLimits,
    RateLimitConfig,
    Scope,
    ScopeKind,
    SlotResult,
    WindowMode,
)
from jobqueue.ratelimit.limiter import Limiter

PACIFIC = ZoneInfo("America/Los_Angeles")
DAILY = "5/day resets at midnight America/Los_Angeles"


def at(clock, *when):
    """Set the clock to a Pacific wall-clock time."""
    clock.now_us = round(datetime(*when, tzinfo=PACIFIC).timestamp() * 1_000_000)


def test_a_daily_quota_is_whole_again_at_midnight_there(make, clock):
    """Not a day after it was used, and not at midnight anywhere else."""
    limiter = make(DAILY)
    at(clock, 2026, 7, 1, 22, 0)
    send(limiter, 5)
    denial = limiter.reserve(SPOTIFY)
    assert (denial.reason, denial.retry_after_s) == (DenialReason.WINDOW, 2 * 3600 + 2.001)
    assert denial.constraint == "spotify: 5 per 1 day, resets at midnight America/Los_Angeles"
    clock.advance(denial.retry_after_s - 0.002)
    assert isinstance(limiter.reserve(SPOTIFY), Denied)
    clock.advance(0.002)
    send(limiter, 5)
    assert limiter.reserve(SPOTIFY).retry_after_s == pytest.approx(86_400, abs=0.01)


def test_who_waits_for_a_later_day_is_told_its_midnight(make, clock):
    """Not a multiple of the longest day there is; also when the whole quota is still in flight shortly before one."""
    limiter = make("2/day resets at midnight America/Los_Angeles")
    at(clock, 2026, 7, 1, 23, 57)
    limiter.reserve(SPOTIFY, want=2)
    told_s = [limiter.reserve(SPOTIFY, owner=f"job {n}").retry_after_s for n in range(12)]
    expected_s = [180 + 2 + day * 86_400 for day in range(6) for _ in range(2)]
    assert told_s == pytest.approx(expected_s, abs=0.1)


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 8), 23), ((2026, 11, 1), 25), ((2026, 6, 1), 24)])
def test_a_day_is_as_long_as_the_calendar_says(make, clock, day, hours):
    """Summer time begins and ends: the quota of that day lasts one hour less or more."""
    limiter = make(DAILY)
    at(clock, *day, 0, 0, 10)
    send(limiter, 5)
    assert limiter.reserve(SPOTIFY).retry_after_s == pytest.approx(hours * 3600 - 10 + 2, abs=0.01)


def test_what_is_answered_around_midnight_counts_on_both_sides(make, clock):
    """The provider's clock is not ours: two seconds before it is still today's for us, and tomorrow's for it perhaps."""
    limiter = make(DAILY)
    at(clock, 2026, 7, 1, 23, 59, 59)
    send(limiter, 3)
    clock.advance(4)
    assert len(limiter.reserve(SPOTIFY, want=9).slots) == 2


def test_a_request_under_way_at_midnight_counts_on_both_days(make, clock):
    """Nobody knows on which it arrived."""
    limiter = make(DAILY)
    at(clock, 2026, 7, 1, 23, 59, 50)
    slots = limiter.reserve(SPOTIFY, want=5, deadline_s=10).slots
    clock.advance(15)
    assert isinstance(limiter.reserve(SPOTIFY, deadline_s=10), Denied)
    limiter.settle([SlotResult(slots[0])])
    assert isinstance(limiter.reserve(SPOTIFY), Denied)


def test_a_monthly_quota_ends_with_the_month(make, clock):
    """February is shorter."""
    limiter = make("3/month resets at midnight")
    clock.now_us = round(datetime(2027, 2, 10, tzinfo=ZoneInfo("UTC")).timestamp() * 1_000_000)
    send(limiter, 3)
    assert limiter.reserve(SPOTIFY).retry_after_s == pytest.approx(19 * 86_400 + 2, abs=0.01)


def test_a_calendar_window_is_one_entry_however_much_is_sent(make, clock, redis_url):
    """Ten thousand units a day cost no more memory than ten."""
    limiter = make(unit_windows="10000/day resets at midnight America/Los_Angeles")
    for _ in range(50):
        send(limiter, 20)
        clock.advance(60)
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys("*uday*")
        assert client.llen(key) <= 2
    assert limiter.snapshot(SPOTIFY).windows[0].used == 1000


@pytest.mark.parametrize("skew_s", [-60, 60, 86_400 * 3, -86_400 * 3])
def test_a_worker_whose_clock_is_wrong_counts_the_same_day(redis_url, monkeypatch, skew_s):
    """Boundaries are worked out by its clock and applied by the server's: seconds do nothing, days err on the safe side."""
    limits = {"spotify": provider_limits(DAILY)}
    history = MemoryHistory(Clock())
    right = Limiter(redis_url, limits, history)
    send(right, 5)
    real = time.time
    monkeypatch.setattr("jobqueue.ratelimit.layouts.time.time", lambda: real() + skew_s)
    wrong = Limiter(redis_url, limits, history)
    try:
        assert isinstance(wrong.reserve(SPOTIFY), Denied)
    finally:
        right.close()
        wrong.close()


def test_an_eager_window_counts_from_the_sending_and_a_margin(make, clock):
    """An answer after 300 ms: strict frees a second after it, eager a second and 25 ms after the sending."""
    frees = {}
    for mode in (WindowMode.STRICT, WindowMode.EAGER):
        limiter = make("1/second", mode=mode)
        limiter.clear(SPOTIFY)
        (slot,) = limiter.reserve(SPOTIFY).slots
        clock.advance(0.3)
        limiter.settle([SlotResult(slot, latency_s=0.3)])
        frees[mode] = round(0.3 + limiter.reserve(SPOTIFY).retry_after_s, 3)
        clock.advance(10)
    assert frees == {WindowMode.STRICT: 1.301, WindowMode.EAGER: 1.026}


def test_an_eager_window_still_holds_the_slot_until_the_answer(make, clock):
    """However late it comes: the provider may have counted it late."""
    limiter = make("1/second", mode=WindowMode.EAGER)
    (slot,) = limiter.reserve(SPOTIFY, deadline_s=9).slots
    clock.advance(5)
    assert isinstance(limiter.reserve(SPOTIFY), Denied)
    limiter.settle([SlotResult(slot, latency_s=5.0)])
    assert isinstance(limiter.reserve(SPOTIFY), Granted)


def test_a_throttle_widens_the_margin_and_quiet_narrows_it(make, clock):
    """At a full window it is the margin that was too small; the limit is not doubted."""
    limiter = make("3/second", mode=WindowMode.EAGER)
    slots = limiter.reserve(SPOTIFY, want=3).slots
    clock.advance(0.1)
    limiter.settle([SlotResult(slot, latency_s=0.1) for slot in slots[:2]])
    throttled = SlotResult.throttled(slots[2], 0.001)
    limiter.settle([SlotResult(slots[2], throttled.use, 0.1, throttled.throttle)])
    state = limiter.snapshot(SPOTIFY)
    assert state.learned == ()
    assert state.margins_s == {"spotify": pytest.approx(0.05, abs=0.001)}
    for _ in range(200):
        clock.advance(1)
        send(limiter, 1, latency_s=0.01)
    assert limiter.snapshot(SPOTIFY).margins_s["spotify"] < 0.045


def test_a_margin_that_cannot_help_any_more_gives_way_to_learning(make, clock):
    """Throttles though the margin is at its widest: the limit itself is smaller than configured."""
    limiter = make("10/second", mode=WindowMode.EAGER)
    for _ in range(8):
        clock.advance(3)
        slots = limiter.reserve(SPOTIFY, want=10).slots
        clock.advance(0.1)
        limiter.settle([SlotResult(slot, latency_s=0.1) for slot in slots[1:]])
        throttled = SlotResult.throttled(slots[0], 0.001)
        limiter.settle([SlotResult(slots[0], throttled.use, 0.1, throttled.throttle)])
    (learned,) = limiter.snapshot(SPOTIFY).learned
    assert learned.limit == 9
    assert limiter.snapshot(SPOTIFY).margins_s["spotify"] <= 0.5


def test_windows_are_eager_by_themselves_when_they_are_short():
    """Up to two seconds, unless somebody says otherwise; calendar windows never are."""
    config = RateLimitConfig(windows="9/second; 90/2 second; 100/minute", unit_windows=DAILY)
    assert [window.is_eager for window in config.parsed_windows()] == [True, True, False, False]
    strict = RateLimitConfig(windows="9/second", mode=WindowMode.STRICT)
    assert not strict.parsed_windows()[0].is_eager


def test_an_answer_counts_from_when_it_came_and_not_from_when_it_was_reported(redis_url):
    """A second late in the report: a second less to wait afterwards."""
    limiter = Limiter(redis_url, {"spotify": provider_limits("1/minute")}, MemoryHistory(Clock()))
    try:
        (slot,) = limiter.reserve(SPOTIFY).slots
        limiter.settle([SlotResult(slot, answered_at_s=time.monotonic() - 20)])
        assert 38 < limiter.reserve(SPOTIFY).retry_after_s <= 40.001
    finally:
        limiter.close()


def test_late_reports_out_of_order_leave_in_their_order(make, clock, monkeypatch):
    """The list of answers stays sorted: what was answered first leaves first."""
    limiter = make("5/minute")
    slots = limiter.reserve(SPOTIFY, want=5).slots
    clock.advance(9)
    now_s = time.monotonic()
    monkeypatch.setattr("jobqueue.ratelimit.settlement.time.monotonic", lambda: now_s)
    for slot, ago_s in zip(slots, (1, 5, 3, 8, 2), strict=True):
        limiter.settle([SlotResult(slot, answered_at_s=now_s - ago_s)])
    frees = []
    for _ in range(5):
        denial = limiter.reserve(SPOTIFY)
        frees.append(round(denial.retry_after_s))
        clock.advance(denial.retry_after_s)
        limiter.reserve(SPOTIFY, deadline_s=10)
    assert [sum(frees[: n + 1]) for n in range(5)] == [52, 55, 57, 58, 59]


def versioned(version, windows):
    """Limits as they are stored."""
    return ProviderLimits("spotify", (RateLimitConfig(windows=windows, breaker=None),), 10.0, version)


@pytest.mark.parametrize("windows", ["5/minute", "9/hour"])
def test_whoever_holds_old_limits_is_told_as_soon_as_somebody_uses_new_ones(make, windows):
    """It gets nothing more; pauses it was told of hold for all, whether or not its slots are still known."""
    old, new = make(limits=versioned(1, "9/minute")), make(limits=versioned(2, windows))
    slots = old.reserve(SPOTIFY, want=2).slots
    assert isinstance(new.reserve(SPOTIFY), Granted)
    denial = old.reserve(SPOTIFY)
    assert denial.reason is DenialReason.OUTDATED
    (pause,) = old.settle([SlotResult.throttled(slots[0], 60)]).cooldowns
    assert (pause.scope_name, pause.remaining_s) == ("spotify", 60.0)
    assert new.reserve(SPOTIFY).reason is DenialReason.COOLDOWN


def test_a_count_made_for_old_limits_is_not_installed_over_a_newer_one(make, history, redis_url, monkeypatch):
    """While the old one still reads the history, somebody with new limits counts and sends: those slots stay held."""
    old, new = make(limits=versioned(1, "9/minute")), make(limits=versioned(2, "9/hour"))
    read = history.sent_since

    def overtaken(provider, since_s):
        monkeypatch.setattr(history, "sent_since", read)
        with redis.Redis.from_url(redis_url) as client:
            client.delete("{spotify}:limit:lease")
        assert isinstance(new.reserve(SPOTIFY), Granted)
        return read(provider, since_s)

    monkeypatch.setattr(history, "sent_since", overtaken)
    assert old.reserve(SPOTIFY).reason is DenialReason.OUTDATED
    assert new.snapshot(SPOTIFY).in_flight == 1


def test_slots_granted_under_old_limits_end_with_their_answers(make):
    """Only the number changed, so they are still counted: a cap must not stay full until their deadline."""
    configs = [
        RateLimitConfig(windows=windows, max_concurrency=2, breaker=None) for windows in ("9/minute", "8/minute")
    ]
    old, new = (make(limits=ProviderLimits("spotify", (config,), 10.0, n)) for n, config in enumerate(configs, start=1))
    slots = old.reserve(SPOTIFY, want=2).slots
    assert new.reserve(SPOTIFY).reason is DenialReason.CONCURRENCY
    assert old.settle([SlotResult(slot) for slot in slots]).slots == 2
    assert len(new.reserve(SPOTIFY, want=9).slots) == 2
    assert new.snapshot(SPOTIFY).windows[0].used == 2


def test_limits_of_an_operation_bind_all_accounts_of_it_and_no_other(make):
    """Provider, operation and account are taken together or not at all."""
    configs = (
        RateLimitConfig(windows="9/minute", breaker=None),
        RateLimitConfig(ScopeKind.OPERATION, "2/minute", scope_name="save", breaker=None),
        RateLimitConfig(ScopeKind.ACCOUNT, "4/minute", breaker=None),
        RateLimitConfig(ScopeKind.ACCOUNT, "1/minute", scope_name="slow", breaker=None),
    )
    limiter = make(limits=ProviderLimits("spotify", configs, 10.0))

    def take(account, operation, want=9):
        decision = limiter.reserve(Scope("spotify", account, operation), want=want)
        return len(decision.slots) if isinstance(decision, Granted) else decision.constraint

    assert take("slow", "list") == 1
    assert take("a", "save", 1) == 1
    assert take("b", "save") == 1
    assert take("c", "save") == "spotify:save: 2 per 1 minute"
    assert take("b", "list") == 3
    assert take("b", "list") == "spotify/b: 4 per 1 minute"
    assert take("c", "list") == 3
    assert take("d", "list") == "spotify: 9 per 1 minute"


def test_what_is_counted_in_buckets_never_leaves_before_its_time(make, clock):
    """A bucket ends after all that is in it: a thousand answered just before its end are held a whole second."""
    limiter = make("3000/second", longest_request_s=2.0)
    quantum_us = 1_000_000 // 512
    for _ in range(10):
        send(limiter, 100)
        clock.advance(0.01)
    clock.now_us += quantum_us - clock.now_us % quantum_us - 1
    send(limiter, 1000)
    clock.now_us += 1_000_000 - 1000
    (window,) = limiter.snapshot(SPOTIFY).windows
    assert window.used == 1000
    clock.now_us += 1000 + quantum_us
    assert limiter.snapshot(SPOTIFY).windows[0].used == 0
