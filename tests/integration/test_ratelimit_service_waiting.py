"""Waiting in line with the public face: order, giving up, priorities, changed limits, threads."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ratelimit_world import Clock, MemoryHistory

from jobqueue.errors import InvalidInputError
from jobqueue.model.batching import BatchConfig
from jobqueue.model.job import Priority
from jobqueue.model.limit import DenialReason, Denied, ProviderLimits, RateLimitConfig, Scope, Slot
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.ratelimit.service import RateLimitService


@pytest.fixture
def clock():
    """A clock that only waiting moves."""
    return Clock()


@pytest.fixture
def serve(redis_url, clock):
    """Make services, each as a process of its own would have it; closed after the test."""
    made = []

    def serve(windows="1/minute", *, version=0, sleep=clock.advance, **options):
        limits = {"spotify": ProviderLimits("spotify", (RateLimitConfig(windows=windows),), version=version)}
        limiter = Limiter(redis_url, limits, MemoryHistory(clock), clock_us=clock)
        made.append(
            RateLimitService(limiter, sleep=sleep, monotonic_s=lambda: clock.now_us / 1_000_000, **options),
        )
        return made[-1]

    yield serve
    for service in made:
        service.close()


def use_up(service):
    """Take and answer the only request of the minute."""
    slot = service.wait_for_rate_limit("spotify", timeout_s=0)
    assert isinstance(slot, Slot)
    service.record_success(slot)


def test_those_who_wait_get_times_of_their_own_and_come_in_order(serve, clock):
    """The second comes while the first sleeps: it is told a time a minute later, and is served after it."""
    told = []

    def meanwhile(seconds):
        clock.advance(seconds)
        if not told:
            told.append(second.wait_for_rate_limit("spotify", timeout_s=0, owner="second").retry_after_s)

    first, second = serve(sleep=meanwhile), serve()
    use_up(first)
    started_us = clock.now_us
    slot = first.wait_for_rate_limit("spotify", timeout_s=100)
    assert isinstance(slot, Slot)
    assert clock.now_us - started_us == 60_001_000
    first.record_success(slot)
    assert 118 < told[0] < 120
    assert isinstance(second.wait_for_rate_limit("spotify", timeout_s=100, owner="second"), Slot)
    assert clock.now_us - started_us == pytest.approx(120_002_000, abs=2_000)


def test_giving_up_leaves_the_line(serve):
    """Nobody stands behind somebody who does not come back; the answer does not promise a place."""
    service = serve()
    use_up(service)
    denied = service.wait_for_rate_limit("spotify", timeout_s=5)
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.is_in_line) == (DenialReason.WINDOW, False)
    assert service.status("spotify").waiting == ()


def test_being_interrupted_leaves_the_line(serve):
    """Ctrl-C while it sleeps, say."""

    def stop(_seconds):
        assert len(service.status("spotify").waiting) == 1
        raise KeyboardInterrupt

    service = serve(sleep=stop)
    use_up(service)
    with pytest.raises(KeyboardInterrupt):
        service.wait_for_rate_limit("spotify", timeout_s=100)
    assert service.status("spotify").waiting == ()


def test_who_gives_a_name_keeps_its_place(serve, clock):
    """It may do something else until the time it was told, and goes before those who came later."""
    service = serve()
    use_up(service)
    denied = service.wait_for_rate_limit("spotify", timeout_s=0, owner="night-export")
    assert denied.is_in_line
    assert [waiter.owner for waiter in service.status("spotify").waiting] == ["night-export"]
    clock.advance(denied.retry_after_s)
    assert not service.can_proceed("spotify")
    assert isinstance(service.wait_for_rate_limit("spotify", timeout_s=0), Denied)
    assert isinstance(service.wait_for_rate_limit("spotify", timeout_s=0, owner="night-export"), Slot)


def test_leaving_lets_the_next_one_come_sooner(serve):
    """Its time is reckoned anew when it asks again."""
    service = serve()
    use_up(service)
    first = service.wait_for_rate_limit("spotify", timeout_s=0, owner="a")
    second = service.wait_for_rate_limit("spotify", timeout_s=0, owner="b")
    assert second.retry_after_s >= first.retry_after_s
    service.limiter.leave(Scope("spotify"), "a")
    service.limiter.leave(Scope("spotify"), "never there")
    assert [waiter.owner for waiter in service.status("spotify").waiting] == ["b"]
    again = service.wait_for_rate_limit("spotify", timeout_s=0, owner="b")
    assert again.retry_after_s == first.retry_after_s


def test_a_higher_priority_goes_first(serve, clock):
    """While it waits, lower ones get nothing of what is free, not even of what it would leave."""
    service = serve("2/minute")
    use_up(service)
    use_up(service)
    low, high = ({"owner": str(p), "priority": p, "timeout_s": 0} for p in (Priority.LOW, Priority.HIGH))
    for waiter in (low, high):
        assert isinstance(service.wait_for_rate_limit("spotify", **waiter), Denied)
    clock.advance(60.001)
    assert service.wait_for_rate_limit("spotify", **low).reason is DenialReason.PRIORITY
    assert not service.can_proceed("spotify")
    assert isinstance(service.wait_for_rate_limit("spotify", **high), Slot)
    assert isinstance(service.wait_for_rate_limit("spotify", **low), Slot)


@pytest.mark.parametrize("timeout_s", [-1, math.nan])
def test_a_wait_that_is_none_is_refused(serve, timeout_s):
    """Before a slot is taken."""
    service = serve()
    with pytest.raises(InvalidInputError, match="timeout_s"):
        service.wait_for_rate_limit("spotify", timeout_s=timeout_s)
    with pytest.raises(InvalidInputError, match="timeout_s"):
        service.execute_batches([], len, timeout_s=timeout_s)
    assert service.can_proceed("spotify")


def test_limits_that_were_changed_are_told_at_once_without_a_way_to_read_them(serve, clock):
    """It neither waits for what will not come nor sends by limits that hold no longer."""
    old = serve(version=1)
    use_up(old)
    assert not serve("2/minute", version=2).limiter.why(Scope("spotify"), 1)
    before_us = clock.now_us
    assert old.wait_for_rate_limit("spotify", timeout_s=30).reason is DenialReason.OUTDATED
    assert not old.can_proceed("spotify")
    assert clock.now_us == before_us


def test_changed_limits_are_read_anew(serve):
    """Once for each change, and they hold from then on."""
    fresh = {"spotify": ProviderLimits("spotify", (RateLimitConfig(windows="2/minute"),), version=2)}
    read = []

    def reload():
        read.append(1)
        return fresh

    service = serve(version=1, reload=reload)
    use_up(service)
    assert not service.can_proceed("spotify")
    assert not read
    assert serve("2/minute", version=2).can_proceed("spotify")
    assert service.can_proceed("spotify")
    use_up(service)
    assert not service.can_proceed("spotify")
    assert len(read) == 1


def test_a_store_that_still_tells_the_old_limits_is_not_asked_for_ever(serve):
    """A replica behind its primary, say: the caller is told."""
    stale = {"spotify": ProviderLimits("spotify", (RateLimitConfig(windows="1/minute"),), version=1)}
    read = []
    service = serve(version=1, reload=lambda: read.append(1) or stale)
    serve("2/minute", version=2).can_proceed("spotify")
    assert service.wait_for_rate_limit("spotify", timeout_s=30).reason is DenialReason.OUTDATED
    assert 1 <= len(read) <= 5


def test_threads_share_one_service(redis_url):
    """Twelve at once, each with batches of its own: every item once, every request counted once, nobody left waiting."""
    sizes = {("spotify", "save"): BatchConfig(min_size=5, optimal_size=5, max_size=5)}
    gate = threading.Barrier(12)
    with RateLimitService.from_url(redis_url, {"spotify": "1000/hour"}, batch_sizes=sizes) as service:

        def work(number):
            gate.wait()
            batches = service.create_optimal_batches("spotify", "save", range(number * 50, number * 50 + 50))
            return [item for result in service.execute_batches(batches, list) for item in result.value]

        with ThreadPoolExecutor(12) as pool:
            done = sorted(item for items in pool.map(work, range(12)) for item in items)
        assert done == list(range(600))
        (window,) = service.status("spotify").windows
        assert (window.used, window.in_flight) == (120, 0)
        assert service.status("spotify").waiting == ()


def test_many_processes_worth_of_waiters_all_get_their_turn(redis_url):
    """Eight services of their own wait for a window of four: at once four, the others as the window moves, none is lost."""
    gate = threading.Barrier(8)

    def wait(_):
        with RateLimitService.from_url(redis_url, {"spotify": "4 per 2 second"}) as service:
            gate.wait()
            slot = service.wait_for_rate_limit("spotify", timeout_s=20)
            assert isinstance(slot, Slot)
            service.record_success(slot)
            return slot.id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(wait, range(8)))) == 8
    with RateLimitService.from_url(redis_url, {"spotify": "4 per 2 second"}) as service:
        assert service.status("spotify").waiting == ()
