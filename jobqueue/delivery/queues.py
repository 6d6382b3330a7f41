"""RQ's queues as a carrier of hints: "someone should look at job 42"."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from rq import Queue, Retry
from rq.job import Job as RQJob

from jobqueue.delivery.forgery import SliceJob
from jobqueue.errors import ServerUnavailableError
from jobqueue.model.job import Job, Priority
from jobqueue.store.due import DuePart

RUN_SLICE = "jobqueue.delivery.entry.run_slice"
DEAD_QUEUE = "dead"
HINT_TTL_S = 3600
RESULT_TTL_S = 60
FAILURE_TTL_S = 3600
JOB_TIMEOUT_S = 90
_SOCKET_TIMEOUT_S = 5
_FEWEST_HINTS = 4
_SPARE = "spare"
_SPARE_KEY = "jobqueue:spare:{job_id}"
_SPARE_RETRIES = 3


def connect(redis_url: str) -> redis.Redis:
    """A client for *redis_url*; connects at the first command."""
    return redis.Redis.from_url(redis_url, socket_timeout=_SOCKET_TIMEOUT_S, socket_connect_timeout=_SOCKET_TIMEOUT_S)


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's connection errors into ours."""
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise ServerUnavailableError(
            f"Redis cannot be reached: {error}", remedy="Check REDIS_URL, or start the local stack: jobqueue up"
        ) from None


def queue(connection: redis.Redis, priority: Priority) -> Queue:
    """The RQ queue of that priority."""
    return Queue(priority.queue, connection=connection, job_class=SliceJob)


def rq_id(kind: str, *marks: object) -> str:
    """A fresh RQ id: RQ may lose a job whose id comes again."""
    return "-".join([kind, *map(str, marks), f"{time.time_ns() // 1_000_000}{secrets.token_hex(3)}"])


def hint(connection: redis.Redis, priority: Priority, parts: Sequence[DuePart]) -> None:
    """Tell the queue of *priority* that *parts* are due, one RQ job for each.

    Raises:
        ServerUnavailableError: Redis cannot be reached. Nothing is lost: the sweep hints again.
    """
    if not parts:
        return
    data = [
        Queue.prepare_data(
            RUN_SLICE,
            args=(part.job_id,),
            job_id=rq_id("slice", part.job_id, part.part, part.fence),
            description=describe(part),
            timeout=JOB_TIMEOUT_S,
            result_ttl=RESULT_TTL_S,
            failure_ttl=FAILURE_TTL_S,
            ttl=HINT_TTL_S,
        )
        for part in parts
    ]
    with translated():
        queue(connection, priority).enqueue_many(data)


def leave_spare(connection: redis.Redis, job: Job, name: str) -> None:
    """Make sure a spare hint at *job* waits in some queue, for the worker that outlives its horse; one a job is enough.

    Args:
        name: The queue to put it into.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    key = _SPARE_KEY.format(job_id=job.id)
    fresh = rq_id(_SPARE, job.id)
    with translated():
        known = connection.get(key)
        if isinstance(known, bytes) and _waits(connection, known.decode()):
            return
        connection.set(key, fresh, ex=HINT_TTL_S)
        Queue(name, connection=connection, job_class=SliceJob).enqueue_many(
            [
                Queue.prepare_data(
                    RUN_SLICE,
                    args=(job.id,),
                    job_id=fresh,
                    description=f"{job.description} · spare",
                    timeout=JOB_TIMEOUT_S,
                    result_ttl=RESULT_TTL_S,
                    failure_ttl=FAILURE_TTL_S,
                    ttl=HINT_TTL_S,
                    # A horse may die after its hint was popped and before it could leave another.
                    retry=Retry(max=_SPARE_RETRIES),
                )
            ]
        )


def _waits(connection: redis.Redis, rq_job_id: str) -> bool:
    pipeline = connection.pipeline(transaction=False)
    for priority in Priority:
        pipeline.lpos(f"rq:queue:{priority.queue}", rq_job_id)
    return any(position is not None for position in pipeline.execute())


def is_spare(rq_job_id: str) -> bool:
    """Whether that RQ id is a spare hint's."""
    return rq_job_id.startswith(f"{_SPARE}-")


def waiting(connection: redis.Redis, names: Iterable[str]) -> int:
    """How many hints wait in these queues, spare ones not counted.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    with translated():
        pipeline = connection.pipeline(transaction=False)
        for name in names:
            pipeline.lrange(f"rq:queue:{name}", 0, -1)
        return sum(not is_spare(found.decode()) for names_ in pipeline.execute() for found in names_)


def describe(part: DuePart) -> str:
    """One readable line without secrets: ``enforcement · spotify · 12,431 items · slice 7``."""
    words = [part.type, part.provider, f"{part.item_count:,} items", f"slice {part.fence + 1}"]
    return " · ".join(words)


def room(connection: redis.Redis, priority: Priority) -> int:
    """How many hints the queue can take: up to twice its live workers, so that a deep backlog is no flood."""
    with translated():
        workers = connection.scard(f"rq:workers:{priority.queue}")
    return max(_FEWEST_HINTS, 2 * int(workers)) - waiting(connection, [priority.queue])


def failed_slices(connection: redis.Redis, since_s: float) -> list[str]:
    """RQ ids of slices whose process RQ saw die within *since_s*.

    RQ writes a job into this registry only after it has waited for the dead horse, so its leases can be ended.
    """
    names: list[str] = []
    with translated():
        for priority in Priority:
            registry = queue(connection, priority).failed_job_registry
            # Scores are the expiry: the time of failure plus the registry's own time to live.
            oldest = time.time() + FAILURE_TTL_S - since_s
            found = connection.zrangebyscore(registry.key, oldest, "+inf")
            names += [name.decode() for name in found if isinstance(name, bytes)]
    return names


def mirror_dead(connection: redis.Redis, letters: Iterable[dict[str, Any]]) -> None:
    """Show jobs with dead letters in the ``dead`` queue, which no worker reads; what is decided goes."""
    dead = Queue(DEAD_QUEUE, connection=connection, job_class=SliceJob)
    with translated():
        wanted = {f"dead-{letter['job_id']}-{letter['count']}": letter for letter in letters}
        shown = set(dead.job_ids)
        for job_id in shown - set(wanted):
            dead.remove(job_id)
            connection.delete(RQJob.key_for(job_id))
        for job_id, letter in wanted.items():
            if job_id in shown and connection.exists(RQJob.key_for(job_id)):
                continue
            dead.remove(job_id)
            words = [
                letter["job_type"],
                letter["provider"],
                f"job {letter['job_id']}",
                f"{letter['count']:,} dead letters",
                letter["reason"],
            ]
            dead.enqueue_call(
                RUN_SLICE,
                args=(letter["job_id"],),
                job_id=job_id,
                description=" · ".join(words)[:200],
                ttl=HINT_TTL_S * 24,
                result_ttl=RESULT_TTL_S,
            )
