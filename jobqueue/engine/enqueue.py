"""Enqueueing: everything is checked and read before anything is stored; then one transaction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from jobqueue.engine import registry
from jobqueue.engine.intake import RowSource
from jobqueue.engine.labels import label_of
from jobqueue.engine.preflight import Work
from jobqueue.engine.spool import SkippedRow, Spooled, take_in
from jobqueue.errors import InvalidInputError, InvalidTransitionError
from jobqueue.handler import Operation
from jobqueue.model.job import ACTIVE, Job, JobEvent, JobRequest, JobType, Priority
from jobqueue.model.label import ConcurrencyLimit
from jobqueue.model.limit import Scope
from jobqueue.model.parting import part_ranges, part_size
from jobqueue.store import jobs, limits, rollbacks
from jobqueue.store.database import Database

_LONGEST_TEXT = 200
_MOST_OPTIONS = 50
_LARGEST_JOB_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A job as accepted.

    Attributes:
        is_new: False when the idempotency key had brought the same job before.
        duplicate_count: Rows that named an item again; collapsed.
        skipped_count: Invalid rows that were left out because the caller said so.
        skipped: The first of them.
    """

    job_id: int
    is_new: bool
    item_count: int
    duplicate_count: int = 0
    skipped_count: int = 0
    skipped: tuple[SkippedRow, ...] = ()
    description: str = ""


@contextmanager
def prepared(
    database: Database, request: JobRequest, source: RowSource, *, skip_invalid: bool
) -> Iterator[tuple[Work, Spooled]]:
    """Check *request* and read all of *source*; the items are at hand until the context ends, and nothing is stored.

    Raises:
        InvalidInputError: Something about the request or an item is wrong.
    """
    if request.type == JobType.ROLLBACK:
        raise InvalidInputError("a rollback takes no items.", remedy="Give the id of the job to undo.", field="type")
    check_texts(request)
    handler = registry.handler(request.type)
    provider = registry.provider(request.provider)
    limits.endpoint(database, request.provider)
    operation = handler.operation(request, provider)
    _check_options(request, operation)
    Scope(request.provider, request.account, operation.name)  # what its intents will be counted under can be named
    _check_label(replace(request, operation=operation.name), getattr(handler, "concurrency", None))
    sizes = limits.batch_config(database, request.provider, operation.name, largest=operation.max_size)
    with take_in(source, handler=handler, request=request, operation=operation, skip_invalid=skip_invalid) as spooled:
        work = Work(
            replace(request, operation=operation.name),
            operation,
            sizes,
            item_count=spooled.item_count,
            duplicate_count=spooled.duplicate_count,
            skipped_count=spooled.skipped_count,
        )
        yield work, spooled


def enqueue(
    database: Database,
    request: JobRequest,
    source: RowSource,
    *,
    skip_invalid: bool = False,
    admit: Callable[[Work], None] | None = None,
) -> Enqueued:
    """Check, read and store a job.

    Args:
        admit: Called with what would be stored; what it raises leaves nothing stored.

    Raises:
        InvalidInputError: Something about the request or an item is wrong; nothing was stored.
        ConflictError: An equal job exists, or the idempotency key was used for another.
    """
    with prepared(database, request, source, skip_invalid=skip_invalid) as (work, spooled):
        if admit is not None:
            admit(work)
        request = work.request
        size = part_size(spooled.item_count, optimal_size=work.sizes.optimal_size, is_ordered=work.operation.is_ordered)
        new = jobs.NewJob(
            request=request,
            payload_digest=payload_digest(request, spooled.items_digest),
            item_count=spooled.item_count,
            summary={
                "duplicates": spooled.duplicate_count,
                "skipped_invalid": spooled.skipped_count,
                "source": source.name,
            },
        )
        parts = list(part_ranges(spooled.item_count, size))
        job_id, is_new = jobs.create(database, new, parts, spooled.rows(size))
        return Enqueued(
            job_id=job_id,
            is_new=is_new,
            item_count=spooled.item_count,
            duplicate_count=spooled.duplicate_count,
            skipped_count=spooled.skipped_count,
            skipped=tuple(spooled.skipped),
            description=jobs.get(database, job_id).description,
        )


def payload_digest(request: JobRequest, items_digest: str) -> str:
    """Equal for jobs that ask for the same work, whatever the order of their items."""
    text = json.dumps(
        [request.type, request.provider, request.account, request.operation, dict(request.options), items_digest],
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def check_name(field: str, text: str) -> None:
    """Bound one text that is stored and shown.

    Raises:
        InvalidInputError: It is too long or holds control characters.
    """
    if len(text) > _LONGEST_TEXT or any(not char.isprintable() for char in text):
        raise InvalidInputError(
            f"{field} {text[:40]!r} is too long or holds control characters.",
            remedy=f"Use at most {_LONGEST_TEXT} printable characters.",
            field=field,
        )


def check_texts(request: JobRequest) -> None:
    """Bound what is stored and shown.

    Raises:
        InvalidInputError: A text is too long or holds control characters.
    """
    texts: Mapping[str, str] = {
        "account": request.account,
        "owner": request.owner,
        "idempotency_key": request.idempotency_key or "",
    }
    for name, text in texts.items():
        check_name(name, text)
    if request.max_run_s is not None and not 0 < request.max_run_s <= 366 * 86_400:
        raise InvalidInputError(
            f"max_run_s {request.max_run_s} is out of range.",
            remedy="Use more than 0 s and at most a year.",
            field="max_run_s",
        )


def check_account(request: JobRequest, known: str | None) -> None:
    """Refuse an account this installation has no token for.

    Args:
        known: The account its token belongs to; None when the environment does not say.

    Raises:
        InvalidInputError: It is another account.
    """
    if known is not None and request.account != known:
        raise InvalidInputError(
            f"account {request.account!r} of {request.provider} is unknown: the access token here is {known!r}'s.",
            remedy=f"Use --account {known}, or set JOBQUEUE_{request.provider.upper()}_ACCOUNT and _ACCESS_TOKEN.",
            field="account",
        )


def _check_options(request: JobRequest, operation: Operation) -> None:
    options = dict(request.options)
    if len(options) > _MOST_OPTIONS or len(json.dumps(options)) > 100 * _LONGEST_TEXT:
        raise InvalidInputError("the options are too large.", remedy="Put bulk data into the items.", field="options")
    size: Any = options.pop("batch_size", None)
    if size is not None and not (isinstance(size, int) and 1 <= size <= operation.max_size):
        raise InvalidInputError(
            f"batch_size {size} is out of range: {request.provider} takes at most {operation.max_size} items in one"
            f" request of {operation.name}.",
            remedy=f"Use 1 to {operation.max_size}, or leave it to the rate-limit service.",
            field="batch_size",
        )
    for name in options:
        if name not in operation.required_options:
            near = get_close_matches(name, operation.required_options, n=1)
            hint = (
                f"Did you mean {near[0]!r}?"
                if near
                else f"{operation.name} takes: " + (", ".join(operation.required_options) or "no options") + "."
            )
            raise InvalidInputError(f"option {name!r} is unknown.", remedy=hint, field=name)


def _check_label(request: JobRequest, declared: ConcurrencyLimit | None) -> None:
    """Make the label the job will bear, with the longest id it could get.

    Raises:
        InvalidInputError: It cannot be made.
    """
    limit = declared if request.concurrency is None else request.concurrency
    if limit is not None:
        limit.label(request.label_values(_LARGEST_JOB_ID))


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
    label = label_of(source)
    return JobRequest(
        type=JobType.ROLLBACK,
        provider=source.provider,
        account=source.account,
        operation=_undo_operation(source),
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
