"""Statements about many parts take their rows in one order, so that none of them waits for another in a circle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from store_world import new_job, sql

from jobqueue.store import due
from jobqueue.store.database import Database

REASON = "waiting for noop: 1 per 1 minute"
PARK_FIRST = "UPDATE batch_checkpoints SET due_at = now() + interval '1 h', wait_reason = %(r)s WHERE job_id = %(j)s"


@pytest.mark.parametrize(
    "statement",
    [
        lambda database, job_id: due.park_idle(database, job_id, due_in_s=7200, reason=REASON),
        lambda database, job_id: due.wake_parked(database, "noop"),
    ],
    ids=["park", "wake"],
)
def test_parts_are_locked_in_the_order_of_their_numbers(
    database_url: str, statement: Callable[[Database, int], object]
) -> None:
    """It waits for the first part while that is locked and holds none of the others meanwhile."""
    with Database(database_url) as database, Database(database_url) as watcher:
        job_id = new_job(database, 1, provider="noop")
        columns = ", ".join(name for name in sql(database, "SELECT * FROM batch_checkpoints")[0] if name != "part")
        sql(
            database,
            f"INSERT INTO batch_checkpoints (part, {columns})"
            f" SELECT number, {columns} FROM batch_checkpoints, generate_series(1, 50) AS number",
        )
        sql(database, PARK_FIRST, {"r": REASON, "j": job_id})
        sql(database, "VACUUM FULL batch_checkpoints")
        sql(
            database, "UPDATE batch_checkpoints SET batch_no = batch_no WHERE part = 0"
        )  # now it lies behind the others

        def run() -> None:
            with Database(database_url, name="many-parts") as own:
                statement(own, job_id)

        thread = threading.Thread(target=run)
        with database.transaction():
            sql(database, "SELECT FROM batch_checkpoints WHERE part = 0 FOR UPDATE")
            thread.start()
            is_waiting = (
                "SELECT 1 FROM pg_stat_activity WHERE application_name = 'many-parts' AND wait_event_type = 'Lock'"
            )
            until_s = time.monotonic() + 9
            while not sql(watcher, is_waiting):
                assert time.monotonic() < until_s, "it never waited"
                time.sleep(0.01)
            sql(database, "SELECT FROM batch_checkpoints WHERE part > 0 FOR UPDATE NOWAIT")
        thread.join(10)
        assert not thread.is_alive()
