"""The short form of the crash laboratory: literal workers, real servers, a real provider's ledger."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lab import Lab, account, laboratory, run

from handlers.sandbox.seed import seed_track_id
from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.model.job import JobRequest

pytestmark = pytest.mark.timeout(180)

ITEMS = 1200
LIMIT = "200/5"


@contextmanager
def running(redis_url: str, database_url: str, **options: Any) -> Iterator[Lab]:
    """A laboratory whose limits are the sandbox's."""
    with laboratory(redis_url, database_url, items=ITEMS, limit=LIMIT, latency_ms=400, **options) as lab:
        with JobQueue(lab.settings) as queue:
            queue.set_limits("spotify", windows="200 per 5 second")
        yield lab


def test_killed_workers_and_horses_lose_nothing_and_repeat_only_what_was_in_flight(
    redis_url: str, database_url: str
) -> None:
    """SIGKILL of workers, horses and both: every item once, every repeated call matched by a kill, no 429."""
    with running(redis_url, database_url) as lab:
        result = run(lab, items=ITEMS, kills=6, flushes=0, seed=7, timeout_s=150, gap_s=0.4)

    assert result.kills == 6
    assert result.violations == []


def test_a_flushed_redis_loses_nothing_and_overdraws_nothing(redis_url: str, database_url: str) -> None:
    """FLUSHALL in mid-run, again and again: the windows are rebuilt from the intents, the sweep hints anew."""
    with running(redis_url, database_url) as lab:
        result = run(lab, items=ITEMS, kills=0, flushes=4, seed=3, timeout_s=150, gap_s=0.6)

    assert result.flushes == 4
    assert result.violations == []
    assert max(result.stalls_s, default=0.0) <= 10 + 5  # the quota's own window on top


def test_without_a_scheduler_the_last_slice_keeps_the_time(redis_url: str, database_url: str) -> None:
    """Nobody sweeps: parked parts are still taken up again, through flushes too."""
    with running(redis_url, database_url, has_scheduler=False, workers=2) as lab:
        with JobQueue(lab.settings) as queue:
            queue.set_limits("spotify", windows="40 per 5 second")
        result = run(lab, items=ITEMS, kills=0, flushes=2, seed=5, timeout_s=150)

    assert result.violations == []


def test_a_deploy_repeats_nothing(redis_url: str, database_url: str) -> None:
    """SIGTERM to every worker in mid-run: slices stop at a boundary, and no call is sent twice."""
    with running(redis_url, database_url) as lab, JobQueue(lab.settings) as queue:
        request = JobRequest(type="enforcement", provider="spotify", account="demo", operation="unsave_tracks")
        job = queue.enqueue_job(request, Rows([seed_track_id(n) for n in range(ITEMS)]))
        for index in range(len(lab.workers)):
            lab.sandbox.wait_for("arrivals", 4 * (index + 1))
            lab.workers[index].send_signal(signal.SIGTERM)
            assert lab.workers[index].wait(timeout=35) == 0
            lab.workers[index] = lab._start_worker(index)
        lab.wait(queue, job.job_id, timeout_s=100)
        result = account(lab, job.job_id, ITEMS, 0.0)

    assert result.repeated == 0
    assert result.violations == []
