"""What RQ calls: one slice of one job. Connections are opened here, after the fork."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import redis
import structlog
from rq.timeouts import BaseTimeoutException

from jobqueue.delivery import queues, refusals
from jobqueue.delivery.dispatch import dispatch
from jobqueue.delivery.horse import WorkerSignals, current_rq_id
from jobqueue.delivery.log import configure_logging
from jobqueue.delivery.timer import Timer
from jobqueue.engine import control, labels, registry, sweep
from jobqueue.engine.context import as_request, job_context
from jobqueue.engine.departure import SliceReport
from jobqueue.engine.history import PostgresHistory
from jobqueue.engine.process import this_holder
from jobqueue.engine.slice import HungCallError, Slice
from jobqueue.engine.tools import Signals, Tools
from jobqueue.engine.workers import worker_config
from jobqueue.errors import (
    ConcurrencyLimitExceededError,
    InvalidTransitionError,
    NotFoundError,
    ServerUnavailableError,
    UsageError,
)
from jobqueue.model.job import ACTIVE, Job, JobStatus
from jobqueue.model.worker import WorkerConfig
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import cleanup, due, jobs
from jobqueue.store.checkpoints import Holder
from jobqueue.store.database import Database

log = structlog.get_logger("jobqueue.entry")

_EXIT_TIMEOUT = 70
_EXIT_HUNG = 71

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
        reason = f"this worker takes no {job.type} jobs"
        with suppress(ServerUnavailableError):
            refusals.note_passed(queues.connect(settings.redis_url), job_id, reason)
        return {"job_id": job_id, "reason": reason}
    if config.max_run_s is not None and time.time() - job.created_at.timestamp() > config.max_run_s:
        sweep.fail_overdue(database, job_id)
        return {"job_id": job_id, "reason": "the job took longer than this worker lets it"}
    connection = queues.connect(settings.redis_url)
    missing = _missing(database, job)
    if missing is not None:
        return _refuse(database, connection, job, missing)
    worker = WorkerSignals(connection, job.priority)
    worker.listen()
    timer = Timer(database, connection, job, worker)
    sweep.end_leases_of_dead_processes(database)
    timer.guard()
    try:
        report = _guarded_slice(settings, database, connection, job, timer, config)
    except UsageError as error:
        control.fail(database, job_id, reason=str(error), fingerprint=f"configuration: {type(error).__name__}")
        return {"job_id": job_id, "reason": str(error)}
    except ConcurrencyLimitExceededError as error:
        log.warning("job failed", job=job_id, reason=str(error))
        with suppress(InvalidTransitionError):  # it ended meanwhile
            control.fail(database, job_id, reason=str(error), fingerprint=f"{type(error).__name__}: {error.label}")
        return {"job_id": job_id, "reason": str(error)}
    try:
        refusals.forget(connection, job_id)
        timer.pass_on(longest_s=settings.slice_s, reason=str(report["reason"]))
    except (ServerUnavailableError, redis.exceptions.RedisError) as error:
        log.warning("nobody was told; the sweep will", job=job_id, error=str(error))
    return report


def _missing(database: Database, job: Job) -> UsageError | None:
    """What this worker's installation lacks for *job*, and another one's may have."""
    wanted = [job]
    if job.rollback_of is not None and not job.is_planned:
        with suppress(NotFoundError):  # the plan says so itself
            wanted.append(jobs.get(database, job.rollback_of))
    try:
        for each in wanted:
            registry.handler(each.type).operation(as_request(each), registry.provider(each.provider))
    except UsageError as error:
        return error
    return None


def _refuse(database: Database, connection: redis.Redis, job: Job, missing: UsageError) -> dict[str, Any]:
    """Leave the job to a worker that has what it needs; fail it when there was none for an hour.

    The hour begins with the first refusal and ends with the next slice, whoever runs it: neither the job's age nor a
    night without any worker counts. Without Redis it begins anew.
    """
    log.warning("this worker cannot take the job", job=job.id, reason=str(missing))
    if refusals.note(connection, job.id, str(missing)) < refusals.REFUSED_FOR_S:
        due.hint_again_soon(database, job.id)
        return {"job_id": job.id, "reason": f"this worker cannot take it: {missing}"}
    reason = f"no worker could take it for {refusals.REFUSED_FOR_S // 60} minutes: {missing}"
    with suppress(InvalidTransitionError):  # it ended meanwhile
        control.fail(database, job.id, reason=reason, fingerprint=f"configuration: {type(missing).__name__}")
    refusals.forget(connection, job.id)
    return {"job_id": job.id, "reason": reason}


def _guarded_slice(
    settings: Settings, database: Database, connection: redis.Redis, job: Job, signals: Signals, config: WorkerConfig
) -> dict[str, Any]:
    """A slice with a permit of the job's concurrency label; at once, where the job bears none."""
    name = current_rq_id()
    # RQ runs a spare hint again under its old id: two holders of one name could not be told apart.
    holder = this_holder(queues.rq_id("slice", job.id) if not name or queues.is_spare(name) else name)
    label = labels.label_of(job)
    if label is None:
        return _slice(settings, database, job, holder, signals, config, None)
    # A lease and a permit are renewed together.
    label = replace(label, expiry_s=max(label.expiry_s, config.lease_s))
    permit = labels.enter(database, label, job, holder)
    if isinstance(permit, labels.Idle):
        return asdict(SliceReport(job.id, "nothing is due"))
    if isinstance(permit, labels.Waiting):
        _hint_at(database, connection, permit.called)
        return asdict(SliceReport(job.id, permit.reason))
    _hint_at(database, connection, permit.called)
    try:
        report = _slice(settings, database, job, holder, signals, config, permit)
    except (BaseTimeoutException, HungCallError):
        raise  # a request may hang on the wire: the permit ends with this process, which ends now
    except BaseException:
        _hint_at(database, connection, permit.leave(database))
        raise
    _hint_at(database, connection, permit.leave(database))
    return report


def _hint_at(database: Database, connection: redis.Redis, called: Iterable[int]) -> None:
    """Tell the workers of jobs that may come in; where that fails, the sweep does."""
    with suppress(ServerUnavailableError, redis.exceptions.RedisError):
        for job_id in called:
            dispatch(database, connection, job_id=job_id, count=1)


def _slice(
    settings: Settings,
    database: Database,
    job: Job,
    holder: Holder,
    signals: Signals,
    config: WorkerConfig,
    permit: labels.Permit | None,
) -> dict[str, Any]:
    context = job_context(database, settings, job)
    limiter = Limiter(settings.redis_url, {job.provider: context.limits}, PostgresHistory(database))
    try:
        tools = Tools(
            database=database,
            heartbeat_database=Database(settings.database_url, name="jobqueue-heartbeat"),
            limiter=limiter,
            holder=holder,
            signals=signals,
            config=config,
            permit=permit,
        )
        report = Slice(context, tools).run()
    finally:
        limiter.close()
    if report.ended is not None:
        log.info("job ended", job=job.id, state=str(report.ended))
    return asdict(report)


def run_cleanup() -> dict[str, Any]:
    """Delete what retention lets go; called by rq-scheduler, and harmless at any time."""
    settings = Settings.from_environ()
    configure_logging(settings)
    with Database(settings.database_url, name="jobqueue-cleanup") as database:
        deleted = cleanup.delete_expired(database, older_than_s=settings.retention_h * 3600)
    return {"deleted": len(deleted)}
