"""Putting right what crashes, lost hints and lost clocks leave behind. Everything here may run twice, or anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from jobqueue.engine import control
from jobqueue.engine.process import is_alive, this_host
from jobqueue.errors import InvalidTransitionError
from jobqueue.store import dead_letters, due, jobs, labels
from jobqueue.store.database import Database

log = structlog.get_logger("jobqueue.sweep")


def end_leases_of_dead_processes(database: Database) -> int:
    """Let parts fall due whose holder on this very host is gone, and free its permits; how many parts."""
    gone = [
        row["holder"]
        for row in due.holders_on_host(database, this_host())
        if not is_alive(row["holder_pid"], row["holder_started"])
    ]
    count = due.end_leases_of(database, gone)
    labels.end_permits_of(database, gone)
    if count:
        log.info("leases of dead processes ended", holders=gone, parts=count)
    return count


def sweep(database: Database, *, dead_holders: Callable[[], Sequence[str]] = lambda: ()) -> None:
    """One pass.

    Args:
        dead_holders: Names of holders that are known, by other means than this host's process table, to be dead.
    """
    end_leases_of_dead_processes(database)
    told = dead_holders()
    due.end_leases_of(database, told)
    labels.end_permits_of(database, told)
    due.end_abandoned_leases(database)
    due.revive_parts(database)
    labels.tidy_all(database)
    for job_id in due.finishable_jobs(database):
        jobs.finish(database, job_id)
    for job_id in due.overdue_jobs(database):
        fail_overdue(database, job_id)


def fail_overdue(database: Database, job_id: int) -> None:
    """Fail a job that took longer than it may, and say what is undone."""
    job = jobs.get(database, job_id)
    row = jobs.progress_row(database, job_id)
    undone = job.item_count - sum(row[name] for name in ("succeeded", "skipped", "failed", "unconfirmed"))
    reason = f"took longer than it may; {undone:,} of {job.item_count:,} items are undone"
    try:
        control.fail(database, job_id, reason=reason, fingerprint="overdue: took longer than it may")
    except InvalidTransitionError:
        return  # it ended meanwhile
    log.warning("job failed", job=job_id, reason=reason)


def letters_by_job(database: Database) -> list[dict[str, object]]:
    """Jobs with dead letters nobody has decided on yet."""
    return dead_letters.jobs_with_letters(database)
