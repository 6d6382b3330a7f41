"""The part of the public face that explains: why a job does not move, and what one would take."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from jobqueue.delivery import presence
from jobqueue.delivery.connected import Connected
from jobqueue.delivery.dispatch import LEADER_ROLE
from jobqueue.engine import enqueue, undo, why
from jobqueue.engine.intake import RowSource
from jobqueue.engine.preflight import Preflight, Work, preflight, require_deadline
from jobqueue.errors import ServerUnavailableError
from jobqueue.model.job import JobRequest, Priority
from jobqueue.model.standstill import Delivery, Facts
from jobqueue.store import due, jobs


class Explaining(Connected):
    """What `JobQueue` says about jobs without changing any."""

    def job_facts(self, job_id: int) -> Facts:
        """What `jobqueue.model.why.explain` judges: why the job moves or not; with Redis away, what Postgres knows.

        Raises:
            NotFoundError: There is no such job.
            ServerUnavailableError: Postgres cannot be reached.
        """
        self._check_migrated()
        delivery: Delivery | None = None
        redis_error = ""
        try:
            delivery = presence.look(self._connection, job_id)
        except ServerUnavailableError as error:
            redis_error = error.message
        return why.facts(
            self._database,
            self._limiter(jobs.get(self._database, job_id).provider),
            self.settings,
            job_id,
            delivery=delivery,
            redis_error=redis_error,
            has_scheduler=due.leader(self._database, LEADER_ROLE) is not None,
        )

    def preflight_job(
        self, request: JobRequest, source: RowSource, *, skip_invalid: bool = False, deadline_s: float | None = None
    ) -> Preflight:
        """Check a job and read its items as `enqueue_job` does, store nothing, and say what it would take.

        Args:
            deadline_s: Seconds from now; the answer's verdict says whether it can be met.

        Raises:
            InvalidInputError: Something about the request or an item is wrong, as at `enqueue_job`.
            ServerUnavailableError: Postgres cannot be reached.
        """
        self._check_migrated()
        enqueue.check_account(request, self.settings.provider_override(request.provider).account)
        with enqueue.prepared(self._database, request, source, skip_invalid=skip_invalid) as (work, _):
            return self._forecast(work, deadline_s)

    def preflight_rollback(
        self, job_id: int, *, priority: Priority | None = None, deadline_s: float | None = None
    ) -> Preflight:
        """What a rollback of job *job_id* would take, by what its journal holds now.

        Raises:
            NotFoundError: There is no such job.
            InvalidInputError: Its operation cannot be undone.
        """
        self._check_migrated()
        return self._forecast(undo.prepared_rollback(self._database, job_id, priority=priority), deadline_s)

    def _admission(self, deadline_s: float | None) -> Callable[[Work], None] | None:
        """What refuses a job that cannot meet its deadline."""
        if deadline_s is None:
            return None
        return lambda work: require_deadline(self._forecast(work, deadline_s))

    def _forecast(self, work: Work, deadline_s: float | None) -> Preflight:
        workers: int | None = None
        with suppress(ServerUnavailableError):
            queue = work.request.priority.queue
            workers = sum(queue in worker.queues for worker in presence.workers(self._connection))
        limiter = self._limiter(work.request.provider)
        return preflight(self._database, limiter, self.settings, work, workers=workers, deadline_s=deadline_s)
