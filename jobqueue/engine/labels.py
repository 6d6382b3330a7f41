"""A slice's permit: entered with before its first claim, renewed with its leases, given up when it leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from jobqueue.engine import registry
from jobqueue.engine.context import as_request
from jobqueue.errors import ConcurrencyLimitExceededError, ServerUnavailableError
from jobqueue.model.job import Job
from jobqueue.model.label import Label
from jobqueue.store import labels
from jobqueue.store.checkpoints import Holder
from jobqueue.store.database import Database
from jobqueue.store.labels import Entered, Idle, Waiting

__all__ = ["Idle", "Permit", "Waiting", "enter", "label_of"]

log = structlog.get_logger("jobqueue.labels")

_HOLDERS_NAMED = 3


class Permit:
    """The right of one slice to work under a label, as long as it is renewed. `renew` may come from any thread.

    Attributes:
        busy_s: How long a request of the slice may still be under way, once the slice has stopped.
        called: Jobs that may come in too.
    """

    def __init__(
        self,
        label: Label,
        job_id: int,
        holder: str,
        *,
        asked_at_s: float,
        clock: Callable[[], float] = time.monotonic,
        called: tuple[int, ...] = (),
    ) -> None:
        self.label = label
        self.busy_s = 0.0
        self.called = called
        self._job_id = job_id
        self._holder = holder
        self._clock = clock
        self._lock = threading.Lock()
        self._ends_at_s = asked_at_s + label.expiry_s

    def remaining_s(self) -> float:
        """Seconds the permit is certainly ours; 0 or less when it was lost."""
        with self._lock:
            return self._ends_at_s - self._clock()

    def renew(self, database: Database) -> None:
        """Make it last for another expiry.

        Raises:
            ServerUnavailableError: Postgres cannot be reached; the permit runs on.
        """
        asked_at_s = self._clock()
        is_ours = labels.renew(database, self.label, self._holder)
        with self._lock:
            self._ends_at_s = asked_at_s + self.label.expiry_s if is_ours else 0.0

    def leave(self, database: Database) -> tuple[int, ...]:
        """Give it up and call the first in line; the jobs called. Without Postgres it runs out by itself."""
        try:
            return labels.release(database, self.label, self._job_id, self._holder, busy_s=self.busy_s)
        except ServerUnavailableError as error:
            log.warning("the permit runs out by itself", label=self.label.name, error=error.message)
            return ()


def label_of(job: Job) -> Label | None:
    """The label *job* bears: the one it was enqueued with, else the one its handler declares, else None.

    Raises:
        InvalidInputError: Its type is not installed here, or the declared label cannot be made of the job.
    """
    if job.concurrency is not None:
        return job.concurrency
    # A handler need not derive from BaseHandler.
    declared = getattr(registry.handler(job.type), "concurrency", None)
    return None if declared is None else declared.label(as_request(job).label_values(job.id))


def enter(
    database: Database, label: Label, job: Job, holder: Holder, *, clock: Callable[[], float] = time.monotonic
) -> Permit | Waiting | Idle:
    """Ask for a permit; without one the job is in line and its due parts are parked.

    Raises:
        ConcurrencyLimitExceededError: The job has waited as long as it may; nobody else can end it but the caller.
        ServerUnavailableError: Postgres cannot be reached.
    """
    asked_at_s = clock()
    answer = labels.acquire(database, label, job.id, holder)
    if isinstance(answer, Entered):
        return Permit(label, job.id, holder.name, asked_at_s=asked_at_s, clock=clock, called=answer.called)
    if (
        isinstance(answer, Waiting)
        and label.max_sleep_s is not None
        and not answer.is_inside
        and answer.waited_s >= label.max_sleep_s
    ):
        raise _exceeded(database, label, job, answer)
    return answer


def _exceeded(database: Database, label: Label, job: Job, answer: Waiting) -> ConcurrencyLimitExceededError:
    holding = sorted({each.job_id for each in labels.status(database, label.name).holders})
    shown = ", ".join(map(str, holding[:_HOLDERS_NAMED])) + (" and others" if len(holding) > _HOLDERS_NAMED else "")
    inside = f"; inside: job {shown}" if holding else ""
    return ConcurrencyLimitExceededError(
        f"job {job.id} waited {answer.waited_s:.0f} s for a permit of {label.name!r} and may wait"
        f" {label.max_sleep_s:g} s: {answer.in_use} of {answer.capacity} are in use{inside}.",
        remedy=f"Go on once others have ended: jobqueue retry {job.id}; or give the label more capacity or max_sleep.",
        label=label.name,
    )
