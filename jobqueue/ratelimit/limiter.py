"""Reserve and settle: the exact limiter under everything else of this package."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from secrets import token_hex

import redis

from jobqueue.errors import InvalidInputError, ServerUnavailableError
from jobqueue.model.breaker import BreakerStatus, CircuitBreakerState, check_command
from jobqueue.model.limit import (
    CostExceedsLimitError,
    DenialReason,
    Denied,
    Granted,
    ProviderLimits,
    RateLimitState,
    Scope,
    Settled,
    Slot,
    SlotResult,
    UnknownProviderError,
)
from jobqueue.ratelimit.history import RequestHistory
from jobqueue.ratelimit.layout import Layout, lay_out
from jobqueue.ratelimit.rebuild import microseconds, rebuild
from jobqueue.ratelimit.reply import Reply, read_breaker, read_denial, read_settled, read_state, rebuild_wait_ms
from jobqueue.ratelimit.script import DELETE, FORCE, RESERVE, SETTLE, ScriptRunner
from jobqueue.ratelimit.settlement import settlement

LARGEST_WANT = 1000
_REBUILDS = 3
_REBUILD_WAIT_S = 0.1
_LARGEST_CACHE = 1024


class Limiter:
    """Takes and settles request slots, exactly, for all workers together.

    The state lives in Redis, on Redis's clock. When it is missing, was written for another server process, or belongs
    to an earlier epoch, nothing is granted until it has been counted again from *history*.

    Made for one thread: the engine's main thread alone calls it. It opens its own connection at the first call, so it
    may be made before a fork. Every call may raise `ServerUnavailableError`; a reserve that timed out may have been
    granted, and its slots end by their deadline.

    Args:
        redis_url_or_client: A URL, or a client whose settings are copied.
        configs: Limits by provider.
        history: The truth about what was sent.
        clock_us: Microseconds to use instead of Redis's clock, in tests only.
        random: The source of the breaker's jitter.
        key_prefix: Put before every key.
    """

    def __init__(
        self,
        redis_url_or_client: str | redis.Redis,
        configs: Mapping[str, ProviderLimits],
        history: RequestHistory,
        *,
        clock_us: Callable[[], int] | None = None,
        random: Random | None = None,
        key_prefix: str = "",
    ) -> None:
        self._runner = ScriptRunner(redis_url_or_client)
        self._configs = configs
        self._history = history
        self._clock_us = clock_us
        self._random = random or Random()
        self._key_prefix = key_prefix
        self._layouts: dict[tuple[Scope, ...], tuple[ProviderLimits, Layout]] = {}
        self._least_epoch: dict[str, int] = {}

    def reserve(
        self, scope: Scope, *, want: int = 1, cost_units: int = 1, deadline_s: float | None = None
    ) -> Granted | Denied:
        """Take up to *want* request slots of *scope* now, without waiting.

        A slot is held until `settle` reports the answer, then for one window more, so over any window the provider sees
        at most the configured number of requests, from all workers together.

        Args:
            scope: What the limit is counted under; an account takes its provider's limits too.
            want: Requests wanted, 1..1000; fewer may be granted.
            cost_units: Provider units one request costs, at least 0.
            deadline_s: From now until no request of these slots can be under way any more; by default and at most the
                provider's ``longest_request_s``.

        Returns:
            `Granted` with 1..want slots, or `Denied` with the constraint that lifts last and ``retry_after_s``, rounded
            up and never zero. It is a lower bound if what must free is still in flight.

        Raises:
            UnknownProviderError: No limits are configured for the scope's provider.
            CostExceedsLimitError: One request costs more than a whole window allows; it could never be granted.
            InvalidInputError: *want*, *cost_units* or *deadline_s* is out of range.
            ServerUnavailableError: Redis cannot be reached.

        Source:
            RFC 9110 section 10.2.3 for Retry-After. Time is Redis's ``TIME``.
        """
        limits, layout = self._laid_out((scope,))
        _check_request(layout, want, cost_units)
        deadline_s = limits.longest_request_s if deadline_s is None else deadline_s
        if not 0 < deadline_s <= limits.longest_request_s:
            raise InvalidInputError(
                f"deadline_s {deadline_s} is out of range.",
                remedy=f"{scope.provider} allows more than 0 and at most {limits.longest_request_s} s.",
                field="deadline_s",
            )
        nonce = token_hex(8)
        reply = self._reserve(limits, layout, "take", want, 1, cost_units, microseconds(deadline_s), nonce)
        if isinstance(reply, Denied) or reply.granted < 1:
            return reply if isinstance(reply, Denied) else read_denial(reply, layout)
        slots = tuple(Slot(f"{nonce}.{i}.{cost_units}", scope, cost_units) for i in range(1, reply.granted + 1))
        return Granted(slots, reply.epoch, deadline_s)

    def hit(self, scope: Scope, *, cost_units: int = 1) -> Granted | Denied:
        """Count one request of *scope* as sent and answered now, if every limit allows it.

        For callers who cannot report answers. The window begins now, so a provider that counts the request later may
        see more than the limit; `reserve` and `settle` are exact.

        Returns:
            `Granted` with a slot that is settled already, or `Denied`.

        Raises: as `reserve`.
        """
        limits, layout = self._laid_out((scope,))
        _check_request(layout, 1, cost_units)
        nonce = token_hex(8)
        reply = self._reserve(limits, layout, "hit", 1, 1, cost_units, 0, nonce)
        if isinstance(reply, Denied) or reply.granted < 1:
            return reply if isinstance(reply, Denied) else read_denial(reply, layout)
        return Granted((Slot(f"{nonce}.1.{cost_units}", scope, cost_units),), reply.epoch, 0.0)

    def settle(self, results: Sequence[SlotResult]) -> Settled:
        """Report what became of slots, all of one provider in one call to Redis.

        A slot whose deadline has passed, or that was settled before, changes nothing, but a pause the provider asked
        for holds all the same.

        Returns:
            What changed that must be stored where it outlives Redis.

        Raises:
            UnknownProviderError: No limits are configured for a slot's provider.
            ServerUnavailableError: Redis cannot be reached; call again with the same results.
        """
        by_provider: dict[str, list[SlotResult]] = {}
        for result in results:
            by_provider.setdefault(result.slot.scope.provider, []).append(result)
        total = Settled(0)
        for of_provider in by_provider.values():
            part = self._settle(of_provider)
            total = Settled(total.slots + part.slots, total.cooldowns + part.cooldowns, total.breakers + part.breakers)
        return total

    def why(self, scope: Scope, want: int = 1, *, cost_units: int = 1) -> Denied | None:
        """What keeps *want* requests from being granted together now; None if nothing does.

        Args:
            scope: As in `reserve`.
            want: Requests, 1..1000; more than a whole window allows is taken as the whole window.
            cost_units: As in `reserve`.

        Raises: as `reserve`.
        """
        limits, layout = self._laid_out((scope,))
        _check_request(layout, want, cost_units)
        reply = self._reserve(limits, layout, "look", want, want, cost_units, 0, token_hex(8))
        if isinstance(reply, Denied):
            return reply
        return read_denial(reply, layout) if reply.granted < 1 else None

    def snapshot(self, scope: Scope) -> RateLimitState:
        """Where every limit, cool-down and breaker of *scope* stands now.

        While another client counts again what was sent, only the scope is known, and the epoch is 0.

        Raises:
            UnknownProviderError: No limits are configured for the scope's provider.
            ServerUnavailableError: Redis cannot be reached.
        """
        limits, layout = self._laid_out((scope,))
        reply = self._reserve(limits, layout, "look", 1, 1, 0, 0, token_hex(8))
        if isinstance(reply, Denied):
            return RateLimitState(scope, epoch=0, windows=(), in_flight=0)
        return read_state(reply, scope, layout)

    def require_epoch(self, provider: str, epoch: int) -> None:
        """Grant nothing more of *provider* from a state older than *epoch*.

        To be called when an intent could not be committed because the provider's epoch is later than that of its grant:
        its rebuild was begun and perhaps never finished. The next call rebuilds.
        """
        self._least_epoch[provider] = max(epoch, self._least_epoch.get(provider, 0))

    def clear(self, scope: Scope) -> None:
        """Forget everything about the innermost level of *scope*: its counts, cool-down and breaker.

        What was sent is not unsent by this: the provider may still count it.
        """
        limits, _ = self._laid_out((scope,))
        layout = lay_out(limits, limits.limits_for(scope)[-1:], self._key_prefix)
        self._runner.run(DELETE, layout.keys[3:], "")

    def force_breaker(self, scope: Scope, status: BreakerStatus) -> CircuitBreakerState:
        """Put the breaker of the innermost level of *scope* where a person wants it, whatever it was.

        Args:
            scope: Whose breaker.
            status: ``forced_open``: nothing passes; ``disabled``: everything does, and nothing is counted; ``closed``:
                as new. The first two hold until the next command.

        Returns:
            The breaker as it is now, to be stored where it outlives Redis.

        Raises:
            InvalidInputError: No command leads to *status*, or the level has no breaker.
            UnknownProviderError: No limits are configured for the scope's provider.
            ServerUnavailableError: Redis cannot be reached.
        """
        check_command(status)
        limits, _ = self._laid_out((scope,))
        level = limits.limits_for(scope)[-1]
        if level.breaker is None:
            raise InvalidInputError(
                f"{level.scope.name} has no breaker.", remedy="Configure one for it first.", field="scope"
            )
        layout = lay_out(limits, [level], self._key_prefix)
        for _ in range(_REBUILDS):
            least_epoch = self._least_epoch.get(limits.provider, 0)
            args = (least_epoch, status.value, token_hex(8), self._now())
            raw = self._runner.run(FORCE, layout.keys, layout.configuration, *args)
            if rebuild_wait_ms(raw) is None:
                return read_breaker(raw, level)
            self._rebuild(limits, [scope])
        raise _lost(limits.provider)

    def close(self) -> None:
        """Close the connection to Redis."""
        self._runner.close()

    def _laid_out(self, scopes: tuple[Scope, ...]) -> tuple[ProviderLimits, Layout]:
        limits = self._limits(scopes[0].provider)
        cached = self._layouts.get(scopes)
        if cached is not None and cached[0] is limits:
            return cached
        if len(self._layouts) >= _LARGEST_CACHE:
            self._layouts.clear()
        levels = {level.scope.name: level for scope in scopes for level in limits.limits_for(scope)}
        self._layouts[scopes] = found = limits, lay_out(limits, tuple(levels.values()), self._key_prefix)
        return found

    def _limits(self, provider: str) -> ProviderLimits:
        limits = self._configs.get(provider)
        if limits is None:
            raise UnknownProviderError(
                f"no limits are configured for provider {provider!r}.",
                remedy=f"Known: {', '.join(sorted(self._configs)) or 'none'}.",
            )
        return limits

    def _now(self) -> str:
        return "" if self._clock_us is None else str(self._clock_us())

    def _reserve(
        self,
        limits: ProviderLimits,
        layout: Layout,
        operation: str,
        want: int,
        least: int,
        cost_units: int,
        life_us: int,
        nonce: str,
    ) -> Reply | Denied:
        for _ in range(_REBUILDS):
            least_epoch = self._least_epoch.get(limits.provider, 0)
            args = (least_epoch, operation, want, least, cost_units, life_us, nonce, self._now())
            raw = self._runner.run(RESERVE, layout.keys, layout.configuration, *args)
            wait_ms = rebuild_wait_ms(raw)
            if wait_ms is None:
                return Reply.read(raw)
            if wait_ms:
                return _rebuilding(limits.provider, min(wait_ms / 1000, _REBUILD_WAIT_S))
            self._rebuild(limits, [level.scope for level in layout.levels])
        return _rebuilding(limits.provider, _REBUILD_WAIT_S)

    def _settle(self, results: Sequence[SlotResult]) -> Settled:
        limits, layout = self._laid_out(tuple(dict.fromkeys(result.slot.scope for result in results)))
        data = settlement(layout, results)
        jitter = self._random.randrange(1001)
        for _ in range(_REBUILDS):
            least_epoch = self._least_epoch.get(limits.provider, 0)
            args = (least_epoch, data, jitter, token_hex(8), self._now())
            raw = self._runner.run(SETTLE, layout.keys, layout.configuration, *args)
            if rebuild_wait_ms(raw) is None:
                return read_settled(raw, layout)
            # The slots died with the old state, but a pause must not be lost with them.
            self._rebuild(limits, [level.scope for level in layout.levels])
        raise _lost(limits.provider)

    def _rebuild(self, limits: ProviderLimits, scopes: Sequence[Scope]) -> None:
        rebuild(self._runner, self._history, limits, scopes, key_prefix=self._key_prefix, now=self._now())


def _rebuilding(provider: str, wait_s: float) -> Denied:
    words = f"{provider}: what was sent is being counted again"
    return Denied(DenialReason.REBUILD, words, max(0.001, math.ceil(wait_s * 1000) / 1000), provider)


def _lost(provider: str) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"Redis loses the limits of {provider} as fast as they are recounted.", remedy="Check its memory."
    )


def _check_request(layout: Layout, want: int, cost_units: int) -> None:
    if not 1 <= want <= LARGEST_WANT:
        raise InvalidInputError(f"want {want} is out of range.", remedy=f"Ask for 1..{LARGEST_WANT}.", field="want")
    if cost_units < 0:
        raise InvalidInputError(f"cost_units {cost_units} is negative.", remedy="Use 0 or more.", field="cost_units")
    for level in layout.levels:
        for window in level.windows:
            if window.is_weighted and cost_units > window.limit:
                raise CostExceedsLimitError(
                    f"cost_units {cost_units} can never fit {level.scope.name}: {window.text}.",
                    remedy="Make the request smaller or raise the limit.",
                    field="cost_units",
                )
