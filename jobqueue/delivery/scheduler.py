"""The scheduler process: several may run, one leads.

The leader sleeps until the earliest part falls due and hints at it; every two seconds it sweeps, whatever it was told.
Cron and other periodic work is rq-scheduler's: a timer that hints, under the sweep.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import redis
import structlog
from rq_scheduler import Scheduler

from jobqueue.delivery import queues
from jobqueue.delivery.dispatch import LEADER_ROLE, dispatch
from jobqueue.delivery.forgery import SliceJob
from jobqueue.delivery.log import configure_logging
from jobqueue.engine import sweep
from jobqueue.engine.process import this_holder
from jobqueue.errors import DatabaseNotMigratedError, ServerUnavailableError
from jobqueue.model.job import Priority
from jobqueue.settings import Settings
from jobqueue.store import due
from jobqueue.store.database import Database
from jobqueue.store.migrate import check_migrated

log = structlog.get_logger("jobqueue.scheduler")

_LEASE_S = 10.0
_SHORTEST_SLEEP_S = 0.02
_DEAD_EVERY_S = 10.0
_CLEANUP_EVERY_S = 3600
_CLEANUP_ID = "jobqueue-cleanup"


class PeriodicTimer(Scheduler):  # type: ignore[misc]
    """rq-scheduler, made to survive a job it cannot read."""

    def enqueue_job(self, job: Any) -> None:
        """Move a due job to its queue; one that cannot be read is dropped instead of blocking all behind it."""
        try:
            super().enqueue_job(job)
        except redis.exceptions.RedisError:
            raise
        except Exception as error:
            log.warning("dropped a scheduled job that cannot be read", rq_id=job.id, error=type(error).__name__)
            self.connection.zrem(self.scheduled_jobs_key, job.id)

    def tick(self) -> None:
        """Enqueue what is due, unless another scheduler is at it."""
        if self.acquire_lock():
            try:
                self.enqueue_jobs()
            finally:
                self.remove_lock()

    def keep_cleanup(self) -> None:
        """Make sure the periodic cleanup is booked; a flush takes it away."""
        if _CLEANUP_ID not in self:
            self.schedule(
                datetime.now(UTC).replace(tzinfo=None),
                "jobqueue.delivery.entry.run_cleanup",
                interval=_CLEANUP_EVERY_S,
                id=_CLEANUP_ID,
                queue_name=Priority.LOW.queue,
                description="cleanup · ended jobs beyond their retention",
                result_ttl=2 * _CLEANUP_EVERY_S,
            )


class SchedulerLoop:
    """Leads if it can; `run` until `stop`."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._stop = threading.Event()
        self._database = Database(settings.database_url, name="jobqueue-scheduler")
        self._connection = queues.connect(settings.redis_url)
        self._timer = PeriodicTimer(
            connection=self._connection, interval=1, job_class=SliceJob, queue_name=Priority.LOW.queue
        )
        self._holder = this_holder(queues.rq_id("scheduler")).name
        self._is_leading = False
        self._swept_at_s = float("-inf")
        self._mirrored_at_s = float("-inf")

    def stop(self) -> None:
        """End `run` soon."""
        self._stop.set()

    def run(self) -> None:
        """Lead, dispatch and sweep until stopped. Servers that are away are waited for."""
        with self._database:
            while not self._stop.is_set():
                try:
                    sleep_s = self._turn()
                except ServerUnavailableError as error:
                    log.warning("waiting", error=error.message)
                    sleep_s = 1.0
                except redis.exceptions.RedisError as error:
                    log.warning("waiting for Redis", error=type(error).__name__)
                    sleep_s = 1.0
                self._stop.wait(max(_SHORTEST_SLEEP_S, sleep_s))
            self._step_down()

    def _turn(self) -> float:
        """One look; the seconds until the next."""
        is_leading = due.lead(self._database, LEADER_ROLE, self._holder, lease_s=_LEASE_S)
        if is_leading != self._is_leading:
            log.info("leading" if is_leading else "standing by", scheduler=self._holder)
            self._is_leading = is_leading
        if not is_leading:
            return self._settings.sweep_s
        now_s = self._clock()
        if now_s - self._swept_at_s >= self._settings.sweep_s:
            sweep.sweep(self._database, dead_holders=self._dead_holders)
            self._swept_at_s = now_s
            self._timer.keep_cleanup()
            self._timer.tick()
        if now_s - self._mirrored_at_s >= _DEAD_EVERY_S:
            queues.mirror_dead(self._connection, sweep.letters_by_job(self._database))
            self._mirrored_at_s = now_s
        dispatch(self._database, self._connection)
        next_s = due.next_due_in_s(self._database)
        until_sweep_s = self._swept_at_s + self._settings.sweep_s - self._clock()
        return until_sweep_s if next_s is None or next_s <= 0 else min(next_s, until_sweep_s)

    def _dead_holders(self) -> list[str]:
        try:
            return queues.failed_slices(self._connection, since_s=60.0)
        except ServerUnavailableError:
            return []

    def _step_down(self) -> None:
        try:
            due.step_down(self._database, LEADER_ROLE, self._holder)
        except ServerUnavailableError:
            log.warning("postgres is away; the lead ends by itself", scheduler=self._holder)


def run(settings: Settings) -> int:
    """Run a scheduler in this process until SIGTERM or SIGINT; the exit code.

    Raises:
        DatabaseNotMigratedError: The database lacks migrations.
    """
    configure_logging(settings)
    loop = SchedulerLoop(settings)

    def terminate(signum: int, frame: FrameType | None) -> None:
        loop.stop()

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, terminate)
    with Database(settings.database_url, name="jobqueue-scheduler") as database:
        try:
            check_migrated(database)
        except ServerUnavailableError as error:
            log.warning("waiting", error=error.message)
        except DatabaseNotMigratedError:
            raise
    loop.run()
    return 0
