"""Jobs, their states, and the one table that says who moves a job from one state to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from jobqueue.errors import InvalidInputError, InvalidTransitionError
from jobqueue.model.label import ConcurrencyLimit, Label


class JobType(StrEnum):
    """The job types this project ships; a handler found by entry point may add its own."""

    ENFORCEMENT = "enforcement"
    ROLLBACK = "rollback"
    SCRAPE = "scrape"
    TOKEN_REFRESH = "token_refresh"  # noqa: S105 - the name of a job type
    CALL = "call"


class Priority(IntEnum):
    """The order in which work is taken; the name is the name of the RQ queue."""

    HIGH = 0
    DEFAULT = 1
    LOW = 2

    @property
    def queue(self) -> str:
        """The RQ queue of this priority."""
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> Priority:
        """Read ``high``, ``default`` or ``low``.

        Raises:
            InvalidInputError: *text* is none of them.
        """
        try:
            return cls[text.upper()]
        except KeyError:
            raise InvalidInputError(
                f"priority {text!r} is unknown.", remedy="Use one of: high, default, low.", field="priority"
            ) from None


class JobStatus(StrEnum):
    """Where a job stands. ``parked`` is never stored: it is ``running`` while every part waits for its time."""

    QUEUED = "queued"  # the first claim moves it on
    RUNNING = "running"  # workers move it on when the last part ends
    PARKED = "parked"  # the scheduler moves it on when a part falls due
    PAUSED = "paused"  # a person moves it on
    SUCCEEDED = "succeeded"
    COMPLETED_WITH_FAILURES = "completed_with_failures"  # a person may retry
    FAILED = "failed"  # a person may retry
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing moves the job on by itself or by `resume`."""
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.COMPLETED_WITH_FAILURES, JobStatus.FAILED, JobStatus.CANCELLED})
ACTIVE = frozenset(JobStatus) - TERMINAL


class JobEvent(StrEnum):
    """What moves a job."""

    CLAIM = "claim"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    FINISH = "finish"
    FINISH_WITH_FAILURES = "finish_with_failures"
    FAIL = "fail"


TRANSITIONS: Mapping[tuple[JobStatus, JobEvent], JobStatus] = {
    (JobStatus.QUEUED, JobEvent.CLAIM): JobStatus.RUNNING,
    (JobStatus.RUNNING, JobEvent.CLAIM): JobStatus.RUNNING,
    (JobStatus.QUEUED, JobEvent.PAUSE): JobStatus.PAUSED,
    (JobStatus.RUNNING, JobEvent.PAUSE): JobStatus.PAUSED,
    (JobStatus.PAUSED, JobEvent.RESUME): JobStatus.RUNNING,
    (JobStatus.QUEUED, JobEvent.CANCEL): JobStatus.CANCELLED,
    (JobStatus.RUNNING, JobEvent.CANCEL): JobStatus.CANCELLED,
    (JobStatus.PAUSED, JobEvent.CANCEL): JobStatus.CANCELLED,
    (JobStatus.RUNNING, JobEvent.FINISH): JobStatus.SUCCEEDED,
    (JobStatus.RUNNING, JobEvent.FINISH_WITH_FAILURES): JobStatus.COMPLETED_WITH_FAILURES,
    (JobStatus.QUEUED, JobEvent.FAIL): JobStatus.FAILED,
    (JobStatus.RUNNING, JobEvent.FAIL): JobStatus.FAILED,
    (JobStatus.PAUSED, JobEvent.FAIL): JobStatus.FAILED,
    (JobStatus.COMPLETED_WITH_FAILURES, JobEvent.RETRY): JobStatus.RUNNING,
    (JobStatus.FAILED, JobEvent.RETRY): JobStatus.RUNNING,
}


def sources(event: JobEvent) -> frozenset[JobStatus]:
    """The states *event* may start from."""
    return frozenset(status for status, e in TRANSITIONS if e is event)


def transition(job_id: int, status: JobStatus, event: JobEvent) -> JobStatus:
    """The state *event* leads to.

    Raises:
        InvalidTransitionError: The table has no such transition; the message names the states that have one.
    """
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        allowed = ", ".join(sorted(sources(event)))
        raise InvalidTransitionError(
            f"job {job_id} is {status}: cannot {event}.", remedy=f"That works for a job that is: {allowed}."
        ) from None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a user asks for, before anything is stored.

    Attributes:
        type: The job type, such as ``enforcement``.
        provider: The provider's name.
        account: Whose data is worked on; part of the rate-limit scope.
        operation: The provider's operation; empty where the type has only one.
        options: Further options of the operation, such as ``{"playlist": "…"}``.
        is_unique: Refuse the job while an equal one (type, provider, account, operation, items) is active.
        max_run_s: Longest time the job may take from now, in seconds; then it fails and says what is undone.
        concurrency: Most slices at once with one label; in place of the one its handler declares, if any.
    """

    type: str
    provider: str
    account: str = ""
    operation: str = ""
    priority: Priority = Priority.DEFAULT
    options: Mapping[str, Any] = field(default_factory=dict)
    owner: str = ""
    idempotency_key: str | None = None
    is_unique: bool = False
    max_run_s: float | None = None
    concurrency: ConcurrencyLimit | None = None

    def label_values(self, job_id: int) -> dict[str, object]:
        """What the placeholders of a label stand for; an option does not hide the job's own fields."""
        own = {name: getattr(self, name) for name in ("account", "provider", "type", "operation", "owner")}
        return {**self.options, **own, "job": job_id}


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands in the database. Times are aware UTC.

    Attributes:
        concurrency: The label it was enqueued with; its handler may declare another for all jobs that bring none.
    """

    id: int
    type: str
    provider: str
    account: str
    operation: str
    priority: Priority
    options: Mapping[str, Any]
    status: JobStatus
    status_reason: str
    item_count: int
    rollback_of: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    is_planned: bool
    summary: Mapping[str, Any]
    owner: str = ""
    concurrency: Label | None = None

    @property
    def description(self) -> str:
        """One readable line without secrets, for queues and dashboards."""
        words = [self.type, self.provider, self.operation, f"{self.item_count:,} items"]
        return " · ".join(word for word in words if word)
