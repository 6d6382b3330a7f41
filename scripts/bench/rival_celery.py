"""The work done with Celery: one task a request, ``rate_limit`` in each worker, retried after a 429's Retry-After.

``python rival_celery.py WORKERS CALLS`` waits for the workers and sends the tasks.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import requests
from celery import Celery

WORK = json.loads(os.environ["BENCH_WORK"])
START_S = 60.0

app = Celery("rival_celery", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(
    # One task for each process: with more, a worker would hold back what the others could do.
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)
_local = threading.local()


def session() -> requests.Session:
    """This process's session."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.trust_env = False
        _local.session.headers["Authorization"] = f"Bearer {WORK['token']}"
    held: requests.Session = _local.session
    return held


@app.task(bind=True, name="look", rate_limit=WORK["rate"], max_retries=None)  # type: ignore[untyped-decorator]
def look(self: Any) -> None:
    """One request."""
    answer = session().get(WORK["url"], timeout=30)
    if answer.status_code == requests.codes.too_many_requests:
        raise self.retry(countdown=float(answer.headers["Retry-After"]))
    answer.raise_for_status()


def main() -> None:
    """Send the tasks once all workers answer."""
    workers, calls = int(sys.argv[1]), int(sys.argv[2])
    until_s = time.monotonic() + START_S
    while len(app.control.ping(timeout=0.5)) < workers:
        if time.monotonic() > until_s:
            sys.exit("the workers did not answer")
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(calls):
            look.apply_async(producer=producer)


if __name__ == "__main__":
    main()
