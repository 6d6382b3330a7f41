"""How far a job has come, from sums over its checkpoints and the limiter's state."""

from __future__ import annotations

from jobqueue.engine import registry
from jobqueue.engine.context import as_request
from jobqueue.errors import JobQueueError, ServerUnavailableError
from jobqueue.model.breaker import BreakerStatus
from jobqueue.model.job import ACTIVE, Job, JobStatus
from jobqueue.model.limit import RateLimitState, Scope
from jobqueue.model.progress import JobProgress, estimate_s
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.store import jobs, limits
from jobqueue.store.database import Database

_SHORTEST_PACE_S = 1.0


def job_progress(database: Database, job_id: int, limiter: Limiter | None) -> JobProgress:
    """The job's progress now; without *limiter*, or with Redis away, it says nothing of the quota.

    Raises:
        NotFoundError: There is no such job.
    """
    job = jobs.get(database, job_id)
    row = jobs.progress_row(database, job_id)
    state = _limiter_state(limiter, job)
    done = row["succeeded"] + row["skipped"] + row["failed"] + row["unconfirmed"]
    pace = row["recent_items"] / max(row["recent_s"], _SHORTEST_PACE_S) if row["recent_items"] else None
    remaining = job.item_count - done
    waits_s = 0.0 if row["held_parts"] else max(0.0, row["next_due_in_s"] or 0.0)
    return JobProgress(
        job=job,
        succeeded=row["succeeded"],
        skipped=row["skipped"],
        failed=row["failed"],
        unconfirmed=row["unconfirmed"],
        retrying=row["retrying"],
        requests=row["requests"],
        in_flight=row["in_flight"],
        parts=row["parts"],
        held_parts=row["held_parts"],
        items_per_s=pace,
        batch_size=row["batch_size"],
        eta_s=_eta_s(database, job, remaining, pace, row["batch_size"], waits_s) if job.status in ACTIVE else None,
        next_due_in_s=row["next_due_in_s"],
        waiting_for=_waiting_for(row["wait_reason"] or "", row["held_parts"]),
        quota=() if state is None else state.windows,
        breaker=_breaker(state),
    )


def _limiter_state(limiter: Limiter | None, job: Job) -> RateLimitState | None:
    if limiter is None or job.status not in ACTIVE:
        return None
    try:
        return limiter.snapshot(Scope(job.provider, job.account, job.operation))
    except JobQueueError:
        return None


def _waiting_for(reason: str, held_parts: int) -> str:
    return "" if held_parts else reason.removeprefix("waiting for ")


def _breaker(state: RateLimitState | None) -> str:
    if state is None:
        return ""
    worst = max(state.breakers, key=lambda breaker: breaker.status is not BreakerStatus.CLOSED, default=None)
    return str(BreakerStatus.CLOSED if worst is None else worst.status)


def _eta_s(
    database: Database, job: Job, remaining: int, pace: float | None, batch_size: int | None, waits_s: float
) -> float | None:
    if job.status is JobStatus.PAUSED or not job.is_planned:
        return None
    try:
        operation = registry.handler(job.type).operation(as_request(job), registry.provider(job.provider))
        config = limits.provider_limits(database, job.provider)
    except ServerUnavailableError:
        raise
    except JobQueueError:  # its handler is not installed here: say what the pace alone tells
        return waits_s + remaining / pace if pace else None
    sizes = limits.batch_config(database, job.provider, operation.name, largest=operation.max_size)
    levels = config.limits_for(Scope(job.provider, job.account, operation.name))
    windows = [(w.limit, w.length_s) for level in levels for w in level.windows if not w.is_weighted]
    rest_s = estimate_s(
        remaining=remaining,
        items_per_s=pace,
        items_a_batch=batch_size or sizes.optimal_size,
        requests_a_batch=2 if operation.is_observed else 1,
        windows=windows,
    )
    return None if rest_s is None else waits_s + rest_s
