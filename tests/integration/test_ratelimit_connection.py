"""The limiter's connection: lost, silent, forked, refused."""

from __future__ import annotations

import os

import pytest
import redis
from ratelimit_world import Clock, SamePortValkey, Worker

from jobqueue.errors import ConfigurationError, JobQueueError, ServerUnavailableError
from jobqueue.model.limit import DenialReason, Denied, Granted, Scope
from jobqueue.ratelimit.history import NoHistory
from jobqueue.ratelimit.limiter import Limiter

SPOTIFY = Scope("spotify")


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


def test_a_dead_redis_is_reported_and_a_revived_one_used(valkey, clock):
    """While it is down every call says so; afterwards the same limiter goes on."""
    worker = Worker(valkey.url, clock)
    worker.answer(worker.take(2))
    valkey.kill()
    for call in (lambda: worker.limiter.reserve(SPOTIFY), lambda: worker.limiter.snapshot(SPOTIFY)):
        with pytest.raises(ServerUnavailableError, match="cannot be reached"):
            call()
    valkey.start()
    for _ in range(10):
        decision = worker.limiter.reserve(SPOTIFY, want=9, deadline_s=10)
        # The log that is read back may end inside the first count: then its turn must end before another one begins.
        if not isinstance(decision, Denied) or decision.reason is not DenialReason.REBUILD:
            break
        clock.advance(decision.retry_after_s)
    assert isinstance(decision, Granted), decision
    assert len(decision.slots) == 2
    worker.limiter.close()


def test_a_full_redis_is_reported_and_the_connection_stays_good(valkey, clock):
    """It refuses to write; once it has room again the same limiter goes on."""
    worker = Worker(valkey.url, clock)
    worker.take(1)
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(ServerUnavailableError, match=r"refused reserve: .*maxmemory"):
            worker.limiter.reserve(SPOTIFY)
        client.config_set("maxmemory", 0)
    assert len(worker.take(9)) == 3
    worker.close()


def test_a_cut_connection_is_replaced_without_a_word(work, client):
    """A call over a connection the server closed is made again over a new one."""
    worker = work()
    worker.take(1)
    client.client_kill_filter(_type="normal", skipme=True)
    assert len(worker.take(9)) == 3


def test_a_silent_redis_is_given_up_and_its_answer_never_misread(work, client):
    """After two seconds the call fails; what it may have been granted ends by its deadline; the next call is right."""
    worker = work()
    worker.take(1)
    client.client_pause(2500, all=True)
    with pytest.raises(ServerUnavailableError, match="no answer in time"):
        worker.limiter.reserve(SPOTIFY)
    client.client_unpause()
    assert worker.limiter.snapshot(SPOTIFY).windows[0].limit == 4


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_limiter_made_before_a_fork_serves_both(work):
    """The child opens a connection of its own and leaves the parent's alone."""
    worker = work()
    worker.take(1)
    parents = worker.limiter._runner._connection
    child = os.fork()
    if child == 0:
        taken = len(worker.take(1))
        os._exit(taken if worker.limiter._runner._connection is not parents else 9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert len(worker.take(9)) == 2


def test_a_second_thread_is_refused(work):
    """Two calls at once would read each other's answers."""
    limiter = work().limiter
    with limiter._runner._lock, pytest.raises(JobQueueError, match="two threads"):
        limiter.reserve(SPOTIFY)


def test_a_wrong_url_is_refused_without_its_password(clock):
    """The error tells how to write it, and keeps the secret."""
    with pytest.raises(ConfigurationError) as caught:
        Limiter("http://:s3cret@host", {}, NoHistory())
    assert "s3cret" not in str(caught.value)


def test_a_wrong_password_is_reported_without_it(stack, clock):
    """Redis refuses, and the message holds no secret."""
    url = f"redis://:s3cret@127.0.0.1:{stack.redis_url.rpartition(':')[2]}"
    with pytest.raises(ServerUnavailableError) as caught:
        Worker(url, clock).take(1)
    assert "s3cret" not in str(caught.value)
