"""What the tables say about a job that seems to stand still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobqueue.model.standstill import Retries
from jobqueue.store.database import Database


def open_parts(database: Database, job_id: int) -> list[dict[str, Any]]:
    """The open parts by holder and reason; see ``queries/standstill_parts.sql``."""
    return database.rows("standstill_parts", {"job_id": job_id})


def retries(database: Database, job_id: int) -> Retries:
    """What waits for another try."""
    row: Mapping[str, Any] | None = database.row("standstill_retries", {"job_id": job_id})
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
    return Retries(**row)
