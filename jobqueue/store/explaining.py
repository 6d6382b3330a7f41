"""What the tables say to whoever explains: why a job stands still, and when another would be done."""

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


def recent_sends(database: Database, scope_name: str, *, count: int, since_s: float) -> dict[str, Any]:
    """What became of up to *count* of the latest requests; see ``queries/recent_sends.sql``."""
    row = database.row("recent_sends", {"scope": scope_name, "count": count, "since_s": since_s})
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
    return row


def rivals(database: Database, provider: str) -> tuple[int, int]:
    """Active jobs of *provider*, and the items they have left."""
    row = database.row("rivals", {"provider": provider})
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
    return row["jobs"], row["items"]
