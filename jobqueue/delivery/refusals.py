"""Jobs that workers looked at and could not take, remembered in Redis for as long as others may still take them."""

from __future__ import annotations

import redis

from jobqueue.delivery import queues

REFUSED_FOR_S = 3600
"""How long a job whose type, provider or operation no worker here knows is left to others before it fails."""

_REFUSED_KEY = "jobqueue:refused:{job_id}"
_PASSED_KEY = "jobqueue:passed:{job_id}"
_PASSED_FOR_S = 60


def note(connection: redis.Redis, job_id: int, reason: str) -> int:
    """A worker lacks what the job needs; the seconds since the first one did.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    key = _REFUSED_KEY.format(job_id=job_id)
    with queues.translated():
        connection.set(key, reason, nx=True, ex=2 * REFUSED_FOR_S)
        return 2 * REFUSED_FOR_S - int(connection.ttl(key))


def note_passed(connection: redis.Redis, job_id: int, reason: str) -> None:
    """A worker was told not to take such jobs: no fault of the job, and soon forgotten.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    with queues.translated():
        connection.set(_PASSED_KEY.format(job_id=job_id), reason, ex=_PASSED_FOR_S)


def forget(connection: redis.Redis, job_id: int) -> None:
    """A worker took the job, or it has ended.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    with queues.translated():
        connection.delete(_REFUSED_KEY.format(job_id=job_id), _PASSED_KEY.format(job_id=job_id))


def read(connection: redis.Redis, job_id: int) -> tuple[str, float | None]:
    """Why the job was refused, and the seconds until it fails for that; empty and None when nobody refused it.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    key = _REFUSED_KEY.format(job_id=job_id)
    with queues.translated():
        pipeline = connection.pipeline(transaction=False)
        pipeline.get(key)
        pipeline.get(_PASSED_KEY.format(job_id=job_id))
        pipeline.ttl(key)
        refused, passed, ttl = pipeline.execute()
    if refused is not None:
        return refused.decode(errors="replace"), max(0.0, float(ttl) - REFUSED_FOR_S)
    return ("", None) if passed is None else (passed.decode(errors="replace"), None)
