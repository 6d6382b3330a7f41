"""The limiter as a strategy of the `limits` library."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import cast
from urllib.parse import quote

import redis
from limits import RateLimitItem, WindowStats
from limits.storage import RedisStorage, Storage
from limits.strategies import RateLimiter

from jobqueue.errors import ConfigurationError
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
from jobqueue.ratelimit.history import NoHistory
from jobqueue.ratelimit.limiter import Limiter

_LARGEST_CACHE = 1024


class HeldWindowRateLimiter(RateLimiter):
    """A moving window on the server's clock, whose entries may be held until the answer.

    `hit` counts from now, as every strategy does; `reserve` and `settle` hold the entry from the grant until the answer
    and for one window more. May be used from several threads: each gets a connection of its own.

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
        storage: A `limits` Redis storage; its connection settings are used, and its key prefix.
        longest_request_s: The longest a reserved entry is held without being settled.

    Raises:
        ConfigurationError: The storage is not Redis.
    """

    def __init__(self, storage: Storage, *, longest_request_s: float = 75.0) -> None:
        if not isinstance(storage, RedisStorage):
            raise ConfigurationError(
                f"storage {type(storage).__name__} cannot hold windows.", remedy="Use a RedisStorage: redis://…"
            )
        super().__init__(storage)
        self._redis = storage
        self._longest_request_s = longest_request_s
        self._local = threading.local()

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Count *cost* now; False when the limit does not allow it."""
        limiter, scope = self._limiter(item, identifiers)
        try:
            return isinstance(limiter.hit(scope, cost_units=cost), Granted)
        except CostExceedsLimitError:
            return False

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Whether *cost* would be allowed now."""
        limiter, scope = self._limiter(item, identifiers)
        try:
            return limiter.why(scope, cost_units=cost) is None
        except CostExceedsLimitError:
            return False

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """When the first entry leaves the window, as seconds since the epoch, and what remains."""
        limiter, scope = self._limiter(item, identifiers)
        (window,) = limiter.snapshot(scope).windows
        return WindowStats(time.time() + (window.frees_in_s or item.get_expiry()), window.remaining)

    def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Forget all entries."""
        limiter, scope = self._limiter(item, identifiers)
        limiter.clear(scope)

    def reserve(
        self, item: RateLimitItem, *identifiers: str, cost: int = 1, deadline_s: float | None = None
    ) -> Granted | Denied:
        """Hold *cost* until it is settled or *deadline_s* has passed; see `Limiter.reserve`."""
        limiter, scope = self._limiter(item, identifiers)
        return limiter.reserve(scope, cost_units=cost, deadline_s=deadline_s)

    def settle(self, results: Sequence[SlotResult]) -> Settled:
        """Report what became of reserved entries, in any thread; see `Limiter.settle`."""
        for result in results:
            self._of_thread(result.slot.scope.provider)
        return self._local_limiter().settle(results)

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
            client = cast(redis.Redis, self._redis.get_connection())
            prefix = self._redis.prefixed_key("")
            self._local.limiter = Limiter(client, self._local.configs, NoHistory(), key_prefix=prefix)
        limiter: Limiter = self._local.limiter
        return limiter
