"""A slice: claim due parts of one job, work on them for a bounded time, park or finish.

The main thread alone touches Postgres and Redis; the crew's threads wait for the provider. No transaction is open while
a request is on the wire: every intent is committed before its request, every outcome after its answer, both together
wherever they meet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import structlog

from jobqueue.engine import rollback
from jobqueue.engine.aftermath import Aftermath
from jobqueue.engine.context import JobContext
from jobqueue.engine.crew import Crew
from jobqueue.engine.departure import Departure, SliceReport
from jobqueue.engine.flight import Flight
from jobqueue.engine.gate import Gate
from jobqueue.engine.heartbeat import Heartbeat
from jobqueue.engine.part import HeldPart
from jobqueue.engine.recorder import Draft, Recorder
from jobqueue.errors import ServerUnavailableError
from jobqueue.handler import Call
from jobqueue.model.job import JobStatus
from jobqueue.model.pace import ClaimMore, Leave, Send, Snapshot, Wait, next_action
from jobqueue.model.worker import LEASE_MARGIN_S, WorkerConfig
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.store import checkpoints
from jobqueue.store.checkpoints import Holder
from jobqueue.store.database import Database

log = structlog.get_logger("jobqueue.slice")

_CLAIM_AGAIN_S = 1.0
_STATE_POLL_S = 1.0
_RECONNECT_EVERY_S = 0.2
_WORKING = (JobStatus.QUEUED, JobStatus.RUNNING)


class Signals(Protocol):
    """What tells a slice from outside to stop; asked at every boundary."""

    def stop_reason(self) -> str:
        """``shutdown``, ``orphaned``, ``yield`` or the empty string."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a slice works with; all of it belongs to this slice alone."""

    database: Database
    heartbeat_database: Database
    limiter: Limiter
    holder: Holder
    signals: Signals
    config: WorkerConfig
    clock: Callable[[], float] = time.monotonic
    random: Random = field(default_factory=Random)


class Slice:
    """One execution: `run` once."""

    def __init__(self, context: JobContext, tools: Tools) -> None:
        self._context = context
        self._tools = tools
        self._job_id = context.job.id
        self._clock = tools.clock
        self._db = tools.database
        config = tools.config
        self._heartbeat = Heartbeat(
            tools.heartbeat_database,
            self._job_id,
            lease_s=config.lease_s,
            interval_s=config.heartbeat_s,
            clock=tools.clock,
        )
        self._gate = Gate(context, tools.limiter, tools.database, tools.clock)
        self._recorder = Recorder(
            tools.database, self._job_id, scope=context.scope.name, provider=context.scope.provider
        )
        self._crew = Crew(context.handler, config.in_flight)
        self._aftermath = Aftermath(context, config, tools.random)
        self._draft = Draft(self._job_id)
        self._parts: dict[int, HeldPart] = {}
        self._flights: set[int] = set()
        self._alone: Flight | None = None
        self._lost = 0
        self._state = JobStatus.RUNNING
        self._state_read_at_s = self._clock()
        self._claim_at_s = 0.0
        self._ends_at_s = self._clock() + config.slice_s
        self._stop = ""
        self.report = SliceReport(self._job_id)

    def run(self) -> SliceReport:
        """Work until there is a reason to stop; gives every part up in order.

        Raises:
            UnrecordedError: Postgres stayed away while there was something to record.
            HungCallError: A request cannot be ended; the process must.
        """
        self._heartbeat.start()
        try:
            while True:
                try:
                    leave = self._step()
                except ServerUnavailableError as error:
                    # What is in memory may be half done: send no more, record what is under way, and leave.
                    log.warning("postgres is away", job=self._job_id, error=error.message)
                    self._stop = self._stop or "postgres is away"
                    continue
                if leave is not None:
                    self._leave(leave)
                    return self.report
        finally:
            self._heartbeat.stop()
            self._crew.close()

    def _step(self) -> Leave | None:
        """One look and what follows from it; how to leave, once there is nothing more to do here."""
        if self._flights:
            self._collect(0.0)
        action = next_action(self._snapshot())
        match action:
            case Send(count=count):
                self._send(count)
            case ClaimMore():
                self._claim()
            case Wait(for_s=for_s):
                self._wait(for_s)
            case Leave():
                self._commit()
                return action
        return None

    # --- looking ---

    def _snapshot(self) -> Snapshot:
        now_s = self._clock()
        self._look_for_a_stop(now_s)
        ready = [part for part in self._parts.values() if part.can_send(now_s)]
        times = [at for part in self._parts.values() if (at := part.next_ready_at_s()) is not None]
        # Alone means alone: what may have killed a process goes first and by itself.
        return Snapshot(
            stop_reason=self._stop,
            # A batch that was looked at and whose effect is still to be sent is under way as well.
            in_flight=len(self._flights) + len(self._draft.turned),
            capacity=self._tools.config.in_flight,
            ready=len(ready),
            is_next_isolated=bool(ready) and any(part.is_next_isolated(now_s) for part in ready),
            is_isolated_in_flight=self._alone is not None,
            denied_for_s=self._gate.denied_for_s(),
            next_ready_in_s=min(times) - now_s if times else None,
            can_claim=now_s >= self._claim_at_s and len(self._parts) < self._tools.config.in_flight,
            held=len(self._parts),
        )

    def _look_for_a_stop(self, now_s: float) -> None:
        if self._stop:
            return
        if now_s >= self._ends_at_s:
            self._stop = "time"
        elif self._state not in _WORKING:
            self._stop = str(self._state)
        elif self._heartbeat.is_hung:
            raise HungCallError(f"a request of job {self._job_id} is past its deadline and cannot be ended")
        else:
            self._stop = "redis is away" if self._gate.is_down else self._tools.signals.stop_reason()
        if not self._stop and now_s - self._state_read_at_s > _STATE_POLL_S:
            self._saw_state(checkpoints.job_state(self._db, self._job_id))

    def _saw_state(self, state: str) -> None:
        self._state = JobStatus(state)
        self._state_read_at_s = self._clock()

    # --- taking work ---

    def _claim(self) -> None:
        asked_at_s = self._clock()
        config = self._tools.config
        claims = checkpoints.claim(self._db, self._job_id, self._tools.holder, count=1, lease_s=config.lease_s)
        if not claims:
            self._claim_at_s = asked_at_s + _CLAIM_AGAIN_S
            return
        for claim in claims:
            self._heartbeat.hold(claim.part, claim.fence, asked_at_s)
            self.report.claimed += 1
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
            self._parts[claim.part] = part
            for batch in part.load():
                self._aftermath.crashed(part, batch, self._draft)
            if claim.was_held:
                log.info("took over", job=self._job_id, part=claim.part, crashes=claim.crashes)
        self._end_finished_parts()

    def _plan(self, part: int, fence: int) -> None:
        wait_s = rollback.plan(self._db, self._context, part=part, fence=fence)
        self._heartbeat.drop(part)
        if wait_s is not None:
            reason = f"waiting for job {self._context.job.rollback_of} to let go"
            row = {"part": part, "fence": fence, "due_in_s": wait_s, "reason": reason, "is_finished": False}
            checkpoints.release(self._db, self._job_id, [row])

    # --- sending ---

    def _send(self, count: int) -> None:
        taken = self._take(count)
        admitted = self._gate.admit(taken)
        # First what stays behind goes back: the cursor that is committed must not pass it.
        for flight in reversed(taken[len(admitted) :]):
            self._parts[flight.part].put_back(flight, self._clock())
        operation = self._context.operation
        for flight in admitted:
            part = self._parts[flight.part]
            part.in_flight += 1
            looks = flight.most_requests - 1
            self._draft.open(
                flight,
                cost_units=operation.cost_units + looks * operation.observe_cost_units,
                requests=flight.most_requests,
                deadline_s=operation.deadline_s * flight.most_requests,
                cursor=part.cursor,
            )
        for held in self._parts.values():
            for no in held.obsolete:
                self._draft.close_row(held.part, no, "recorded")
            held.obsolete.clear()
        self._commit()

    def _take(self, count: int) -> list[Flight]:
        """Up to *count* batches, in turn from the parts that have one ready; a suspect comes alone."""
        size = self._gate.batch_size()
        now_s = self._clock()
        parts = sorted(self._parts.values(), key=lambda part: not part.is_next_isolated(now_s))
        flights: list[Flight] = []
        while len(flights) < count:
            taken: list[Flight] = []
            for part in parts[:]:
                flight = part.take(size, now_s) if len(flights) + len(taken) < count else None
                if flight is None:
                    continue
                if flight.is_isolated:
                    for other in reversed(flights + taken):
                        self._parts[other.part].put_back(other, now_s)
                    return [flight]
                taken.append(flight)
                if self._context.operation.is_ordered:
                    parts.remove(part)
            if not taken:
                break
            flights += taken
        return flights

    def _commit(self) -> None:
        draft, self._draft = self._draft, Draft(self._job_id)
        if draft.is_empty:
            return
        fences = {part.part: part.claim.fence for part in self._parts.values()}
        numbers = {part.part: part.batch_no for part in self._parts.values()}
        try:
            recorded = self._recorder.commit(
                draft,
                fences=fences,
                numbers=numbers,
                epoch=self._gate.epoch,
                until_s=self._clock() + self._tools.config.lease_s,
            )
        except ServerUnavailableError as error:
            raise UnrecordedError(f"postgres stayed away for a whole lease: {error.message}") from None
        self._saw_state(recorded.state)
        if draft.opened and not recorded.is_epoch_current:
            self._gate.refused(recorded.epoch)
        for lost in set(draft.parts) - recorded.held:
            self._lose(lost)
        for flight in reversed(draft.opened):
            part = self._parts.get(flight.part)
            if part is None:
                self._gate.give_back(flight)
            elif recorded.is_epoch_current:
                self._start(flight)
            else:
                part.in_flight -= 1
                part.put_back(flight, self._clock())
                self._gate.give_back(flight)
        for flight in draft.turned:
            if flight.part in self._parts:
                self._start(flight)
        self._end_finished_parts()

    def _start(self, flight: Flight) -> None:
        operation = self._context.operation
        if self._heartbeat.remaining_s(flight.part) < operation.deadline_s + LEASE_MARGIN_S:
            with suppress(ServerUnavailableError):
                self._heartbeat.renew(self._db)
        if self._heartbeat.remaining_s(flight.part) < operation.deadline_s + LEASE_MARGIN_S:
            self._lose(flight.part)
            self._gate.give_back(flight)
            return
        self._flights.add(id(flight))
        self._alone = flight if flight.is_isolated else self._alone
        flight.requests += 1
        self._heartbeat.called(id(flight), operation.deadline_s)
        self._crew.start(flight, self._call(flight))

    def _call(self, flight: Flight) -> Call:
        context = self._context
        is_known = bool(flight.before)
        return Call(
            job=context.job,
            operation=context.operation,
            provider=context.provider,
            endpoint=context.endpoint,
            items=tuple(flight.items),
            idempotency_key=flight.idempotency_key,
            deadline_s=context.operation.deadline_s,
            attempt=flight.attempt,
            before=tuple(flight.before[item.seq] for item in flight.items) if is_known else (),
            after=tuple(flight.after[item.seq] for item in flight.items) if is_known else (),
        )

    # --- answers ---

    def _wait(self, for_s: float | None) -> None:
        self._commit()
        self._gate.settle()
        longest_s = self._tools.config.poll_s
        timeout_s = longest_s if for_s is None else min(for_s, longest_s)
        if self._flights:
            self._collect(timeout_s)
        else:
            time.sleep(max(0.0, timeout_s))

    def _collect(self, timeout_s: float) -> None:
        for answer in self._crew.answers(timeout_s):
            flight = answer.flight
            self._flights.discard(id(flight))
            self._heartbeat.answered(id(flight))
            self._gate.note(answer)
            part = self._parts.get(flight.part)
            if part is None:
                self._alone = None if flight is self._alone else self._alone
                self._gate.give_back(flight)
                continue
            is_over = self._aftermath.answered(part, answer, self._call(flight), self._draft)
            self.report.requests += 1
            if is_over:
                part.in_flight -= 1
                self._alone = None if flight is self._alone else self._alone
                self._gate.give_back(flight)
        if self._aftermath.pause_reason:
            self._pause(self._aftermath.pause_reason)

    def _pause(self, reason: str) -> None:
        self._aftermath.pause_reason = ""
        self._commit()
        if Departure(self._db, self._job_id).pause(reason):
            log.warning("paused", job=self._job_id, reason=reason)
        self._saw_state(checkpoints.job_state(self._db, self._job_id))

    # --- giving up ---

    def _lose(self, part: int) -> None:
        log.warning("lease lost", job=self._job_id, part=part)
        self._parts.pop(part, None)
        self._heartbeat.drop(part)
        self.report.lost += 1

    def _end_finished_parts(self) -> None:
        done = [part for part in self._parts.values() if part.part not in self._draft.parts and part.is_finished()]
        if not done:
            return
        Departure(self._db, self._job_id).finish(done, self.report)
        for part in done:
            del self._parts[part.part]
            self._heartbeat.drop(part.part)

    def _leave(self, leave: Leave) -> None:
        self.report.reason = leave.reason
        departure = Departure(self._db, self._job_id)
        until_s = self._clock() + self._tools.config.lease_s
        while True:
            try:
                self._gate.settle()
                parts = list(self._parts.values())
                departure.give_up(parts, leave, self._gate.denial, self._clock(), self.report)
                break
            except ServerUnavailableError:
                if self._clock() > until_s:
                    break  # the leases have ended by themselves
                time.sleep(_RECONNECT_EVERY_S)
        self._parts.clear()


class UnrecordedError(Exception):
    """Outcomes could not be written while the lease lasted; whoever holds the part next repeats those requests."""


class HungCallError(Exception):
    """A request hangs beyond its deadline: the process must end so that its lease can lapse."""
