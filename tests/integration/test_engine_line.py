"""Jobs in a provider's line: who stops keeps nobody waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from engine_world import Scripted, World
from store_world import new_job, sql

from jobqueue.delivery.queue import JobQueue
from jobqueue.engine import control
from jobqueue.engine.history import PostgresHistory
from jobqueue.handler import Call
from jobqueue.model.item import SUCCEEDED, ItemOutcome
from jobqueue.model.job import JobStatus
from jobqueue.model.limit import Denied, RateLimitConfig, Scope
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import limits
from jobqueue.store.database import Database

NOOP = Scope("noop", "", "noop")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


@pytest.fixture
def limiter(database: Database, redis_url: str) -> Iterator[Limiter]:
    """One request an hour, and it is spent."""
    sql(database, "UPDATE rate_limit_configs SET windows = '1/hour' WHERE provider = 'noop'")
    made = Limiter(redis_url, {"noop": limits.provider_limits(database, "noop")}, PostgresHistory(database))
    made.reserve(NOOP)
    yield made
    made.close()


@pytest.mark.parametrize("stop", [JobQueue.pause_job, JobQueue.cancel_job])
def test_a_parked_job_that_is_stopped_leaves_the_line(
    database: Database, database_url: str, redis_url: str, limiter: Limiter, stop: Callable[[JobQueue, int], JobStatus]
) -> None:
    """Nobody works on it, so nobody else would say so: who waits behind it falls due and asks anew."""
    first, second = (new_job(database, 1, provider="noop", digest=f"{n}") for n in range(2))
    for job_id in (first, second):
        assert isinstance(limiter.reserve(NOOP, owner=str(job_id)), Denied)
        sql(
            database,
            "UPDATE batch_checkpoints SET due_at = now() + interval '2 h', wait_reason = 'waiting for noop: 1 per 1 hour'"
            " WHERE job_id = %(j)s",
            {"j": job_id},
        )
    with JobQueue(Settings.from_environ({"DATABASE_URL": database_url, "REDIS_URL": redis_url})) as queue:
        stop(queue, first)
    assert [waiter.owner for waiter in limiter.snapshot(NOOP).waiting] == [str(second)]
    assert limiter.reserve(NOOP, owner=str(second)).retry_after_s < 3602
    row = sql(database, "SELECT due_at <= now() AS is_due FROM batch_checkpoints WHERE job_id = %(j)s", {"j": second})
    assert row == [{"is_due": True}]


def test_a_slice_that_ends_because_its_job_was_stopped_leaves_the_line(database: Database, redis_url: str) -> None:
    """It joined after the person's word, of which it had not heard."""

    def apply(call: Call) -> Sequence[ItemOutcome]:
        with world.tools("person") as tools, Database(database.url) as own:
            control.pause(own, world.job_id)
            denied = tools.limiter.reserve(Scope(world.provider), owner=str(world.job_id))
            assert isinstance(denied, Denied)
            assert denied.is_in_line
        return [SUCCEEDED] * len(call.items)

    world = World(
        database.url, redis_url, database, Scripted(apply), limits=RateLimitConfig(windows="1/hour", breaker=None)
    )
    assert world.with_job(10).run().reason == "paused"
    with world.tools("look") as tools:
        assert tools.limiter.snapshot(Scope(world.provider)).waiting == ()
