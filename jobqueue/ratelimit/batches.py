"""Items cut into requests, and the sending of them one by one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from jobqueue.errors import HandlerError, RateLimited
from jobqueue.model.batching import BatchConfig, pick_batch_size
from jobqueue.model.limit import Denied, RateLimitState, Scope, ScopeKind, Slot, SlotResult, SlotUse
from jobqueue.notes import AnswerNotes
from jobqueue.ratelimit.feedback import answer_of

T = TypeVar("T")
R = TypeVar("R")

NOTES = "notes"


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """The items of one request.

    Attributes:
        scope: What it is counted under, its operation included.
        items: At least one.
        cost_units: Provider units the request costs.
    """

    scope: Scope
    items: tuple[T, ...]
    cost_units: int = 1


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[T, R]):
    """What became of a batch: *value*, or the *error* its function raised, or the *denied* that outlasted the wait."""

    batch: Batch[T]
    value: R | None = None
    error: HandlerError | None = None
    denied: Denied | None = None


def cut(
    items: Iterable[T], config: BatchConfig, scope: Scope, cost_units: int, *, look: Callable[[], RateLimitState]
) -> Iterator[Batch[T]]:
    """Batches of *items*, the size of each by what *look* finds when it is asked for."""
    left = iter(items)
    while True:
        state = look()
        tightest = state.tightest
        size = pick_batch_size(
            config,
            remaining=tightest.remaining if tightest else None,
            limit=tightest.limit if tightest else None,
            health=state.batch_health.get(scope.operation, 1.0),
        )
        part = tuple(islice(left, size))
        if not part:
            return
        yield Batch(scope, part, cost_units)


@dataclass(frozen=True, slots=True)
class Sender(Generic[T, R]):
    """Sends one batch after the other; see `RateLimitService.execute_batches`.

    Attributes:
        fn: Makes the request.
        wait: Takes a slot for a batch, until a time on *monotonic_s*'s clock at most.
        settle: Reports what became of a slot.
        notes: Makes room for the headers of an answer of a provider.
    """

    fn: Callable[..., R]
    wait: Callable[[Batch[T], float], Slot | Denied]
    settle: Callable[[SlotResult], object]
    notes: Callable[[str], AnswerNotes]
    throttle_kind: ScopeKind
    monotonic_s: Callable[[], float]

    def send(self, batch: Batch[T], timeout_s: float) -> BatchResult[T, R]:
        """Send *batch*, again as often as it is throttled, waiting *timeout_s* from now at most."""
        ends_at_s = self.monotonic_s() + timeout_s
        while True:
            slot = self.wait(batch, ends_at_s)
            if isinstance(slot, Denied):
                return BatchResult(batch, denied=slot)
            result = self._send(batch, slot)
            if result is not None:
                return result

    def _send(self, batch: Batch[T], slot: Slot) -> BatchResult[T, R] | None:
        """What became of *batch*; None when it was throttled."""
        notes = self.notes(batch.scope.provider)
        options = {NOTES: notes} if takes_notes(self.fn) else {}
        sent_at_s, failure = self.monotonic_s(), None
        try:
            value = self.fn(batch.items, **options)
        except HandlerError as error:
            failure = error
        except BaseException:
            # Whether it was sent is unknown: it must count, but says nothing about the provider.
            self.settle(SlotResult(slot, SlotUse.UNKNOWN))
            raise
        latency_s = self.monotonic_s() - sent_at_s
        self.settle(answer_of(slot, failure, latency_s=latency_s, notes=notes, throttle_kind=self.throttle_kind))
        if failure is None:
            return BatchResult(batch, value)
        return None if isinstance(failure, RateLimited) else BatchResult(batch, error=failure)


def takes_notes(fn: Callable[..., Any]) -> bool:
    """Whether *fn* has a parameter called ``notes``. By name: many functions take a second argument of any kind."""
    try:
        return NOTES in inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return False  # built in, and tells nothing of its parameters
