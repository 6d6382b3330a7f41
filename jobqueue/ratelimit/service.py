"""The rate-limit service by itself: ask, wait, send, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from jobqueue.errors import ConfigurationError, HandlerError, RateLimited
from jobqueue.model.batching import BatchConfig, pick_batch_size
from jobqueue.model.limit import DenialReason, Denied, Scope, Settled, Slot, SlotResult, SlotUse
from jobqueue.notes import AnswerNotes
from jobqueue.ratelimit.feedback import result_of
from jobqueue.ratelimit.limiter import Limiter

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """The items of one request."""

    scope: Scope
    operation: str
    items: tuple[T, ...]


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[T, R]):
    """What became of a batch: *value*, or the *error* its function raised, or the *denied* that outlasted the wait."""

    batch: Batch[T]
    value: R | None = None
    error: HandlerError | None = None
    denied: Denied | None = None


class RateLimitService:
    """Everything one needs to stay within a provider's limits, for users of this package alone.

    The queue itself never waits; it uses `Limiter` and parks. For one thread, as `Limiter`.

    Example:
        >>> from jobqueue.model.batching import BatchConfig
        >>> from jobqueue.model.limit import ProviderLimits, RateLimitConfig
        >>> from jobqueue.ratelimit.history import NoHistory
        >>> limits = {"spotify": ProviderLimits("spotify", (RateLimitConfig(windows="100/minute"),))}
        >>> sizes = {("spotify", "unsave_tracks"): BatchConfig(min_size=1, optimal_size=25, max_size=40)}
        >>> service = RateLimitService(Limiter(redis_url, limits, NoHistory()), sizes)
        >>> service.can_proceed("spotify")
        True
        >>> slot = service.wait_for_rate_limit("spotify", timeout_s=5)  # send the request now …
        >>> service.record_success(slot, latency_s=0.2).slots
        1
        >>> batches = service.create_optimal_batches("spotify", "unsave_tracks", range(60))
        >>> [len(result.value) for result in service.execute_batches(batches, fn=list)]
        [25, 25, 10]

    Args:
        limiter: The limiter beneath.
        batch_configs: Batch sizes by (provider, operation).
        sleep: Called with seconds to wait.
        monotonic_s: The clock of timeouts and latencies.
    """

    def __init__(
        self,
        limiter: Limiter,
        batch_configs: Mapping[tuple[str, str], BatchConfig] | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limiter = limiter
        self._batch_configs = batch_configs or {}
        self._sleep = sleep
        self._monotonic_s = monotonic_s

    def can_proceed(self, provider: str, account: str = "", *, cost_units: int = 1) -> bool:
        """Whether a request could be sent now. Takes nothing, so another caller may be faster.

        Raises: as `Limiter.reserve`.
        """
        return self.limiter.why(Scope(provider, account), cost_units=cost_units) is None

    def wait_for_rate_limit(
        self, provider: str, account: str = "", timeout_s: float = 60.0, *, cost_units: int = 1
    ) -> Slot | Denied:
        """Wait until a request may be sent and take its slot.

        Returns:
            A `Slot` to be given to `record_success`, `record_failure` or `give_back`; or the last `Denied` when
            *timeout_s* would not be enough, or at once when the limiter's configuration is outdated: no wait helps.

        Raises: as `Limiter.reserve`.
        """
        scope, ends_at = Scope(provider, account), self._monotonic_s() + timeout_s
        while True:
            decision = self.limiter.reserve(scope, cost_units=cost_units)
            if not isinstance(decision, Denied):
                return decision.slots[0]
            is_outdated = decision.reason is DenialReason.OUTDATED
            if is_outdated or self._monotonic_s() + decision.retry_after_s > ends_at:
                return decision
            self._sleep(decision.retry_after_s)

    def record_success(
        self, slot: Slot, *, latency_s: float | None = None, operation: str = "", notes: AnswerNotes | None = None
    ) -> Settled:
        """The request was answered.

        Args:
            slot: What it was sent with.
            latency_s: From sending to the whole answer.
            operation: The provider's operation, for batch health.
            notes: What its headers say of the provider's quotas: ``notes.headers(response.headers)``.
        """
        return self._settle(slot, None, latency_s, operation, notes)

    def record_failure(
        self,
        slot: Slot,
        error: HandlerError,
        *,
        latency_s: float | None = None,
        operation: str = "",
        notes: AnswerNotes | None = None,
    ) -> Settled:
        """The request failed: `RateLimited` pauses, an outage counts in the breaker, a refusal is just an answer."""
        return self._settle(slot, error, latency_s, operation, notes)

    def give_back(self, slot: Slot) -> Settled:
        """The request was certainly never sent: the slot costs nothing."""
        return self.limiter.settle([SlotResult.unused(slot)])

    def create_optimal_batches(
        self, provider: str, operation: str, items: Iterable[T], *, account: str = ""
    ) -> Iterator[Batch[T]]:
        """Cut *items* into batches, each as large as quota and batch health suggest when it is asked for.

        Raises:
            ConfigurationError: No batch sizes are configured for the operation.
        """
        config = self._batch_configs.get((provider, operation))
        if config is None:
            known = ", ".join(sorted(f"{p}/{o}" for p, o in self._batch_configs)) or "none"
            raise ConfigurationError(
                f"no batch sizes are configured for {provider}/{operation}.", remedy=f"Known: {known}."
            )
        return self._batches(config, Scope(provider, account), operation, iter(items))

    def execute_batches(
        self, batches: Iterable[Batch[T]], fn: Callable[[tuple[T, ...]], R], *, timeout_s: float = 60.0
    ) -> Iterator[BatchResult[T, R]]:
        """Call *fn* with the items of each batch, one after the other, within the limits.

        A throttled batch is repeated after the pause. Other errors of a handler are given back with their batch;
        anything else *fn* raises is a bug and passes through, its slot settled as sent.

        Args:
            batches: As `create_optimal_batches` gives them.
            fn: Sends one request; raises the errors of `jobqueue.errors.HandlerError`.
            timeout_s: Longest wait for one batch's slot.
        """
        for batch in batches:
            yield self._execute(batch, fn, timeout_s)

    def _settle(
        self,
        slot: Slot,
        error: HandlerError | None,
        latency_s: float | None,
        operation: str,
        notes: AnswerNotes | None,
    ) -> Settled:
        reports, malformed = (notes.reports, notes.malformed) if notes else ((), 0)
        result = result_of(
            slot, error, latency_s=latency_s, operation=operation, reports=reports, malformed_headers=malformed
        )
        return self.limiter.settle([result])

    def _batches(self, config: BatchConfig, scope: Scope, operation: str, items: Iterator[T]) -> Iterator[Batch[T]]:
        while True:
            state = self.limiter.snapshot(scope)
            tightest = state.tightest
            size = pick_batch_size(
                config,
                remaining=tightest.remaining if tightest else None,
                limit=tightest.limit if tightest else None,
                health=state.batch_health.get(operation, 1.0),
            )
            part = tuple(islice(items, size))
            if not part:
                return
            yield Batch(scope, operation, part)

    def _execute(self, batch: Batch[T], fn: Callable[[tuple[T, ...]], R], timeout_s: float) -> BatchResult[T, R]:
        while True:
            slot = self.wait_for_rate_limit(batch.scope.provider, batch.scope.account, timeout_s)
            if isinstance(slot, Denied):
                return BatchResult(batch, denied=slot)
            sent_at = self._monotonic_s()
            try:
                value = fn(batch.items)
            except RateLimited as error:
                self.record_failure(slot, error, latency_s=self._monotonic_s() - sent_at, operation=batch.operation)
            except HandlerError as error:
                self.record_failure(slot, error, latency_s=self._monotonic_s() - sent_at, operation=batch.operation)
                return BatchResult(batch, error=error)
            except BaseException:
                # Whether it was sent is unknown: it must count, but says nothing about the provider.
                self.limiter.settle([SlotResult(slot, SlotUse.UNKNOWN)])
                raise
            else:
                self.record_success(slot, latency_s=self._monotonic_s() - sent_at, operation=batch.operation)
                return BatchResult(batch, value)
