"""What a job would take, said before anything is stored or sent, against real servers and a real run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_world import ROOT, Program, environment, write_items
from store_world import new_job, sql

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from handlers.sandbox.ledger import read_ledger
from handlers.sandbox.seed import seed_track_id
from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.engine.preflight import Work, preflight
from jobqueue.handler import Operation
from jobqueue.model.batching import BatchConfig
from jobqueue.model.job import JobRequest, JobStatus
from jobqueue.model.limit import Cooldown, CostExceedsLimitError
from jobqueue.settings import Settings
from jobqueue.store import limits
from jobqueue.store.database import Database, query

NOOP = ("noop", "--provider", "noop", "--items", "items.csv", "--batch-size", "1")
BIN = Path(sys.executable).parent


@pytest.fixture
def program(
    redis_url: str,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Program:
    """The program on empty servers: 60 items, 20 requests a minute at noop."""
    names = environment(redis_url, database_url, tmp_path)
    for name in ("REDIS_URL", "DATABASE_URL"):
        monkeypatch.setenv(name, names[name])
    monkeypatch.chdir(tmp_path)
    write_items(tmp_path / "items.csv", range(60))
    found = Program(capsys, names)
    assert found("limits", "set", "noop", "--windows", "20 per 1 minute").code == 0
    return found


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as found:
        yield found


def stored(database: Database) -> int:
    """Jobs, items and requests there are."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM job_items) + (SELECT count(*) FROM batches) AS n"
        ).fetchone()
    assert row is not None
    return int(row["n"])


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in ("p50_at", "p90_at")}


def test_preflight_and_dry_run_say_the_same_and_store_nothing(program: Program, database: Database) -> None:
    """Requests, cost, windows and finish; as text, as JSON, and from the script."""
    found = program.json("preflight", *NOOP)
    assert (found["items"], found["requests"], found["cost_units"], found["batch_size"]) == (60, 60, 60, 1.0)
    assert (found["binding_kind"], found["binding"]) == ("window", "noop: 20 per 1 minute")
    assert 120 <= found["p50_s"] <= found["p90_s"] <= 130
    assert found["windows"][0] | {"scope": "noop"} == {
        "scope": "noop",
        "window": "20 per 1 minute",
        "limit": 20,
        "used": 0,
        "needs": 60,
        "windows": 3.0,
        "is_weighted": False,
    }
    at = datetime.fromisoformat(found["p50_at"])
    assert abs((at - datetime.now(UTC)).total_seconds() - found["p50_s"]) < 60
    assert without_times(program.json("enqueue", *NOOP, "--dry-run")) == without_times(found)

    text = program("preflight", *NOOP)
    argv = [sys.executable, str(ROOT / "scripts" / "enqueue.py"), *NOOP, "--dry-run"]
    script = subprocess.run(argv, env=program.environment, capture_output=True, text=True, timeout=60, check=True)
    for out in (text.out, script.stdout):
        assert "noop · noop · noop · 60 items" in out
        assert "60 in 60 batches of 1.0 items" in out
        assert "noop: 20 per 1 minute: 60 requests fill it 3.0 times" in out
        assert out.endswith("nothing was stored or sent\n")
    assert stored(database) == 0


def test_a_deadline_that_cannot_be_met_has_an_exit_code_of_its_own(program: Program, database: Database) -> None:
    """At preflight, dry run and enqueue; nothing is stored, and the way out is named."""
    for command in (("preflight",), ("enqueue", "--dry-run")):
        answer = program(*command, *NOOP, "--deadline", "1m")
        assert answer.code == 4
        assert "cannot meet --deadline 1 min" in answer.out
        deadline = program.json(*command, *NOOP, "--deadline", "1m", code=4)["deadline"]
        assert (deadline["can_meet"], deadline["measure"]) == (False, "p90")
        assert deadline["margin_s"] < -60
    refused = program("enqueue", *NOOP, "--deadline", "1m")
    assert (refused.code, refused.out) == (4, "")
    assert "cannot meet --deadline 1 min" in refused.err
    assert "Nothing was stored" in refused.err
    assert "without --deadline" in refused.err
    error = program.json("enqueue", *NOOP, "--deadline", "1m", code=4)["error"]
    assert error["type"] == "CannotMeetDeadlineError"
    assert stored(database) == 0


def test_a_deadline_that_can_be_met_enqueues_the_job(program: Program) -> None:
    """As a duration or as an instant; one that has passed, or is none, is bad usage."""
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert program.json("preflight", *NOOP, "--deadline", in_an_hour)["deadline"]["can_meet"] is True
    assert "can be met" in program("preflight", *NOOP, "--deadline", "1h").out
    assert program.json("enqueue", *NOOP, "--deadline", "1h")["job_id"] == 1
    for wrong in ("2020-01-01T00:00", "2026-13-01", "soon", "0s"):
        assert program("preflight", *NOOP, "--deadline", wrong).code == 2
    assert program("enqueue", *NOOP, "--dry-run", "--follow").code == 2


def test_what_is_not_supported_is_said_at_preflight(program: Program, tmp_path: Path) -> None:
    """Unknown operations with what there is instead, wrong rows with their line: as at enqueue, exit code 2."""
    command = ("preflight", "enforcement", "--provider", "spotify", "--items", "items.csv")
    error = program.json(*command, "--operation", "delete_account", code=2)["error"]
    assert "operation 'delete_account' is unknown at spotify" in error["message"]
    assert "unsave_tracks" in error["remedy"]
    (tmp_path / "items.csv").write_text("track\n4uLU6hMCjMI75M1A2tKUQC\nnonsense\n")
    wrong = program.json(*command, "--operation", "unsave_tracks", code=2)["error"]
    assert wrong["line"] == 3
    left = program.json(*command, "--operation", "unsave_tracks", "--skip-invalid")
    assert (left["items"], left["skipped"], left["requests"]) == (1, 1, 2)


def test_what_the_windows_hold_now_and_what_was_measured_count(program: Program, database: Database) -> None:
    """After a run the window is used and answers have a latency; a cool-down comes on top."""
    before = program.json("preflight", *NOOP)
    assert any("too few requests" in note for note in before["notes"])
    write_items(Path("few.csv"), range(20))
    program("enqueue", "noop", "--provider", "noop", "--items", "few.csv", "--batch-size", "1")
    program.work()
    after = program.json("preflight", *NOOP)
    assert after["windows"][0]["used"] == 20
    assert after["measured"]["requests"] == 20
    assert after["measured"]["latency_s"] < 1.0
    assert after["p50_s"] > before["p50_s"] + 20
    limits.save_cooldowns(database, "noop", [Cooldown("noop", 3600.0)])
    with JobQueue(Settings.from_environ(program.environment)) as queue:
        queue._connection.flushall()
    paused = program.json("preflight", *NOOP)
    assert paused["p50_s"] > 3600
    assert any("nothing is sent before the pause of noop" in note for note in paused["notes"])


def test_what_is_not_known_is_said(program: Program, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker, other jobs, no Redis: the estimate stands, with a note."""
    new_job(database, 7)
    notes = " ".join(program.json("preflight", *NOOP)["notes"])
    assert "no worker listens to default now: assumed is one" in notes
    assert "1 other job of noop is active with 7 items left" in notes
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    found = program.json("preflight", *NOOP)
    assert found["requests"] == 60
    assert any("what the windows hold now is not known" in note for note in found["notes"])


def test_a_request_that_no_window_could_ever_hold_is_refused(program: Program, database: Database) -> None:
    """Its cost and the window are named: an estimate would be endless."""
    program("limits", "set", "noop", "--unit-windows", "10 per 1 day")
    operation = Operation(name="noop", columns=("item",), max_size=1000, cost_units=50, is_observed=False)
    work = Work(JobRequest("noop", "noop", operation="noop"), operation, BatchConfig(1, 1, 1), item_count=3)
    settings = Settings.from_environ(program.environment)
    with JobQueue(settings) as queue, pytest.raises(CostExceedsLimitError, match=r"50 units.*noop: 10 per 1 day"):
        preflight(database, queue._limiter("noop"), settings, work, workers=1)


def test_recent_requests_are_read_from_the_index(database: Database) -> None:
    """However many were sent: the newest of the scope, not a scan of the table."""
    job_id = new_job(database, 1)
    sql(
        database,
        "INSERT INTO batches (job_id, part, no, first_seq, last_seq, item_count, status, idempotency_key, scope,"
        " cost_units, requests, sent_at, deadline_at, closed_at)"
        " SELECT %(j)s, 0, n, 0, 0, 1, 'recorded', 'k', CASE n %% 2 WHEN 0 THEN 'noop:noop' ELSE 'other' END, 1, 1,"
        " now() - n * interval '1 ms', now() + interval '1 hour', now() - n * interval '1 ms' + interval '200 ms'"
        " FROM generate_series(1, 20000) AS n",
        {"j": job_id},
    )
    params = {"scope": "noop:noop", "count": 500, "since_s": 3600.0}
    with database.transaction() as connection:
        connection.execute("ANALYZE batches")
        rows = connection.execute(
            "EXPLAIN (ANALYZE, BUFFERS OFF, COSTS OFF) " + query("recent_sends"), params
        ).fetchall()
    plan = "\n".join(str(row["QUERY PLAN"]) for row in rows)
    assert "batches_scope_sent_at_idx" in plan
    assert "Seq Scan" not in plan
    found = database.row("recent_sends", params)
    assert found is not None
    assert (found["count"], round(found["latency_s"], 3), found["repeats"]) == (500, 0.2, 0)


@pytest.mark.slow
def test_a_large_file_is_read_in_bounded_memory(program: Program, tmp_path: Path) -> None:
    """Two hundred thousand rows take hardly more memory than two hundred."""
    write_items(tmp_path / "large.csv", range(200_000))
    write_items(tmp_path / "small.csv", range(200))

    def peak_kib(name: str) -> int:
        script = (
            "import resource, sys; from jobqueue.cli.main import main;"
            f"code = main(['preflight', 'noop', '--provider', 'noop', '--items', '{name}', '--json']);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
        )
        argv = [sys.executable, "-c", script]
        run = subprocess.run(
            argv, env=program.environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert run.returncode == 0, run.stderr
        return int(run.stderr)

    assert peak_kib("large.csv") - peak_kib("small.csv") < 40 * 1024


# --- against a real run ---


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxProcess]:
    with start_sandbox(tmp_path / "sandbox", seed_library=400, limit="20/2", latency_ms=100) as running:
        yield running


@pytest.fixture
def at_work(redis_url: str, database_url: str, sandbox: SandboxProcess, tmp_path: Path) -> Iterator[Settings]:
    """A worker and a scheduler for the sandbox."""
    names = os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "JOBQUEUE_SPOTIFY_BASE_URL": sandbox.base_url,
        "JOBQUEUE_SPOTIFY_ACCESS_TOKEN": "sandbox-demo",
    }
    commands = [[BIN / "rq", "worker", "high", "default", "low"], [BIN / "jobqueue", "scheduler"]]
    with (tmp_path / "log").open("wb") as log:
        processes = [subprocess.Popen(command, env=names, stdout=log, stderr=log) for command in commands]
    yield Settings.from_environ(names)
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=40)


def unsave(first: int, count: int) -> tuple[JobRequest, Rows]:
    request = JobRequest(
        type="enforcement",
        provider="spotify",
        account="demo",
        operation="unsave_tracks",
        options={"batch_size": 2},
    )
    return request, Rows([seed_track_id(n) for n in range(first, first + count)])


def wait_until_done(queue: JobQueue, job_id: int) -> float:
    """Seconds until the job succeeded."""
    started_s = time.monotonic()
    while not (job := queue.get_job_status(job_id).job).status.is_terminal:
        assert time.monotonic() - started_s < 60, job
        time.sleep(0.05)
    assert job.status is JobStatus.SUCCEEDED
    return time.monotonic() - started_s


def test_the_prediction_holds_in_a_real_run(at_work: Settings, sandbox: SandboxProcess) -> None:
    """120 requests through 20 in two seconds, in batches with a look each: within a factor of two of P50."""
    with JobQueue(at_work) as queue:
        queue.set_limits("spotify", windows="20 per 2 second")
        wait_until_done(queue, queue.enqueue_job(*unsave(0, 20)).job_id)
        found = queue.preflight_job(*unsave(20, 120))
        sent = len(list(read_ledger(sandbox.ledger_path)))
        took_s = wait_until_done(queue, queue.enqueue_job(*unsave(20, 120)).job_id)
        made = len(list(read_ledger(sandbox.ledger_path))) - sent

    assert (found.estimate.requests, made) == (120, 120)
    assert found.estimate.binding == "spotify: 20 per 2 second"
    assert found.plan.measured.count >= 10
    assert found.plan.workers == 1
    print(f"predicted P50 {found.estimate.p50_s:.2f} s, P90 {found.estimate.p90_s:.2f} s, measured {took_s:.2f} s")
    assert 0.5 < took_s / found.estimate.p50_s < 2.0
    with JobQueue(at_work) as queue:
        undo = queue.preflight_rollback(2)
    assert undo.work.item_count == 120
    assert undo.estimate.requests > 0
