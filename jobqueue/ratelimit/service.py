"""The rate-limit service by itself: ask, wait, send, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar

from jobqueue.errors import ConfigurationError, HandlerError
from jobqueue.model.batching import BatchConfig
from jobqueue.model.job import Priority
from jobqueue.model.limit import (
    Denied,
    ProviderLimits,
    RateLimitState,
    Scope,
    ScopeKind,
    Settled,
    Slot,
    SlotResult,
)
from jobqueue.model.quota import HeaderFormat
from jobqueue.notes import AnswerNotes
from jobqueue.ratelimit.batches import Batch, BatchResult, Sender, cut
from jobqueue.ratelimit.expressions import WrittenLimits, limits_from
from jobqueue.ratelimit.feedback import answer_of
from jobqueue.ratelimit.history import NoHistory
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.ratelimit.shared import SharedLimiter, seconds_to_wait

T = TypeVar("T")
R = TypeVar("R")


class RateLimitService:
    """Everything one needs to stay within a provider's limits, for users of this package alone.

    May be used from several threads: they share one connection, one call at a time, and wait side by side. After a
    fork each process opens its own. There is no asynchronous form: in an event loop call it in a thread. The queue
    itself never waits; it uses `Limiter` and parks.

    Example:
        >>> from jobqueue.model.batching import BatchConfig
        >>> service = RateLimitService.from_url(
        ...     redis_url,
        ...     limits={"spotify": "100/minute; 10000/day resets at midnight America/Los_Angeles"},
        ...     batch_sizes={("spotify", "unsave_tracks"): BatchConfig(min_size=1, optimal_size=25, max_size=40)},
        ... )
        >>> service.can_proceed("spotify")
        True
        >>> slot = service.wait_for_rate_limit("spotify", timeout_s=5)  # send the request now …
        >>> service.record_success(slot, latency_s=0.2).slots
        1
        >>> batches = service.create_optimal_batches("spotify", "unsave_tracks", range(60))
        >>> [len(result.value) for result in service.execute_batches(batches, fn=list)]
        [25, 25, 10]
        >>> [window.remaining for window in service.status("spotify").windows]
        [96, 9996]
        >>> service.close()

    Args:
        limiter: The limiter beneath. Itself it is for one thread: call it only while no other thread uses the service.
        batch_configs: Batch sizes by (provider, operation).
        header_formats: What a provider's rate-limit headers leave open, by provider.
        reload: Reads the limits anew, by provider, where they are stored and may change; without it a service whose
            limits were changed answers `DenialReason.OUTDATED` until it is made anew.
        sleep: Called with seconds to wait.
        monotonic_s: The clock of timeouts and latencies.
    """

    def __init__(
        self,
        limiter: Limiter,
        batch_configs: Mapping[tuple[str, str], BatchConfig] | None = None,
        *,
        header_formats: Mapping[str, HeaderFormat] | None = None,
        reload: Callable[[], Mapping[str, ProviderLimits]] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limiter = limiter
        self._batch_configs = batch_configs or {}
        self._header_formats = header_formats or {}
        self._shared = SharedLimiter(limiter, reload, sleep=sleep, monotonic_s=monotonic_s)
        self._monotonic_s = monotonic_s

    @classmethod
    def from_url(
        cls,
        redis_url: str,
        limits: WrittenLimits,
        *,
        batch_sizes: Mapping[tuple[str, str], BatchConfig] | None = None,
        header_formats: Mapping[str, HeaderFormat] | None = None,
        longest_request_s: float = 75.0,
        key_prefix: str = "",
    ) -> Self:
        """A service that needs Redis and no database.

        Every process must be given the same limits. What Redis loses counts as never sent; a provider that the queue
        works with too belongs to the queue's own limiter, whose limits have a version: this one is then refused.

        Args:
            redis_url: Such as ``redis://localhost:6379/0``.
            limits: As `limits_from` reads them.
            batch_sizes: By (provider, operation).
            header_formats: By provider.
            longest_request_s: The longest any request may stay unanswered; slots of a crashed process end after it.
            key_prefix: Put before every key.

        Raises: as `limits_from`; `ConfigurationError` for a URL that cannot be read.
        """
        configs = limits_from(limits, longest_request_s=longest_request_s)
        limiter = Limiter(redis_url, configs, NoHistory(), key_prefix=key_prefix)
        return cls(limiter, batch_sizes, header_formats=header_formats)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to Redis; the next call opens another."""
        self._shared.close()

    def can_proceed(
        self,
        provider: str,
        account: str = "",
        *,
        operation: str = "",
        cost_units: int = 1,
        priority: Priority = Priority.DEFAULT,
    ) -> bool:
        """Whether a request could be sent now. Takes nothing, so another caller may be faster.

        Args:
            provider: Whose limits.
            account: Whose quota below the provider's; empty for none.
            operation: What is asked of it; limits of that operation hold too.
            cost_units: Provider units the request costs.
            priority: While somebody of a higher one waits, lower ones may not proceed.

        Raises: as `Limiter.reserve`.
        """
        scope = Scope(provider, account, operation)
        return self._shared.why(scope, cost_units=cost_units, owner="", priority=priority) is None

    def wait_for_rate_limit(
        self,
        provider: str,
        account: str = "",
        timeout_s: float = 60.0,
        *,
        operation: str = "",
        cost_units: int = 1,
        owner: str = "",
        priority: Priority = Priority.DEFAULT,
    ) -> Slot | Denied:
        """Wait in line until a request may be sent, and take its slot.

        Whoever waits has a place in line, so callers in any number of processes get their slots one after the other, in
        the order they came, those of a higher *priority* first.

        Args:
            provider, account, operation, cost_units: As in `can_proceed`.
            timeout_s: Longest wait; 0 not to wait at all.
            owner: Who waits. Its place is kept when this gives up, for who comes back at the time it is told;
                empty for a name of this wait alone, whose place ends with it.
            priority: Goes before lower ones.

        Returns:
            A `Slot` to be given to `record_success`, `record_failure` or `give_back`; or the last `Denied`, as soon as
            *timeout_s* is too short for it or the limits are found to be outdated.

        Raises: as `Limiter.reserve`.
        """
        ends_at_s = self._monotonic_s() + seconds_to_wait(timeout_s)
        scope = Scope(provider, account, operation)
        return self._shared.wait(scope, ends_at_s, cost_units=cost_units, owner=owner, priority=priority)

    def record_success(
        self, slot: Slot, *, latency_s: float | None = None, notes: AnswerNotes | None = None
    ) -> Settled:
        """The request was answered.

        Args:
            slot: What it was sent with. Its operation's batch health grows.
            latency_s: From sending to the whole answer.
            notes: What its headers say of the provider's quotas: ``notes.headers(response.headers)``.

        Raises: as `Limiter.settle`.
        """
        return self._shared.settle([answer_of(slot, None, latency_s=latency_s, notes=notes)])

    def record_failure(
        self,
        slot: Slot,
        error: HandlerError,
        *,
        latency_s: float | None = None,
        notes: AnswerNotes | None = None,
        throttle_kind: ScopeKind = ScopeKind.PROVIDER,
    ) -> Settled:
        """The request failed: `RateLimited` pauses, an outage counts in the breaker, a refusal is just an answer.

        Args:
            slot, latency_s: As in `record_success`.
            error: What happened. A `RateLimited` that names no pause takes that of *notes*.
            notes: As in `record_success`; a refusal's headers tell as much.
            throttle_kind: Whether a throttle pauses the provider, the operation or the account.

        Raises: as `Limiter.settle`.
        """
        result = answer_of(slot, error, latency_s=latency_s, notes=notes, throttle_kind=throttle_kind)
        return self._shared.settle([result])

    def give_back(self, slot: Slot) -> Settled:
        """The request was certainly never sent: the slot costs nothing."""
        return self._shared.settle([SlotResult.unused(slot)])

    def status(self, provider: str, account: str = "", *, operation: str = "") -> RateLimitState:
        """Where every limit, pause and breaker stands, what was learned and who waits; as `Limiter.snapshot`."""
        return self._shared.snapshot(Scope(provider, account, operation))

    def notes(self, provider: str) -> AnswerNotes:
        """Where to leave the headers of one answer of *provider*."""
        return AnswerNotes(self._header_formats.get(provider))

    def create_optimal_batches(
        self, provider: str, operation: str, items: Iterable[T], *, account: str = "", cost_units: int = 1
    ) -> Iterator[Batch[T]]:
        """Cut *items* into batches, each as large as quota and batch health suggest when it is asked for.

        The size is `pick_batch_size`'s; the health is kept in Redis, so workers learn from each other's failures.

        Args:
            cost_units: Provider units one request costs, whatever its size.

        Raises:
            ConfigurationError: No batch sizes are configured for the operation.
        """
        config = self._batch_configs.get((provider, operation))
        if config is None:
            known = ", ".join(sorted(f"{p}/{o}" for p, o in self._batch_configs)) or "none"
            raise ConfigurationError(
                f"no batch sizes are configured for {provider}/{operation}.", remedy=f"Known: {known}."
            )
        scope = Scope(provider, account, operation)
        return cut(items, config, scope, cost_units, look=lambda: self._shared.snapshot(scope))

    def execute_batches(
        self,
        batches: Iterable[Batch[T]],
        fn: Callable[..., R],
        *,
        timeout_s: float = 60.0,
        owner: str = "",
        priority: Priority = Priority.DEFAULT,
        throttle_kind: ScopeKind = ScopeKind.PROVIDER,
    ) -> Iterator[BatchResult[T, R]]:
        """Call *fn* with the items of each batch, one after the other, within the limits.

        A throttled batch is repeated after the pause. Other errors of a handler are given back with their batch;
        anything else *fn* raises is a bug and passes through, its slot settled as sent. To send several at once, call
        this in several threads, each with items of its own.

        Args:
            batches: As `create_optimal_batches` gives them.
            fn: Sends one request; raises the errors of `jobqueue.errors.HandlerError`. Called with the items, and if it
                has a parameter called ``notes`` with an `AnswerNotes` by that name, to be told the answer's headers.
            timeout_s: Longest time a batch waits for slots, its repetitions included.
            owner, priority: As in `wait_for_rate_limit`.
            throttle_kind: As in `record_failure`.
        """
        seconds_to_wait(timeout_s)
        sender: Sender[T, R] = Sender(
            fn,
            wait=lambda batch, ends_at_s: self._shared.wait(
                batch.scope, ends_at_s, cost_units=batch.cost_units, owner=owner, priority=priority
            ),
            settle=lambda result: self._shared.settle([result]),
            notes=self.notes,
            throttle_kind=throttle_kind,
            monotonic_s=self._monotonic_s,
        )
        return (sender.send(batch, timeout_s) for batch in batches)
