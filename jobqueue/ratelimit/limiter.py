"""Reserve and settle: the exact limiter under everything else of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from secrets import token_hex
from typing import Any

import redis

from jobqueue.errors import ServerUnavailableError
from jobqueue.model.job import Priority
from jobqueue.model.limit import (
    Adjustment,
    Denied,
    Granted,
    ProviderLimits,
    RateLimitState,
    Scope,
    Settled,
    Slot,
    SlotResult,
)
from jobqueue.ratelimit.asking import Ask, check_adjustment, check_request, deadline_within, outdated, rebuilding
from jobqueue.ratelimit.history import RequestHistory
from jobqueue.ratelimit.layout import Layout
from jobqueue.ratelimit.layouts import Layouts
from jobqueue.ratelimit.rebuild import microseconds, rebuild
from jobqueue.ratelimit.reply import OUTDATED, Reply, read_denial, read_settled, read_state, rebuild_wait_ms
from jobqueue.ratelimit.script import ADJUST, DELETE, LEAVE, RESERVE, SETTLE, Script, ScriptRunner
from jobqueue.ratelimit.settlement import outdated_settlement, settlement

_REBUILDS = 3
_REBUILD_WAIT_S = 0.1


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
        self._history = history
        self._clock_us = clock_us
        self._random = random or Random()
        self._key_prefix = key_prefix
        self._layouts = Layouts(configs, key_prefix, clock_us)
        self._least_epoch: dict[str, int] = {}

    def reserve(
        self,
        scope: Scope,
        *,
        want: int = 1,
        cost_units: int = 1,
        deadline_s: float | None = None,
        group: int = 1,
        owner: str = "",
        priority: Priority = Priority.DEFAULT,
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
            group: Slots are of use only in multiples of this, such as 2 for a look and its effect.
            owner: Who asks, such as a job's id. A denied owner gets a place in line and a time of its own to ask again;
                from then on what is free is kept for it, for two seconds. Empty to take only what nobody waits for.
            priority: While an owner of a higher one waits, nothing is granted to lower ones that it could use.

        Returns:
            `Granted` with 1..want slots, or `Denied` with the constraint that lifts last and ``retry_after_s``, rounded
            up and never zero. It is a lower bound if what must free is still in flight.

        Raises:
            UnknownProviderError: No limits are configured for the scope's provider.
            CostExceedsLimitError: One request costs more than a whole window allows; it could never be granted.
            InvalidInputError: *want*, *cost_units*, *deadline_s*, *group* or *owner* is out of range.
            ServerUnavailableError: Redis cannot be reached.

        Source:
            RFC 9110 section 10.2.3 for Retry-After. Time is Redis's ``TIME``.
        """
        limits, layout = self._layouts.of(scope)
        check_request(layout, want, cost_units, group, owner)
        deadline_s = deadline_within(limits, deadline_s)
        nonce = token_hex(8)
        ask = Ask("take", want, group, cost_units, microseconds(deadline_s), nonce, owner, priority)
        reply = self._reserve(limits, layout, ask)
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
        limits, layout = self._layouts.of(scope)
        check_request(layout, 1, cost_units)
        nonce = token_hex(8)
        reply = self._reserve(limits, layout, Ask("hit", 1, 1, cost_units, 0, nonce))
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
            total += self._settle(of_provider)
        return total

    def adjust(self, scope: Scope, adjustment: Adjustment) -> Settled:
        """Change by hand what is kept of the innermost level of *scope*.

        Returns:
            What must be stored where it outlives Redis: of that level its pause (0 s: none), its breaker and what is
            learned (nothing, once forgotten).

        Raises: as `settle`; `InvalidInputError` when a breaker is to be changed where none is configured.
        """
        limits, layout = self._layouts.of(scope)
        check_adjustment(layout, adjustment)
        raw = self._changed(limits, layout, ADJUST, lambda: (adjustment.value, token_hex(8), self._now()))
        return Settled(0) if raw is None else read_settled(raw, layout)

    def why(
        self,
        scope: Scope,
        want: int = 1,
        *,
        cost_units: int = 1,
        owner: str = "",
        priority: Priority = Priority.DEFAULT,
    ) -> Denied | None:
        """What keeps *want* requests from being granted together now; None if nothing does.

        Args:
            scope: As in `reserve`.
            want: Requests, 1..1000; more than a whole window allows is taken as the whole window.
            cost_units: As in `reserve`.
            owner: Who would ask; its place in line counts.
            priority: As in `reserve`.

        Raises: as `reserve`.
        """
        limits, layout = self._layouts.of(scope)
        check_request(layout, want, cost_units, owner=owner)
        ask = Ask("look", want, want, cost_units, 0, token_hex(8), owner, priority)
        reply = self._reserve(limits, layout, ask)
        if isinstance(reply, Denied):
            return reply
        return read_denial(reply, layout) if reply.granted < 1 else None

    def snapshot(self, scope: Scope, *, with_line: bool = True) -> RateLimitState:
        """Where every limit, cool-down and breaker of *scope* stands now.

        While another client counts again what was sent, only the scope is known, and the epoch is 0.

        Args:
            scope: As in `reserve`.
            with_line: Whether to tell who waits: with two thousand waiting that alone takes milliseconds.

        Raises:
            UnknownProviderError: No limits are configured for the scope's provider.
            ServerUnavailableError: Redis cannot be reached.
        """
        limits, layout = self._layouts.of(scope)
        reply = self._reserve(limits, layout, Ask("look" if with_line else "glance", 1, 1, 0, 0, token_hex(8)))
        if isinstance(reply, Denied):
            return RateLimitState(scope, epoch=0, windows=(), in_flight=0)
        return read_state(reply, scope, layout)

    def leave(self, scope: Scope, owner: str) -> tuple[str, ...]:
        """Give up *owner*'s place in line; without one nothing changes. Raises: as `settle`.

        A place that nobody comes back to lapses by itself, but until then others stand behind it.

        Returns:
            Who may ask now because of it; they are told a new time, if they must still wait.
        """
        limits, layout = self._layouts.of(scope)
        raw = self._changed(limits, layout, LEAVE, lambda: (owner, token_hex(8), self._now()))
        return () if raw is None else read_settled(raw, layout).called

    def configure(self, configs: Mapping[str, ProviderLimits]) -> None:
        """Use *configs* from the next call on, after a denial for `DenialReason.OUTDATED`."""
        self._layouts.configure(configs)

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
        _, layout = self._layouts.of(scope)
        self._runner.run(DELETE, layout.own_keys, "")

    def close(self) -> None:
        """Close the connection to Redis."""
        self._runner.close()

    def _now(self) -> str:
        return "" if self._clock_us is None else str(self._clock_us())

    def _reserve(self, limits: ProviderLimits, layout: Layout, ask: Ask) -> Reply | Denied:
        for _ in range(_REBUILDS):
            least_epoch = self._least_epoch.get(limits.provider, 0)
            args = (least_epoch, *ask.arguments(self._now()))
            raw = self._runner.run(RESERVE, layout.keys, layout.configuration, *args)
            if raw[0] == OUTDATED:
                return outdated(limits.provider)
            wait_ms = rebuild_wait_ms(raw)
            if wait_ms is None:
                return Reply.read(raw)
            if wait_ms:
                return rebuilding(limits.provider, min(wait_ms / 1000, _REBUILD_WAIT_S))
            self._rebuild(limits, [level.scope for level in layout.levels])
        return rebuilding(limits.provider, _REBUILD_WAIT_S)

    def _settle(self, results: Sequence[SlotResult]) -> Settled:
        limits, layout = self._layouts.of(*dict.fromkeys(result.slot.scope for result in results))
        jitter = self._random.randrange(1001)
        raw = self._changed(
            limits, layout, SETTLE, lambda: (settlement(layout, results), jitter, token_hex(8), self._now())
        )
        return outdated_settlement(layout, results) if raw is None else read_settled(raw, layout)

    def _changed(
        self, limits: ProviderLimits, layout: Layout, script: Script, arguments: Callable[[], tuple[str | int, ...]]
    ) -> Any:
        """The answer of a script that changes the state, rebuilt before if need be; None under outdated limits."""
        for _ in range(_REBUILDS):
            least_epoch = self._least_epoch.get(limits.provider, 0)
            raw = self._runner.run(script, layout.keys, layout.configuration, least_epoch, *arguments())
            if raw[0] == OUTDATED:
                return None
            if rebuild_wait_ms(raw) is None:
                return raw
            # The slots died with the old state, but a pause must not be lost with them.
            self._rebuild(limits, [level.scope for level in layout.levels])
        raise ServerUnavailableError(
            f"Redis loses the limits of {limits.provider} as fast as they are recounted.", remedy="Check its memory."
        )

    def _rebuild(self, limits: ProviderLimits, scopes: Sequence[Scope]) -> None:
        rebuild(self._runner, self._history, limits, scopes, key_prefix=self._key_prefix, now=self._now())
