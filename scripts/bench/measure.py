"""The measurements: submit, work, the same as plain RQ."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import redis
from memory import MB, Memory
from rq import Queue
from rq.registry import FinishedJobRegistry

from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.local import ProcessSpec, Supervisor
from jobqueue.model.job import JobRequest
from jobqueue.settings import Settings

POLL_S = 0.25
FEWEST_READINGS = 10
# The middle of a job may be somewhat faster than its whole; more than this is a mistake in the measurement.
DISAGREEMENT = 1.25
SMALL_ITEMS = 100
SMALL_TIMES = 60
WORKERS = ("worker1", "worker2")
REQUEST = JobRequest(type="noop", provider="noop", operation="noop")
# A task that does nothing and that every worker can import.
PLAIN_TASK = "operator.not_"


def processes(settings: Settings, place: Path) -> Supervisor:
    """Two literal workers and the scheduler, their lines thrown away."""
    environment = settings.child_environment()
    commands: dict[str, tuple[str, ...]] = dict.fromkeys(WORKERS, ("rq", "worker", "high", "default", "low"))
    commands["scheduler"] = ("jobqueue", "scheduler")
    specs = [ProcessSpec(name=name, argv=argv, env=environment, cwd=place) for name, argv in commands.items()]
    return Supervisor(specs, on_line=lambda name, line: None, grace_s=10.0)


def submit_small(settings: Settings) -> float:
    """The median time, in ms, that `JobQueue.enqueue_job` takes for 100 items; no worker runs meanwhile."""
    times_ms = []
    with JobQueue(settings) as queue:
        for turn in range(SMALL_TIMES):
            started_s = time.perf_counter()
            job = queue.enqueue_job(REQUEST, Rows(f"{turn}-{n}" for n in range(SMALL_ITEMS)))
            times_ms.append((time.perf_counter() - started_s) * 1000)
            queue.cancel_job(job.job_id)
    return statistics.median(times_ms)


def submit_large(settings: Settings, place: Path, items: int) -> tuple[int, float, float]:
    """Submit a CSV file by the command line; the job's id, the seconds that took, and the command's peak RSS in MB."""
    file = place / "items.csv"
    with file.open("w") as stream:
        stream.write("item\n")
        stream.writelines(f"item-{n}\n" for n in range(items))
    command = ["jobqueue", "enqueue", "noop", "--provider", "noop", "--items", file.name, "--json"]
    started_s = time.perf_counter()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        cwd=place,
        env=settings.child_environment(),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    answer = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    took_s = time.perf_counter() - started_s
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with code {process.returncode}")
    # Kilobytes on Linux, bytes on macOS.
    peak_mb = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB
    return int(json.loads(answer)["job_id"]), took_s, peak_mb


def work(settings: Settings, supervisor: Supervisor, job_id: int) -> dict[str, float]:
    """Let the workers finish a submitted job: items/s from its first claim to its end, and the processes' memory.

    The job's own times are the database's wall clock; the pace between 10 % and 90 % by our monotonic clock must agree.
    """
    shares = [0.0]
    seen: list[tuple[float, int]] = []
    with JobQueue(settings) as queue, Memory(pids=supervisor.pids, share=lambda: shares[-1]) as memory:
        while not (progress := queue.get_job_status(job_id)).job.status.is_terminal:
            shares.append(progress.done / progress.total)
            seen.append((time.monotonic(), progress.done))
            time.sleep(POLL_S)
    job = progress.job
    with psycopg.connect(settings.database_url) as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM item_outcomes WHERE job_id = %(job)s AND status = 'succeeded'),"
            " (SELECT count(*) FROM batches WHERE job_id = %(job)s)",
            {"job": job_id},
        ).fetchone()
    if counts is None or counts[0] != progress.total or job.started_at is None or job.finished_at is None:
        sys.exit(f"the job did not succeed: {counts} of {progress.as_dict()}")
    by_client = _pace(seen, progress.total)
    figures = {
        "items_per_s": progress.total / (job.finished_at - job.started_at).total_seconds(),
        "items_a_batch": progress.total / counts[1],
        "worker_rss_mb": memory.worker_peak / MB,
        "horse_rss_mb": memory.horse_peak / MB,
    }
    if by_client is not None:
        if not 1 / DISAGREEMENT < by_client / figures["items_per_s"] < DISAGREEMENT:
            sys.exit(
                f"two clocks disagree: {figures['items_per_s']:,.0f} items/s by the database, {by_client:,.0f} by ours"
            )
        figures["items_per_s_by_client"] = by_client
    growth = memory.growth()
    return figures if growth is None else figures | {"horse_growth_mb": growth / MB}


def _pace(seen: list[tuple[float, int]], total: int) -> float | None:
    """Items/s between the readings nearest to 10 % and 90 %; None for a job too short to tell."""
    middle = [reading for reading in seen if 0.1 * total <= reading[1] <= 0.9 * total]
    if len(middle) < FEWEST_READINGS:
        return None
    (first_s, first), (last_s, last) = middle[0], middle[-1]
    return (last - first) / (last_s - first_s)


def as_items(settings: Settings, count: int) -> float:
    """Seconds from the submit of *count* no-op items to the last outcome."""
    with JobQueue(settings) as queue:
        started_s = time.perf_counter()
        job = queue.enqueue_job(REQUEST, Rows(f"plain-{n}" for n in range(count)))
        while not queue.get_job_status(job.job_id).job.status.is_terminal:
            time.sleep(0.01)
        return time.perf_counter() - started_s


def as_plain_rq(settings: Settings, count: int) -> float:
    """Seconds from the submit of *count* no-op RQ jobs, one for each, to the end of the last, on the same workers."""
    with redis.Redis.from_url(settings.redis_url) as connection:
        queue = Queue("default", connection=connection)
        finished = FinishedJobRegistry(queue=queue)
        before = connection.zcard(finished.key)
        data: list[Any] = [Queue.prepare_data(PLAIN_TASK, args=(0,), result_ttl=3600) for _ in range(count)]
        started_s = time.perf_counter()
        queue.enqueue_many(data)
        while connection.zcard(finished.key) - before < count:
            time.sleep(0.05)
        return time.perf_counter() - started_s
