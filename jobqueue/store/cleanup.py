"""Retention: ended jobs go after a while; dead letters stay until a person decides.

A job is first marked as expiring, under its row's lock; from then on nobody retries it or rolls it back. Only then is
it deleted, part by part. A cleanup that dies in the middle is gone on with by the next one.
"""

from __future__ import annotations

from typing import Any

from jobqueue.store import jobs, limits
from jobqueue.store.database import Database


def delete_expired(database: Database, *, older_than_s: float, count: int = 100) -> list[int]:
    """Delete up to *count* jobs that ended longer ago than *older_than_s*, part by part; their ids.

    A job stays while a rollback has to read its journal, and while a window of its provider's limits still counts one
    of its requests: without the row, a limiter that lost its Redis state would allow what was sent already.
    """
    deleted = []
    params = {"older_than_s": older_than_s, "count": count} | _kept_for(database)
    for row in database.rows("expired_jobs", params | {"job_id": None}):
        job_id = row["id"]
        if not _mark(database, job_id, params):
            continue
        for part in database.rows("parts_of_job", {"job_id": job_id}):
            database.rows("delete_items_of_job", {"job_id": job_id, "part": part["part"]})
        if database.row("delete_job", {"job_id": job_id}) is not None:
            deleted.append(job_id)
    return deleted


def _mark(database: Database, job_id: int, params: dict[str, Any]) -> bool:
    """Mark the job as expiring; False when somebody took it up meanwhile."""
    with database.transaction():
        jobs.lock(database, job_id)
        # Looked at again once the lock is ours: a retry or a rollback may have come first.
        if database.row("expired_jobs", params | {"job_id": job_id}) is None:
            return False
        return database.row("expire_job", {"job_id": job_id}) is not None


def _kept_for(database: Database) -> dict[str, Any]:
    names = [row["name"] for row in limits.list_providers(database)]
    found = [limits.provider_limits(database, name) for name in names]
    return {
        "providers": names,
        "keep_s": [each.longest_window_s + each.longest_request_s for each in found],
        "least_s": limits.LONGEST_REQUEST_S,
    }
