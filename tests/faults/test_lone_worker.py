"""Workers without any scheduler whose horses are killed: nobody but they can notice."""

from __future__ import annotations

import psutil
import pytest
import redis
from lab import Lab, account, laboratory

from handlers.sandbox.seed import seed_track_id
from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.model.job import JobRequest

pytestmark = pytest.mark.timeout(120)

ITEMS = 20


def kill_horses_and_wait(lab: Lab, *, calls: int) -> int:
    """A job whose calls take seconds; every horse dies once *calls* are under way. The job's id once it has ended."""
    with JobQueue(lab.settings) as queue:
        request = JobRequest(
            type="enforcement", provider="spotify", account="demo", operation="unsave_tracks", options={"batch_size": 5}
        )
        job_id = queue.enqueue_job(request, Rows([seed_track_id(n) for n in range(ITEMS)])).job_id
        lab.sandbox.wait_for("arrivals", calls)
        # A worker that has nothing to send stands by: it is at the job too, and dies with the others.
        while not all(psutil.Process(worker.pid).children() for worker in lab.workers):
            pass
        for index in range(len(lab.workers)):
            assert lab.kill("horse", index)
        lab.wait(queue, job_id, timeout_s=60)
    return job_id


def spares(lab: Lab) -> int:
    """How many spare hints RQ has heard of within the last minute."""
    with redis.Redis.from_url(lab.redis_url) as client:
        return len(list(client.scan_iter("rq:job:spare-*")))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_worker_that_outlives_its_horse_takes_the_job_up_again(
    redis_url: str, database_url: str, workers: int
) -> None:
    """SIGKILL of every horse at once, with nobody to sweep: the job ends, and no idle worker span meanwhile."""
    with laboratory(
        redis_url, database_url, items=ITEMS, workers=workers, has_scheduler=False, limit="400/5", latency_ms=3000
    ) as lab:
        job_id = kill_horses_and_wait(lab, calls=4)
        result = account(lab, job_id, ITEMS, 0.0)
        count = spares(lab)

    assert result.kills == workers
    assert result.violations == []
    assert count <= 4 * workers
