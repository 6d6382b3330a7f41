"""Which workers are there, what they do, and which hints wait: what Redis knows when somebody asks about a job."""

from __future__ import annotations

import re
import socket

import redis
from rq import Worker

from jobqueue.delivery import queues, refusals
from jobqueue.delivery.forgery import SliceJob
from jobqueue.model.job import Priority
from jobqueue.model.standstill import Delivery, SeenWorker
from jobqueue.settings import process_start_id

_SLICE_ID = re.compile(r"(?:slice|spare)-(\d+)-")


def look(connection: redis.Redis, job_id: int) -> Delivery:
    """What Redis knows that bears on job *job_id*.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    seen = workers(connection)
    heard = {name for worker in seen for name in worker.queues}
    with queues.translated():
        pipeline = connection.pipeline(transaction=False)
        names = [priority.queue for priority in Priority if priority.queue in heard]
        for name in names:
            pipeline.lrange(f"rq:queue:{name}", 0, -1)
        waiting = [_job_of(found.decode()) for ids in pipeline.execute() for found in ids]
    refusal, fails_in_s = refusals.read(connection, job_id)
    return Delivery(seen, sum(found == job_id for found in waiting), refusal, fails_in_s)


def workers(connection: redis.Redis) -> tuple[SeenWorker, ...]:
    """The RQ workers; one that was killed on this host is left out, one killed elsewhere stays until RQ forgets it.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    with queues.translated():
        found = [w for w in Worker.all(connection=connection, job_class=SliceJob) if not _is_gone(w.hostname, w.pid)]
        return tuple(_seen(connection, worker) for worker in found)


def _seen(connection: redis.Redis, worker: Worker) -> SeenWorker:
    names = tuple(worker.queue_names())
    rq_id = worker.get_current_job_id()
    if rq_id is None or str(worker.get_state()) != "busy":
        return SeenWorker(worker.name, names)
    origin = connection.hget(SliceJob.key_for(rq_id), "origin")
    return SeenWorker(worker.name, names, _job_of(rq_id), origin.decode() if isinstance(origin, bytes) else names[0])


def _job_of(rq_id: str) -> int | None:
    """The job that a hint is about; None for periodic work."""
    match = _SLICE_ID.match(rq_id)
    return None if match is None else int(match[1])


def _is_gone(hostname: str | None, pid: int | None) -> bool:
    return pid is not None and hostname == socket.gethostname() and process_start_id(pid) is None
