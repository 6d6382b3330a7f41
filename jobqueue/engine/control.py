"""What a person does to a job: pause, resume, cancel, retry; and to its dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from jobqueue.errors import InvalidTransitionError, NotFoundError
from jobqueue.model.job import ACTIVE, JobEvent, JobStatus
from jobqueue.store import dead_letters, jobs
from jobqueue.store.database import Database


def pause(database: Database, job_id: int, *, reason: str = "by a person") -> JobStatus:
    """Stop sending for *job_id*; what is in flight is recorded. Workers obey within two seconds or one request.

    Raises:
        NotFoundError: There is no such job.
        InvalidTransitionError: Its state does not allow it.
    """
    status = jobs.move(database, job_id, JobEvent.PAUSE, reason=reason)
    jobs.stop_parts(database, job_id)
    return status


def resume(database: Database, job_id: int) -> JobStatus:
    """Go on with a paused job; raises as `pause` does."""
    status = jobs.move(database, job_id, JobEvent.RESUME)
    jobs.start_parts(database, job_id)
    # Its last part may have ended while it was paused.
    return jobs.finish(database, job_id) or status


def cancel(database: Database, job_id: int, *, reason: str = "by a person") -> JobStatus:
    """End a job for good; items without an outcome are counted as cancelled. Raises as `pause` does."""
    status = jobs.move(database, job_id, JobEvent.CANCEL, reason=reason)
    jobs.stop_parts(database, job_id)
    return status


def retry(database: Database, job_id: int, *, seqs: Sequence[int] | None = None) -> int:
    """Give the failed and unconfirmed items of an ended job, and what a failed job left undone, another try.

    Returns:
        How many items had failed and are tried again.

    Raises:
        NotFoundError: There is no such job.
        InvalidTransitionError: The job is cancelled, or nothing of it failed.
    """
    with database.transaction():
        jobs.lock(database, job_id)
        job = jobs.get(database, job_id)
        rollback_id = jobs.active_rollback(database, job_id)
        if rollback_id is not None:
            raise InvalidTransitionError(
                f"job {job_id} is being rolled back by job {rollback_id}.",
                remedy=f"Wait for it, or cancel it first: jobqueue cancel {rollback_id}",
            )
        if job.status not in ACTIVE:
            jobs.move(database, job_id, JobEvent.RETRY)
        count = dead_letters.retry_items(database, job_id, seqs=seqs)
        if job.status is JobStatus.FAILED:
            dead_letters.unbury_job(database, job_id)
            jobs.start_parts(database, job_id)
        elif count == 0:
            raise InvalidTransitionError(f"no item of job {job_id} has failed.", remedy="There is nothing to retry.")
    return count


def retry_letters(database: Database, ids: Sequence[int]) -> int:
    """Try the items of these dead letters again; how many.

    Raises:
        NotFoundError: A letter does not exist, or its job has been cleaned up.
    """
    letters = dead_letters.list_letters(database, ids=ids, count=len(ids) or 1)
    missing = set(ids) - {letter["id"] for letter in letters}
    if missing:
        raise NotFoundError(
            f"no waiting dead letter has the id {min(missing)}.", remedy="List them: jobqueue dead-letters list"
        )
    count = 0
    for job_id in sorted({letter["job_id"] for letter in letters}):
        of_job = [letter for letter in letters if letter["job_id"] == job_id]
        is_whole = any(letter["seq"] is None for letter in of_job)
        count += retry(database, job_id, seqs=None if is_whole else [letter["seq"] for letter in of_job])
    return count


def fail(database: Database, job_id: int, *, reason: str, fingerprint: str) -> None:
    """End a job that cannot go on; it becomes a dead letter as a whole."""
    jobs.move(database, job_id, JobEvent.FAIL, reason=reason)
    jobs.stop_parts(database, job_id)
    dead_letters.bury_job(database, job_id, fingerprint=fingerprint, reason=reason)
