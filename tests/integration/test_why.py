"""``jobqueue why`` against real servers: every reason why a job does not move, as far as one can be made to happen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cli_world import Program, environment, install_picky_handler, write_items
from rq import Queue, Worker
from store_world import holder, new_job, sql

from jobqueue.delivery import presence, queues, refusals
from jobqueue.delivery.dispatch import LEADER_ROLE
from jobqueue.delivery.forgery import SliceJob
from jobqueue.engine import registry
from jobqueue.engine.process import this_host
from jobqueue.model.job import JobEvent
from jobqueue.model.limit import Cooldown
from jobqueue.store import checkpoints, due, jobs, limits
from jobqueue.store.checkpoints import Holder
from jobqueue.store.database import Database

NOOP = ("enqueue", "noop", "--provider", "noop", "--items", "items.csv")


@pytest.fixture
def program(
    redis_url: str,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Program]:
    """The program on empty servers, five items at hand."""
    install_picky_handler(tmp_path)
    names = environment(redis_url, database_url, tmp_path)
    for name in ("REDIS_URL", "DATABASE_URL", "PICKY_PARDON"):
        monkeypatch.setenv(name, names[name])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    registry._load.cache_clear()
    write_items(tmp_path / "items.csv", ["good1", "bad1", "good2", "bad2", "good3"])
    yield Program(capsys, names)
    registry._load.cache_clear()
    sys.modules.pop("picky_handlers", None)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as found:
        yield found


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with queues.connect(redis_url) as found:
        yield found


@pytest.fixture
def scheduler(database: Database) -> None:
    """As if a scheduler led."""
    assert due.lead(database, LEADER_ROLE, "scheduler", lease_s=600)


@pytest.fixture
def listener(connection: redis.Redis) -> Worker:
    """A worker on all queues, idle as far as Redis knows."""
    return register(connection, "high", "default", "low")


def register(connection: redis.Redis, *names: str) -> Worker:
    """A worker of this process that has told Redis of itself and works no further."""
    worker = Worker([Queue(name, connection=connection) for name in names], connection=connection, job_class=SliceJob)
    worker.register_birth()
    return worker


def make_busy(connection: redis.Redis, worker: Worker, job_id: int, queue: str) -> None:
    """Let Redis know that *worker* runs a slice of that job."""
    rq_job = Queue(queue, connection=connection, job_class=SliceJob).enqueue_call(
        queues.RUN_SLICE, args=(job_id,), job_id=queues.rq_id("slice", job_id, 0, 1)
    )
    worker.prepare_job_execution(rq_job)
    worker.prepare_execution(rq_job)


def why(program: Program, job_id: int = 1, code: int = 0) -> dict[str, Any]:
    """The explanation as JSON; the text must be three to eight lines that say what is next."""
    text = program("why", job_id)
    lines = text.out.splitlines()
    assert (text.code, text.err) == (code, "")
    assert 3 <= len(lines) <= 8, text.out
    assert lines[0].startswith(f"job {job_id} · ")
    assert lines[-1].startswith("  next: ")
    found: dict[str, Any] = program.json("why", job_id, code=code)
    return found


@pytest.mark.usefixtures("scheduler")
def test_a_job_without_a_worker_names_the_queue_and_the_command(program: Program, connection: redis.Redis) -> None:
    """Nobody listens to its queue; workers on others do not count."""
    program(*NOOP)
    found = why(program)
    assert (found["binding"], found["lifts_in_s"]) == ("no_worker", None)
    assert "no worker listens to the queue default" in found["detail"]
    assert "rq worker high default low" in found["remedy"]
    register(connection, "high")
    assert "1 worker alive, listening to high only" in why(program)["detail"]
    register(connection, "default")
    assert why(program)["binding"] == "pickup"


@pytest.mark.usefixtures("listener")
def test_without_a_scheduler_and_a_hint_nobody_wakes_the_job(
    program: Program, database: Database, connection: redis.Redis
) -> None:
    """A hint that waits, or a scheduler, is enough."""
    program(*NOOP)
    assert why(program)["binding"] == "pickup"
    connection.delete("rq:queue:default")
    found = why(program)
    assert found["binding"] == "no_scheduler"
    assert "jobqueue scheduler" in found["remedy"]
    due.lead(database, LEADER_ROLE, "scheduler", lease_s=600)
    assert why(program)["binding"] == "pickup"


@pytest.mark.usefixtures("scheduler", "listener")
def test_a_paused_job_says_how_to_go_on_whatever_else_holds_it_up(program: Program, connection: redis.Redis) -> None:
    """The person comes first, and the limiter's pause is listed."""
    program(*NOOP)
    program("pause", 1)
    found = why(program)
    assert (found["binding"], found["remedy"]) == ("paused", "Go on with: jobqueue resume 1")
    connection.delete(*connection.keys("rq:worker*"))
    found = why(program)
    assert found["binding"] == "paused"
    assert "no_worker" in {other["constraint"] for other in found["others"]}


@pytest.mark.usefixtures("scheduler", "listener")
def test_a_job_without_authorization_asks_for_a_token(program: Program, database: Database) -> None:
    """Refused credentials are told apart from a pause."""
    program(*NOOP)
    jobs.move(database, 1, JobEvent.PAUSE, reason="needs_authorization: the token has expired")
    found = why(program)
    assert found["binding"] == "authorization"
    assert "JOBQUEUE_NOOP_ACCESS_TOKEN" in found["remedy"]


def test_an_ended_job_says_how_it_ended_and_what_can_be_done(program: Program) -> None:
    """Succeeded, with failures, cancelled; the exit code is status's."""
    program(*NOOP)
    program.work()
    assert why(program)["detail"] == "it succeeded"
    program("enqueue", "picky", "--provider", "noop", "--items", "items.csv")
    program.work()
    found = why(program, 2, code=1)
    assert (found["binding"], "jobqueue retry 2" in found["remedy"]) == ("ended", True)
    program(*NOOP)
    program("cancel", 3)
    assert why(program, 3, code=1)["detail"] == "it was cancelled: by a person"
    assert program.json("why", 99, code=2)["error"]["type"] == "NotFoundError"


@pytest.mark.usefixtures("scheduler")
def test_busy_workers_are_told_with_what_they_do(
    program: Program, database: Database, connection: redis.Redis, listener: Worker
) -> None:
    """Which queue and job they work for; a worker that is at this very job is no obstacle."""
    program(*NOOP)
    other = new_job(database, 3)
    make_busy(connection, listener, other, "high")
    found = why(program)
    assert found["binding"] == "busy"
    assert f"1 with high (job {other})" in found["detail"]
    second = register(connection, "default")
    make_busy(connection, second, 1, "default")
    assert why(program)["binding"] == "pickup"


@pytest.mark.usefixtures("scheduler", "listener")
def test_a_job_that_every_worker_refused_says_what_they_lack(
    program: Program, database: Database, connection: redis.Redis
) -> None:
    """In the words of the worker that looked, with the time until the job fails for it."""
    job_id = new_job(database, type="elsewhere")
    argv = [sys.executable, "-c", f"from jobqueue.delivery.entry import run_slice; run_slice({job_id})"]
    subprocess.run(argv, env=program.environment, check=True, capture_output=True, timeout=60)
    found = why(program, job_id)
    assert found["binding"] == "refused"
    assert "type 'elsewhere' is unknown" in found["detail"]
    assert any("if nobody takes it" in words for words in found["evidence"])
    refusals.forget(connection, job_id)
    assert why(program, job_id)["binding"] == "pickup"


@pytest.mark.usefixtures("scheduler", "listener")
def test_limits_bind_by_name_and_time(program: Program, database: Database) -> None:
    """A full window, then a cool-down on top of it that lifts later."""
    program("limits", "set", "noop", "--windows", "1 per 1 minute")
    program(*NOOP, "--batch-size", "2")
    program.work()
    found = why(program)
    assert (found["binding"], found["detail"]) == ("window", "noop: 1 per 1 minute")
    assert 0 < found["lifts_in_s"] <= 60
    limits.save_cooldowns(database, "noop", [Cooldown("noop", 600.0)])
    with redis.Redis.from_url(program.environment["REDIS_URL"]) as client:
        client.delete(*client.keys("{noop}*"))
    found = why(program)
    assert found["binding"] == "cooldown"
    assert 60 < found["lifts_in_s"] <= 600


@pytest.mark.usefixtures("scheduler", "listener")
def test_items_in_backoff_are_counted_with_their_time(program: Program, database: Database) -> None:
    """How many items wait for another attempt, and when the first is due."""
    program(*NOOP)
    sql(
        database,
        "UPDATE batch_checkpoints SET due_at = now() + interval '40 s', wait_reason = 'waiting for the next attempt'",
    )
    sql(
        database,
        "INSERT INTO item_retries (job_id, part, seq, attempts, due_at) SELECT 1, 0, s, 1, now() + s * interval '40 s'"
        " FROM generate_series(1, 3) AS s",
    )
    found = why(program)
    assert (found["binding"], found["detail"]) == ("retry", "3 items to be tried again")
    assert 30 < found["lifts_in_s"] <= 40


@pytest.mark.usefixtures("scheduler", "listener")
def test_a_part_parked_after_its_limit_lifted_waits_for_its_turn(program: Program, database: Database) -> None:
    """The limiter has nothing against it, yet it comes back at the time it was given."""
    program(*NOOP)
    sql(
        database,
        "UPDATE batch_checkpoints SET due_at = now() + interval '40 s', wait_reason = 'waiting for noop: 5 per 1 minute'",
    )
    found = why(program)
    assert (found["binding"], found["state"]) == ("turn", "parked" if jobs.get(database, 1).started_at else "queued")
    assert "noop: 5 per 1 minute" in found["detail"]
    assert 30 < found["lifts_in_s"] <= 40


@pytest.mark.usefixtures("scheduler", "listener")
def test_a_lease_of_a_process_that_is_gone_says_when_it_ends(program: Program, database: Database) -> None:
    """A process of this host is known to be gone; one of another host betrays itself by its silence."""
    program(*NOOP)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    mine = Holder("slice-gone", this_host(), gone.pid, 1.0)
    checkpoints.claim(database, 1, mine, count=10, lease_s=20.0)
    found = why(program)
    assert (found["binding"], found["is_moving"]) == ("lease", False)
    assert f"pid {gone.pid}" in found["detail"]
    assert 10 < found["lifts_in_s"] <= 20
    sql(database, "UPDATE batch_checkpoints SET holder_host = 'elsewhere', due_at = now() + interval '5 s'")
    found = why(program)
    assert "has said nothing for" in found["detail"]
    sql(database, "UPDATE batch_checkpoints SET due_at = now() + interval '19 s'")
    found = why(program)
    assert (found["binding"], found["is_moving"]) == ("none", True)


@pytest.mark.usefixtures("scheduler", "listener")
def test_a_running_job_says_so_with_its_slices_and_pace(program: Program, database: Database) -> None:
    """Nothing binds while somebody works on it."""
    program(*NOOP)
    me = holder("slice", host=this_host(), pid=os.getpid(), pid_started=float(process_start(os.getpid())))
    checkpoints.claim(database, 1, me, count=10, lease_s=20.0)
    found = why(program)
    assert (found["binding"], found["is_moving"], found["state"]) == ("none", True, "running")
    assert found["detail"] == "running: 1 slice, 0 requests under way"


def process_start(pid: int) -> str:
    found = presence.process_start_id(pid)
    assert found is not None
    return found


@pytest.mark.usefixtures("scheduler", "listener")
def test_a_rollback_waits_for_the_job_it_undoes_to_let_go(program: Program, database: Database) -> None:
    """Until the last lease and the last request of the undone job have ended."""
    source = new_job(database, 3)
    checkpoints.claim(database, source, holder("slice", host="elsewhere"), count=10, lease_s=15.0)
    job_id = new_job(database, 0, rollback_of=source, digest="undo")
    found = why(program, job_id)
    assert found["binding"] == "undone_job"
    assert f"job {source}, which it undoes, has not let go yet: 1 part held" in found["detail"]
    assert 5 < found["lifts_in_s"] <= 15


@pytest.mark.usefixtures("scheduler", "listener")
def test_quarantined_items_and_suspects_are_listed_beside(program: Program, database: Database) -> None:
    """They stop some of the job only."""
    program("enqueue", "picky", "--provider", "noop", "--items", "items.csv")
    sql(
        database,
        "INSERT INTO dead_letters (job_id, part, seq, job_type, provider, account, operation, fingerprint, reason)"
        " VALUES (1, 0, 0, 'picky', 'noop', '', 'noop', 'poison: the worker died', 'poison')",
    )
    found = why(program)
    assert found["binding"] == "pickup"
    assert [other["constraint"] for other in found["others"]] == ["quarantine"]
    assert "dead-letters list --job 1" in found["others"][0]["remedy"]


@pytest.mark.usefixtures("scheduler")
def test_without_redis_postgres_still_answers(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The constraint is Redis itself, and nothing is said of workers."""
    program(*NOOP)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    found = why(program)
    assert (found["binding"], found["state"]) == ("redis", "queued")
    assert not any("worker" in words for words in found["evidence"])


@pytest.mark.usefixtures("scheduler")
def test_a_worker_killed_on_this_host_is_no_listener(program: Program, connection: redis.Redis) -> None:
    """RQ remembers it for minutes; its process is gone all the same."""
    program(*NOOP)
    with program.worker():
        assert why(program)["binding"] in ("none", "ended", "pickup")
    program(*NOOP)
    worker = register(connection, "default")
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    connection.hset(worker.key, "pid", gone.pid)
    assert why(program, 2)["binding"] == "no_worker"
