"""Layouts kept for as long as they hold: laying one out costs more than the call it is for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from jobqueue.model.limit import ProviderLimits, Scope, UnknownProviderError
from jobqueue.model.window import MICROSECONDS
from jobqueue.ratelimit.layout import Layout, lay_out

_LARGEST_CACHE = 1024


class Layouts:
    """The limits and the layout of scopes.

    Args:
        configs: Limits by provider; one that is put in another's place is followed at once.
        key_prefix: Put before every key.
        clock_us: Microseconds since 1970 to use instead of this machine's clock, for the calendar's boundaries.
    """

    def __init__(
        self, configs: Mapping[str, ProviderLimits], key_prefix: str, clock_us: Callable[[], int] | None = None
    ) -> None:
        self._configs = configs
        self._key_prefix = key_prefix
        self._clock_us = clock_us
        self._kept: dict[tuple[Scope, ...], tuple[ProviderLimits, Layout]] = {}

    def of(self, *scopes: Scope) -> tuple[ProviderLimits, Layout]:
        """The layout over every level of *scopes*, all of one provider, and that provider's limits.

        Raises:
            UnknownProviderError: No limits are configured for it.
        """
        limits = self._limits(scopes[0].provider)
        kept = self._kept.get(scopes)
        now_s = self._now_s()
        if kept is not None and kept[0] is limits and now_s < kept[1].valid_until_s:
            return kept
        if len(self._kept) >= _LARGEST_CACHE:
            self._kept.clear()
        levels = {level.scope.name: level for scope in scopes for level in limits.limits_for(scope)}
        layout = lay_out(limits, tuple(levels.values()), self._key_prefix, now_s=now_s)
        self._kept[scopes] = found = limits, layout
        return found

    def configure(self, configs: Mapping[str, ProviderLimits]) -> None:
        """Put *configs* in the place of those before."""
        self._configs = configs

    def _now_s(self) -> float:
        return time.time() if self._clock_us is None else self._clock_us() / MICROSECONDS

    def _limits(self, provider: str) -> ProviderLimits:
        limits = self._configs.get(provider)
        if limits is None:
            raise UnknownProviderError(
                f"no limits are configured for provider {provider!r}.",
                remedy=f"Known: {', '.join(sorted(self._configs)) or 'none'}.",
            )
        return limits
