"""Between a slice and the limiter: which batches may go out now, and what their answers said."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from jobqueue.engine.context import JobContext
from jobqueue.engine.crew import Answer
from jobqueue.engine.flight import Flight, Step
from jobqueue.engine.limits import leave_line, wake_called
from jobqueue.errors import ServerUnavailableError
from jobqueue.model.batching import pick_batch_size
from jobqueue.model.limit import DenialReason, Denied, Granted, Slot, SlotResult
from jobqueue.ratelimit.feedback import result_of
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.store import limits
from jobqueue.store.database import Database

log = structlog.get_logger("jobqueue.gate")

_SNAPSHOT_AGE_S = 0.5
_PAUSE_S = 0.25
"""Before asking again when nothing was let through and nothing said why."""


class Gate:
    """Reserves slots for batches and settles them.

    Attributes:
        epoch: The limiter epoch of the latest grant.
        granted_at_s: When it was asked for; its slots end by themselves `limits.LONGEST_REQUEST_S` later.
        denial: The latest refusal, until something is granted again.
        is_down: Whether Redis went away.
        is_outdated: Whether the limits were changed since this slice read them.
    """

    def __init__(self, context: JobContext, limiter: Limiter, database: Database, clock: Callable[[], float]) -> None:
        self.epoch = 0
        self.granted_at_s = 0.0
        self.denial: Denied | None = None
        self.is_down = False
        self.is_outdated = False
        self._context = context
        self._limiter = limiter
        self._database = database
        self._clock = clock
        self._denied_until_s = 0.0
        self._results: list[SlotResult] = []
        self._size = context.sizes.optimal_size
        self._size_at_s = float("-inf")
        self._has_room_for_pairs = _has_room_for_pairs(context)

    def denied_for_s(self) -> float:
        """Seconds until the limiter may be asked again."""
        return max(0.0, self._denied_until_s - self._clock())

    def batch_size(self) -> int:
        """Items for the next request, from quota and health; looked up at most twice a second."""
        now_s = self._clock()
        if now_s - self._size_at_s > _SNAPSHOT_AGE_S:
            self._size_at_s = now_s
            try:
                state = self._limiter.snapshot(self._context.scope, with_line=False)
            except ServerUnavailableError:
                self.is_down = True
                return self._size
            tightest = state.tightest
            self._size = pick_batch_size(
                self._context.sizes,
                remaining=None if tightest is None else tightest.remaining,
                limit=None if tightest is None else tightest.limit,
                health=state.batch_health.get(self._context.operation.name, 1.0),
            )
        return self._size

    def admit(self, flights: list[Flight]) -> list[Flight]:
        """Those leading *flights* that got a slot for each request they may make."""
        self.settle()
        if self.is_down or self.is_outdated or not flights:
            return []
        operation = self._context.operation
        for flight in flights:
            flight.is_paired = self._has_room_for_pairs
        looks, effects = sum(flight.has_look for flight in flights), sum(flight.has_effect for flight in flights)
        # A look without its effect is of no use, so nothing is taken that would have to be given back.
        group = min(flight.most_requests for flight in flights)
        try:
            if operation.cost_units == operation.observe_cost_units:
                effect_pool = look_pool = self._reserve(looks + effects, operation.cost_units, group=group)
            else:
                # Looks first: they are the cheaper ones, and effects would leave nothing for them.
                look_pool = self._reserve(looks, operation.observe_cost_units) if looks else []
                is_of_use = effects and len(look_pool) >= min(looks, 1)
                effect_pool = self._reserve(effects, operation.cost_units) if is_of_use else []
        except ServerUnavailableError:
            self.is_down = True
            return []
        admitted = []
        for flight in flights:
            if not _seat(flight, effect_pool, look_pool):
                break
            admitted.append(flight)
        left = {slot.id: slot for slot in effect_pool + look_pool}
        self._results += [SlotResult.unused(slot) for slot in left.values()]
        if left and not admitted and len(flights) > 1:
            return self.admit(flights[:1])  # what the looks of many took may do for one and its effect
        if left and len(admitted) < len(flights):
            self._explain(flights[len(admitted)])
        if not admitted and group > 1 and self.denial is not None and self.denial.reason is DenialReason.BREAKER:
            # A half-open breaker lets probes pass one by one: a look and its effect may never fit together.
            return self._admit_look(flights[0])
        if not admitted and not self.denied_for_s():
            self._denied_until_s = self._clock() + _PAUSE_S
        return admitted

    def _admit_look(self, flight: Flight) -> list[Flight]:
        """Let *flight*'s next request go alone; its effect asks for a slot of its own."""
        flight.is_paired = False
        operation = self._context.operation
        cost_units = operation.observe_cost_units if flight.has_look else operation.cost_units
        flight.slots = self._reserve(1, cost_units)
        return [flight] if flight.slots else []

    def _reserve(self, want: int, cost_units: int, *, group: int = 1) -> list[Slot]:
        asked_at_s = self._clock()
        job = self._context.job
        decision = self._limiter.reserve(
            self._context.scope,
            want=want,
            cost_units=cost_units,
            deadline_s=limits.LONGEST_REQUEST_S,
            group=group,
            owner=str(job.id),
            priority=job.priority,
        )
        if isinstance(decision, Granted):
            self.epoch = decision.epoch
            self.granted_at_s = asked_at_s
            self.denial = None
            self._denied_until_s = 0.0
            return list(decision.slots)
        self._deny(decision)
        return []

    def _deny(self, denial: Denied) -> None:
        self.denial = denial
        self.is_outdated = self.is_outdated or denial.reason is DenialReason.OUTDATED
        self._denied_until_s = self._clock() + denial.retry_after_s

    def _explain(self, flight: Flight) -> Denied | None:
        """Slots were left, yet too few for *flight*: ask when there will be enough."""
        self.settle()
        operation = self._context.operation
        # Where a look has another price, its effect alone is asked for: two effects would be too much.
        want = flight.most_requests if operation.cost_units == operation.observe_cost_units else 1
        try:
            denial = self._limiter.why(self._context.scope, want, cost_units=operation.cost_units)
        except ServerUnavailableError:
            self.is_down = True
            return None
        if denial is not None:
            self._deny(denial)
        return denial

    def note(self, answer: Answer) -> None:
        """Keep what *answer* says about its slot for the next `settle`."""
        flight = answer.flight
        if not flight.slots:
            return
        slot = flight.slots.pop(0)
        operation = self._context.operation.name if flight.step is Step.APPLY else ""
        self._results.append(
            result_of(
                slot,
                answer.error,
                latency_s=answer.latency_s,
                operation=operation,
                reports=answer.reports,
                malformed_headers=answer.malformed_headers,
                answered_at_s=answer.answered_at_s,
            )
        )

    def refused(self, epoch: int) -> None:
        """Intents could not be committed: the limiter's state they were granted from is older than *epoch*."""
        self._limiter.require_epoch(self._context.scope.provider, epoch)

    def give_back(self, flight: Flight) -> None:
        """The requests *flight* did not make will not be made."""
        self._results += [SlotResult.unused(slot) for slot in flight.slots]
        flight.slots.clear()

    def settle(self) -> None:
        """Report all that was noted, in one call; what must outlive Redis is stored."""
        if not self._results:
            return
        results, self._results = self._results, []
        try:
            settled = self._limiter.settle(results)
        except ServerUnavailableError as error:
            # The slots end by their deadline: less is sent for a while, never more.
            self.is_down = True
            log.warning("redis is away", error=error.message)
            return
        provider = self._context.scope.provider
        limits.save_cooldowns(self._database, provider, settled.cooldowns)
        limits.save_breakers(self._database, provider, settled.breakers)
        limits.save_learned(self._database, provider, settled.learned)
        # Their parts sleep until a time that has become too late.
        wake_called(self._database, provider, settled.called)

    def leave_line(self) -> None:
        """The job sends nothing more: nobody shall wait for it."""
        leave_line(self._database, self._limiter, self._context.scope, self._context.job.id)


def _seat(flight: Flight, effects: list[Slot], looks: list[Slot]) -> bool:
    """Give *flight* a slot for its look, if it makes one, and one for its effect."""
    if effects is looks:
        is_enough = len(effects) >= flight.most_requests
    else:
        is_enough = len(looks) >= flight.has_look and len(effects) >= flight.has_effect
    if is_enough:
        flight.slots = [looks.pop() for _ in range(flight.has_look)] + [effects.pop() for _ in range(flight.has_effect)]
    return is_enough


def _has_room_for_pairs(context: JobContext) -> bool:
    """Whether the limits could ever grant a look and an effect together."""
    units = context.operation.cost_units + context.operation.observe_cost_units
    return all(
        (level.max_concurrency or 2) >= 2
        and all(window.limit >= (units if window.is_weighted else 2) for window in level.windows)
        for level in context.limits.limits_for(context.scope)
    )
