"""The limiter as a strategy of the `limits` library."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import quote

import redis
from limits import RateLimitItem, WindowStats
from limits.errors import StorageError
from limits.storage import RedisClusterStorage, RedisStorage, Storage
from limits.strategies import RateLimiter

from jobqueue.errors import ConfigurationError, InvalidInputError, ServerUnavailableError
from jobqueue.model.limit import (
    CostExceedsLimitError,
    Denied,
    Granted,
    ProviderLimits,
    RateLimitConfig,
    Scope,
    Settled,
    SlotResult,
)
from jobqueue.model.window import MICROSECONDS
from jobqueue.ratelimit.history import NoHistory
from jobqueue.ratelimit.limiter import Limiter

_LARGEST_CACHE = 1024


class HeldWindowRateLimiter(RateLimiter):
    """A moving window on the server's clock, whose entries may be held until the answer.

    `hit` counts from now, as every strategy does; `reserve` and `settle` hold the entry from the grant until the answer
    and for one window more. May be used from several threads: each gets a connection of its own. Limits above 2000 are
    counted in steps of 1/512 of their window: an entry leaves it that much too late at most, never too early.

    Every call may raise `ServerUnavailableError`, or `limits.errors.StorageError` around it where the storage was made
    with ``wrap_exceptions``; and `InvalidInputError` for a negative cost.

    Example:
        >>> from limits import parse
        >>> from limits.storage import storage_from_string
        >>> limiter = HeldWindowRateLimiter(storage_from_string(redis_url))
        >>> two_a_minute = parse("2/minute")
        >>> limiter.hit(two_a_minute, "user", "42")
        True
        >>> grant = limiter.reserve(two_a_minute, "user", "42")
        >>> limiter.test(two_a_minute, "user", "42")
        False
        >>> limiter.settle([SlotResult.unused(grant.slots[0])]).slots
        1
        >>> limiter.test(two_a_minute, "user", "42")
        True

    Args:
        storage: A `limits` storage in one Redis or Valkey server; its connection settings are used, and its key prefix.
        longest_request_s: The longest a reserved entry is held without being settled.
        clock_us: Microseconds since 1970 to use instead of the server's clock, in tests only.

    Raises:
        ConfigurationError: The storage is not Redis, or a cluster.
    """

    def __init__(
        self, storage: Storage, *, longest_request_s: float = 75.0, clock_us: Callable[[], int] | None = None
    ) -> None:
        if not isinstance(storage, RedisStorage) or isinstance(storage, RedisClusterStorage):
            raise ConfigurationError(
                f"storage {type(storage).__name__} cannot hold windows.", remedy="Use a RedisStorage: redis://…"
            )
        super().__init__(storage)
        self._redis = storage
        self._longest_request_s = longest_request_s
        self._clock_us = clock_us
        self._local = threading.local()

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Count *cost* now; False when the limit does not allow it."""
        with self._call(item, identifiers, cost) as (limiter, scope):
            try:
                return isinstance(limiter.hit(scope, cost_units=cost), Granted)
            except CostExceedsLimitError:
                return False

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Whether *cost* would be allowed now."""
        with self._call(item, identifiers, cost) as (limiter, scope):
            try:
                return limiter.why(scope, cost_units=cost) is None
            except CostExceedsLimitError:
                return False

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """When the first entry leaves the window, as seconds since 1970 on this machine's clock, and what remains.

        With nothing counted, or only what is held and not yet answered, it is the end of a window that began now.
        """
        with self._call(item, identifiers) as (limiter, scope):
            (window,) = limiter.snapshot(scope).windows
        now_s = time.time() if self._clock_us is None else self._clock_us() / MICROSECONDS
        return WindowStats(now_s + (window.frees_in_s or item.get_expiry()), window.remaining)

    def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Forget all entries."""
        with self._call(item, identifiers) as (limiter, scope):
            limiter.clear(scope)

    def reserve(
        self, item: RateLimitItem, *identifiers: str, cost: int = 1, deadline_s: float | None = None
    ) -> Granted | Denied:
        """Hold *cost* until it is settled or *deadline_s* has passed; see `Limiter.reserve`.

        Raises:
            CostExceedsLimitError: It is more than the whole limit and could never be granted.
        """
        with self._call(item, identifiers, cost) as (limiter, scope):
            return limiter.reserve(scope, cost_units=cost, deadline_s=deadline_s)

    def settle(self, results: Sequence[SlotResult]) -> Settled:
        """Report what became of reserved entries, in any thread; see `Limiter.settle`."""
        for result in results:
            self._of_thread(result.slot.scope.provider)
        with self._wrapped():
            return self._local_limiter().settle(results)

    @contextmanager
    def _call(self, item: RateLimitItem, identifiers: Sequence[str], cost: int = 0) -> Iterator[tuple[Limiter, Scope]]:
        if cost < 0:
            raise InvalidInputError(f"cost {cost} is negative.", remedy="Use 0 or more.", field="cost")
        with self._wrapped():
            yield self._limiter(item, identifiers)

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        try:
            yield
        except ServerUnavailableError as error:
            if self._redis.wrap_exceptions:
                raise StorageError(error) from error
            raise

    def _limiter(self, item: RateLimitItem, identifiers: Sequence[str]) -> tuple[Limiter, Scope]:
        # The name ends in the limit as it writes itself, "5_per_2_minute": a slot tells its limit to any thread.
        name = f"{quote(item.key_for(*identifiers), safe='')};{item!r}".replace(" ", "_")
        return self._of_thread(name), Scope(name)

    def _of_thread(self, name: str) -> Limiter:
        limiter = self._local_limiter()
        configs: dict[str, ProviderLimits] = self._local.configs
        if name not in configs:
            if len(configs) >= _LARGEST_CACHE:
                configs.clear()
            config = RateLimitConfig(unit_windows=name.rpartition(";")[2].replace("_", " "), breaker=None)
            configs[name] = ProviderLimits(name, (config,), self._longest_request_s)
        return limiter

    def _local_limiter(self) -> Limiter:
        if not hasattr(self._local, "limiter"):
            self._local.configs = {}
            client = _redis_client(self._redis)
            prefix = self._redis.prefixed_key("")
            self._local.limiter = Limiter(
                client, self._local.configs, NoHistory(), clock_us=self._clock_us, key_prefix=prefix
            )
        limiter: Limiter = self._local.limiter
        return limiter


def _redis_client(storage: RedisStorage) -> redis.Redis:
    """The storage's client; for one of the library ``valkey`` a client of Redis with the same settings."""
    client: Any = storage.get_connection()
    if storage.target_server == "redis":
        return cast(redis.Redis, client)
    pool = client.connection_pool
    plain: dict[str, Any] = {
        name: value
        for name, value in pool.connection_kwargs.items()
        if value is None or isinstance(value, str | bytes | int | float)
    }
    connection_class = getattr(redis.connection, pool.connection_class.__name__)
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=connection_class, **plain))
