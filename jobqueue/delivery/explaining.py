"""The part of the public face that explains: why a job does not move."""

from __future__ import annotations

import redis

from jobqueue.delivery import presence
from jobqueue.delivery.dispatch import LEADER_ROLE
from jobqueue.engine import why
from jobqueue.errors import ServerUnavailableError
from jobqueue.model.standstill import Delivery, Facts
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import due
from jobqueue.store.database import Database


def job_facts(database: Database, connection: redis.Redis, limiter: Limiter, settings: Settings, job_id: int) -> Facts:
    """Everything known about job *job_id*; with Redis away, what Postgres knows.

    Raises:
        NotFoundError: There is no such job.
        ServerUnavailableError: Postgres cannot be reached.
    """
    delivery: Delivery | None = None
    redis_error = ""
    try:
        delivery = presence.look(connection, job_id)
    except ServerUnavailableError as error:
        redis_error = error.message
    return why.facts(
        database,
        limiter,
        settings,
        job_id,
        delivery=delivery,
        redis_error=redis_error,
        has_scheduler=due.leader(database, LEADER_ROLE) is not None,
    )
