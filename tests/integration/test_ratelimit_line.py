"""Those who are denied wait in line: each its own time, in order, the better priority first."""

from __future__ import annotations

import pytest
import redis
from limiter_play import Client, fairness, play
from ratelimit_world import SPOTIFY, use_up

from jobqueue.errors import InvalidInputError
from jobqueue.model.job import Priority
from jobqueue.model.limit import Adjustment, BreakerConfig, DenialReason, Denied, Granted, Scope, SlotResult, SlotUse


def ask(limiter, owner, want=1, priority=Priority.DEFAULT, **more):
    """One reservation in *owner*'s name."""
    return limiter.reserve(SPOTIFY, want=want, owner=owner, priority=priority, **more)


def test_each_of_the_denied_is_told_a_time_of_its_own(make, clock):
    """Twenty of them, and none is told another's time, nor one before a slot can be free for it."""
    limiter = make("10/minute")
    use_up(limiter, 10, clock)
    told = [ask(limiter, f"job {n}", want=1) for n in range(20)]
    assert all(denial.is_in_line for denial in told)
    times = [denial.retry_after_s for denial in told]
    assert len(set(times)) == 20
    assert times == sorted(times)
    assert times[9] < 60.01 < 119 < times[10], "the second ten wait for the round after"


def test_nobody_in_line_is_overtaken_by_somebody_who_just_comes(make, clock):
    """What frees at the first one's time is kept for it; without a place in line nothing is to be had."""
    limiter = make("2/minute")
    use_up(limiter, 2, clock)
    first = ask(limiter, "first", want=2)
    clock.advance(first.retry_after_s)
    assert isinstance(limiter.reserve(SPOTIFY), Denied)
    assert isinstance(ask(limiter, "second"), Denied)
    assert len(ask(limiter, "first", want=2).slots) == 1
    clock.advance(0.02)
    assert isinstance(ask(limiter, "second"), Denied)
    assert len(ask(limiter, "first").slots) == 1


def test_who_does_not_come_loses_its_turn_but_not_its_place(make, clock):
    """Two seconds after its time others are served; when it comes back it stands where it stood."""
    limiter = make("1/minute")
    use_up(limiter, 1, clock)
    gone = ask(limiter, "gone")
    ask(limiter, "other")
    clock.advance(gone.retry_after_s + 1.9)
    assert isinstance(limiter.reserve(SPOTIFY), Denied)
    clock.advance(0.2)
    (slot,) = limiter.reserve(SPOTIFY).slots
    limiter.settle([SlotResult(slot)])
    back, other = ask(limiter, "gone"), ask(limiter, "other")
    assert back.retry_after_s < other.retry_after_s


def test_slots_given_back_call_the_first_in_line(make, clock):
    """Its time was a minute away; now it may ask at once, and it alone."""
    limiter = make("2/minute")
    slots = limiter.reserve(SPOTIFY, want=2).slots
    ask(limiter, "first")
    ask(limiter, "second")
    assert limiter.settle([SlotResult.unused(slots[0])]).called == ("first",)
    assert isinstance(ask(limiter, "second"), Denied)
    assert isinstance(ask(limiter, "first"), Granted)
    assert limiter.settle([SlotResult.unused(slots[1])]).called == ("second",)


def test_a_better_priority_goes_first_and_worse_ones_get_nothing_until_then(make, clock):
    """From a high job's demand to its grant no slot goes to a low one, in line or not, however many free up."""
    limiter = make("4/minute")
    use_up(limiter, 4, clock, gap_s=1)
    low = ask(limiter, "low", want=4, priority=Priority.LOW)
    high = ask(limiter, "high", want=1, priority=Priority.HIGH)
    assert high.retry_after_s < low.retry_after_s + 0.01
    clock.advance(high.retry_after_s)
    assert isinstance(ask(limiter, "low", want=4, priority=Priority.LOW), Denied)
    assert isinstance(ask(limiter, "late low", priority=Priority.LOW), Denied)
    assert isinstance(ask(limiter, "high", priority=Priority.HIGH), Granted)
    clock.advance(1)
    assert isinstance(ask(limiter, "low", want=4, priority=Priority.LOW), Granted)


def test_idle_quota_is_lent_to_whoever_asks(make):
    """With no high demand a low job takes all there is."""
    assert len(ask(make("9/minute"), "low", want=9, priority=Priority.LOW).slots) == 9


@pytest.mark.parametrize("lows", [1, 20])
def test_under_a_flood_of_low_work_no_slot_passes_a_waiting_high_job_by(make, clock, lows):
    """Low jobs take all they can get; a high one comes every few seconds. Between its demand and its grant: nothing."""
    limiter = make("30/6second")
    flood = [Client(f"low {n}", Priority.LOW) for n in range(lows)]
    highs = [
        Client(f"high {n}", Priority.HIGH, in_flight=1, begins_s=1 + 3.1 * n, items=1, wakes_within_s=0.1)
        for n in range(15)
    ]
    play(limiter, clock, [*flood, *highs], for_s=60)
    waited = 0
    for high in highs:
        assert len(high.granted_at_us) == 1
        if high.denied_at_us:
            waited += 1
            between = [
                at for low in flood for at in low.granted_at_us if high.denied_at_us[0] < at < high.granted_at_us[0]
            ]
            assert not between, f"{high.name}: {len(between)} slots went to low jobs"
    assert waited >= 5, "the flood left so much that nothing was shown"


@pytest.mark.parametrize(("jobs", "windows", "length_s"), [(10, "100/minute", 60), (40, "60/6second", 6)])
def test_equal_jobs_get_equal_shares(make, clock, jobs, windows, length_s):
    """Always backlogged, over ten windows: Jain's index is at least 0.95, the quota is used and nobody stampedes."""
    limiter = make(windows)
    clients = [Client(f"job {n}") for n in range(jobs)]
    calls = play(limiter, clock, clients, for_s=10 * length_s)
    granted = sum(len(client.granted_at_us) for client in clients)
    limit = int(windows.partition("/")[0])
    assert fairness(clients) >= 0.95
    assert granted >= 9.7 * limit
    assert calls <= 1.6 * granted, "so often they asked in vain"


def test_two_hundred_parked_jobs_neither_stampede_nor_starve(make, clock):
    """All denied at once; each gets its turn in order, asking little more than twice."""
    limiter = make("100/minute")
    use_up(limiter, 100, clock, gap_s=0.001)
    clients = [Client(f"job {n}", in_flight=4, items=4, wakes_within_s=0.5) for n in range(200)]
    calls = play(limiter, clock, clients, for_s=600)
    assert all(client.is_done for client in clients)
    ended_s = max(max(client.granted_at_us) for client in clients) - min(min(c.granted_at_us) for c in clients)
    assert ended_s / 1_000_000 < 7 * 60 + 10, "eight windows' work"
    assert calls <= 4 * 200


def test_pairs_are_granted_whole_or_not_at_all(make, clock):
    """With three left a look and its effect take two, and the third is not held."""
    limiter = make("3/minute")
    assert len(limiter.reserve(SPOTIFY, want=8, group=2).slots) == 2
    assert limiter.snapshot(SPOTIFY).windows[0].remaining == 1
    assert limiter.reserve(SPOTIFY, want=8, group=2).reason is DenialReason.WINDOW
    with pytest.raises(InvalidInputError, match="group"):
        limiter.reserve(SPOTIFY, want=1, group=2)


def test_an_account_in_line_for_its_own_limit_keeps_nothing_from_others(make):
    """Alice waits for her own window; the provider's is free for Bob."""
    limiter = make("9/minute", account_windows="1/minute")
    alice, bob = Scope("spotify", "alice"), Scope("spotify", "bob")
    limiter.reserve(alice, owner="a")
    assert limiter.reserve(alice, owner="a", priority=Priority.HIGH).scope_name == "spotify/alice"
    assert isinstance(limiter.reserve(bob, owner="b", priority=Priority.LOW), Granted)


def test_the_line_can_be_looked_at(make, clock):
    """Who waits, for how many, since when and until when."""
    limiter = make("1/minute")
    use_up(limiter, 1, clock, gap_s=0)
    ask(limiter, "17", want=3)
    clock.advance(10)
    ask(limiter, "18", priority=Priority.HIGH)
    high, default = limiter.snapshot(SPOTIFY).waiting
    assert (high.owner, high.class_, high.want, high.waited_s) == ("18", Priority.HIGH, 1, 0)
    assert (default.owner, default.class_, default.want, default.waited_s) == ("17", Priority.DEFAULT, 3, 10)
    assert default.asks_in_s == pytest.approx(50, abs=0.01)
    glance = limiter.snapshot(SPOTIFY, with_line=False)
    assert glance.waiting == ()
    assert glance.windows == limiter.snapshot(SPOTIFY).windows


def test_a_cool_down_ends_for_one_after_the_other(make, clock):
    """What the window allows at its end is shared out; the others are told a later time."""
    limiter = make("10/minute")
    (slot,) = limiter.reserve(SPOTIFY).slots
    limiter.settle([SlotResult.throttled(slot, 30)])
    limiter.adjust(SPOTIFY, Adjustment.FORGET_LEARNED)
    told = [ask(limiter, f"{n}", want=3).retry_after_s for n in range(6)]
    assert len(set(told)) == 6
    assert [time < 30.1 for time in told] == [True, True, True, False, False, False]


def test_an_evicted_line_starts_anew(make, clock, redis_url):
    """Losing one of its keys costs the order, and nobody is kept waiting for people who cannot be found."""
    limiter = make("1/minute")
    use_up(limiter, 1, clock, gap_s=0)
    first = ask(limiter, "first")
    with redis.Redis.from_url(redis_url) as client:
        assert client.delete("{spotify}:limit:scope::wants") == 1
    clock.advance(first.retry_after_s)
    assert isinstance(ask(limiter, "second"), Granted)


def test_a_full_cap_keeps_a_line_and_an_open_breaker_does_not(make):
    """An answer makes room for the first in line; when a breaker closes nobody knows, and those who ask are probes."""
    limiter = make("9/minute", max_concurrency=1, breaker=BreakerConfig(minimum_calls=1, jitter=0, slow_start_s=0))
    (slot,) = ask(limiter, "x").slots
    assert ask(limiter, "y").reason is DenialReason.CONCURRENCY
    assert isinstance(ask(limiter, "late"), Denied)
    limiter.settle([SlotResult(slot, SlotUse.FAILURE)])
    denial = ask(limiter, "y")
    assert (denial.reason, denial.is_in_line) == (DenialReason.BREAKER, False)
