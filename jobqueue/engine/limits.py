"""Limits shown and changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobqueue.errors import InvalidInputError
from jobqueue.model.batching import BatchConfig
from jobqueue.model.limit import ProviderLimits, RateLimitConfig, RateLimitState, Scope, ScopeKind
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.store import limits
from jobqueue.store.database import Database


@dataclass(frozen=True, slots=True)
class LimitsView:
    """What is configured for a provider and how far it is used up."""

    configured: ProviderLimits
    state: RateLimitState

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        state = self.state
        return {
            "provider": self.configured.provider,
            "scope": state.scope.name,
            "configured": {str(config.scope_kind): _config(config) for config in self.configured.configs},
            "in_flight": state.in_flight,
            "windows": [window.as_dict() for window in state.windows],
            "cooldowns": [
                {"scope": pause.scope_name, "remaining_s": round(pause.remaining_s, 3), "reason": pause.reason}
                for pause in state.cooldowns
            ],
            "breakers": [
                {
                    "scope": breaker.scope_name,
                    "state": str(breaker.status),
                    "opens": breaker.opens,
                    "open_remaining_s": round(breaker.open_remaining_s, 3),
                }
                for breaker in state.breakers
            ],
            "batch_health": dict(state.batch_health),
        }


def view_limits(database: Database, limiter: Limiter, provider: str, account: str) -> LimitsView:
    """Where the limits of *provider*, or of one account of it, stand.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    return LimitsView(limits.provider_limits(database, provider), limiter.snapshot(Scope(provider, account)))


def change_limits(
    database: Database,
    provider: str,
    *,
    windows: str | None,
    unit_windows: str | None,
    max_concurrency: int | None,
    account_level: bool,
    batch: tuple[str, int, int, int] | None,
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Store what is given, leave the rest; the configuration of that level before and after.

    Raises:
        ConfigurationError: A value is out of range or cannot be read.
        InvalidInputError: Nothing is to be changed.
    """
    given = {"windows": windows, "unit_windows": unit_windows, "max_concurrency": max_concurrency}
    given = {name: value for name, value in given.items() if value is not None}
    if not given and batch is None:
        raise InvalidInputError("nothing is to be changed.", remedy='Give for example --windows "100/minute".')
    kind = ScopeKind.ACCOUNT if account_level else ScopeKind.PROVIDER
    before = limits.provider_limits(database, provider).config(kind) or RateLimitConfig(scope_kind=kind)
    changes: dict[str, Any] = given
    after = replace(before, **changes)
    if given:
        limits.set_limits(database, after, provider)
    shown_before, shown_after = _config(before), _config(after)
    if batch is not None:
        operation, smallest, optimal, largest = batch
        sizes = BatchConfig(smallest, optimal, largest)
        shown_before["batch"] = _sizes(limits.stored_batch_config(database, provider, operation))
        limits.set_batch_config(database, provider, operation, sizes)
        shown_after["batch"] = _sizes(sizes)
    return shown_before, shown_after


def _config(config: RateLimitConfig) -> dict[str, Any]:
    return {
        "windows": config.windows,
        "unit_windows": config.unit_windows,
        "mode": str(config.mode),
        "max_concurrency": config.max_concurrency,
    }


def _sizes(config: BatchConfig | None) -> dict[str, int] | None:
    return None if config is None else {"min": config.min_size, "optimal": config.optimal_size, "max": config.max_size}
