"""Turns due parts into hints."""

from __future__ import annotations

import redis

from jobqueue.delivery import queues
from jobqueue.model.job import Priority
from jobqueue.store import due
from jobqueue.store.database import Database

LEADER_ROLE = "scheduler"
"""Who leads the sweep; with nobody leading, slices keep the time themselves."""


def dispatch(
    database: Database, connection: redis.Redis, *, job_id: int | None = None, count: int | None = None
) -> int:
    """Top every queue up with hints of what is due; how many were given.

    Args:
        job_id: Only this job's parts.
        count: At most so many a queue.

    Raises:
        ServerUnavailableError: Postgres or Redis is away. Parts that were marked as hinted are hinted again later.
    """
    given = 0
    for priority in Priority:
        room = queues.room(connection, priority)
        if count is not None:
            room = min(room, count)
        if room > 0:
            parts = due.take_due(database, priority, count=room, job_id=job_id)
            queues.hint(connection, priority, parts)
            given += len(parts)
    return given
