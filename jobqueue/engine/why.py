"""Collects what is known about a job, for `jobqueue.model.why` to judge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jobqueue.engine import registry
from jobqueue.engine.context import as_request
from jobqueue.engine.process import is_alive, this_host
from jobqueue.engine.progress import job_progress
from jobqueue.errors import JobQueueError, ServerUnavailableError
from jobqueue.handler import Operation
from jobqueue.model.job import Job
from jobqueue.model.limit import Denied, Scope
from jobqueue.model.standstill import Delivery, Facts, LeaseHolder, Parked, UndoneJob
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import due, explaining
from jobqueue.store.database import Database

_LATE_S = 3.0
"""How late a renewal may come before its holder counts as silent."""


def facts(
    database: Database,
    limiter: Limiter,
    settings: Settings,
    job_id: int,
    *,
    delivery: Delivery | None,
    redis_error: str,
    has_scheduler: bool,
) -> Facts:
    """Everything known about the job now, by a handful of indexed queries and two looks at the limiter.

    Args:
        delivery: What Redis knows of workers and hints; None when it is away, for which *redis_error* is the words.

    Raises:
        NotFoundError: There is no such job.
        ServerUnavailableError: Postgres cannot be reached.
    """
    progress = job_progress(database, job_id, None if redis_error else limiter)
    job = progress.job
    if job.status.is_terminal:
        return Facts(progress, delivery=delivery, ended_ago_s=_ago_s(job.finished_at))
    denied = None
    if not redis_error:
        try:
            denied = _denied(limiter, job)
        except ServerUnavailableError as error:
            delivery, redis_error = None, error.message
    rows = explaining.open_parts(database, job_id)
    unheld = [row for row in rows if row["holder"] is None]
    return Facts(
        progress,
        open_parts=sum(row["parts"] for row in rows),
        due_parts=sum(row["parts"] for row in unheld if row["is_due"]),
        asleep_parts=sum(row["parts"] for row in unheld if row["first_in_s"] is None),
        parked=tuple(
            Parked(row["wait_reason"], row["parts"], row["first_in_s"])
            for row in unheld
            if row["first_in_s"] is not None and not row["is_due"]
        ),
        holders=_holders([row for row in rows if row["holder"] is not None], settings),
        retries=explaining.retries(database, job_id),
        denied=denied,
        undone=_undone(database, job),
        delivery=delivery,
        redis_error=redis_error,
        has_scheduler=has_scheduler,
        fails_in_s=None if job.deadline_at is None else -(_ago_s(job.deadline_at) or 0.0),
    )


def _denied(limiter: Limiter, job: Job) -> Denied | None:
    """What the limiter says to the job's next batch, which asks for a look and its effect together."""
    operation = _operation(job)
    scope = Scope(job.provider, job.account, job.operation)
    want = 2 if operation is not None and operation.is_observed else 1
    try:
        return limiter.why(scope, want, cost_units=operation.cost_units if operation else 1)
    except ServerUnavailableError:
        raise
    except JobQueueError:  # its limits cannot be read: a worker that takes it will say so
        return None


def _operation(job: Job) -> Operation | None:
    try:
        return registry.handler(job.type).operation(as_request(job), registry.provider(job.provider))
    except JobQueueError:  # not installed here; where the workers are it may be
        return None


def _holders(rows: Sequence[Mapping[str, Any]], settings: Settings) -> tuple[LeaseHolder, ...]:
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_name[row["holder"]].append(row)
    renewed_at_most_s = settings.heartbeat_s + _LATE_S
    found = []
    for name, held in by_name.items():
        first = held[0]
        is_here = first["holder_host"] == this_host()
        ends_in_s = max(row["last_in_s"] for row in held)
        is_gone = is_here and not is_alive(first["holder_pid"], first["holder_started"])
        # A live holder renews its lease to its full length every few seconds, so a short rest betrays silence.
        silent_s = settings.lease_s - ends_in_s - renewed_at_most_s
        found.append(
            LeaseHolder(
                name=name,
                host=first["holder_host"],
                pid=first["holder_pid"],
                parts=sum(row["parts"] for row in held),
                ends_in_s=ends_in_s,
                is_gone=is_gone,
                silent_for_s=max(0.0, silent_s),
            )
        )
    return tuple(found)


def _undone(database: Database, job: Job) -> UndoneJob | None:
    if job.rollback_of is None or job.is_planned:
        return None
    leases, longest_s = due.live_leases(database, job.rollback_of)
    return UndoneJob(job.rollback_of, leases, longest_s, max(0.0, due.flights_until_s(database, job.rollback_of)))


def _ago_s(at: datetime | None) -> float | None:
    return None if at is None else (datetime.now(UTC) - at).total_seconds()
