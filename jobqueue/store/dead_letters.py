"""Dead letters: items and jobs that used up their attempts, waiting for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobqueue.store.database import Database


def list_letters(
    database: Database,
    *,
    state: str | None = "waiting",
    job_id: int | None = None,
    fingerprint: str | None = None,
    ids: Sequence[int] | None = None,
    after_id: int = 0,
    count: int = 100,
) -> list[dict[str, Any]]:
    """Letters by id, oldest first."""
    return database.rows(
        "list_dead_letters",
        {
            "state": state,
            "job_id": job_id,
            "fingerprint": fingerprint,
            "ids": None if ids is None else list(ids),
            "after_id": after_id,
            "count": count,
        },
    )


def group(database: Database, *, job_id: int | None = None) -> list[dict[str, Any]]:
    """Waiting letters by fingerprint: how many, since when, one reason."""
    return database.rows("group_dead_letters", {"job_id": job_id})


def discard(database: Database, ids: Sequence[int], *, reason: str) -> list[int]:
    """Discard waiting letters; the ids that were."""
    return [row["id"] for row in database.rows("discard_dead_letters", {"ids": list(ids), "reason": reason})]


def retry_items(database: Database, job_id: int, *, seqs: Sequence[int] | None = None) -> int:
    """Give failed and unconfirmed items of the job their attempts again; how many."""
    row = database.row("retry_failed_items", {"job_id": job_id, "seqs": None if seqs is None else list(seqs)})
    return 0 if row is None else int(row["count"])


def bury_job(database: Database, job_id: int, *, fingerprint: str, reason: str) -> None:
    """The whole job as one letter."""
    database.rows("bury_job", {"job_id": job_id, "fingerprint": fingerprint, "reason": reason})


def unbury_job(database: Database, job_id: int) -> None:
    """Mark the job's own letter as retried."""
    database.rows("decide_job_letter", {"job_id": job_id})


def jobs_with_letters(database: Database) -> list[dict[str, Any]]:
    """One row a job that has waiting letters, latest first."""
    return database.rows("jobs_with_dead_letters")
