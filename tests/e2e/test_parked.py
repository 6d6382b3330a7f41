"""A parked job holds no worker and goes on when its time has come."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rq import Worker

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from handlers.sandbox.ledger import read_ledger
from handlers.sandbox.seed import seed_track_id
from jobqueue.delivery import queues
from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.model.job import JobRequest, JobStatus
from jobqueue.model.progress import JobProgress
from jobqueue.settings import Settings

pytestmark = pytest.mark.timeout(120)

BIN = Path(sys.executable).parent
WINDOW_S = 8


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxProcess]:
    with start_sandbox(tmp_path / "sandbox", seed_library=400, limit=f"8/{WINDOW_S}", latency_ms=50) as running:
        yield running


@pytest.fixture
def settings(redis_url: str, database_url: str, sandbox: SandboxProcess, tmp_path: Path) -> Iterator[Settings]:
    environment = os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "JOBQUEUE_SPOTIFY_BASE_URL": sandbox.base_url,
        "JOBQUEUE_SPOTIFY_ACCESS_TOKEN": "sandbox-demo",
    }
    with (tmp_path / "log").open("wb") as log:
        commands = [[BIN / "rq", "worker", "high", "default", "low"], [BIN / "jobqueue", "scheduler"]]
        processes = [subprocess.Popen(command, env=environment, stdout=log, stderr=log) for command in commands]
    yield Settings.from_environ(environment)
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=40)


def wait_for(queue: JobQueue, job_id: int, is_so: Callable[[JobProgress], object]) -> JobProgress:
    ends_s = time.monotonic() + 60
    while not is_so(progress := queue.get_job_status(job_id)):
        assert time.monotonic() < ends_s, progress.as_dict()
        time.sleep(0.02)
    return progress


def test_a_parked_job_holds_no_worker_and_resumes_within_three_seconds(
    settings: Settings, sandbox: SandboxProcess
) -> None:
    """While the quota is used up the worker is idle and the job says what it waits for; then it goes on at once."""
    with JobQueue(settings) as queue:
        queue.set_limits("spotify", windows=f"8 per {WINDOW_S} second")
        request = JobRequest(type="enforcement", provider="spotify", account="demo", operation="unsave_tracks")
        job_id = queue.enqueue_job(request, Rows([seed_track_id(n) for n in range(250)])).job_id
        parked = wait_for(queue, job_id, lambda progress: progress.job.status is JobStatus.PARKED)
        with queues.connect(settings.redis_url) as connection:
            # The horse takes a moment to end after it has given the part up.
            idle = wait_for(
                queue,
                job_id,
                lambda _: all(worker.get_state() == "idle" for worker in Worker.all(connection=connection)),
            )
        ended = wait_for(queue, job_id, lambda progress: progress.job.status.is_terminal)

    assert idle.job.status is JobStatus.PARKED
    assert parked.held_parts == 0
    assert parked.waiting_for == f"spotify: 8 per {WINDOW_S} second"
    assert parked.next_due_in_s is not None
    assert ended.succeeded == 250
    entries = list(read_ledger(sandbox.ledger_path))
    assert all(entry.status == 200 for entry in entries)
    gaps_s = [(b.mono_ns - a.mono_ns) / 1e9 for a, b in itertools.pairwise(entries)]
    assert max(gaps_s) < WINDOW_S + 3


def test_pause_is_obeyed_within_two_seconds_and_resume_goes_on(settings: Settings, sandbox: SandboxProcess) -> None:
    """What is in flight is recorded, then nothing more is sent until a person says so."""
    with JobQueue(settings) as queue:
        sandbox.control("limits", {"limits": "1000/8"})
        sandbox.control("latency", {"latency_ms": 400, "jitter": 0})
        queue.set_limits("spotify", windows="1000 per 8 second")
        request = JobRequest(
            type="enforcement",
            provider="spotify",
            account="demo",
            operation="unsave_tracks",
            options={"batch_size": 2},
        )
        job_id = queue.enqueue_job(request, Rows([seed_track_id(n) for n in range(120)])).job_id
        sandbox.wait_for("arrivals", 8)
        queue.pause_job(job_id)
        asked_s = time.monotonic()
        paused = wait_for(queue, job_id, lambda progress: not progress.held_parts)
        took_s = time.monotonic() - asked_s
        sent = len(list(read_ledger(sandbox.ledger_path)))
        still = queue.get_job_status(job_id)
        queue.resume_job(job_id)
        ended = wait_for(queue, job_id, lambda progress: progress.job.status.is_terminal)

    assert paused.job.status is JobStatus.PAUSED
    assert took_s < 2 + 2 * 0.4
    assert 0 < still.done < 120
    assert still.in_flight == 0
    assert sent <= 2 * (still.done // 2) + 2 * 4
    assert ended.succeeded == 120


def test_rolling_back_a_running_job_cancels_it_first_and_restores_all(
    settings: Settings, sandbox: SandboxProcess
) -> None:
    """The rollback waits until nothing of the job is on the wire; afterwards the library is what it was."""
    with JobQueue(settings) as queue:
        sandbox.control("limits", {"limits": "1000/8"})
        queue.set_limits("spotify", windows="1000 per 8 second")
        before = {track["id"] for track in sandbox.control("state", account="demo")["tracks"]}
        request = JobRequest(
            type="enforcement",
            provider="spotify",
            account="demo",
            operation="unsave_tracks",
            options={"batch_size": 2},
        )
        job_id = queue.enqueue_job(request, Rows([seed_track_id(n) for n in range(300)])).job_id
        sandbox.wait_for("arrivals", 20)
        rollback = queue.rollback_job(job_id)
        ended = wait_for(queue, rollback.job_id, lambda progress: progress.job.status.is_terminal)
        cancelled = queue.get_job_status(job_id)

    after = {track["id"] for track in sandbox.control("state", account="demo")["tracks"]}
    assert cancelled.job.status is JobStatus.CANCELLED
    assert cancelled.cancelled == 300 - cancelled.done > 0
    assert ended.job.status is JobStatus.SUCCEEDED
    assert ended.total >= cancelled.succeeded > 0
    assert after == before
