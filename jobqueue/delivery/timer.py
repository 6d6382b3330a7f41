"""Keeping the time where no scheduler is alive.

Then nobody but slices sweeps and hints, so two things hold as long as a job has work. While a slice runs, a spare hint
at its job waits in a queue: a worker whose horse was killed finds it. And a slice that has nothing to do stays as the
timer until a part falls due or a dead holder's lease can be ended. An idle worker that takes the spare hint while a
slice is at work leaves the next one and stays as the timer too, so that it neither spins nor leaves the job unguarded;
it makes way as soon as any other hint waits for it.
"""

from __future__ import annotations

import time
from contextlib import suppress

import redis
import structlog

from jobqueue.delivery import queues
from jobqueue.delivery.dispatch import LEADER_ROLE, dispatch
from jobqueue.delivery.horse import WorkerSignals
from jobqueue.engine import sweep
from jobqueue.errors import ServerUnavailableError
from jobqueue.model.job import Job
from jobqueue.store import due
from jobqueue.store.database import Database

log = structlog.get_logger("jobqueue.timer")

_LOOK_S = 0.25
_SWEEP_S = 1.0
_GUARD_EVERY_S = 5.0
_LONGEST_RUN_S = queues.JOB_TIMEOUT_S - 20.0


class Timer:
    """What a slice's process does for its job besides working: it guards it, and keeps the time. Is its `Signals`."""

    def __init__(self, database: Database, connection: redis.Redis, job: Job, worker: WorkerSignals) -> None:
        self._database = database
        self._connection = connection
        self._job = job
        self._worker = worker
        self._started_at_s = time.monotonic()
        self._guarded_at_s = float("-inf")

    def stop_reason(self) -> str:
        """Why the slice must stop; empty to go on."""
        reason = self._worker.stop_reason()
        if not reason and time.monotonic() - self._guarded_at_s >= _GUARD_EVERY_S:
            self.guard()
        return reason

    def guard(self) -> None:
        """While no scheduler leads, make sure that a spare hint at the job waits."""
        self._guarded_at_s = time.monotonic()
        with suppress(ServerUnavailableError, redis.exceptions.RedisError):
            if due.leader(self._database, LEADER_ROLE) is None:
                # The lowest of this worker's queues: where it hides no other hint.
                queues.leave_spare(self._connection, self._job, self._worker.queues[-1])

    def pass_on(self, *, longest_s: float, reason: str) -> None:
        """Hint at what is due; where no scheduler is alive, stay until something is, at most for *longest_s*."""
        given = dispatch(self._database, self._connection, job_id=self._job.id, count=2)
        if reason == "shutdown" or due.leader(self._database, LEADER_ROLE) is not None:
            return
        if given:
            dispatch(self._database, self._connection)  # other jobs too: nobody else does
            return
        self._stay(min(time.monotonic() + longest_s, self._started_at_s + _LONGEST_RUN_S))
        self.guard()

    def _stay(self, ends_at_s: float) -> None:
        is_said = False
        while True:
            sweep.sweep(self._database)
            if dispatch(self._database, self._connection):
                return
            _, held, next_s = due.job_work(self._database, self._job.id)
            if next_s is None:
                return  # it has ended or is paused
            if not is_said:
                log.warning(
                    "no scheduler is alive: staying as the timer", job=self._job.id, next_due_in_s=round(next_s, 1)
                )
                is_said = True
            # A holder may die at any time; what is due was hinted at and waits for somebody to take it.
            wait_s = _SWEEP_S if next_s <= 0 or (held and next_s > _SWEEP_S) else next_s
            if not self._sleep(min(time.monotonic() + wait_s, ends_at_s)) or time.monotonic() >= ends_at_s:
                return

    def _sleep(self, until_s: float) -> bool:
        """Sleep; False when there is a reason to make way: other work, or the worker stops."""
        while (left_s := until_s - time.monotonic()) > 0:
            if self.stop_reason() or queues.waiting(self._connection, self._worker.queues):
                return False
            time.sleep(min(_LOOK_S, left_s))
        return True
