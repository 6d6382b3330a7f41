"""A part this process holds: what of it can be sent next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jobqueue.engine.flight import Flight, Step, idempotency_key
from jobqueue.handler import JobHandler, Operation
from jobqueue.model.item import Item, State
from jobqueue.store import checkpoints
from jobqueue.store.checkpoints import Claim, UnfinishedBatch
from jobqueue.store.database import Database

_READ_AHEAD = 1000
_RETRIES_READ = 500


@dataclass(slots=True)
class Repeat:
    """A batch to send again from *due_at_s* of the slice's clock on."""

    batch: UnfinishedBatch
    due_at_s: float
    seen_at_s: float


@dataclass(slots=True)
class Straggler:
    """An item whose next attempt is due at *due_at_s* of the clock, and its journal if an effect was ever sent."""

    item: Item
    attempts: int
    due_at_s: float
    before: State | None = None
    after: State | None = None
    is_in_doubt: bool = False
    tries: int = 0

    @property
    def kind(self) -> tuple[int, int, bool, bool]:
        """Stragglers of one kind may share a batch."""
        return (self.attempts, self.tries, self.before is None, self.is_in_doubt)


class HeldPart:
    """One claimed part in memory. Only the slice's main thread touches it.

    Args:
        claim: The lease.
        database: The slice's connection.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        database: Database,
        job_id: int,
        handler: JobHandler,
        operation: Operation,
        clock: Callable[[], float],
    ) -> None:
        self.claim = claim
        self.cursor = claim.cursor
        self.batch_no = claim.batch_no
        self.in_flight = 0
        self.repeats: list[Repeat] = []
        self.stragglers: list[Straggler] = []
        self.obsolete: list[int] = []
        self._database = database
        self._job_id = job_id
        self._handler = handler
        self._operation = operation
        self.clock = clock
        self._buffer: deque[Item] = deque()
        self._read_to = claim.cursor

    @property
    def part(self) -> int:
        """Its number."""
        return self.claim.part

    def next_no(self) -> int:
        """A number for a new row in ``batches``."""
        self.batch_no += 1
        return self.batch_no

    def load(self) -> list[UnfinishedBatch]:
        """Read what earlier holders left; returns the batches that were in flight when their holder vanished."""
        now_s = self.clock()
        crashed = []
        batches = checkpoints.unfinished_batches(self._database, self._job_id, self.part)
        for batch in batches:
            if batch.status == "waiting":
                self.repeats.append(Repeat(batch, now_s + max(0.0, batch.due_in_s), now_s))
            else:
                crashed.append(batch)
        self._load_stragglers(batches)
        return crashed

    def _load_stragglers(self, batches: Sequence[UnfinishedBatch]) -> None:
        """Read what waits for another attempt; an item inside an unfinished batch belongs to that batch."""
        now_s = self.clock()
        rows = checkpoints.retries_of_part(self._database, self._job_id, self.part, count=_RETRIES_READ)
        self.stragglers = [
            Straggler(
                waiting.row.item,
                waiting.attempts,
                now_s + waiting.due_in_s,
                waiting.row.before,
                waiting.row.after,
                waiting.is_in_doubt,
                waiting.tries,
            )
            for waiting in rows
            if not any(batch.covers(waiting.row.item.seq) for batch in batches)
        ]

    def is_finished(self) -> bool:
        """Whether every item has its outcome."""
        if self.in_flight or self.repeats or self.stragglers or self.cursor <= self.claim.last_seq:
            return False
        # More stragglers than one read shows may be waiting.
        self._load_stragglers(())
        return not self.stragglers

    def can_send(self, now_s: float) -> bool:
        """Whether a batch is ready now."""
        if self._operation.is_ordered:
            if self.in_flight:
                return False
            if self.repeats or self.stragglers:
                return self._first_due_at_s() <= now_s  # nothing overtakes what waits
        return self.cursor <= self.claim.last_seq or self._first_due_at_s() <= now_s

    def next_ready_at_s(self) -> float | None:
        """When a batch becomes ready again; None when nothing waits for a time."""
        due_at_s = self._first_due_at_s()
        return None if due_at_s == float("inf") else due_at_s

    def _first_due_at_s(self) -> float:
        if self._operation.is_ordered and self.repeats:
            return min(self.repeats, key=_position).due_at_s
        times = [repeat.due_at_s for repeat in self.repeats] + [straggler.due_at_s for straggler in self.stragglers]
        return min(times, default=float("inf"))

    def is_next_isolated(self, now_s: float) -> bool:
        """Whether the next batch must be alone in its process."""
        repeat = self._due_repeat(now_s)
        return repeat is not None and repeat.batch.is_isolated

    def _due_repeat(self, now_s: float) -> Repeat | None:
        if self._operation.is_ordered:
            due = sorted(self.repeats, key=_position)[:1]
        else:
            due = sorted(self.repeats, key=lambda repeat: not repeat.batch.is_isolated)
        return next((repeat for repeat in due if repeat.due_at_s <= now_s), None)

    def take(self, size: int, now_s: float) -> Flight | None:
        """The next batch of at most *size* items; None when nothing is ready.

        A repetition goes out as it was, whatever the size is now.
        """
        if not self.can_send(now_s):
            return None
        repeat = self._due_repeat(now_s)
        if repeat is not None:
            self.repeats.remove(repeat)
            flight = self._repeat(repeat)
            if flight is None:
                self.obsolete.append(repeat.batch.no)
            return flight
        stragglers = [straggler for straggler in self.stragglers if straggler.due_at_s <= now_s]
        if stragglers:
            return self._retry(stragglers[:size])
        return self._fresh(size)

    def put_back(self, flight: Flight, now_s: float) -> None:
        """Undo `take` for a flight no intent of which was committed."""
        if flight.replaces is not None:
            self.repeats.insert(0, Repeat(flight.as_waiting(flight.replaces), now_s, now_s))
        elif flight.is_retry:
            self.stragglers[:0] = [
                Straggler(
                    item,
                    flight.attempt - 1,
                    now_s,
                    flight.before.get(item.seq),
                    flight.after.get(item.seq),
                    flight.is_effect_in_doubt,
                    flight.tries,
                )
                for item in flight.items
            ]
        else:
            self._buffer.extendleft(reversed(flight.items))
            self.cursor = flight.items[0].seq

    def repeat_later(self, flight: Flight, due_in_s: float) -> None:
        """Send *flight*'s batch again, as it is, when *due_in_s* have passed."""
        now_s = self.clock()
        self.repeats.append(Repeat(flight.as_waiting(flight.no), now_s + due_in_s, now_s))

    def repeat_crashed(self, batch: UnfinishedBatch, *, crashes: int, is_isolated: bool) -> None:
        """Send a batch again that was in flight at a crash."""
        now_s = self.clock()
        self.repeats.append(Repeat(replace(batch, crashes=crashes, is_isolated=is_isolated), now_s, now_s))

    def wait_for(self, flight: Flight, item: Item, *, time_s: float) -> None:
        """The item's next attempt is due in *time_s*."""
        before, after = flight.before.get(item.seq), flight.after.get(item.seq)
        due_at_s = self.clock() + time_s
        self.stragglers.append(Straggler(item, flight.attempt, due_at_s, before, after, tries=flight.tries + 1))

    def as_flight(self, batch: UnfinishedBatch) -> Flight | None:
        """*batch* with its items read again; None when each of them has its outcome."""
        now_s = self.clock()
        return self._repeat(Repeat(batch, now_s, now_s))

    def _repeat(self, repeat: Repeat) -> Flight | None:
        batch = repeat.batch
        rows = checkpoints.items_of_batch(self._database, self._job_id, self.part, batch)
        if not rows:  # every item has its outcome: nothing is left of the batch but its row
            return None
        before = {row.item.seq: row.before for row in rows if row.before is not None}
        after = {row.item.seq: row.after for row in rows if row.after is not None}
        flight = Flight(
            part=self.part,
            no=self.next_no(),
            items=[row.item for row in rows],
            idempotency_key=batch.idempotency_key,
            attempt=batch.attempt,
            failures=batch.failures,
            crashes=batch.crashes,
            is_isolated=batch.is_isolated,
            is_effect_in_doubt=batch.has_effect,
            is_journalled=len(before) == len(rows),
            failing_for_s=batch.failing_for_s + self.clock() - repeat.seen_at_s,
            replaces=batch.no,
            before=before,
            after=after,
            carry=batch.carry,
        )
        flight.step = self._first_step(flight)
        return flight

    def _retry(self, stragglers: Sequence[Straggler]) -> Flight:
        first = stragglers[0]
        alike = [straggler for straggler in stragglers if straggler.kind == first.kind]
        alike.sort(key=lambda straggler: straggler.item.seq)
        chosen = alike[: max(1, self._handler.fits(self._operation, [straggler.item for straggler in alike]))]
        taken = {straggler.item.seq for straggler in chosen}
        self.stragglers = [straggler for straggler in self.stragglers if straggler.item.seq not in taken]
        flight = self._flight([straggler.item for straggler in chosen], attempt=first.attempts + 1, tries=first.tries)
        flight.is_retry = True
        flight.is_effect_in_doubt = first.is_in_doubt or first.before is not None
        if first.before is not None:
            # An effect was sent before: the recorded before-state stands, a new look might show our own effect.
            flight.before = {straggler.item.seq: straggler.before or {} for straggler in chosen}
            flight.after = {straggler.item.seq: straggler.after or {} for straggler in chosen}
            flight.is_journalled = True
        flight.step = self._first_step(flight)
        return flight

    def _fresh(self, size: int) -> Flight | None:
        while len(self._buffer) < size and self._read_to <= self.claim.last_seq:
            items = checkpoints.items_from(
                self._database, self._job_id, self.part, self._read_to, count=max(_READ_AHEAD, size)
            )
            self._buffer.extend(items)
            self._read_to = items[-1].seq + 1 if items else self.claim.last_seq + 1
        if not self._buffer:
            self.cursor = self.claim.last_seq + 1
            return None
        chosen = [self._buffer[index] for index in range(min(size, len(self._buffer)))]
        chosen = chosen[: max(1, self._handler.fits(self._operation, chosen))]
        for _ in chosen:
            self._buffer.popleft()
        self.cursor = chosen[-1].seq + 1
        return self._flight(chosen, attempt=1)

    def _flight(self, items: list[Item], *, attempt: int, tries: int = 0) -> Flight:
        flight = Flight(
            part=self.part,
            no=self.next_no(),
            items=items,
            idempotency_key=idempotency_key(self._job_id, [item.seq for item in items], attempt, tries),
            attempt=attempt,
            tries=tries,
        )
        flight.step = self._first_step(flight)
        return flight

    def _first_step(self, flight: Flight) -> Step:
        if flight.is_effect_in_doubt and not self._operation.is_idempotent:
            return Step.PROBE
        if self._operation.is_observed and not flight.is_journalled:
            return Step.OBSERVE
        return Step.APPLY


def _position(repeat: Repeat) -> int:
    return repeat.batch.first_seq
