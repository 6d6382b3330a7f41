"""What a hostile reviewer broke outside the engine: clocks, lone workers, missing plugins, cleanup, progress."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from store_world import claim_all, finish_part, new_job, one, opened_row, part_row, sql, write

from jobqueue.cli.main import main
from jobqueue.delivery import entry, queues, refusals
from jobqueue.delivery.dispatch import LEADER_ROLE, dispatch
from jobqueue.delivery.horse import WorkerSignals
from jobqueue.delivery.timer import Timer
from jobqueue.engine import control, enqueue, registry
from jobqueue.engine.process import is_alive, this_holder
from jobqueue.errors import InvalidTransitionError, NotFoundError
from jobqueue.model.job import JobStatus, Priority
from jobqueue.store import cleanup, due, jobs
from jobqueue.store.checkpoints import Record
from jobqueue.store.database import Database, query


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with queues.connect(redis_url) as opened:
        yield opened


@pytest.fixture
def environment(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker's process would see."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", database_url)


def burst() -> None:
    """RQ's literal worker until the queues are empty."""
    program = Path(sys.executable).parent / "rq"
    subprocess.run(
        [program, "worker", "--burst", "high", "default", "low"], check=True, capture_output=True, timeout=60
    )


# --- processes ---


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no start mark without a wall clock")
def test_a_step_of_the_wall_clock_ends_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boot time that the kernel derives from the wall clock moves; who is alive does not."""
    me = this_holder("me")
    booted_s = psutil.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted_s + 3600)  # type: ignore[attr-defined]
    monkeypatch.setattr(psutil._pslinux, "BOOT_TIME", booted_s + 3600, raising=False)  # type: ignore[attr-defined]
    assert is_alive(me.pid, me.pid_started)
    assert this_holder("me") == me
    assert not is_alive(me.pid, me.pid_started + 1)  # one tick later: another process of that pid


# --- without a scheduler ---


def test_one_spare_hint_a_job_waits_and_takes_no_other_hints_room(database: Database, connection: redis.Redis) -> None:
    """Left again only when it is gone: popped by a worker, or flushed with everything else."""
    job = jobs.get(database, new_job(database))
    room = queues.room(connection, Priority.LOW)
    for _ in range(3):
        queues.leave_spare(connection, job, "low")
        queues.leave_spare(connection, job, "high")
    assert [queues.is_spare(name.decode()) for name in connection.lrange("rq:queue:low", 0, -1)] == [True]
    assert connection.llen("rq:queue:high") == 0
    assert (queues.room(connection, Priority.LOW), queues.waiting(connection, ["low"])) == (room, 0)

    assert connection.lpop("rq:queue:low")
    queues.leave_spare(connection, job, "low")
    assert connection.llen("rq:queue:low") == 1
    connection.flushall()
    queues.leave_spare(connection, job, "low")
    assert connection.llen("rq:queue:low") == 1


def test_the_timer_waits_until_a_lease_of_another_host_ends(database: Database, connection: redis.Redis) -> None:
    """Its holder may be dead, which nobody here can see: the last slice stays, and hints once the lease is over."""
    job_id = new_job(database)
    claim_all(database, job_id, lease_s=1.5)
    timer = Timer(database, connection, jobs.get(database, job_id), WorkerSignals(connection, Priority.DEFAULT))
    timer.pass_on(longest_s=20.0, reason="nothing to claim")
    assert queues.waiting(connection, ["default"]) == 1
    assert due.live_leases(database, job_id)[0] == 0


def test_the_timer_makes_way_for_other_work(database: Database, connection: redis.Redis) -> None:
    """A hint that waits for this worker ends its stay; a spare one, of another job that is guarded too, does not."""
    job = jobs.get(database, new_job(database))
    claim_all(database, job.id, lease_s=60)
    timer = Timer(database, connection, job, WorkerSignals(connection, Priority.DEFAULT))
    timer.guard()
    assert queues.waiting(connection, ["default"]) == 0
    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(timer.pass_on, longest_s=60.0, reason="nothing to claim")
        part = due.DuePart(job.id + 1, 0, 0, job.type, job.provider, job.operation, 1)
        queues.hint(connection, Priority.DEFAULT, [part])
        staying.result(10)
    found = [queues.is_spare(name.decode()) for name in connection.lrange("rq:queue:default", 0, -1)]
    assert sorted(found) == [False, True]


def test_with_a_scheduler_no_spare_hint_is_left(database: Database, connection: redis.Redis) -> None:
    """Whoever leads sweeps and hints."""
    job = jobs.get(database, new_job(database))
    due.lead(database, LEADER_ROLE, "scheduler", lease_s=60)
    timer = Timer(database, connection, job, WorkerSignals(connection, Priority.DEFAULT))
    timer.guard()
    assert connection.llen("rq:queue:default") == 0


# --- a worker without the plugin ---


def refused_key(job_id: int) -> str:
    return f"jobqueue:refused:{job_id}"


def run_once(job_id: int) -> str:
    """One hint as RQ would run it; the reason it gives."""
    return str(entry.run_slice(job_id)["reason"])


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "foreign", [{"type": "elsewhere"}, {"provider": "elsewhere"}, {"operation": "elsewhere"}], ids=str
)
def test_a_worker_without_the_plugin_leaves_the_job_to_others(
    database: Database, connection: redis.Redis, foreign: dict[str, Any]
) -> None:
    """It fails only when no worker could take it for an hour."""
    job_id = new_job(database, **foreign)
    sql(database, "UPDATE jobs SET created_at = now() - interval '1 day'")  # its age alone says nothing
    for _ in range(2):
        assert "cannot take it" in run_once(job_id)
    assert jobs.get(database, job_id).status is JobStatus.QUEUED

    connection.expire(refused_key(job_id), refusals.REFUSED_FOR_S)  # as if an hour had passed
    assert "no worker could take it for 60 minutes" in run_once(job_id)
    job = jobs.get(database, job_id)
    assert job.status is JobStatus.FAILED
    assert "'elsewhere' is unknown" in job.status_reason


@pytest.mark.usefixtures("environment")
def test_a_rollback_is_left_to_a_worker_that_knows_what_it_undoes(database: Database) -> None:
    """The plan needs the undone job's handler."""
    source = new_job(database, type="elsewhere")
    job_id = new_job(database, 0, type="noop", rollback_of=source, digest="undo")
    assert "cannot take it" in run_once(job_id)
    assert jobs.get(database, job_id).status is JobStatus.QUEUED


@pytest.mark.usefixtures("environment")
def test_a_worker_that_takes_the_job_ends_the_hour(database: Database, connection: redis.Redis) -> None:
    """What was refused before a slice ran is forgotten."""
    job_id = new_job(database)
    connection.set(refused_key(job_id), b"1", ex=refusals.REFUSED_FOR_S + 1)
    dispatch(database, connection)
    burst()
    assert jobs.get(database, job_id).status is JobStatus.SUCCEEDED
    assert not connection.exists(refused_key(job_id))


# --- cleanup ---


def ended_job(database: Database, *, ended_ago_s: float = 86_400, **more: Any) -> int:
    """A job of two parts with a failed item, ended some time ago."""
    job_id = new_job(database, 6, part_size=3, **more)
    for claim in claim_all(database, job_id).values():
        finish_part(database, job_id, claim, failed=(1,))
    jobs.finish(database, job_id)
    params = {"j": job_id, "s": ended_ago_s}
    sql(database, "UPDATE jobs SET finished_at = now() - make_interval(secs => %(s)s) WHERE id = %(j)s", params)
    return job_id


def test_a_retry_that_came_first_keeps_the_job_whole(database: Database, database_url: str) -> None:
    """The cleanup waits for the job's lock, looks again, and leaves the job alone."""
    job_id = ended_job(database)
    with Database(database_url, name="the-cleanup") as own, ThreadPoolExecutor(1) as pool:
        with database.transaction():
            assert control.retry(database, job_id) == 1
            cleaning = pool.submit(cleanup.delete_expired, own, older_than_s=60)
            with Database(database_url) as watcher:
                statement = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'the-cleanup' AND wait_event_type = 'Lock'"
                while not one(watcher, statement) and not cleaning.done():
                    pass
        assert cleaning.result(10) == []
    assert jobs.get(database, job_id).status is JobStatus.RUNNING
    assert one(database, "SELECT count(*) FROM batch_checkpoints WHERE job_id = %(j)s", {"j": job_id}) == 2


def test_a_rollback_that_came_first_keeps_the_journal(database: Database, database_url: str) -> None:
    """As for a retry: the rollback has the job's lock until it is stored."""
    job_id = ended_job(database, type="enforcement", provider="spotify", operation="unsave_tracks")
    with Database(database_url, name="the-cleanup") as own, ThreadPoolExecutor(1) as pool:
        with database.transaction():
            enqueue.enqueue_rollback(database, job_id)
            cleaning = pool.submit(cleanup.delete_expired, own, older_than_s=60)
            with Database(database_url) as watcher:
                statement = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'the-cleanup' AND wait_event_type = 'Lock'"
                while not one(watcher, statement) and not cleaning.done():
                    pass
        assert cleaning.result(10) == []
    assert one(database, "SELECT count(*) FROM batch_checkpoints WHERE job_id = %(j)s", {"j": job_id}) == 2


def test_an_expiring_job_is_not_taken_up_again_and_a_crashed_cleanup_is_gone_on_with(database: Database) -> None:
    """Once marked it can only go, whatever the age asked for."""
    job_id = ended_job(database, type="enforcement", provider="spotify", operation="unsave_tracks")
    sql(database, "UPDATE jobs SET expiring_at = now()")
    sql(database, "DELETE FROM batch_checkpoints WHERE part = 0")  # where it died
    with pytest.raises(InvalidTransitionError, match=f"job {job_id} is being cleaned up"):
        control.retry(database, job_id)
    with pytest.raises(InvalidTransitionError, match=f"job {job_id} is being cleaned up"):
        enqueue.enqueue_rollback(database, job_id)
    assert jobs.get(database, job_id).status is JobStatus.COMPLETED_WITH_FAILURES
    assert cleanup.delete_expired(database, older_than_s=10**9) == [job_id]
    with pytest.raises(NotFoundError):
        control.retry(database, job_id)
    with pytest.raises(NotFoundError):
        enqueue.enqueue_rollback(database, job_id)


def test_nothing_of_an_unmarked_job_is_deleted(database: Database) -> None:
    """The statements themselves refuse: a cleanup of an older version, or one that lost its way, does no harm."""
    job_id = ended_job(database)
    database.rows("delete_items_of_job", {"job_id": job_id, "part": 0})
    assert database.row("delete_job", {"job_id": job_id}) is None
    assert one(database, "SELECT count(*) FROM job_items WHERE job_id = %(j)s", {"j": job_id}) == 6
    assert one(database, "SELECT count(*) FROM batch_checkpoints WHERE job_id = %(j)s", {"j": job_id}) == 2


def test_a_failed_rollback_that_was_never_planned_keeps_the_journal_it_still_needs(database: Database) -> None:
    """A person may try it again."""
    job_id = ended_job(database)
    rollback_id = new_job(database, 0, type="rollback", rollback_of=job_id, digest="undo")
    control.fail(database, rollback_id, reason="broken", fingerprint="broken")
    assert cleanup.delete_expired(database, older_than_s=60) == []
    sql(database, "UPDATE jobs SET finished_at = now() - interval '1 hour' WHERE id = %(j)s", {"j": rollback_id})
    assert cleanup.delete_expired(database, older_than_s=60) == [rollback_id]
    assert cleanup.delete_expired(database, older_than_s=60) == [job_id]


def test_what_a_limit_still_counts_is_not_forgotten(database: Database) -> None:
    """A job goes only when its latest request has left the provider's longest window."""
    job_id = new_job(database, 4)
    claim = claim_all(database, job_id)[0]
    row = part_row(0, claim.fence, has_intents=True, cursor=2, batch_no=1)
    write(database, job_id, Record([row], opened=[opened_row(0, 1, 0, 1)]))
    control.cancel(database, job_id)
    assert cleanup.delete_expired(database, older_than_s=0) == []  # on the wire
    sql(database, "UPDATE batches SET status = 'recorded', closed_at = now() - interval '85 seconds'")
    assert cleanup.delete_expired(database, older_than_s=0) == []  # noop: 1 minute, and 30 s for the request
    sql(database, "UPDATE batches SET closed_at = now() - interval '95 seconds'")
    assert cleanup.delete_expired(database, older_than_s=0) == [job_id]


# --- progress ---


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """Every node of an EXPLAIN in JSON."""
    if isinstance(plan, dict) and "Node Type" in plan:
        yield plan
    if isinstance(plan, dict | list):
        for below in plan.values() if isinstance(plan, dict) else plan:
            yield from nodes(below)


def test_a_progress_poll_reads_the_latest_batches_only(database: Database) -> None:
    """Over a long job's batches it uses the two indexes of what is recent and what is open."""
    job_id = new_job(database, 10)
    sql(
        database,
        """INSERT INTO batches (job_id, part, no, first_seq, last_seq, item_count, status, idempotency_key, scope,
            cost_units, requests, deadline_at, closed_at)
        SELECT %(j)s, 0, n, 0, 9, CASE WHEN n = 30000 THEN 7 ELSE 10 END, 'recorded', n::text, 'noop', 1, 1, now(),
            now() - make_interval(secs => (30000 - n) * 0.1)
        FROM generate_series(1, 30000) AS n""",
        {"j": job_id},
    )
    sql(database, "ANALYZE batches")
    row = jobs.progress_row(database, job_id)
    assert (row["batch_size"], row["in_flight"]) == (7, 0)
    assert 290 * 10 < row["recent_items"] <= 300 * 10
    (found,) = sql(database, f"EXPLAIN (FORMAT JSON) {query('progress')}", {"job_id": job_id})
    scans = [node for node in nodes(found) if node.get("Relation Name") == "batches"]
    assert len(scans) == 4
    assert {node.get("Index Name") for node in scans} == {"batches_recorded_idx", "batches_unfinished_idx"}


# --- the program ---


@pytest.mark.usefixtures("environment")
def test_sizes_that_were_never_set_are_shown_as_such(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """No number stands for "whatever the API takes"."""
    sql(database, "DELETE FROM batch_configs WHERE provider = 'noop'")
    assert main(["limits", "set", "noop", "--batch", "noop=1,2,3", "--json"]) == 0
    changed = json.loads(capsys.readouterr().out)
    assert (changed["before"]["batch"], changed["after"]["batch"]) == (None, {"min": 1, "optimal": 2, "max": 3})
    sql(database, "DELETE FROM batch_configs WHERE provider = 'noop'")
    assert main(["limits", "set", "noop", "--batch", "noop=1,2,3"]) == 0
    assert capsys.readouterr().out.startswith("batch: not set → ")


def test_the_help_shows_job_types_that_are_installed(capsys: pytest.CaptureFixture[str]) -> None:
    """Its examples can be typed."""
    main(["enqueue", "--help"])
    shown = set(re.findall(r"jobqueue enqueue ([a-z]\w*)", capsys.readouterr().out))
    assert shown
    assert shown <= set(registry.handler_names())
