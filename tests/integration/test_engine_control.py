"""People and clocks: pause, cancel, shutdown, servers that go away, time limits, and rollback's plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
from engine_world import QUICK, Scripted, World
from store_world import (
    PROVIDER,
    scratch_database,
    sql,
)

from jobqueue.engine import control
from jobqueue.engine.departure import SliceReport
from jobqueue.engine.history import PostgresHistory
from jobqueue.engine.progress import job_progress
from jobqueue.engine.sweep import letters_by_job, sweep
from jobqueue.handler import Call
from jobqueue.local import LocalStack
from jobqueue.model.item import ItemOutcome
from jobqueue.model.job import JobStatus
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.store import due, jobs
from jobqueue.store.database import Database

SOON_S = 2.0


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_control") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


class Endless(Scripted):
    """Answers one request after the other, slowly enough for somebody to interfere; *under_way* is set by the first."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = threading.Event()

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        results = super().apply(call)
        self.under_way.set()
        time.sleep(0.005)
        return results


@pytest.fixture
def world(url: str, redis_url: str, database: Database) -> World:
    made = World(url, redis_url, database, Endless())
    made.size = 1
    return made.with_job(5000, part_size=1000)


def interfere(world: World, act: Callable[[], object]) -> tuple[SliceReport, float]:
    """Let *act* happen while a slice is at work; its report, and the seconds it still took."""
    with ThreadPoolExecutor(1) as pool:
        running: Future[SliceReport] = pool.submit(world.run)
        assert world.handler.under_way.wait(10)  # type: ignore[attr-defined]
        act()
        started_s = time.monotonic()
        return running.result(30), time.monotonic() - started_s


def run_for_a_while(world: World) -> None:
    """Let the slice's time be over as soon as it has sent something."""
    under_way: threading.Event = world.handler.under_way  # type: ignore[attr-defined]
    world.config = replace(QUICK, slice_s=5.0)
    world.clock = lambda: time.monotonic() + (6.0 if under_way.is_set() else 0.0)


def nothing_is_left_open(world: World) -> None:
    """What was sent is recorded, once, and every part was given up."""
    row = jobs.progress_row(world.database, world.job_id)
    assert (row["held_parts"], row["in_flight"]) == (0, 0)
    assert len(world.handler.calls) == len(world.outcomes) == row["succeeded"]


@pytest.mark.parametrize(
    ("act", "status"),
    [(control.pause, JobStatus.PAUSED), (control.cancel, JobStatus.CANCELLED)],
    ids=["pause", "cancel"],
)
def test_pause_and_cancel_are_obeyed_at_the_next_boundary(
    world: World, act: Callable[[Database, int], object], status: JobStatus
) -> None:
    """Within two seconds; what was under way is recorded, and nothing falls due until a person says so."""
    report, took_s = interfere(world, lambda: act(world.database, world.job_id))
    assert report.reason == str(status)
    assert took_s < SOON_S
    assert world.status is status
    nothing_is_left_open(world)
    assert due.job_work(world.database, world.job_id) == (0, 0, None)
    assert world.run().claimed == 0


@pytest.mark.parametrize("reason", ["shutdown", "orphaned", "yield"])
def test_a_signal_from_outside_ends_the_slice_in_order(world: World, reason: str) -> None:
    """Its parts are due again at once, for whoever comes next."""
    report, took_s = interfere(world, lambda: setattr(world.signals, "reason", reason))
    assert report.reason == reason
    assert took_s < SOON_S
    nothing_is_left_open(world)
    assert due.job_work(world.database, world.job_id)[0] > 0


def test_a_slice_ends_when_its_time_is_over(world: World) -> None:
    """Work goes on in the next one."""
    run_for_a_while(world)
    report = world.run()
    assert (report.reason, report.ended) == ("time", None)
    assert report.requests > 0
    nothing_is_left_open(world)


def test_without_redis_nothing_is_sent_and_the_parts_stay_due(world: World) -> None:
    """The slice says so and ends; no lease is kept."""
    world.redis_url = "redis://127.0.0.1:1/0"
    report = world.run()
    assert (report.reason, world.handler.calls) == ("redis is away", [])
    assert due.job_work(world.database, world.job_id)[0] > 0
    nothing_is_left_open(world)


def test_a_slice_whose_postgres_connection_is_cut_records_what_was_under_way(world: World) -> None:
    """Over a new connection; every item that was sent has its outcome, once."""
    world.config = replace(QUICK, slice_s=1.0)

    def cut() -> None:
        sql(world.database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'slice'")

    report, _ = interfere(world, cut)
    assert report.requests > 0
    nothing_is_left_open(world)


def test_a_job_that_takes_too_long_fails_and_says_what_is_undone(world: World) -> None:
    """Its slice stops; the job becomes a dead letter as a whole, listed with the jobs that have any."""

    def run_out() -> None:
        sql(world.database, "UPDATE jobs SET deadline_at = now() WHERE id = %(j)s", {"j": world.job_id})
        sweep(world.database)

    report, took_s = interfere(world, run_out)
    job = jobs.get(world.database, world.job_id)
    assert (report.reason, job.status) == ("failed", JobStatus.FAILED)
    assert took_s < SOON_S
    assert "of 5,000 items are undone" in job.status_reason
    (letter,) = world.letters
    assert letter["reason"] == job.status_reason
    assert world.job_id in [row["job_id"] for row in letters_by_job(world.database)]


def test_progress_tells_counts_pace_and_what_a_parked_job_waits_for(world: World, database: Database) -> None:
    """Over the limiter where there is one, over Postgres alone where Redis is away."""
    run_for_a_while(world)
    world.run()
    shown = world.context().limits
    limiter = Limiter(world.redis_url, {PROVIDER: shown}, PostgresHistory(database))
    found = job_progress(database, world.job_id, limiter)
    limiter.close()
    assert found.succeeded == found.done == len(world.outcomes)
    assert found.remaining == 5000 - found.done
    assert (found.parts, found.held_parts, found.batch_size) == (5, 0, 1)
    assert found.items_per_s is not None
    assert found.eta_s is not None
    assert [window.limit for window in found.quota] == [1_000_000]
    assert found.breaker == "closed"

    away = Limiter("redis://127.0.0.1:1/0", {PROVIDER: shown}, PostgresHistory(database))
    blind = job_progress(database, world.job_id, away)
    away.close()
    assert (blind.quota, blind.breaker) == ((), "")
    control.pause(database, world.job_id)
    assert job_progress(database, world.job_id, None).eta_s is None
    sql(
        database,
        "UPDATE batch_checkpoints SET due_at = now() + interval '1 h', wait_reason = 'waiting for noop: 1 per 1 hour'"
        " WHERE job_id = %(j)s",
        {"j": world.job_id},
    )
    assert job_progress(database, world.job_id, None).waiting_for == "noop: 1 per 1 hour"
