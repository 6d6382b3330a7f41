"""Servers that go away in mid-run, and work of higher priority that comes in."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from lab import Lab, account, laboratory

from handlers.sandbox.seed import seed_artist_id, seed_track_id
from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.local import LocalStack
from jobqueue.model.job import JobRequest, Priority

pytestmark = pytest.mark.timeout(180)

ITEMS = 800


@pytest.fixture
def lab(redis_url: str, database_url: str) -> Iterator[Lab]:
    """Two workers, a scheduler, a provider that takes its time."""
    with laboratory(redis_url, database_url, items=ITEMS, limit="400/5", latency_ms=400, workers=2) as running:
        with JobQueue(running.settings) as queue:
            queue.set_limits("spotify", windows="400 per 5 second")
        yield running


def enqueue(queue: JobQueue, priority: Priority = Priority.DEFAULT) -> int:
    """The job all of it is about."""
    request = JobRequest(
        type="enforcement", provider="spotify", account="demo", operation="unsave_tracks", priority=priority
    )
    return queue.enqueue_job(request, Rows([seed_track_id(n) for n in range(ITEMS)])).job_id


@pytest.mark.parametrize("server", ["valkey", "postgres"])
def test_a_server_killed_and_restarted_in_mid_run(lab: Lab, stack: LocalStack, server: str) -> None:
    """Slices stop at a boundary or ask what became of their commit: nothing lost, nothing repeated, no 429."""
    with JobQueue(lab.settings) as queue:
        job_id = enqueue(queue)
        lab.sandbox.wait_for("arrivals", 12)
        getattr(stack, server).kill()
        getattr(stack, server).start()
        lab.revive()
        lab.wait(queue, job_id, timeout_s=90)

    result = account(lab, job_id, ITEMS, 0.0)
    assert result.repeated == 0
    assert result.violations == []


def test_a_high_job_does_not_wait_for_low_slices(lab: Lab) -> None:
    """Every worker is busy with a low job: one makes way at the next boundary."""
    with JobQueue(lab.settings) as queue:
        enqueue(queue, Priority.LOW)
        lab.sandbox.wait_for("arrivals", 12)
        request = JobRequest(
            type="enforcement", provider="spotify", account="demo", operation="unfollow_artists", priority=Priority.HIGH
        )
        asked_s = time.monotonic()
        high = queue.enqueue_job(request, Rows([seed_artist_id(0)]))
        lab.wait(queue, high.job_id, timeout_s=30)
        took_s = time.monotonic() - asked_s
        low = queue.list_jobs()[-1]

    # A low slice lasts 20 s; the bound leaves a loaded machine room, and still tells yielding from waiting.
    assert took_s < 12
    assert low["status"] in {"running", "parked"}
