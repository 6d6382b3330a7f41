"""The limiter as a strategy of `limits`: what that library and its users expect of a moving window, and what is added.

The expectations were taken from the library's documentation and its own tests of its moving window; these are our own.
"""

from __future__ import annotations

import doctest
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from limits import RateLimitItemPerMinute, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisClusterStorage, storage_from_string
from limits.strategies import RateLimiter
from ratelimit_world import Clock, SamePortValkey

from jobqueue.errors import ConfigurationError, InvalidInputError, ServerUnavailableError
from jobqueue.model.limit import CostExceedsLimitError, Denied, Granted, SlotResult
from jobqueue.ratelimit import strategy as strategy_module
from jobqueue.ratelimit.strategy import HeldWindowRateLimiter


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def strategy(redis_url, clock):
    """The strategy over the storage of `limits`, on the standing clock."""
    return HeldWindowRateLimiter(storage_from_string(redis_url), clock_us=clock)


def test_the_example_in_its_docs_runs(redis_url):
    """What the docstring shows is what happens."""
    failed, tried = doctest.testmod(strategy_module, extraglobs={"redis_url": redis_url})
    assert (failed, tried) == (0, 9)


def test_it_is_a_strategy_of_the_library(strategy):
    """Whatever takes a `RateLimiter` takes it."""
    assert isinstance(strategy, RateLimiter)


def test_the_window_moves_with_each_hit(strategy, clock):
    """Ten per two seconds: half at 0 s, half at 1.3 s; at 2 s the first half is free again, and only that."""
    item = parse("10 per 2 second")
    assert all(strategy.hit(item) for _ in range(5))
    clock.advance(1.3)
    assert all(strategy.hit(item) for _ in range(5))
    assert not strategy.hit(item)
    clock.advance(0.7)
    assert not strategy.hit(item)
    clock.advance(0.000_001)
    assert [strategy.hit(item) for _ in range(6)] == [True] * 5 + [False]


def test_a_refused_hit_counts_nothing(strategy, clock):
    """Neither now nor later: whoever is refused all the time is let through in time."""
    item = parse("2/minute")
    assert strategy.hit(item, cost=2)
    for _ in range(59):
        clock.advance(1)
        assert not strategy.hit(item)
        assert not strategy.hit(item, cost=2)
    clock.advance(1.000_001)
    assert strategy.hit(item, cost=2)


def test_a_cost_is_taken_wholly_or_not_at_all(strategy):
    """What does not fit leaves the rest to smaller ones; more than the limit never fits."""
    item = parse("10/minute")
    assert not strategy.hit(item, "k", cost=11)
    assert not strategy.test(item, "k", cost=11)
    assert strategy.hit(item, "k", cost=5)
    assert not strategy.test(item, "k", cost=6)
    assert not strategy.hit(item, "k", cost=6)
    assert strategy.get_window_stats(item, "k").remaining == 5
    assert strategy.hit(item, "k", cost=5)
    assert strategy.get_window_stats(item, "k").remaining == 0


def test_testing_takes_nothing(strategy):
    """However often it is asked."""
    item = parse("2/hour")
    assert all(strategy.test(item) for _ in range(5))
    assert strategy.hit(item)
    assert strategy.test(item)
    assert not strategy.test(item, cost=2)
    assert strategy.hit(item)
    assert not strategy.test(item)


@pytest.mark.parametrize("call", ["hit", "test", "reserve"])
def test_a_negative_cost_is_refused(strategy, call):
    """It would give quota back."""
    with pytest.raises(InvalidInputError, match=r"cost -1 is negative") as caught:
        getattr(strategy, call)(parse("2/minute"), cost=-1)
    assert caught.value.field == "cost"


def test_a_cost_of_nothing_always_fits(strategy):
    """Even when nothing is left."""
    item = parse("1/minute")
    assert strategy.hit(item)
    assert strategy.hit(item, cost=0)
    assert strategy.test(item, cost=0)
    assert strategy.get_window_stats(item).remaining == 0


def test_each_item_and_its_identifiers_have_a_count_of_their_own(strategy):
    """Another identifier, another number of them, another limit or namespace is another count."""
    item = parse("1/minute")
    others = [
        (item, ()),
        (item, ("a",)),
        (item, ("a", "b")),
        (item, ("b", "a")),
        (item, ("ü {x}/y:z",)),
        (parse("1/hour"), ("a",)),
        (parse("2/minute"), ("a",)),
        (RateLimitItemPerMinute(1, namespace="other"), ("a",)),
    ]
    for one, identifiers in others:
        assert strategy.hit(one, *identifiers)
    assert not strategy.hit(item, "a")
    assert strategy.hit(parse("2/minute"), "a")


def test_stats_tell_what_remains_and_when_the_first_entry_leaves(strategy, clock):
    """As seconds since 1970; with nothing counted, the end of a window that began now."""
    item = parse("2/minute")
    start_s = clock() / 1_000_000
    assert strategy.get_window_stats(item) == (start_s + 60, 2)
    assert strategy.hit(item)
    clock.advance(10)
    assert strategy.hit(item)
    clock.advance(10)
    assert strategy.get_window_stats(item) == (pytest.approx(start_s + 60, abs=0.002), 0)
    clock.advance(45)
    assert strategy.get_window_stats(item) == (pytest.approx(start_s + 70, abs=0.002), 1)
    clock.advance(10)
    assert strategy.get_window_stats(item) == (clock() / 1_000_000 + 60, 2)


def test_clearing_forgets_one_count_and_no_other(strategy):
    """Also what was hit with a large cost, and what is held."""
    item = parse("5/minute")
    assert strategy.hit(item, "a", cost=4)
    assert isinstance(strategy.reserve(item, "a"), Granted)
    assert strategy.hit(item, "b", cost=5)
    assert not strategy.hit(item, "a", cost=2)
    strategy.clear(item, "a")
    assert strategy.get_window_stats(item, "a").remaining == 5
    assert strategy.get_window_stats(item, "b").remaining == 0
    assert strategy.hit(item, "a", cost=5)
    strategy.clear(item, "never seen")


def test_a_million_in_two_seconds_is_counted_to_the_last(strategy, clock):
    """In steps of 1/512 of the window: what was hit first leaves at most a step late, and never early."""
    item = parse("1000000 per 2 second")
    assert strategy.hit(item)
    clock.advance(1)
    assert strategy.hit(item, cost=999_999)
    assert not strategy.hit(item)
    clock.advance(0.999_999)
    assert strategy.get_window_stats(item).remaining == 0
    clock.advance(2 / 512)
    assert strategy.get_window_stats(item).remaining == 1
    clock.advance(1)
    assert strategy.get_window_stats(item).remaining == 1_000_000


def test_a_large_cost_costs_no_more_memory_than_a_small_one(strategy, redis_url):
    """The library's own window keeps an entry for each unit."""
    small, large = parse("100/minute"), parse("1000000/minute")
    assert strategy.hit(small)
    assert strategy.hit(large, cost=1_000_000)
    with redis.Redis.from_url(redis_url) as client:
        sizes = [client.memory_usage(key) for key in client.scan_iter() if client.type(key) == b"list"]
    assert len(sizes) >= 2
    assert max(sizes) < 300


@pytest.mark.parametrize("prefix", ["LIMITS", "shop"])
def test_all_keys_carry_the_storages_prefix(redis_url, prefix):
    """So resetting the storage resets the strategy, and two prefixes never meet."""
    item = parse("1/minute")
    strategy = HeldWindowRateLimiter(storage_from_string(redis_url, key_prefix=prefix))
    assert strategy.hit(item, "a")
    with redis.Redis.from_url(redis_url) as client:
        assert all(key.startswith(f"{prefix}:".encode()) for key in client.scan_iter())
    assert HeldWindowRateLimiter(storage_from_string(redis_url, key_prefix="third")).hit(item, "a")
    strategy.storage.reset()
    assert strategy.hit(item, "a")


def test_two_strategies_on_one_server_share_the_count(redis_url, clock):
    """As two processes do; also by the library's client for Valkey."""
    item = parse("2/minute")
    urls = redis_url, redis_url.replace("redis://", "valkey://", 1)
    first, second = (HeldWindowRateLimiter(storage_from_string(url), clock_us=clock) for url in urls)
    assert first.hit(item, "a")
    assert second.hit(item, "a")
    assert not first.hit(item, "a")
    assert not second.test(item, "a")


def test_many_threads_are_admitted_exactly_to_the_limit(redis_url):
    """A hundred threads start at once on a limit of five; each has a connection of its own."""
    strategy, item = HeldWindowRateLimiter(storage_from_string(redis_url)), parse("5/minute")
    gate = threading.Barrier(100)

    def hit(_):
        gate.wait()
        return strategy.hit(item, "a")

    with ThreadPoolExecutor(100) as pool:
        assert sum(pool.map(hit, range(100))) == 5


def test_what_is_reserved_is_held_until_it_is_settled(strategy, clock):
    """Reserved in one thread and settled in another: unused it is free at once, answered it counts from then on."""
    item = parse("1/minute")
    grant = strategy.reserve(item, "a", deadline_s=50)
    assert isinstance(grant, Granted)
    assert isinstance(strategy.reserve(item, "a"), Denied)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(strategy.settle, [SlotResult.unused(grant.slots[0])]).result().slots == 1
    grant = strategy.reserve(item, "a", deadline_s=50)
    clock.advance(40)
    assert strategy.settle([SlotResult(grant.slots[0])]).slots == 1
    clock.advance(60)
    assert not strategy.test(item, "a")
    clock.advance(0.000_001)
    assert strategy.hit(item, "a")


def test_what_could_never_be_granted_is_refused_loudly(strategy):
    """A hit answers False, as strategies do; a reservation has an error for it."""
    with pytest.raises(CostExceedsLimitError):
        strategy.reserve(parse("5/minute"), cost=6)


@pytest.mark.parametrize("options", [{}, {"wrap_exceptions": True}])
def test_a_dead_server_is_reported_as_the_storage_was_told_to(tmp_path, options):
    """By our own error, or wrapped as the library wraps those of its storages."""
    server = SamePortValkey(tmp_path)
    server.start()
    strategy = HeldWindowRateLimiter(storage_from_string(server.url, **options))
    item = parse("1/minute")
    grant = strategy.reserve(item)
    server.kill()
    calls = [
        lambda: strategy.hit(item),
        lambda: strategy.test(item),
        lambda: strategy.get_window_stats(item),
        lambda: strategy.clear(item),
        lambda: strategy.settle([SlotResult(grant.slots[0])]),
    ]
    for call in calls:
        with pytest.raises(StorageError if options else ServerUnavailableError):
            call()


def test_it_needs_one_server_of_redis():
    """Another storage is refused by name, and so is a cluster."""
    with pytest.raises(ConfigurationError, match="MemoryStorage"):
        HeldWindowRateLimiter(MemoryStorage())
    # Made without a cluster at hand: only its kind matters here.
    with pytest.raises(ConfigurationError, match="RedisClusterStorage"):
        HeldWindowRateLimiter(RedisClusterStorage.__new__(RedisClusterStorage))
