"""Jobs: created with all their items in one transaction, read, listed, moved between states."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from jobqueue.errors import DuplicateJobError, IdempotencyConflictError, InvalidTransitionError, NotFoundError
from jobqueue.model.item import ItemStatus
from jobqueue.model.job import TERMINAL, Job, JobEvent, JobRequest, JobStatus, Priority, sources, transition
from jobqueue.model.label import Label
from jobqueue.model.parting import PartRange
from jobqueue.store.copying import copy_items
from jobqueue.store.database import Database, query

_TROUBLE = frozenset({ItemStatus.FAILED, ItemStatus.UNCONFIRMED})


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job about to be stored.

    Attributes:
        payload_digest: Digest of type, provider, account, operation, options and items; equal jobs have equal digests.
        item_count: Number of items that `create` will be given.
        rollback_of: The job this one undoes; such a job is planned later, from the journal.
        summary: What to say about the input, such as the number of duplicates.
    """

    request: JobRequest
    payload_digest: str
    item_count: int
    rollback_of: int | None = None
    summary: Mapping[str, Any] | None = None


def create(database: Database, job: NewJob, parts: Sequence[PartRange], rows: Iterable[bytes]) -> tuple[int, bool]:
    """Store *job*, its checkpoints and its items as one transaction.

    Args:
        parts: The parts; empty for a job that is planned later.
        rows: Lines of COPY text after the job's id: ``part TAB seq TAB key TAB payload NEWLINE``, see `copy_line`.

    Returns:
        The job's id, and whether it is new: False when the idempotency key had already brought the same job.

    Raises:
        IdempotencyConflictError: The key was used before with another payload.
        DuplicateJobError: The request is unique and an equal job is active.
    """
    request = job.request
    with database.transaction() as connection:
        params = {
            "type": request.type,
            "provider": request.provider,
            "account": request.account,
            "operation": request.operation,
            "priority": int(request.priority),
            "options": json.dumps(dict(request.options)),
            "owner": request.owner,
            "idempotency_key": request.idempotency_key,
            "payload_digest": job.payload_digest,
            "is_unique": False,
            "rollback_of": job.rollback_of,
            "item_count": job.item_count,
            "is_planned": job.rollback_of is None,
            "max_run_s": request.max_run_s,
            "summary": json.dumps(dict(job.summary or {})),
        }
        created = connection.execute(query("create_job"), params).fetchone()
        if created is None:
            return _existing(database, job), False
        job_id: int = created["id"]
        if request.concurrency is not None:
            label = request.concurrency.label(request.label_values(job_id))
            database.rows("set_concurrency", {"job_id": job_id, "concurrency": json.dumps(label.as_dict())})
        if request.is_unique:
            _refuse_duplicate(database, job, job_id)
        if job.rollback_of is not None:
            parts = [PartRange(0, 0, -1)]
        create_parts(database, job_id, request.priority, parts, kind="items" if job.rollback_of is None else "plan")
        if job.item_count:
            copy_items(database, job_id, rows)
    return job_id, True


def create_parts(
    database: Database, job_id: int, priority: Priority, parts: Sequence[PartRange], *, kind: str = "items"
) -> None:
    """The checkpoints of *parts*, due now."""
    database.rows(
        "create_checkpoints",
        {
            "job_id": job_id,
            "kind": kind,
            "priority": int(priority),
            "parts": [part.part for part in parts],
            "first_seqs": [part.first_seq for part in parts],
            "last_seqs": [part.last_seq for part in parts],
        },
    )


def _existing(database: Database, job: NewJob) -> int:
    request = job.request
    row = database.row("job_by_idempotency_key", {"owner": request.owner, "idempotency_key": request.idempotency_key})
    assert row is not None, "the conflict names this row"  # noqa: S101 - the unique constraint just said so
    if row["payload_digest"] != job.payload_digest:
        raise IdempotencyConflictError(
            f"idempotency key {request.idempotency_key!r} was used for job {row['id']} with another payload.",
            remedy="Use a new key, or repeat the very same request.",
        )
    found: int = row["id"]
    return found


def _refuse_duplicate(database: Database, job: NewJob, job_id: int) -> None:
    # Two unique submissions at once: the lock lets the second one see the first.
    database.connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [job.payload_digest])
    row = database.row("active_job_by_digest", {"payload_digest": job.payload_digest, "not_id": job_id})
    if row is not None:
        raise _duplicate(row)
    database.connection.execute("UPDATE jobs SET is_unique = true WHERE id = %s", [job_id])


def _duplicate(row: Mapping[str, Any]) -> DuplicateJobError:
    return DuplicateJobError(
        f"job {row['id']} with the same type, provider, account, operation and items is still {row['state']}.",
        remedy=f"Watch it: jobqueue watch {row['id']}",
        job_id=row["id"],
    )


def get(database: Database, job_id: int) -> Job:
    """The job of that id.

    Raises:
        NotFoundError: There is none.
    """
    row = database.row("job", {"job_id": job_id})
    if row is None:
        raise _no_job(job_id)
    return job_from_row(row)


def _no_job(job_id: int) -> NotFoundError:
    return NotFoundError(f"there is no job {job_id}.", remedy="List them: jobqueue list")


def job_from_row(row: Mapping[str, Any]) -> Job:
    """A row of ``jobs`` with ``live_parts`` as a `Job`."""
    status = JobStatus(row["state"])
    if status is JobStatus.RUNNING and row["live_parts"] == 0:
        status = JobStatus.PARKED
    return Job(
        id=row["id"],
        type=row["type"],
        provider=row["provider"],
        account=row["account"],
        operation=row["operation"],
        priority=Priority(row["priority"]),
        options=row["options"],
        status=status,
        status_reason=row["state_reason"],
        item_count=row["item_count"],
        rollback_of=row["rollback_of"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        deadline_at=row["deadline_at"],
        is_planned=row["planned_at"] is not None,
        summary=row["summary"],
        owner=row["owner"],
        concurrency=None if row["concurrency"] is None else Label.from_dict(row["concurrency"]),
    )


def list_jobs(
    database: Database, *, states: Sequence[str] | None = None, before_id: int | None = None, count: int = 50
) -> list[tuple[Job, dict[str, int]]]:
    """Latest jobs first, each with its counts per outcome."""
    rows = database.rows(
        "list_jobs",
        {"states": None if states is None else list(states), "before_id": before_id or 2**62, "count": count},
    )
    names = ("succeeded", "skipped", "failed", "unconfirmed")
    return [(job_from_row(row), {name: row[name] for name in names}) for row in rows]


def move(database: Database, job_id: int, event: JobEvent, *, reason: str = "") -> JobStatus:
    """Move the job by the transition table, in one statement.

    Raises:
        NotFoundError: There is no such job.
        InvalidTransitionError: Its state does not allow *event*, or it is being cleaned up.
        DuplicateJobError: It would become active again beside an equal one, and one of them is unique.
    """
    target = transition(job_id, _stored_status(database, job_id), event)
    params = {
        "job_id": job_id,
        "to_state": target,
        "reason": reason,
        "is_terminal": target in TERMINAL,
        "from_states": [str(state) for state in sources(event)],
    }
    try:
        with database.transaction():  # a savepoint, where a transaction is open already
            row = database.row("move_job", params)
    except psycopg.errors.UniqueViolation:
        twin = database.row("unique_twin", {"job_id": job_id})
        if twin is None:  # it ended meanwhile
            return move(database, job_id, event, reason=reason)
        raise _duplicate(twin) from None
    if row is None:  # it moved between the two statements: judge it where it stands now
        transition(job_id, _stored_status(database, job_id), event)
        return move(database, job_id, event, reason=reason)
    return target


def _stored_status(database: Database, job_id: int) -> JobStatus:
    status = get(database, job_id).status
    refuse_expiring(database, job_id)
    return JobStatus.RUNNING if status is JobStatus.PARKED else status


def refuse_expiring(database: Database, job_id: int) -> None:
    """Raise `InvalidTransitionError` when the cleanup has begun to delete the job, `NotFoundError` when it is gone."""
    row = database.row("job_is_expiring", {"job_id": job_id})
    if row is None:
        raise _no_job(job_id)
    if row["is_expiring"]:
        raise InvalidTransitionError(
            f"job {job_id} is being cleaned up.", remedy="Its retention is over; enqueue its items as a new job."
        )


def active_rollback(database: Database, job_id: int) -> int | None:
    """The job that is rolling *job_id* back, if any."""
    row = database.row("active_rollback", {"job_id": job_id})
    return None if row is None else int(row["id"])


def hold_state(database: Database, job_id: int) -> JobStatus | None:
    """The job's stored state, kept as it is until the surrounding transaction ends; None when the job is gone."""
    row = database.row("hold_job", {"job_id": job_id})
    return None if row is None else JobStatus(row["state"])


def finish(database: Database, job_id: int) -> JobStatus | None:
    """End the job if its last part has ended; its new state, or None."""
    with database.transaction():
        lock(database, job_id)
        row = database.row("finish_job", {"job_id": job_id})
    return None if row is None else JobStatus(row["state"])


def lock(database: Database, job_id: int) -> None:
    """Keep the job from ending, or from being taken up again, until the caller's transaction ends."""
    database.rows("lock_job", {"job_id": job_id})


def stop_parts(database: Database, job_id: int) -> None:
    """Let no part of the job fall due; held parts are released by their holders. It also leaves every line it is in."""
    database.rows("stop_parts", {"job_id": job_id})
    # A statement of its own: whoever serves a line locks the waiter first and the parts after it.
    database.rows("leave_lines", {"job_id": job_id})


def start_parts(database: Database, job_id: int) -> None:
    """Let every unfinished part fall due now."""
    database.rows("start_parts", {"job_id": job_id})


def progress_row(database: Database, job_id: int) -> dict[str, Any]:
    """Sums over the job's checkpoints; see ``queries/progress.sql``."""
    row = database.row("progress", {"job_id": job_id})
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
    return row


def items_page(
    database: Database, job_id: int, *, status: str | None = None, after: tuple[int, int] = (-1, -1), count: int = 100
) -> list[dict[str, Any]]:
    """Items after (part, seq), each with its outcome so far."""
    params = {"job_id": job_id, "status": status, "after_part": after[0], "after_seq": after[1], "count": count}
    return database.rows("trouble_page" if status in _TROUBLE else "items_page", params)
