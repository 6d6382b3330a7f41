"""The public face: enqueue jobs, watch them, control them, run workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rq import Queue, Worker

from jobqueue.delivery import entry, queues
from jobqueue.delivery.dispatch import dispatch
from jobqueue.delivery.explaining import Explaining
from jobqueue.delivery.forgery import SliceJob
from jobqueue.delivery.horse import describe_worker
from jobqueue.engine import control, enqueue, registry, undo
from jobqueue.engine.enqueue import Enqueued
from jobqueue.engine.history import PostgresHistory
from jobqueue.engine.intake import RowSource
from jobqueue.engine.labels import label_of
from jobqueue.engine.limits import (
    LimitsChanged,
    LimitsView,
    adjust_limits,
    change_limits,
    leave_line,
    level_scope,
    remove_limits,
    scope_of,
    view_limits,
)
from jobqueue.engine.progress import job_progress
from jobqueue.errors import InvalidInputError, ServerUnavailableError, UsageError
from jobqueue.model.item import ItemStatus
from jobqueue.model.job import Job, JobRequest, JobStatus, Priority
from jobqueue.model.limit import Adjustment, Scope
from jobqueue.model.limit_change import LimitsChange, level_named
from jobqueue.model.progress import JobProgress
from jobqueue.model.worker import WorkerConfig
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import cleanup, dead_letters, jobs, labels, limits
from jobqueue.store.database import Database
from jobqueue.store.labels import LabelStatus
from jobqueue.store.migrate import check_migrated, migrate

_MOST_AT_ONCE = 1000
_ITEM_STATES = (*(str(status) for status in ItemStatus), "waiting", "cancelled")


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and the mark that gives the next ones; empty at the end."""

    rows: list[dict[str, Any]]
    next: str


class JobQueue(Explaining):
    """Everything a program or a person does with jobs.

    One instance belongs to one thread. It opens its connections when they are first needed.

    Example::

        with JobQueue(Settings.from_environ()) as queue:
            request = JobRequest(type="enforcement", provider="spotify", account="demo", operation="unsave_tracks")
            job = queue.enqueue_job(request, Rows(["4uLU6hMCjMI75M1A2tKUQC"]))
            print(queue.get_job_status(job.job_id).done)
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._database = Database(settings.database_url, name="jobqueue-client")
        self._connection = queues.connect(settings.redis_url)
        self._limiters: dict[str, tuple[int, Limiter]] = {}  # with the version of their limits
        self._is_checked = False

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()
        self._connection.close()
        for _, limiter in self._limiters.values():
            limiter.close()
        self._limiters.clear()

    # --- jobs ---

    def enqueue_job(
        self, request: JobRequest, source: RowSource, *, skip_invalid: bool = False, deadline_s: float | None = None
    ) -> Enqueued:
        """Check, read and store a job, then tell the workers.

        Args:
            deadline_s: Refuse the job when nine of ten like it would take longer than this, see `preflight_job`.

        Raises:
            CannotMeetDeadlineError: It would; nothing was stored.
            InvalidInputError: Something about the request or an item is wrong; nothing was stored.
            ConflictError: An equal job exists, or the idempotency key was used for another.
            ServerUnavailableError: Postgres or Redis cannot be reached; nothing was stored.
        """
        self._check()
        enqueue.check_account(request, self.settings.provider_override(request.provider).account)
        enqueued = enqueue.enqueue(
            self._database, request, source, skip_invalid=skip_invalid, admit=self._admission(deadline_s)
        )
        self._tell(enqueued.job_id)
        return enqueued

    def rollback_job(
        self,
        job_id: int,
        *,
        priority: Priority | None = None,
        owner: str = "",
        idempotency_key: str | None = None,
        max_run_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Enqueued:
        """Undo job *job_id*: whatever it changed is put back, latest change first. A running job is cancelled first.

        Raises:
            CannotMeetDeadlineError: It would take longer than *deadline_s*; nothing was stored or cancelled.
            NotFoundError: There is no such job.
            InvalidInputError: Its operation cannot be undone.
            DuplicateJobError: It is being rolled back already.
        """
        self._check()
        enqueued = undo.enqueue_rollback(
            self._database,
            job_id,
            priority=priority,
            owner=owner,
            idempotency_key=idempotency_key,
            max_run_s=max_run_s,
            admit=self._admission(deadline_s),
        )
        self._tell(enqueued.job_id)
        return enqueued

    def get_job_status(self, job_id: int) -> JobProgress:
        """How far the job has come; raises `NotFoundError`."""
        self._check_migrated()
        job = jobs.get(self._database, job_id)
        return job_progress(self._database, job_id, self._limiter(job.provider))

    def get_label_status(self, job_id: int) -> LabelStatus | None:
        """Who is inside and who waits under the job's concurrency label; None when it bears none that is known here.

        Raises:
            NotFoundError: There is no such job.
        """
        self._check_migrated()
        job = jobs.get(self._database, job_id)
        try:
            label = label_of(job)
        except UsageError:  # its handler is not installed here
            return None
        return None if label is None else labels.status(self._database, label.name)

    def list_jobs(
        self, *, states: Sequence[str] | None = None, before_id: int | None = None, count: int = 50
    ) -> list[dict[str, Any]]:
        """Latest jobs first, each as `JobProgress.as_dict` without pace and quota."""
        self._check_migrated()
        _check_choices("state", states or (), [str(status) for status in JobStatus])
        # parked is running seen closely; the database knows running only.
        stored = None if states is None else ["running" if state == "parked" else state for state in states]
        rows = jobs.list_jobs(self._database, states=stored, before_id=before_id, count=_bounded(count))
        found = [_counted(job, counts).as_dict() for job, counts in rows]
        return [row for row in found if states is None or row["status"] in states]

    def pause_job(self, job_id: int) -> JobStatus:
        """Stop sending for the job; what is in flight is recorded first."""
        self._check_migrated()
        status = control.pause(self._database, job_id)
        self._leave_line(job_id)
        return status

    def resume_job(self, job_id: int) -> JobStatus:
        """Go on with a paused job."""
        self._check_migrated()
        status = control.resume(self._database, job_id)
        self._tell(job_id)
        return status

    def cancel_job(self, job_id: int) -> JobStatus:
        """End the job for good."""
        self._check_migrated()
        status = control.cancel(self._database, job_id)
        self._leave_line(job_id)
        return status

    def retry_job(self, job_id: int) -> int:
        """Give failed items another try; how many."""
        self._check_migrated()
        count = control.retry(self._database, job_id)
        self._tell(job_id)
        return count

    def items(self, job_id: int, *, status: str | None = None, after: str = "", count: int = 100) -> Page:
        """Items with their outcomes, *count* at a time.

        Args:
            after: `Page.next` of the page before.

        Raises:
            NotFoundError: There is no such job.
            InvalidInputError: *status* or *after* is none.
        """
        self._check_migrated()
        jobs.get(self._database, job_id)
        _check_choices("status", [status] if status else (), _ITEM_STATES)
        mark = _read_mark(after)
        rows = jobs.items_page(self._database, job_id, status=status, after=mark, count=_bounded(count))
        last = f"{rows[-1]['part']}.{rows[-1]['seq']}" if len(rows) == _bounded(count) else ""
        return Page([_item_row(row) for row in rows], last)

    # --- dead letters ---

    def dead_letters(
        self, *, job_id: int | None = None, fingerprint: str | None = None, count: int = 100, after_id: int = 0
    ) -> list[dict[str, Any]]:
        """Letters nobody has decided on, oldest first."""
        self._check_migrated()
        letters = dead_letters.list_letters(
            self._database, job_id=job_id, fingerprint=fingerprint, count=_bounded(count), after_id=after_id
        )
        return [letter | {"created_at": letter["created_at"].isoformat()} for letter in letters]

    def dead_letter(self, letter_id: int) -> dict[str, Any] | None:
        """One letter with its history, whatever was decided; None when there is none."""
        self._check_migrated()
        letters = dead_letters.list_letters(self._database, state=None, ids=[letter_id], count=1)
        return letters[0] | {"created_at": letters[0]["created_at"].isoformat()} if letters else None

    def dead_letter_groups(self, job_id: int | None = None) -> list[dict[str, Any]]:
        """Letters by failure fingerprint, most first."""
        self._check_migrated()
        groups = dead_letters.group(self._database, job_id=job_id)
        return [g | {"first_at": g["first_at"].isoformat(), "last_at": g["last_at"].isoformat()} for g in groups]

    def retry_dead_letters(self, ids: Sequence[int]) -> int:
        """Try the items of these letters again, under the limiter like everything; how many."""
        self._check_migrated()
        letters = dead_letters.list_letters(self._database, ids=ids, count=len(ids) or 1)
        count = control.retry_letters(self._database, ids)
        for job_id in {letter["job_id"] for letter in letters}:
            self._tell(job_id)
        return count

    def discard_dead_letters(self, ids: Sequence[int], *, reason: str) -> list[int]:
        """Discard these letters; the ids that were still waiting."""
        self._check_migrated()
        return dead_letters.discard(self._database, ids, reason=reason)

    # --- providers and limits ---

    def limits(self, provider: str, account: str = "", operation: str = "") -> LimitsView:
        """Configured limits of a provider and how far they are used up, by all or also by one account or operation."""
        self._check_migrated()
        limits.endpoint(self._database, provider)
        return view_limits(self._database, self._limiter(provider), Scope(provider, account, operation))

    def set_limits(
        self,
        provider: str,
        *,
        account: str = "",
        operation: str = "",
        account_level: bool = False,
        windows: str | None = None,
        unit_windows: str | None = None,
        mode: str | None = None,
        max_concurrency: int | None = None,
        cooldown_s: float | None = None,
        breaker: Mapping[str, Any] | str | None = None,
        learned_floor: int | None = None,
        backoff: Mapping[str, Mapping[str, Any] | None] | None = None,
        batch: tuple[str, int, int, int] | None = None,
        is_dry_run: bool = False,
    ) -> LimitsChanged:
        """Change limits; what is not given stays. Workers follow within their next request, parked parts at once.

        Args:
            account: An account, or a site, to get limits of its own; they begin as the default for accounts.
            operation: An operation to get limits of its own, beside those of the provider.
            account_level: Change the default for accounts. Without any of the three the provider's limits are changed.
            windows: See `LimitsChange` for this and what follows.
            batch: Operation (``*`` for all), smallest, optimal and largest batch size.
            is_dry_run: Check and compare, store nothing.

        Raises:
            ConfigurationError: A value is out of range or cannot be read; nothing was stored.
            InvalidInputError: Nothing is to be changed, a name is unknown, or more than one level is named.
        """
        self._check_migrated()
        limits.endpoint(self._database, provider)
        kind, name = level_named(account, operation, account_level)
        change = LimitsChange(
            kind,
            name,
            windows=windows,
            unit_windows=unit_windows,
            mode=mode,
            max_concurrency=max_concurrency,
            cooldown_s=cooldown_s,
            breaker=breaker,
            learned_floor=learned_floor,
            backoff=backoff or {},
        )
        changed = change_limits(self._database, provider, change, batch=batch, is_dry_run=is_dry_run)
        if changed.version is not None:
            self._tell()
        return changed

    def remove_limits(self, provider: str, *, account: str = "", operation: str = "") -> LimitsChanged:
        """Drop the limits that an account or an operation has of its own; workers follow as with `set_limits`.

        Raises:
            NotFoundError: It has none.
            InvalidInputError: Neither is named, or both are.
        """
        self._check_migrated()
        limits.endpoint(self._database, provider)
        kind, name = level_named(account, operation)
        removed = remove_limits(self._database, provider, kind, name)
        self._tell()
        return removed

    def adjust_limits(
        self, provider: str, adjustments: Sequence[Adjustment], *, account: str = "", operation: str = ""
    ) -> LimitsView:
        """Lift a pause, forget what was learned, hold a breaker: of a provider, or of a level below it.

        Raises:
            InvalidInputError: The account or operation has no limits of its own, or the level no breaker.
            ServerUnavailableError: Redis or Postgres cannot be reached.
        """
        self._check_migrated()
        limits.endpoint(self._database, provider)
        scope = level_scope(provider, *level_named(account, operation))
        adjust_limits(self._database, self._limiter(provider), scope, adjustments)
        self._tell()
        return view_limits(self._database, self._limiter(provider), scope)

    def providers(self) -> list[dict[str, Any]]:
        """Configured providers: name, base_url, token_url."""
        self._check_migrated()
        return limits.list_providers(self._database)

    def set_provider(self, name: str, *, base_url: str | None = None, token_url: str | None = None) -> dict[str, Any]:
        """Change where a provider is reached; adds one that a package brought and nobody configured yet.

        Raises:
            InvalidInputError: No installed package brings it, or an address is none.
            NotFoundError: It is new and *base_url* is None.
        """
        self._check_migrated()
        if name not in {row["name"] for row in self.providers()}:
            registry.provider(name)
        for field, url in (("base_url", base_url), ("token_url", token_url)):
            if url is not None and not url.startswith(("http://", "https://")):
                raise InvalidInputError(
                    f"{field} {url!r} is no web address.", remedy="Use http://… or https://….", field=field
                )
        endpoint = limits.set_endpoint(self._database, name, base_url=base_url, token_url=token_url)
        return {"name": name, "base_url": endpoint.base_url, "token_url": endpoint.token_url}

    # --- running ---

    def workers(self) -> list[dict[str, Any]]:
        """Live RQ workers."""
        with queues.translated():
            found = Worker.all(connection=self._connection, job_class=SliceJob)
            return sorted((describe_worker(worker) for worker in found), key=lambda row: str(row["name"]))

    def start_worker(self, config: WorkerConfig | None = None, *, burst: bool = False) -> None:
        """Run RQ's own worker on high, default and low in this process until it is told to stop.

        Raises:
            InvalidInputError: *config* names a job type that is not installed.
        """
        config = config or WorkerConfig()
        for name in config.job_types:
            registry.handler(name)
        registry.preload()
        entry.configure(config)
        self.close()  # connections must not cross RQ's fork
        names = [Queue(priority.queue, connection=self._connection, job_class=SliceJob) for priority in Priority]
        Worker(names, connection=self._connection, job_class=SliceJob).work(burst=burst)

    def cleanup_jobs(self, *, older_than_h: float | None = None) -> list[int]:
        """Delete jobs that ended longer ago than retention allows; their ids. Dead letters stay."""
        self._check_migrated()
        hours = self.settings.retention_h if older_than_h is None else older_than_h
        return cleanup.delete_expired(self._database, older_than_s=hours * 3600)

    def migrate(self) -> list[str]:
        """Bring the schema up to date; the names of what was applied."""
        return migrate(self.settings.database_url)

    def _limiter(self, provider: str) -> Limiter:
        version, limiter = self._limiters.get(provider, (-1, None))
        if limiter is None or version != limits.config_version(self._database, provider):
            if limiter is not None:
                limiter.close()
            config = limits.provider_limits(self._database, provider)
            limiter = Limiter(self.settings.redis_url, {provider: config}, PostgresHistory(self._database))
            self._limiters[provider] = config.version, limiter
        return limiter

    def _leave_line(self, job_id: int) -> None:
        job = jobs.get(self._database, job_id)
        with suppress(UsageError):  # limits that cannot be read stop nobody from stopping a job
            leave_line(self._database, self._limiter(job.provider), scope_of(job), job_id)

    def _tell(self, job_id: int | None = None) -> None:
        """Hint at what is due, of one job or of all; Redis going away now costs a few seconds, not the job."""
        try:
            dispatch(self._database, self._connection, job_id=job_id)
        except ServerUnavailableError:
            return

    def _check(self) -> None:
        self._check_migrated()
        with queues.translated():
            self._connection.ping()

    def _check_migrated(self) -> None:
        if not self._is_checked:
            check_migrated(self._database)
            self._is_checked = True


def _bounded(count: int) -> int:
    if not 1 <= count <= _MOST_AT_ONCE:
        raise InvalidInputError(
            f"count {count} is out of range.", remedy=f"Use 1 to {_MOST_AT_ONCE} and page on.", field="count"
        )
    return count


def _check_choices(field: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise InvalidInputError(
                f"{field} {name!r} is unknown.", remedy=f"Use one of: {', '.join(known)}.", field=field
            )


def _read_mark(after: str) -> tuple[int, int]:
    if not after:
        return (-1, -1)
    part, _, seq = after.partition(".")
    if not (part.isdigit() and seq.isdigit()):
        raise InvalidInputError(
            f"after {after!r} is no mark of a page.", remedy="Use the page's own 'next'.", field="after"
        )
    return (int(part), int(seq))


def _item_row(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("seq", "key", "status", "attempts", "payload", "result", "error")
    return {name: row[name] for name in names} | {"at": None if row["at"] is None else row["at"].isoformat()}


def _counted(job: Job, counts: Mapping[str, int]) -> JobProgress:
    return JobProgress(
        job,
        succeeded=counts["succeeded"],
        skipped=counts["skipped"],
        failed=counts["failed"],
        unconfirmed=counts["unconfirmed"],
    )
