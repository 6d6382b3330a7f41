"""Retention: ended jobs go after a while; dead letters stay until a person decides."""

from __future__ import annotations

from jobqueue.store.database import Database


def delete_expired(database: Database, *, older_than_s: float, count: int = 100) -> list[int]:
    """Delete up to *count* jobs that ended longer ago than *older_than_s*, part by part; their ids."""
    deleted = []
    for row in database.rows("expired_jobs", {"older_than_s": older_than_s, "count": count}):
        job_id = row["id"]
        for part in database.rows("parts_of_job", {"job_id": job_id}):
            database.rows("delete_items_of_job", {"job_id": job_id, "part": part["part"]})
        if database.row("delete_job", {"job_id": job_id}) is not None:
            deleted.append(job_id)
    return deleted
