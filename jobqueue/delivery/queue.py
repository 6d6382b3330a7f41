"""The public face: enqueue jobs, watch them, control them, run workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from rq import Queue, Worker

from jobqueue.delivery import entry, queues
from jobqueue.delivery.explaining import Explaining
from jobqueue.delivery.forgery import SliceJob
from jobqueue.delivery.horse import describe_worker
from jobqueue.delivery.limiting import Limiting
from jobqueue.delivery.paging import ITEM_STATES, Page, bounded, check_choices, item_row, read_mark
from jobqueue.engine import control, enqueue, registry, undo
from jobqueue.engine.enqueue import Enqueued
from jobqueue.engine.intake import RowSource
from jobqueue.engine.labels import label_of
from jobqueue.engine.limits import leave_line, scope_of
from jobqueue.engine.progress import job_progress
from jobqueue.errors import UsageError
from jobqueue.model.job import Job, JobRequest, JobStatus, Priority
from jobqueue.model.progress import JobProgress
from jobqueue.model.worker import WorkerConfig
from jobqueue.store import cleanup, dead_letters, jobs, labels
from jobqueue.store.labels import LabelStatus
from jobqueue.store.migrate import migrate


class JobQueue(Explaining, Limiting):
    """Everything a program or a person does with jobs.

    One instance belongs to one thread. It opens its connections when they are first needed.

    Example::

        with JobQueue(Settings.from_environ()) as queue:
            request = JobRequest(type="enforcement", provider="spotify", account="demo", operation="unsave_tracks")
            job = queue.enqueue_job(request, Rows(["4uLU6hMCjMI75M1A2tKUQC"]))
            print(queue.get_job_status(job.job_id).done)
    """

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        check_choices("state", states or (), [str(status) for status in JobStatus])
        # parked is running seen closely; the database knows running only.
        stored = None if states is None else ["running" if state == "parked" else state for state in states]
        rows = jobs.list_jobs(self._database, states=stored, before_id=before_id, count=bounded(count))
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
        check_choices("status", [status] if status else (), ITEM_STATES)
        mark = read_mark(after)
        rows = jobs.items_page(self._database, job_id, status=status, after=mark, count=bounded(count))
        last = f"{rows[-1]['part']}.{rows[-1]['seq']}" if len(rows) == bounded(count) else ""
        return Page([item_row(row) for row in rows], last)

    # --- dead letters ---

    def dead_letters(
        self, *, job_id: int | None = None, fingerprint: str | None = None, count: int = 100, after_id: int = 0
    ) -> list[dict[str, Any]]:
        """Letters nobody has decided on, oldest first."""
        self._check_migrated()
        letters = dead_letters.list_letters(
            self._database, job_id=job_id, fingerprint=fingerprint, count=bounded(count), after_id=after_id
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

    def _leave_line(self, job_id: int) -> None:
        job = jobs.get(self._database, job_id)
        with suppress(UsageError):  # limits that cannot be read stop nobody from stopping a job
            leave_line(self._database, self._limiter(job.provider), scope_of(job), job_id)


def _counted(job: Job, counts: Mapping[str, int]) -> JobProgress:
    return JobProgress(
        job,
        succeeded=counts["succeeded"],
        skipped=counts["skipped"],
        failed=counts["failed"],
        unconfirmed=counts["unconfirmed"],
    )
