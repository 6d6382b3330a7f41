"""How far a job has come."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jobqueue.model.job import Job, JobStatus
from jobqueue.model.limit import WindowState


@dataclass(frozen=True, slots=True)
class JobProgress:
    """A job's counts at one instant.

    Attributes:
        retrying: Items that wait for another attempt; they are part of what remains.
        requests: Requests sent so far.
        in_flight: Batches whose answer is not recorded yet.
        items_per_s: Over the last half minute; None when nothing was recorded in it.
        batch_size: Items of the latest request.
        eta_s: Seconds until the job ends if nothing goes wrong; None when it cannot be told.
        next_due_in_s: Seconds until a part that nobody holds falls due.
        waiting_for: The constraint that holds the job up, such as ``spotify: 100 per 1 minute``; empty when none does.
        breaker: State of the provider's circuit breaker.
    """

    job: Job
    succeeded: int = 0
    skipped: int = 0
    failed: int = 0
    unconfirmed: int = 0
    retrying: int = 0
    requests: int = 0
    in_flight: int = 0
    parts: int = 0
    held_parts: int = 0
    items_per_s: float | None = None
    batch_size: int | None = None
    eta_s: float | None = None
    next_due_in_s: float | None = None
    waiting_for: str = ""
    quota: tuple[WindowState, ...] = ()
    breaker: str = ""

    @property
    def total(self) -> int:
        """All items of the job."""
        return self.job.item_count

    @property
    def done(self) -> int:
        """Items with a terminal outcome."""
        return self.succeeded + self.skipped + self.failed + self.unconfirmed

    @property
    def remaining(self) -> int:
        """Items without one that still may get one."""
        return 0 if self.job.status is JobStatus.CANCELLED else self.total - self.done

    @property
    def cancelled(self) -> int:
        """Items of a cancelled job without an outcome; they are counted, never rewritten."""
        return self.total - self.done if self.job.status is JobStatus.CANCELLED else 0

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        job = self.job
        return {
            "id": job.id,
            "type": job.type,
            "provider": job.provider,
            "account": job.account,
            "operation": job.operation,
            "priority": job.priority.queue,
            "status": str(job.status),
            "status_reason": job.status_reason,
            "rollback_of": job.rollback_of,
            "created_at": job.created_at.isoformat(),
            "started_at": None if job.started_at is None else job.started_at.isoformat(),
            "finished_at": None if job.finished_at is None else job.finished_at.isoformat(),
            "deadline_at": None if job.deadline_at is None else job.deadline_at.isoformat(),
            "is_planned": job.is_planned,
            "summary": dict(job.summary),
            "total": self.total,
            "done": self.done,
            "remaining": self.remaining,
            **{name: getattr(self, name) for name in _NUMBERS},
            "quota": [window.as_dict() for window in self.quota],
        }


_NUMBERS = (
    "succeeded", "skipped", "failed", "unconfirmed", "cancelled", "retrying", "requests", "in_flight", "parts",
    "held_parts", "items_per_s", "batch_size", "eta_s", "next_due_in_s", "waiting_for", "breaker",
)  # fmt: skip


def estimate_s(
    *,
    remaining: int,
    items_per_s: float | None,
    items_a_batch: int,
    requests_a_batch: int,
    windows: Iterable[tuple[int, float]],
) -> float | None:
    """Seconds the rest takes: by the requests it needs and the quota, or by the pace so far, whichever is slower.

    Args:
        remaining: Items left.
        items_per_s: The pace of late; None when unknown.
        items_a_batch: Items of one batch.
        requests_a_batch: Requests one batch makes.
        windows: Requests allowed and length in seconds of each.
    """
    if remaining <= 0:
        return 0.0
    requests = math.ceil(remaining / max(1, items_a_batch)) * requests_a_batch
    # Whole windows that must pass besides the one that is open now.
    by_quota = max(((math.ceil(requests / limit) - 1) * length_s for limit, length_s in windows), default=0.0)
    by_pace = remaining / items_per_s if items_per_s else None
    if by_pace is None:
        return by_quota or None
    return max(by_quota, by_pace)
