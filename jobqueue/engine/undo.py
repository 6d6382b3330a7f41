"""Enqueueing a rollback: what it will be, and that nothing of the undone job goes on beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jobqueue.engine import registry
from jobqueue.engine.enqueue import Enqueued, check_texts, payload_digest
from jobqueue.engine.labels import label_of
from jobqueue.engine.preflight import Work
from jobqueue.errors import InvalidInputError, InvalidTransitionError
from jobqueue.model.job import ACTIVE, Job, JobEvent, JobRequest, JobType, Priority
from jobqueue.store import jobs, limits, rollbacks
from jobqueue.store.database import Database


def enqueue_rollback(
    database: Database,
    job_id: int,
    *,
    priority: Priority | None = None,
    owner: str = "",
    idempotency_key: str | None = None,
    max_run_s: float | None = None,
    admit: Callable[[Work], None] | None = None,
) -> Enqueued:
    """Store a job that undoes job *job_id*; a job that still runs is cancelled first.

    It is planned by a worker once nothing of the undone job can be on the wire any more.

    Args:
        admit: As in `enqueue`; the undone job is not cancelled either when it raises.

    Raises:
        NotFoundError: There is no such job.
        InvalidInputError: Its operation cannot be undone, or its type is not installed here.
        DuplicateJobError: A rollback of it is still active.
        InvalidTransitionError: It is being cleaned up.
    """
    source = jobs.get(database, job_id)
    request = replace(
        _undo_request(source, priority), owner=owner, idempotency_key=idempotency_key, max_run_s=max_run_s
    )
    check_texts(request)
    if admit is not None:
        admit(_undo_work(database, source, request))
    if source.status in ACTIVE:
        _cancel(database, source)
    new = jobs.NewJob(
        request=request,
        payload_digest=payload_digest(request, f"rollback of {job_id}"),
        item_count=0,
        rollback_of=job_id,
    )
    with database.transaction():
        # The cleanup marks a job under the same lock: it sees this rollback, or we see its mark.
        jobs.lock(database, job_id)
        jobs.refuse_expiring(database, job_id)
        rollback_id, is_new = jobs.create(database, new, (), ())
    words = f"rollback of job {job_id} · {source.provider} · {request.operation}"
    return Enqueued(rollback_id, is_new, 0, description=words)


def prepared_rollback(database: Database, job_id: int, *, priority: Priority | None = None) -> Work:
    """What a rollback of job *job_id* would be now; a job that still runs may have more to undo later.

    Raises: as `enqueue_rollback`.
    """
    source = jobs.get(database, job_id)
    return _undo_work(database, source, _undo_request(source, priority))


def _undo_request(source: Job, priority: Priority | None) -> JobRequest:
    undo = _undo_operation(source)
    label = label_of(source)
    return JobRequest(
        type=JobType.ROLLBACK,
        provider=source.provider,
        account=source.account,
        operation=undo,
        priority=source.priority if priority is None else priority,
        options={name: value for name, value in source.options.items() if name != "batch_size"},
        is_unique=True,
        # What excluded the effect excludes its undoing; an undo waits as long as it takes.
        concurrency=None if label is None else replace(label, max_sleep_s=None).as_limit(),
    )


def _undo_work(database: Database, source: Job, request: JobRequest) -> Work:
    """As many items as the plan would have now."""
    operation = registry.handler(request.type).operation(request, registry.provider(request.provider))
    sizes = limits.batch_config(database, request.provider, operation.name, largest=operation.max_size)
    return Work(request, operation, sizes, item_count=sum(rollbacks.undo_counts(database, source.id)[1:]))


def _undo_operation(source: Job) -> str:
    provider = registry.provider(source.provider)
    operation = provider.operations.get(source.operation)
    if operation is None or operation.undo is None:
        raise InvalidInputError(
            f"job {source.id} ({source.type}, {source.operation or 'no operation'}) cannot be undone:"
            f" {source.provider} offers nothing that reverses it.",
            remedy="Only operations with an inverse are journalled.",
            field="job_id",
        )
    return operation.undo


def _cancel(database: Database, source: Job) -> None:
    try:
        jobs.move(database, source.id, JobEvent.CANCEL, reason="rolled back")
    except InvalidTransitionError:
        if jobs.get(database, source.id).status in ACTIVE:
            raise
        return  # it ended meanwhile
    jobs.stop_parts(database, source.id)
