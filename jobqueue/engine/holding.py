"""The parts a slice holds: claimed, sent from, lost, finished, given up."""

from __future__ import annotations

import time

import structlog

from jobqueue.engine import rollback
from jobqueue.engine.aftermath import Aftermath
from jobqueue.engine.context import JobContext
from jobqueue.engine.departure import Departure, SliceReport
from jobqueue.engine.draft import Draft
from jobqueue.engine.flight import Flight
from jobqueue.engine.gate import Gate
from jobqueue.engine.heartbeat import Heartbeat
from jobqueue.engine.part import HeldPart
from jobqueue.engine.tools import Tools
from jobqueue.errors import ServerUnavailableError, UsageError
from jobqueue.model.pace import Leave
from jobqueue.store import checkpoints, due
from jobqueue.store.limits import config_version

log = structlog.get_logger("jobqueue.slice")

_CLAIM_AGAIN_S = 1.0
_MOST_CRASHES = 8
_RECONNECT_EVERY_S = 0.2


class PartBrokenError(UsageError):
    """No batch is to blame, yet whoever takes the part dies: a handler's bug outside of its requests."""


class Holding:
    """The parts under this slice's leases.

    Attributes:
        parts: By number.
    """

    def __init__(
        self, context: JobContext, tools: Tools, heartbeat: Heartbeat, aftermath: Aftermath, report: SliceReport
    ) -> None:
        self.parts: dict[int, HeldPart] = {}
        self._context = context
        self._tools = tools
        self._heartbeat = heartbeat
        self._aftermath = aftermath
        self._report = report
        self._job_id = context.job.id
        self._db = tools.database
        self._clock = tools.clock
        self._claim_at_s = 0.0

    def can_claim(self, now_s: float) -> bool:
        """Whether more parts may be there, and there is room for one."""
        return now_s >= self._claim_at_s and len(self.parts) < self._tools.config.in_flight

    @property
    def fences(self) -> dict[int, int]:
        """The fence of each part."""
        return {part.part: part.claim.fence for part in self.parts.values()}

    @property
    def numbers(self) -> dict[int, int]:
        """The latest batch number of each part."""
        return {part.part: part.batch_no for part in self.parts.values()}

    def put_back(self, flight: Flight) -> None:
        """Undo `take` for a flight that is not sent; the latest first."""
        self.parts[flight.part].put_back(flight, self._clock())

    def claim(self, draft: Draft) -> None:
        """Take another due part, with what its earlier holders left open."""
        asked_at_s = self._clock()
        config = self._tools.config
        claims = checkpoints.claim(self._db, self._job_id, self._tools.holder, count=1, lease_s=config.lease_s)
        if not claims:
            self._claim_at_s = asked_at_s + _CLAIM_AGAIN_S
            return
        for claim in claims:
            self._heartbeat.hold(claim.part, claim.fence, asked_at_s)
            self._report.claimed += 1
            if claim.kind == "plan" and claim.crashes >= _MOST_CRASHES:
                raise PartBrokenError(f"planning job {self._job_id} ended its worker {claim.crashes} times in a row.")
            if claim.kind == "plan":
                self._plan(claim.part, claim.fence)
                continue
            part = HeldPart(
                claim,
                database=self._db,
                job_id=self._job_id,
                handler=self._context.handler,
                operation=self._context.operation,
                clock=self._clock,
            )
            self.parts[claim.part] = part
            crashed = part.load()
            if claim.crashes >= _MOST_CRASHES and not crashed:
                raise PartBrokenError(
                    f"part {claim.part} of job {self._job_id} ended its worker {claim.crashes} times in a row"
                    " with no request under way.",
                    remedy="Look for the traceback in the workers' logs; mend the handler, then: jobqueue retry JOB_ID",
                )
            for batch in crashed:
                self._aftermath.crashed(part, batch, draft)
            if claim.was_held:
                log.info("took over", job=self._job_id, part=claim.part, crashes=claim.crashes)
        self.end_finished(draft)

    def _plan(self, part: int, fence: int) -> None:
        wait_s = rollback.plan(self._db, self._context, part=part, fence=fence)
        self._heartbeat.drop(part)
        if wait_s is not None:
            reason = f"waiting for job {self._context.job.rollback_of} to let go"
            row = {"part": part, "fence": fence, "due_in_s": wait_s, "reason": reason, "is_finished": False}
            checkpoints.release(self._db, self._job_id, [row])

    def take(self, count: int, size: int, *, may_be_isolated: bool) -> list[Flight]:
        """Up to *count* batches, of *size* items, in turn from the parts that have one ready.

        A suspect comes alone, and only where *may_be_isolated* says that nothing else is under way.
        """
        now_s = self._clock()
        parts = sorted(self.parts.values(), key=lambda part: not part.is_next_isolated(now_s))
        flights: list[Flight] = []
        while len(flights) < count:
            taken: list[Flight] = []
            for part in parts[:]:
                flight = part.take(size, now_s) if len(flights) + len(taken) < count else None
                if flight is None:
                    continue
                if flight.is_isolated:
                    left = flights + taken if may_be_isolated else [*flights, *taken, flight]
                    for other in reversed(left):
                        self.parts[other.part].put_back(other, now_s)
                    return [flight] if may_be_isolated else []
                taken.append(flight)
                if self._context.operation.is_ordered:
                    parts.remove(part)
            if not taken:
                break
            flights += taken
        return flights

    def lose(self, part: int) -> None:
        """Somebody else may hold the part: forget it."""
        log.warning("lease lost", job=self._job_id, part=part)
        self.parts.pop(part, None)
        self._heartbeat.drop(part)
        self._report.lost += 1

    def end_finished(self, draft: Draft) -> None:
        """Release the parts all of whose items have their outcome; parts *draft* is about come later."""
        done = [part for part in self.parts.values() if part.part not in draft.parts and part.is_finished()]
        if not done:
            return
        Departure(self._db, self._job_id).finish(done, self._report)
        for part in done:
            del self.parts[part.part]
            self._heartbeat.drop(part.part)

    def give_up(self, leave: Leave, gate: Gate) -> None:
        """Release every part in order; without Postgres the leases end by themselves."""
        self._report.reason = leave.reason
        departure = Departure(self._db, self._job_id)
        until_s = self._clock() + self._tools.config.lease_s
        while True:
            try:
                gate.settle()
                parts = list(self.parts.values())
                departure.give_up(parts, leave, gate.denial, self._clock(), self._report)
                self._wake_if_limits_changed()
                break
            except ServerUnavailableError:
                if self._clock() > until_s:
                    break  # the leases have ended by themselves
                time.sleep(_RECONNECT_EVERY_S)
        self.parts.clear()

    def _wake_if_limits_changed(self) -> None:
        """Who changed the limits woke what was parked; what was parked by the old ones after that would sleep on."""
        limits, provider = self._context.limits, self._context.scope.provider
        if config_version(self._db, provider) != limits.version:
            due.wake_parked(self._db, provider, job_ids=[self._job_id])
