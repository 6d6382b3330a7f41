"""What RQ calls: one slice of one job. Connections are opened here, after the fork."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

import redis
import structlog
from rq.timeouts import BaseTimeoutException

from jobqueue.delivery import queues
from jobqueue.delivery.dispatch import LEADER_ROLE, dispatch
from jobqueue.delivery.horse import WorkerSignals, current_rq_id
from jobqueue.delivery.log import configure_logging
from jobqueue.engine import control, sweep
from jobqueue.engine.context import job_context
from jobqueue.engine.history import PostgresHistory
from jobqueue.engine.process import this_holder
from jobqueue.engine.slice import HungCallError, Slice
from jobqueue.engine.tools import Signals, Tools
from jobqueue.engine.workers import worker_config
from jobqueue.errors import NotFoundError, ServerUnavailableError, UsageError
from jobqueue.model.job import ACTIVE, Job, JobStatus
from jobqueue.model.worker import WorkerConfig
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import cleanup, due, jobs
from jobqueue.store.database import Database

log = structlog.get_logger("jobqueue.entry")

_EXIT_TIMEOUT = 70
_EXIT_HUNG = 71
_TIMER_LOOK_S = 0.25


_configured: list[WorkerConfig] = []


def configure(config: WorkerConfig) -> None:
    """Let slices of this process, and of horses forked from it, work as *config* says instead of as the settings
    say.
    """
    _configured[:] = [config]


def run_slice(job_id: int) -> dict[str, Any]:
    """Work on job *job_id* for a slice; what RQ keeps as the result is a short report.

    A hint may come twice or late: with nothing due it returns at once.
    """
    settings = Settings.from_environ()
    configure_logging(settings)
    try:
        with Database(settings.database_url, name="jobqueue-slice") as database:
            return _run(settings, database, job_id)
    except BaseTimeoutException:
        # RQ's timeout strikes anywhere, in the middle of a COMMIT too: nothing in this process can be trusted any more.
        os._exit(_EXIT_TIMEOUT)
    except HungCallError as error:
        log.error("slice ends", job=job_id, reason=str(error))
        os._exit(_EXIT_HUNG)


def _run(settings: Settings, database: Database, job_id: int) -> dict[str, Any]:
    try:
        job = jobs.get(database, job_id)
    except NotFoundError:
        return {"job_id": job_id, "reason": "the job is gone"}
    if job.status not in ACTIVE or job.status is JobStatus.PAUSED:
        return {"job_id": job_id, "reason": f"the job is {job.status}"}
    config = _configured[0] if _configured else worker_config(settings)
    if config.job_types and job.type not in config.job_types:
        due.hint_again_soon(database, job_id)
        return {"job_id": job_id, "reason": f"this worker takes no {job.type} jobs"}
    if config.max_run_s is not None and time.time() - job.created_at.timestamp() > config.max_run_s:
        sweep.fail_overdue(database, job_id)
        return {"job_id": job_id, "reason": "the job took longer than this worker lets it"}
    connection = queues.connect(settings.redis_url)
    signals = WorkerSignals(connection, job.priority)
    signals.listen()
    sweep.end_leases_of_dead_processes(database)
    try:
        report = _slice(settings, database, job, signals, config)
    except UsageError as error:
        control.fail(database, job_id, reason=str(error), fingerprint=f"configuration: {type(error).__name__}")
        return {"job_id": job_id, "reason": str(error)}
    try:
        _pass_on(settings, database, connection, job_id, signals, reason=str(report["reason"]))
    except ServerUnavailableError as error:
        log.warning("nobody was told; the sweep will", job=job_id, error=error.message)
    return report


def _slice(settings: Settings, database: Database, job: Job, signals: Signals, config: WorkerConfig) -> dict[str, Any]:
    context = job_context(database, settings, job)
    limiter = Limiter(settings.redis_url, {job.provider: context.limits}, PostgresHistory(database))
    try:
        tools = Tools(
            database=database,
            heartbeat_database=Database(settings.database_url, name="jobqueue-heartbeat"),
            limiter=limiter,
            holder=this_holder(current_rq_id() or queues.rq_id("slice", job.id)),
            signals=signals,
            config=config,
        )
        report = Slice(context, tools).run()
    finally:
        limiter.close()
    if report.ended is not None:
        log.info("job ended", job=job.id, state=str(report.ended))
    return asdict(report)


def _pass_on(
    settings: Settings, database: Database, connection: redis.Redis, job_id: int, signals: WorkerSignals, *, reason: str
) -> None:
    """Hint at what is due; where no scheduler is alive, keep the time for what is not."""
    if dispatch(database, connection, job_id=job_id, count=2) or reason == "shutdown":
        return
    if due.leader(database, LEADER_ROLE) is not None:
        return
    _keep_time(settings, database, connection, job_id, signals)


def _keep_time(
    settings: Settings, database: Database, connection: redis.Redis, job_id: int, signals: WorkerSignals
) -> None:
    """Stay until the job's next part falls due, at most for a slice: without a scheduler the last slice is the
    timer.
    """
    ends_at_s = time.monotonic() + settings.slice_s
    is_said = False
    while True:
        sweep.sweep(database)
        if dispatch(database, connection):
            return
        ready, held, next_s = due.job_work(database, job_id)
        if next_s is None or (held and not ready):
            return  # it has ended or is paused, or another slice of it is at work and will be the last
        if not is_said:
            log.warning("no scheduler is alive: staying as the timer", job=job_id, next_due_in_s=round(next_s, 1))
            is_said = True
        until_s = min(time.monotonic() + max(0.0, next_s), ends_at_s)
        while time.monotonic() < until_s:
            if signals.stop_reason():
                return
            time.sleep(min(_TIMER_LOOK_S, max(0.0, until_s - time.monotonic())))
        if time.monotonic() >= ends_at_s:
            job = jobs.get(database, job_id)
            part = due.DuePart(job.id, 0, 0, job.type, job.provider, job.operation, job.item_count)
            queues.hint(connection, job.priority, [part])
            return


def run_cleanup() -> dict[str, Any]:
    """Delete what retention lets go; called by rq-scheduler, and harmless at any time."""
    settings = Settings.from_environ()
    configure_logging(settings)
    with Database(settings.database_url, name="jobqueue-cleanup") as database:
        deleted = cleanup.delete_expired(database, older_than_s=settings.retention_h * 3600)
    return {"deleted": len(deleted)}
