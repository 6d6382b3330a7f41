"""The journal read backwards, and the plan of a rollback written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jobqueue.model.item import ItemStatus, JournalEntry
from jobqueue.store.database import Database


def journal_backwards(database: Database, job_id: int) -> Iterator[JournalEntry]:
    """What may have taken effect, latest effect first, streamed."""
    for row in database.stream("journal_backwards", {"job_id": job_id}):
        yield JournalEntry(
            part=row["part"],
            seq=row["seq"],
            key=row["key"],
            batch_no=row["batch_no"],
            effect_seq=row["effect_seq"],
            before=row["before"],
            after=row["after"],
            payload=row["payload"] or {},
            status=None if row["status"] is None else ItemStatus(row["status"]),
        )


def undo_counts(database: Database, job_id: int) -> tuple[int, int, int]:
    """Items that succeeded, of those the ones with a before-state, and items whose effect is not known."""
    row = database.row("undo_counts", {"job_id": job_id})
    assert row is not None  # noqa: S101 - scalar subqueries always return one row
    return row["succeeded"], row["journalled"], row["unknown"]


def finish_plan(
    database: Database, job_id: int, *, part: int, fence: int, item_count: int, summary: Mapping[str, Any]
) -> bool:
    """End the planning part; False when its lease was lost."""
    params = {
        "job_id": job_id,
        "part": part,
        "fence": fence,
        "item_count": item_count,
        "summary": json.dumps(dict(summary)),
    }
    return database.row("finish_plan", params) is not None
