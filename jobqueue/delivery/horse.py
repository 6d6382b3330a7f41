"""The RQ worker around a slice: who it is, and what it tells the slice at every boundary."""

from __future__ import annotations

import inspect
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
import structlog
from rq import worker_registration
from rq.job import get_current_job
from rq.worker import BaseWorker

from jobqueue.model.job import Priority

log = structlog.get_logger("jobqueue.horse")

YIELD_AFTER_S = 0.25
_LOOK_EVERY_S = 0.2
_YIELDING_KEY = "jobqueue:yielding"
_YIELDING_S = 1


def current_worker() -> BaseWorker | None:
    """The RQ worker that runs this call; None outside of one.

    RQ hands a job no reference to its worker, and what Redis knows of the worker may have been flushed; the worker
    itself is on the stack of every horse.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, BaseWorker):
            return owner
        frame = frame.f_back
    return None


def current_rq_id() -> str:
    """The RQ id of the job being run; empty outside of one."""
    job = get_current_job()
    return "" if job is None else str(job.id)


class WorkerSignals:
    """Shutdown, orphanhood and higher work, looked for at most five times a second.

    Attributes:
        queues: The queues this worker takes hints from, highest first.

    RQ does not pass SIGTERM on to a horse: the worker notes the request in Redis. A service manager may signal the
    whole group, so the horse listens too instead of dying.
    """

    def __init__(
        self, connection: redis.Redis, priority: Priority, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._worker = current_worker()
        self._parent = os.getppid()
        self._looked_at_s = float("-inf")
        self._reason = ""
        self._heads: dict[str, tuple[bytes, float]] = {}
        names = [] if self._worker is None else self._worker.queue_names()
        self._higher = [p.queue for p in Priority if p < priority and p.queue in names]
        self.queues = [p.queue for p in Priority if p.queue in names] or [priority.queue]
        self._register()

    def listen(self) -> None:
        """Take SIGTERM as a request to stop at the next boundary."""
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, signum: int, frame: FrameType | None) -> None:
        self._reason = "shutdown"

    def _register(self) -> None:
        """After a flush RQ knows its living workers no more, and never tells them: put this one back."""
        worker = self._worker
        if worker is None or self._connection.hexists(worker.key, "birth"):
            return
        if worker.birth_date is not None and worker.last_heartbeat is not None:
            worker_registration.register(worker)
            self._connection.hset(worker.key, mapping=worker.serialize())
            self._connection.expire(worker.key, worker.worker_ttl + 60)

    def stop_reason(self) -> str:
        """Why the slice must stop; empty to go on."""
        if self._reason:
            return self._reason
        if os.getppid() != self._parent:
            self._reason = "orphaned"
            return self._reason
        if self._worker is None or self._clock() - self._looked_at_s < _LOOK_EVERY_S:
            return ""
        self._looked_at_s = self._clock()
        try:
            return self._look(self._worker)
        except redis.exceptions.RedisError:
            return "redis is away"

    def _look(self, worker: BaseWorker) -> str:
        pipeline = self._connection.pipeline(transaction=False)
        pipeline.hget(worker.key, "shutdown_requested_date")
        for name in self._higher:
            pipeline.lindex(f"rq:queue:{name}", 0)
        shutdown, *heads = pipeline.execute()
        if shutdown is not None:
            self._reason = "shutdown"
            return self._reason
        for name, head in zip(self._higher, heads, strict=True):
            if self._waits_too_long(name, head) and self._may_yield():
                self._reason = "yield"
                return self._reason
        return ""

    def _waits_too_long(self, name: str, head: bytes | None) -> bool:
        """Whether the same hint has been first in line since we first saw it, on our own clock."""
        if head is None:
            self._heads.pop(name, None)
            return False
        known, since_s = self._heads.get(name, (None, 0.0))
        if known != head:
            self._heads[name] = (head, self._clock())
            return False
        return self._clock() - since_s >= YIELD_AFTER_S

    def _may_yield(self) -> bool:
        """One slice makes way at a time: one hint needs one worker."""
        return bool(self._connection.set(_YIELDING_KEY, b"1", nx=True, ex=_YIELDING_S))


def describe_worker(worker: BaseWorker) -> dict[str, Any]:
    """A worker as JSON, for ``jobqueue workers``."""
    job = worker.get_current_job() if worker.get_state() == "busy" else None
    return {
        "name": worker.name,
        "host": worker.hostname,
        "pid": worker.pid,
        "queues": worker.queue_names(),
        "state": str(worker.get_state()),
        "job": "" if job is None else job.description,
        "last_heartbeat": None if worker.last_heartbeat is None else worker.last_heartbeat.isoformat(),
        "succeeded": worker.successful_job_count,
        "failed": worker.failed_job_count,
    }
