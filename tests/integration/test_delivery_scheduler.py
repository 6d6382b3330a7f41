"""The scheduler: one leads, another takes over; what it carries and what it cannot be blocked by."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import redis

from jobqueue.delivery import queues
from jobqueue.delivery.dispatch import LEADER_ROLE, dispatch
from jobqueue.delivery.forgery import SliceJob
from jobqueue.delivery.queue import JobQueue
from jobqueue.delivery.scheduler import PeriodicTimer, SchedulerLoop
from jobqueue.engine.intake import Rows
from jobqueue.model.job import JobRequest, Priority
from jobqueue.settings import Settings
from jobqueue.store import due
from jobqueue.store.database import Database


@pytest.fixture
def settings(redis_url: str, database_url: str) -> Settings:
    """Servers of this test, swept often."""
    return Settings(redis_url=redis_url, database_url=database_url, sweep_s=0.2)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A connection to look with."""
    with Database(database_url) as opened:
        yield opened


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    """A client to look with."""
    with redis.Redis.from_url(redis_url) as opened:
        yield opened


@contextmanager
def running(settings: Settings) -> Iterator[SchedulerLoop]:
    """A scheduler on a thread of its own."""
    loop = SchedulerLoop(settings)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join(timeout=10)
        assert not thread.is_alive()


def until(is_so: Callable[[], object], timeout_s: float = 15.0) -> None:
    """Poll a condition that another thread brings about."""
    ends_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends_s, "it did not come about"
        time.sleep(0.01)


def enqueued(settings: Settings, count: int = 10, priority: Priority = Priority.DEFAULT) -> int:
    """A job nobody works on."""
    with JobQueue(settings) as queue:
        request = JobRequest(type="noop", provider="noop", operation="noop", priority=priority)
        return queue.enqueue_job(request, Rows([f"i{n}" for n in range(count)])).job_id


def test_one_of_two_schedulers_leads_and_the_other_takes_over(settings: Settings, database: Database) -> None:
    """The second stands by until the first steps down."""
    with running(settings) as first:
        until(lambda: due.leader(database, LEADER_ROLE))
        leader = due.leader(database, LEADER_ROLE)
        with running(settings):
            assert due.lead(database, LEADER_ROLE, "somebody else", lease_s=1.0) is False
            first.stop()
            until(lambda: due.leader(database, LEADER_ROLE) not in (None, leader))


def test_a_lost_hint_is_given_again(settings: Settings, database: Database, connection: redis.Redis) -> None:
    """After a flush the sweep hints at what is due, once the last hint is ten seconds old."""
    job_id = enqueued(settings)
    connection.flushall()
    database.connection.execute("UPDATE batch_checkpoints SET hinted_at = now() - interval '11 seconds'")

    with running(settings):
        until(lambda: connection.llen("rq:queue:default"))

    assert connection.llen("rq:queue:default") == 1
    assert str(job_id) in connection.lindex("rq:queue:default", 0).decode()


def test_a_part_is_hinted_at_when_it_falls_due(settings: Settings, database: Database, connection: redis.Redis) -> None:
    """The leader sleeps until the earliest part's time, not until its next sweep."""
    enqueued(settings)
    connection.flushall()
    slow = Settings(redis_url=settings.redis_url, database_url=settings.database_url, sweep_s=30)
    database.connection.execute(
        "UPDATE batch_checkpoints SET hinted_at = NULL, due_at = now() + interval '1500 milliseconds'"
    )
    with running(slow):
        until(lambda: connection.llen("rq:queue:default"), timeout_s=10)

    row = database.connection.execute("SELECT hinted_at - due_at AS late FROM batch_checkpoints").fetchone()
    assert row is not None
    assert 0 <= row["late"].total_seconds() < 3


def test_hints_do_not_flood_a_queue(settings: Settings, database: Database, connection: redis.Redis) -> None:
    """A job of many parts puts a few hints into the queue, and none twice within ten seconds."""
    job_id = enqueued(settings, count=20_000)
    parts = database.connection.execute("SELECT count(*) AS n FROM batch_checkpoints").fetchone()
    first = connection.llen("rq:queue:default")

    assert parts is not None
    assert parts["n"] > 8
    assert 0 < first <= 8
    assert dispatch(database, connection, job_id=job_id) == 0


def test_an_unreadable_scheduled_job_blocks_nobody(connection: redis.Redis) -> None:
    """A job that cannot be read is dropped; the one behind it is enqueued."""
    timer = PeriodicTimer(connection=connection, interval=1, job_class=SliceJob, queue_name="low")
    past = datetime(2020, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    forged = timer.enqueue_at(past, "os.getcwd", job_id="a-forged")
    connection.hset(forged.key, "data", b"no pickle at all")
    good = timer.enqueue_at(past.replace(year=2021), "jobqueue.delivery.entry.run_cleanup", job_id="b-good")

    timer.tick()

    assert connection.lrange("rq:queue:low", 0, -1) == [good.id.encode()]
    assert forged.id not in timer


def test_the_cleanup_is_booked_again_after_a_flush(connection: redis.Redis) -> None:
    """The periodic cleanup is back after Redis lost it, and is booked once."""
    timer = PeriodicTimer(connection=connection, interval=1, job_class=SliceJob, queue_name="low")
    timer.keep_cleanup()
    connection.flushall()
    timer.keep_cleanup()
    timer.keep_cleanup()

    assert connection.zcard(timer.scheduled_jobs_key) == 1


def test_dead_jobs_are_shown_in_a_queue_no_worker_reads(connection: redis.Redis) -> None:
    """One readable line a job; what is decided goes, what changed is shown anew."""
    letter = {
        "job_id": 7,
        "job_type": "enforcement",
        "provider": "spotify",
        "operation": "unsave_tracks",
        "count": 2,
        "reason": "400: invalid id",
    }
    queues.mirror_dead(connection, [letter])
    queues.mirror_dead(connection, [letter])
    ids = connection.lrange("rq:queue:dead", 0, -1)
    shown = SliceJob.fetch(ids[0].decode(), connection=connection)
    assert len(ids) == 1
    assert shown.description == "enforcement · spotify · job 7 · 2 dead letters · 400: invalid id"

    queues.mirror_dead(connection, [letter | {"count": 3}])
    assert connection.lrange("rq:queue:dead", 0, -1) == [b"dead-7-3"]

    queues.mirror_dead(connection, [])
    assert connection.llen("rq:queue:dead") == 0
    assert not connection.exists("rq:job:dead-7-3")


def test_a_scheduler_waits_for_postgres_and_redis(settings: Settings, database: Database) -> None:
    """A server that is away is waited for, not died of."""
    away = Settings(redis_url="redis://127.0.0.1:1/0", database_url=settings.database_url, sweep_s=settings.sweep_s)
    with running(away):
        until(lambda: due.leader(database, LEADER_ROLE))
