"""A slice: claim due parts of one job, work on them for a bounded time, park or finish.

The main thread alone touches Postgres and Redis; the crew's threads wait for the provider. No transaction is open while
a request is on the wire: every intent is committed before its request, every outcome after its answer, both together
wherever they meet.
"""

from __future__ import annotations

import time
from contextlib import suppress

import structlog

from jobqueue.engine.aftermath import Aftermath
from jobqueue.engine.context import JobContext
from jobqueue.engine.crew import Crew
from jobqueue.engine.departure import Departure, SliceReport
from jobqueue.engine.draft import Draft
from jobqueue.engine.flight import Flight
from jobqueue.engine.gate import Gate
from jobqueue.engine.heartbeat import Heartbeat
from jobqueue.engine.holding import Holding
from jobqueue.engine.part import HeldPart
from jobqueue.engine.recorder import Recorder
from jobqueue.engine.tools import Tools
from jobqueue.errors import ServerUnavailableError
from jobqueue.handler import Call
from jobqueue.model.job import JobStatus
from jobqueue.model.pace import ClaimMore, Leave, Send, Snapshot, Wait, next_action
from jobqueue.model.worker import LEASE_MARGIN_S
from jobqueue.store import checkpoints
from jobqueue.store.limits import LONGEST_REQUEST_S

log = structlog.get_logger("jobqueue.slice")

_STATE_POLL_S = 1.0
_WORKING = (JobStatus.QUEUED, JobStatus.RUNNING)


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
            permit=tools.permit,
        )
        self._gate = Gate(context, tools.limiter, tools.database, tools.clock)
        self._recorder = Recorder(
            tools.database, self._job_id, scope=context.scope.name, provider=context.scope.provider
        )
        self._crew = Crew(context.handler, config.in_flight)
        self._aftermath = Aftermath(context, config, tools.random)
        self._draft = Draft(self._job_id)
        self.report = SliceReport(self._job_id)
        self._holding = Holding(context, tools, self._heartbeat, self._aftermath, self.report)
        self._flights: dict[int, HeldPart] = {}  # by the flight's id: the part it was sent from
        self._alone: Flight | None = None
        self._state = JobStatus.RUNNING
        self._state_read_at_s = self._clock()
        self._ends_at_s = self._clock() + config.slice_s
        self._stop = ""
        self._has_old_limits = False

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
                    self.report.reason = leave.reason
                    self._holding.give_up(leave, self._gate)
                    if self._state not in _WORKING or self.report.ended is not None:
                        self._gate.leave_line()
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
                self._holding.claim(self._draft)
            case Wait(for_s=for_s):
                self._wait(for_s)
            case Leave():
                if self._draft.is_empty:
                    return action
                self._commit()  # and look again: parts that end by it make room for others
        return None

    # --- looking ---

    def _snapshot(self) -> Snapshot:
        now_s = self._clock()
        self._look_for_a_stop(now_s)
        ready = [part for part in self._holding.parts.values() if part.can_send(now_s)]
        times = [at for part in self._holding.parts.values() if (at := part.next_ready_at_s()) is not None]
        # Alone means alone: what may have killed a process goes first and by itself.
        return Snapshot(
            stop_reason=self._stop,
            # A batch that was looked at and whose effect is still to be sent is under way as well.
            in_flight=len(self._flights) + len(self._draft.turned),
            capacity=self._tools.config.in_flight,
            ready=len(ready),
            is_next_isolated=bool(ready) and any(part.is_next_isolated(now_s) for part in ready),
            is_isolated_in_flight=self._is_alone_in_flight(),
            denied_for_s=self._gate.denied_for_s(),
            next_ready_in_s=min(times) - now_s if times else None,
            can_claim=self._holding.can_claim(now_s),
            held=len(self._holding.parts),
        )

    def _is_alone_in_flight(self) -> bool:
        if self._alone is not None and id(self._alone) not in self._flights:
            is_between = any(flight is self._alone for flight in self._draft.turned)
            self._alone = self._alone if is_between else None  # answered, or its part was lost
        return self._alone is not None

    def _look_for_a_stop(self, now_s: float) -> None:
        if self._heartbeat.is_hung:
            raise HungCallError(f"a request of job {self._job_id} is past its deadline and cannot be ended")
        if self._stop:
            return
        if now_s >= self._ends_at_s:
            self._stop = "time"
        elif self._state not in _WORKING:
            self._stop = str(self._state)
        elif self._gate.is_outdated or self._has_old_limits:
            self._stop = "limits changed"
        else:
            self._stop = "redis is away" if self._gate.is_down else self._tools.stop_reason()
        if not self._stop and now_s - self._state_read_at_s > _STATE_POLL_S:
            self._saw_state(checkpoints.job_state(self._db, self._job_id))

    def _saw_state(self, state: str) -> None:
        self._state = JobStatus(state)
        self._state_read_at_s = self._clock()

    # --- sending ---

    def _send(self, count: int) -> None:
        if self._draft.is_followed_by_repeats:
            self._commit()
        taken = self._holding.take(count, self._gate.batch_size(), may_be_isolated=not self._flights)
        admitted = self._gate.admit(taken)
        # First what stays behind goes back: the cursor that is committed must not pass it.
        for flight in reversed(taken[len(admitted) :]):
            self._holding.put_back(flight)
        operation = self._context.operation
        for flight in admitted:
            part = self._holding.parts[flight.part]
            part.in_flight += 1
            flight.granted_at_s = self._gate.granted_at_s
            self._draft.open(
                flight,
                cost_units=flight.has_effect * operation.cost_units + flight.has_look * operation.observe_cost_units,
                requests=flight.most_requests,
                deadline_s=operation.deadline_s * flight.most_requests,
                cursor=part.cursor,
            )
        for held in self._holding.parts.values():
            for no in held.obsolete:
                self._draft.close_row(held.part, no, "recorded")
            held.obsolete.clear()
        self._commit()

    def _commit(self) -> None:
        draft, self._draft = self._draft, Draft(self._job_id)
        if draft.is_empty:
            return
        try:
            recorded = self._recorder.commit(
                draft,
                fences=self._holding.fences,
                numbers=self._holding.numbers,
                epoch=self._gate.epoch,
                until_s=self._clock() + self._tools.config.lease_s,
            )
        except ServerUnavailableError as error:
            raise UnrecordedError(f"postgres stayed away for a whole lease: {error.message}") from None
        self._saw_state(recorded.state)
        self._has_old_limits = recorded.config_version not in (None, self._context.limits.version)
        if draft.opened and not recorded.is_epoch_current:
            self._gate.refused(recorded.epoch)
        for lost in set(draft.parts) - recorded.held:
            self._holding.lose(lost)
        for flight in reversed(draft.opened):
            part = self._holding.parts.get(flight.part)
            if part is None:
                self._gate.give_back(flight)
            elif recorded.is_epoch_current:
                self._start(flight)
            else:
                part.in_flight -= 1
                self._holding.put_back(flight)
                self._gate.give_back(flight)
        for flight in draft.turned:
            if flight.part in self._holding.parts:
                self._start(flight)
            else:
                self._gate.give_back(flight)
        self._holding.end_finished(self._draft)

    def _start(self, flight: Flight) -> None:
        operation = self._context.operation
        if self._heartbeat.remaining_s(flight.part) < operation.deadline_s + LEASE_MARGIN_S:
            with suppress(ServerUnavailableError):
                self._heartbeat.renew(self._db)
        if self._heartbeat.remaining_s(flight.part) < operation.deadline_s + LEASE_MARGIN_S:
            self._holding.lose(flight.part)
            self._gate.give_back(flight)
            return
        if self._clock() + operation.deadline_s > flight.granted_at_s + LONGEST_REQUEST_S:
            # The commit took so long that the slot could end before the request does: ask for another one.
            self._gate.give_back(flight)
            self._holding.parts[flight.part].in_flight -= 1
            self._aftermath.postpone(self._holding.parts[flight.part], flight, self._draft)
            return
        self._flights[id(flight)] = self._holding.parts[flight.part]
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
            notes=context.notes(),
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
            part = self._flights.pop(id(flight))
            self._heartbeat.answered(id(flight))
            self._gate.note(answer)
            if part is not self._holding.parts.get(flight.part):  # lost, and perhaps claimed anew
                self._gate.give_back(flight)
                continue
            is_over = self._aftermath.answered(part, answer, self._call(flight), self._draft)
            self.report.requests += 1
            if is_over:
                part.in_flight -= 1
                self._gate.give_back(flight)
        if self._aftermath.pause_reason:
            self._pause(self._aftermath.pause_reason)

    def _pause(self, reason: str) -> None:
        self._aftermath.pause_reason = ""
        self._commit()
        if Departure(self._db, self._job_id).pause(reason):
            log.warning("paused", job=self._job_id, reason=reason)
        self._saw_state(checkpoints.job_state(self._db, self._job_id))


class UnrecordedError(Exception):
    """Outcomes could not be written while the lease lasted; whoever holds the part next repeats those requests."""


class HungCallError(Exception):
    """A request hangs beyond its deadline: the process must end so that its lease can lapse."""
