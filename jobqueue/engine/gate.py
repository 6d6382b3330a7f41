"""Between a slice and the limiter: which batches may go out now, and what their answers said."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from jobqueue.engine.context import JobContext
from jobqueue.engine.crew import Answer
from jobqueue.engine.flight import Flight, Step
from jobqueue.errors import ServerUnavailableError
from jobqueue.model.batching import pick_batch_size
from jobqueue.model.limit import Denied, Granted, Slot, SlotResult
from jobqueue.ratelimit.feedback import result_of
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.store import limits
from jobqueue.store.database import Database

log = structlog.get_logger("jobqueue.gate")

_SNAPSHOT_AGE_S = 0.5


class Gate:
    """Reserves slots for batches and settles them.

    Attributes:
        epoch: The limiter epoch of the latest grant.
        denial: The latest refusal, until something is granted again.
        is_down: Whether Redis went away.
    """

    def __init__(self, context: JobContext, limiter: Limiter, database: Database, clock: Callable[[], float]) -> None:
        self.epoch = 0
        self.denial: Denied | None = None
        self.is_down = False
        self._context = context
        self._limiter = limiter
        self._database = database
        self._clock = clock
        self._denied_until_s = 0.0
        self._results: list[SlotResult] = []
        self._size = context.sizes.optimal_size
        self._size_at_s = float("-inf")

    def denied_for_s(self) -> float:
        """Seconds until the limiter may be asked again."""
        return max(0.0, self._denied_until_s - self._clock())

    def batch_size(self) -> int:
        """Items for the next request, from quota and health; looked up at most twice a second."""
        now_s = self._clock()
        if now_s - self._size_at_s > _SNAPSHOT_AGE_S:
            self._size_at_s = now_s
            try:
                state = self._limiter.snapshot(self._context.scope)
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
        if self.is_down or not flights:
            return []
        operation = self._context.operation
        looks = sum(flight.most_requests - 1 for flight in flights)
        try:
            if operation.cost_units == operation.observe_cost_units:
                pool = self._reserve(len(flights) + looks, operation.cost_units)
                effects, looks_pool = pool, pool
            else:
                effects = self._reserve(len(flights), operation.cost_units)
                looks_pool = self._reserve(looks, operation.observe_cost_units) if looks and effects else []
        except ServerUnavailableError:
            self.is_down = True
            return []
        admitted = []
        for flight in flights:
            if not _seat(flight, effects, looks_pool):
                break
            admitted.append(flight)
        left = {slot.id: slot for slot in effects + looks_pool}
        self._results += [SlotResult.unused(slot) for slot in left.values()]
        if left and len(admitted) < len(flights):
            self._explain(flights[len(admitted)])
        return admitted

    def _reserve(self, want: int, cost_units: int) -> list[Slot]:
        decision = self._limiter.reserve(
            self._context.scope, want=want, cost_units=cost_units, deadline_s=limits.LONGEST_REQUEST_S
        )
        if isinstance(decision, Granted):
            self.epoch = decision.epoch
            self.denial = None
            return list(decision.slots)
        self._deny(decision)
        return []

    def _deny(self, denial: Denied) -> None:
        self.denial = denial
        self._denied_until_s = self._clock() + denial.retry_after_s

    def _explain(self, flight: Flight) -> None:
        """Slots were left, yet too few for *flight*: ask when there will be enough."""
        self.settle()
        try:
            denial = self._limiter.why(
                self._context.scope, flight.most_requests, cost_units=self._context.operation.cost_units
            )
        except ServerUnavailableError:
            self.is_down = True
            return
        if denial is not None:
            self._deny(denial)

    def note(self, answer: Answer) -> None:
        """Keep what *answer* says about its slot for the next `settle`."""
        flight = answer.flight
        if not flight.slots:
            return
        slot = flight.slots.pop(0)
        operation = self._context.operation.name if flight.step is Step.APPLY else ""
        self._results.append(result_of(slot, answer.error, latency_s=answer.latency_s, operation=operation))

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


def _seat(flight: Flight, effects: list[Slot], looks: list[Slot]) -> bool:
    """Give *flight* a slot for its look, if it makes one, and one for its effect."""
    has_look = flight.step is not Step.APPLY
    needed = 1 + has_look
    available = len(effects) if effects is looks else min(len(effects), len(looks) if has_look else 1) * needed
    if available < needed:
        return False
    flight.slots = ([looks.pop()] if has_look else []) + [effects.pop()]
    return True
