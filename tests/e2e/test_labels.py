"""Jobs with one label on real workers: never at the same time, through flushes and kills, and not for ever."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from jobqueue.delivery.queue import JobQueue
from jobqueue.engine import registry
from jobqueue.engine.intake import Rows
from jobqueue.model.job import JobRequest, JobStatus
from jobqueue.model.label import ConcurrencyLimit
from jobqueue.model.progress import JobProgress
from jobqueue.settings import Settings

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent.parent

# A provider that takes its time: what two slices do at once would show in the batches' times.
HANDLER = """
import time

from jobqueue.handler import BaseHandler
from jobqueue.model.item import SUCCEEDED
from jobqueue.model.label import ConcurrencyLimit


class RechunkJobHandler(BaseHandler):
    job_type = "rechunk"
    concurrency = ConcurrencyLimit("rechunk:{account}", capacity=1)

    def apply(self, call):
        time.sleep(0.05)
        return [SUCCEEDED] * len(call.items)
"""


@pytest.fixture
def settings(redis_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Three workers and a scheduler, with the job type ``rechunk`` and slices of a second."""
    info = tmp_path / "rechunk_handlers-1.0.dist-info"
    info.mkdir()
    (tmp_path / "rechunk_handlers.py").write_text(HANDLER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rechunk-handlers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jobqueue.handlers]\nrechunk = rechunk_handlers:RechunkJobHandler\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._load.cache_clear()
    paths = [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "JOBQUEUE_SLICE_S": "1",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    with (tmp_path / "log").open("wb") as log:
        commands = [[BIN / "rq", "worker", "high", "default", "low"]] * 3 + [[BIN / "jobqueue", "scheduler"]]
        processes = [
            subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log) for command in commands
        ]
    yield Settings.from_environ(environment)
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=40)
    registry._load.cache_clear()
    sys.modules.pop("rechunk_handlers", None)


def request(account: str = "demo", **more: object) -> JobRequest:
    fields = {"type": "rechunk", "provider": "noop", "account": account, "operation": "noop"}
    return JobRequest(**(fields | {"options": {"batch_size": 1}} | more))  # type: ignore[arg-type]


def enqueue(queue: JobQueue, count: int, asked: JobRequest) -> int:
    return queue.enqueue_job(asked, Rows([f"i{n}" for n in range(count)])).job_id


def wait_for(
    queue: JobQueue, job_id: int, is_so: Callable[[JobProgress], object], *, longest_s: float = 80.0
) -> JobProgress:
    ends_s = time.monotonic() + longest_s
    while not is_so(progress := queue.get_job_status(job_id)):
        assert time.monotonic() < ends_s, progress.as_dict()
        time.sleep(0.02)
    return progress


def ended(progress: JobProgress) -> bool:
    return progress.job.status.is_terminal


def intervals(database_url: str, job_id: int) -> list[tuple[datetime, datetime]]:
    """From the intent to the record of each request of the job."""
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "SELECT sent_at, closed_at FROM batches WHERE job_id = %s ORDER BY sent_at", [job_id]
        ).fetchall()


def overlaps(some: list[tuple[datetime, datetime]], others: list[tuple[datetime, datetime]]) -> int:
    return sum(a_from < b_to and b_from < a_to for a_from, a_to in some for b_from, b_to in others)


def turns(some: list[tuple[datetime, datetime]], others: list[tuple[datetime, datetime]]) -> int:
    """How often work went from one to the other."""
    order = sorted([(start, 0) for start, _ in some] + [(start, 1) for start, _ in others])
    return sum(a[1] != b[1] for a, b in itertools.pairwise(order))


def test_two_jobs_with_one_label_never_work_at_the_same_time(settings: Settings, database_url: str) -> None:
    """They take turns on three workers, through FLUSHALL again and again; not a request of one meets one of the other.

    A third job of another account works beside them: the workers were there for it.
    """
    with JobQueue(settings) as queue, redis.Redis.from_url(settings.redis_url) as client:
        first, second = (enqueue(queue, 240, request()) for _ in range(2))
        beside = enqueue(queue, 240, request("other"))
        wait_for(queue, beside, lambda progress: progress.done > 0)
        for done in (40, 100):
            wait_for(queue, first, lambda progress, done=done: progress.done >= done)
            client.flushall()
        results = [wait_for(queue, job_id, ended) for job_id in (first, second, beside)]

    assert [result.succeeded for result in results] == [240] * 3
    a, b, c = (intervals(database_url, job_id) for job_id in (first, second, beside))
    assert overlaps(a, b) == 0
    assert turns(a, b) >= 2
    assert overlaps(a, c) + overlaps(b, c) > 0


def test_a_capacity_of_two_lets_two_work_at_once(settings: Settings, database_url: str) -> None:
    """Of three jobs with a label of their own two at a time, never three."""
    limit = ConcurrencyLimit("pair:{account}", capacity=2)
    with JobQueue(settings) as queue:
        job_ids = [enqueue(queue, 120, request(concurrency=limit)) for _ in range(3)]
        results = [wait_for(queue, job_id, ended) for job_id in job_ids]

    assert all(result.succeeded == 120 for result in results)
    found = [intervals(database_url, job_id) for job_id in job_ids]
    events = sorted(
        (at, step, n) for n, each in enumerate(found) for start, end in each for at, step in ((start, 1), (end, -1))
    )
    open_requests, most = [0, 0, 0], 0
    for _, step, n in events:
        open_requests[n] += step
        most = max(most, sum(each > 0 for each in open_requests))
    assert most == 2


def test_a_killed_holder_lets_the_next_one_in_at_once(settings: Settings, database_url: str) -> None:
    """SIGKILL of the horse that is inside: the other job starts long before the permit would have run out."""
    with JobQueue(settings) as queue:
        first = enqueue(queue, 2000, request())
        wait_for(queue, first, lambda progress: progress.done > 0)
        second = enqueue(queue, 20, request())
        wait_for(queue, second, lambda progress: progress.waiting_for)
        with psycopg.connect(database_url) as connection:
            query = "SELECT holder_pid FROM concurrency_holders WHERE job_id = %s"
            while (row := connection.execute(query, [first]).fetchone()) is None:
                connection.rollback()
        killed_s = time.monotonic()
        psutil.Process(row[0]).kill()
        wait_for(queue, second, lambda progress: progress.done > 0)
        took_s = time.monotonic() - killed_s
        queue.cancel_job(first)
        assert wait_for(queue, second, ended).job.status is JobStatus.SUCCEEDED

    assert took_s < 10
    assert overlaps(intervals(database_url, second), [i for i in intervals(database_url, first) if i[1]]) == 0


def test_a_job_that_waits_too_long_fails_and_can_be_retried(settings: Settings) -> None:
    """It says what it waits for, then why it failed and who was inside; once that one has ended, a retry succeeds."""
    limit = ConcurrencyLimit("one:{account}", max_sleep_s=2.0)
    patient = ConcurrencyLimit("one:{account}")
    with JobQueue(settings) as queue:
        # A single request that holds the permit over several slices' time: one item after another, in one part.
        first = enqueue(queue, 20, request(concurrency=patient, options={"batch_size": 1}))
        wait_for(queue, first, ended)
        holder = queue._database
        holder.connection.execute(
            "INSERT INTO concurrency_holders (label, holder, holder_host, holder_pid, holder_started, job_id, capacity,"
            " until) VALUES ('one:demo', 'a lost host', 'elsewhere', 1, 1, %s, 1, now() + interval '1 hour')",
            [first],
        )
        second = enqueue(queue, 20, request(concurrency=limit))
        waiting = wait_for(queue, second, lambda progress: progress.waiting_for)
        failed = wait_for(queue, second, ended, longest_s=15)
        letters = queue.dead_letters(job_id=second)
        holder.connection.execute("DELETE FROM concurrency_holders")
        queue.retry_job(second)
        retried = wait_for(queue, second, ended)

    assert waiting.waiting_for == "one:demo (1 of 1 in use)"
    assert failed.job.status is JobStatus.FAILED
    assert failed.succeeded == 0
    assert f"job {second} waited 2 s for a permit of 'one:demo' and may wait 2 s" in failed.job.status_reason
    assert f"inside: job {first}" in failed.job.status_reason
    assert [letter["fingerprint"] for letter in letters] == ["ConcurrencyLimitExceededError: one:demo"]
    assert retried.job.status is JobStatus.SUCCEEDED
