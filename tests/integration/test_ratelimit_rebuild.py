"""What the limiter does when Redis loses its state, is replaced, or goes away."""

from __future__ import annotations

import shutil

import pytest
import redis
from ratelimit_world import Clock, MemoryHistory, SamePortValkey, Worker, provider_limits

from jobqueue.errors import InvalidInputError, ServerUnavailableError
from jobqueue.model.breaker import BreakerConfig, BreakerStatus, CircuitBreakerState
from jobqueue.model.limit import DenialReason, Granted, Scope, Slot, SlotResult
from jobqueue.ratelimit.history import NoHistory, SentRequests
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.ratelimit.rebuild import count_history

SPOTIFY, ALICE = Scope("spotify"), Scope("spotify", "alice")
HASH = "{spotify}:limit:scope:"


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def client(redis_url):
    """A plain client of the same Redis."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def work(redis_url, clock):
    """Make workers on the standing clock; closed after the test."""
    made = []

    def work(**options):
        made.append(Worker(redis_url, clock, **options))
        return made[-1]

    yield work
    for worker in made:
        worker.limiter.close()


@pytest.fixture
def valkey(tmp_path):
    """A Redis of this test's own, to be killed."""
    server = SamePortValkey(tmp_path)
    server.start()
    yield server
    server.stop()


def test_with_nothing_sent_an_empty_redis_means_full_quota(work):
    """The very first call counts an empty history and grants."""
    assert len(work().take(9)) == 4


def test_a_flushed_redis_is_counted_again(work, client, clock):
    """What was answered and what is in flight binds as before."""
    worker = work()
    worker.answer(worker.take(2))
    flying = worker.take(1)
    client.flushall()
    assert len(worker.take(9)) == 1
    state = worker.limiter.snapshot(SPOTIFY)
    assert (state.epoch, state.windows[0].used, state.windows[0].in_flight) == (2, 2, 2)
    assert worker.answer(flying).slots == 0
    clock.advance(60.001)
    assert len(worker.take(9)) == 2


def test_an_unanswered_request_is_held_until_it_must_have_ended(work, client, clock):
    """After a loss a request in flight ends at its sending plus the longest time, then counts for one window more."""
    worker = work(longest_request_s=10.0)
    worker.take(4)
    clock.advance(3)
    client.flushall()
    assert worker.limiter.reserve(SPOTIFY).reason is DenialReason.WINDOW
    clock.advance(7)
    assert worker.limiter.reserve(SPOTIFY).retry_after_s == 60.001
    clock.advance(20)
    client.flushall()
    assert worker.limiter.reserve(SPOTIFY).retry_after_s == 40.001


def test_a_restart_from_an_older_copy_never_overdraws(valkey, clock, tmp_path):
    """Redis comes back with yesterday's file: its state is foreign, and what was sent since is counted all the same."""
    worker = Worker(valkey.url, clock)
    worker.answer(worker.take(1))
    valkey.stop()
    shutil.copytree(tmp_path / "data", tmp_path / "older")
    valkey.start()
    worker.answer(worker.take(3))
    assert worker.history.epoch == 2
    valkey.kill()
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "older").rename(tmp_path / "data")
    valkey.start()
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        assert client.hget(HASH, "total_r60") == "1", "the old file must have been read"
    assert worker.limiter.reserve(SPOTIFY).reason is DenialReason.WINDOW
    assert worker.history.epoch == 3
    clock.advance(60.001)
    assert len(worker.take(9)) == 4
    worker.limiter.close()


def test_a_restart_empty_or_in_order_never_overdraws(valkey, clock, tmp_path):
    """Killed with its data gone, or stopped and started, Redis is not trusted but counted again."""
    worker = Worker(valkey.url, clock)
    worker.answer(worker.take(2))
    valkey.kill()
    shutil.rmtree(tmp_path / "data")
    valkey.start()
    worker.answer(worker.take(1))
    valkey.restart()
    assert len(worker.take(9)) == 1
    assert worker.history.epoch == 3
    worker.limiter.close()


def test_a_count_made_for_a_replaced_server_is_not_installed(valkey, clock):
    """Redis restarts while the history is read: an epoch begun for the old process is given up and another begun."""
    worker = Worker(valkey.url, clock)
    read = worker.history.sent_since

    def interrupted(provider, since_s):
        worker.history.sent_since = read
        valkey.restart()
        return []

    worker.history.sent_since = interrupted
    assert len(worker.take(1)) == 1
    assert worker.history.epoch == 2
    worker.limiter.close()


@pytest.mark.parametrize("key", ["{spotify}:limit:meta", HASH, f"{HASH}:slots", f"{HASH}:r60"])
def test_a_single_lost_key_is_noticed(work, client, key):
    """Evicted or expired too early, no key's loss frees a slot that is held."""
    worker = work()
    worker.answer(worker.take(2))
    assert len(worker.take(9)) == 2
    assert client.delete(key) == 1
    assert worker.take(9) == ()
    assert worker.history.epoch == 2


def test_of_two_rebuilds_the_later_epoch_wins(work, client):
    """While one client still reads the history another finishes; the slow one's count is discarded."""
    slow, fast = work(), work()
    fast.history = slow.history
    fast.limiter._history = slow.history
    read = slow.history.sent_since
    meanwhile = []

    def overtaken(provider, since_s):
        slow.history.sent_since = read
        waiting = fast.limiter.reserve(SPOTIFY)
        client.delete("{spotify}:limit:lease")
        meanwhile.extend((waiting, fast.take(3)))
        return []

    slow.history.sent_since = overtaken
    decision = slow.limiter.reserve(SPOTIFY, want=9)
    waiting, taken = meanwhile
    assert (waiting.reason, waiting.retry_after_s) == (DenialReason.REBUILD, 0.1)
    assert len(taken) == 3
    assert isinstance(decision, Granted)
    assert (len(decision.slots), decision.epoch) == (1, 2)


def test_a_later_epoch_than_redis_knows_means_a_rebuild_was_begun(work):
    """The engine could not commit at the old epoch: nothing more is granted from it."""
    worker = work()
    worker.answer(worker.take(1))
    worker.history.epoch = 5
    worker.limiter.require_epoch("spotify", 5)
    assert len(worker.take(9)) == 3
    assert worker.limiter.snapshot(SPOTIFY).epoch == 6


def test_while_another_client_counts_nothing_is_known_or_granted(work, client):
    """A reader gets a state without numbers, a caller is told to come back soon; neither counts too."""
    client.set("{spotify}:limit:lease", "another", px=2000)
    worker = work()
    assert worker.limiter.snapshot(SPOTIFY).epoch == 0
    assert worker.limiter.why(SPOTIFY).reason is DenialReason.REBUILD
    assert worker.limiter.hit(SPOTIFY).reason is DenialReason.REBUILD
    assert worker.history.epoch == 0


def test_a_state_that_is_lost_as_fast_as_it_is_counted_grants_nothing(work):
    """A database that hands out too early epochs ends in a denial and an error, not in a loop."""
    worker = work()
    (slot,) = worker.take(1)
    worker.limiter.require_epoch("spotify", 50)
    assert worker.limiter.reserve(SPOTIFY).reason is DenialReason.REBUILD
    with pytest.raises(ServerUnavailableError, match="as fast as"):
        worker.limiter.settle([SlotResult(slot)])


def test_other_windows_than_were_counted_are_counted_first(work):
    """A window added to the configuration knows what was sent before."""
    worker = work()
    worker.answer(worker.take(3))
    assert len(work(history=worker.history, windows="4/minute; 3/hour").take(9)) == 0
    assert len(work(history=worker.history, windows="9/minute").take(9)) == 6


def test_pauses_and_breakers_come_back(work, clock):
    """Both outlive Redis, in the database."""
    history = MemoryHistory(clock)
    history.paused = [("spotify/alice", clock.now_us + 30_000_000)]
    history.opened = [CircuitBreakerState("spotify", BreakerStatus.OPEN, opens=2, open_remaining_s=45)]
    worker = work(history=history, account_windows="4/minute", breaker=BreakerConfig(probes=1))
    assert worker.limiter.reserve(ALICE).reason is DenialReason.BREAKER
    clock.advance(20)
    assert worker.limiter.why(ALICE).retry_after_s == 25.0
    clock.advance(25)
    assert len(worker.take(3)) == 1
    assert worker.limiter.snapshot(SPOTIFY).breakers[0].opens == 2


def test_a_pause_reported_after_the_loss_is_kept(work, client):
    """The slot is gone with the old state, the provider's word is not."""
    worker = work()
    (slot,) = worker.take(1)
    client.flushall()
    assert worker.limiter.settle([SlotResult.throttled(slot, 30)]).cooldowns[0].remaining_s == 30.0
    assert worker.limiter.reserve(SPOTIFY).reason is DenialReason.COOLDOWN


def test_stale_accounts_are_forgotten_with_the_old_epoch(work, client, clock):
    """What an older life of Redis said of an account is not mixed with the new count."""
    worker = work(windows="9/minute", account_windows="2/minute")
    slots = worker.take(2, ALICE)
    for slot in slots:
        worker.history.answer(slot, is_unused=True)
    client.delete("{spotify}:limit:meta")
    assert len(worker.take(9, Scope("spotify", "bob"))) == 2
    assert len(worker.take(9, ALICE)) == 2


def test_without_a_history_what_redis_kept_is_kept(redis_url, client):
    """A restart in order does not free what a user without a database has spent."""
    limiter = Limiter(redis_url, {"spotify": provider_limits("2/minute")}, NoHistory())
    limiter.settle([SlotResult(slot) for slot in limiter.reserve(SPOTIFY, want=2).slots])
    client.hset("{spotify}:limit:meta", "run_id", "0" * 40)
    assert limiter.reserve(SPOTIFY).reason is DenialReason.WINDOW
    client.delete(HASH)
    assert isinstance(limiter.reserve(SPOTIFY), Granted)
    limiter.close()


def test_counted_answers_are_never_older_than_they_were():
    """In buckets, what is counted from the history is rounded towards now."""
    limits = provider_limits("5000/minute")
    sent = [SentRequests("spotify", 9.0, ago, 1, 10) for ago in (0.0, 1.00001, 1.00002, 59.99999, 61.0)]
    (count,) = count_history(limits, [], sent, [], [])
    (entries,) = count.state()["windows"]
    assert sum(weight for _, weight in entries) == 40
    assert [weight for _, weight in entries] == [10, 20, 10]
    assert all(ago <= true for (ago, _), true in zip(entries, (59_999_990, 1_000_010, 0), strict=True))


def test_a_history_of_another_provider_is_refused(work):
    """It would be counted under the wrong limit."""
    worker = work()
    worker.history.commit([Slot("x.1.1", Scope("tidal"))], 0, 10)
    with pytest.raises(InvalidInputError, match="tidal"):
        worker.limiter.reserve(SPOTIFY)
