"""Workers started by the facade, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import redis

from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.errors import InvalidInputError
from jobqueue.model.job import JobRequest, JobStatus
from jobqueue.model.worker import WorkerConfig
from jobqueue.settings import Settings

START = """
from jobqueue.delivery.queue import JobQueue
from jobqueue.model.worker import WorkerConfig
from jobqueue.settings import Settings
with JobQueue(Settings.from_environ()) as queue:
    queue.get_job_status(1)
    queue.start_worker(WorkerConfig({config}), burst=True)
"""


def work(settings: Settings, config: str = "") -> str:
    """Run a worker in a process of its own until nothing is left to do; what it said."""
    environment = os.environ | {"REDIS_URL": settings.redis_url, "DATABASE_URL": settings.database_url}
    done = subprocess.run(
        [sys.executable, "-c", START.format(config=config)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=90,
    )
    return done.stderr.decode()


@pytest.fixture
def settings(redis_url: str, database_url: str) -> Settings:
    """Servers of this test."""
    return Settings(redis_url=redis_url, database_url=database_url)


def enqueue(settings: Settings, count: int = 250, max_run_s: float | None = None) -> int:
    """A job of *count* items."""
    with JobQueue(settings) as queue:
        request = JobRequest(type="noop", provider="noop", operation="noop", max_run_s=max_run_s)
        return queue.enqueue_job(request, Rows([f"i{n}" for n in range(count)])).job_id


def test_start_worker_runs_rqs_own_worker(settings: Settings) -> None:
    """The facade's connections do not cross the fork; the job is worked off."""
    job_id = enqueue(settings)
    work(settings, "in_flight=2")

    with JobQueue(settings) as queue:
        progress = queue.get_job_status(job_id)
    assert progress.job.status is JobStatus.SUCCEEDED
    assert progress.succeeded == 250


def test_a_worker_leaves_job_types_it_does_not_take(settings: Settings) -> None:
    """A hint that reached the wrong worker costs nothing; the job stays for another one."""
    job_id = enqueue(settings)
    work(settings, "job_types=('enforcement',)")

    with JobQueue(settings) as queue:
        assert queue.get_job_status(job_id).job.status is JobStatus.QUEUED
        assert queue.get_job_status(job_id).held_parts == 0


def test_a_worker_refuses_unknown_job_types(settings: Settings) -> None:
    """A misspelt job type is an error, not a worker that never works."""
    with JobQueue(settings) as queue, pytest.raises(InvalidInputError, match="Did you mean 'enforcement'"):
        queue.start_worker(WorkerConfig(job_types=("enforcment",)))


def test_a_job_that_takes_too_long_fails_and_says_what_is_undone(settings: Settings) -> None:
    """The worker's own bound on a job's time."""
    job_id = enqueue(settings)
    work(settings, "max_run_s=0.000001")

    with JobQueue(settings) as queue:
        job = queue.get_job_status(job_id).job
        letters = queue.dead_letters(job_id=job_id)
    assert job.status is JobStatus.FAILED
    assert "250 of 250 items are undone" in job.status_reason
    assert [letter["seq"] for letter in letters] == [None]


def test_every_key_left_in_redis_expires(settings: Settings) -> None:
    """After a job nothing stays in Redis for ever, but RQ's own sets of names."""
    enqueue(settings)
    work(settings)

    with redis.Redis.from_url(settings.redis_url) as connection:
        lasting = {key for key in connection.scan_iter() if connection.ttl(key) == -1}
    names = {f"rq:{kind}:{queue}" for kind in ("finished", "clean_registries") for queue in ("default", "low")}
    assert {key.decode() for key in lasting} <= {"rq:queues", *names}
