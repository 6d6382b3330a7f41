"""Limits and what must outlive Redis: configurations, cool-downs, breakers, and the requests sent within a window."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from jobqueue.errors import ConfigurationError, NotFoundError
from jobqueue.handler import Endpoint
from jobqueue.model.backoff import ErrorKind, RetryPolicy
from jobqueue.model.batching import BatchConfig
from jobqueue.model.breaker import BreakerConfig, BreakerStatus, CircuitBreakerState
from jobqueue.model.limit import Cooldown, LearnedLimit, ProviderLimits, RateLimitConfig, Scope, ScopeKind, WindowMode
from jobqueue.store.database import Database

LONGEST_REQUEST_S = 30.0
"""Observe and effect of one batch, each at its deadline, and the record between them."""


def provider_limits(database: Database, provider: str) -> ProviderLimits:
    """The configured limits of *provider*, overrides included; none at all when it has no configuration.

    Raises:
        ConfigurationError: What is stored is out of range; the message names the provider and the level.
    """
    rows = database.rows("rate_limit_configs", {"provider": provider})
    configs = tuple(_config(provider, row) for row in rows if row["scope_kind"] is not None)
    return ProviderLimits(provider, configs, LONGEST_REQUEST_S, rows[0]["config_version"])


def config_version(database: Database, provider: str) -> int:
    """The version `provider_limits` would have now; 0 before the first change."""
    row = database.row("config_version", {"provider": provider})
    return 0 if row is None else int(row["config_version"])


@contextmanager
def changing(database: Database, provider: str) -> Iterator[None]:
    """A transaction that no other change of *provider*'s limits runs beside."""
    with database.transaction():
        database.rows("lock_provider", {"provider": provider})
        yield


def set_limits(database: Database, config: RateLimitConfig, provider: str) -> int:
    """Store *config* in place of what its level had; the version of the limits with it."""
    breaker = None if config.breaker is None else asdict(config.breaker)
    backoff = {str(kind): policy.as_dict(kind) for kind, policy in config.backoff.items()}
    with changing(database, provider):
        database.rows(
            "set_rate_limit_config",
            {
                "provider": provider,
                "scope_kind": config.scope_kind,
                "scope_name": config.scope_name,
                "windows": config.windows,
                "unit_windows": config.unit_windows,
                "mode": config.mode,
                "max_concurrency": config.max_concurrency,
                "cooldown_default_s": config.cooldown_default_s,
                "breaker": json.dumps(breaker),
                "learned_floor": config.learned_floor,
                "backoff": json.dumps(backoff),
            },
        )
        return _raise_version(database, provider)


def remove_limits(database: Database, provider: str, kind: ScopeKind, name: str) -> int:
    """Drop the override of that name; the version of the limits without it.

    Where nothing of its kind stays for it, its pause, breaker and learned limits go too: they would fall on the whole
    provider.

    Raises:
        NotFoundError: There is none.
    """
    with changing(database, provider):
        if not database.rows(
            "remove_rate_limit_config", {"provider": provider, "scope_kind": kind, "scope_name": name}
        ):
            raise NotFoundError(
                f"{provider} has no limits of its own for {kind} {name!r}.",
                remedy=f"List them: jobqueue limits show {provider}",
            )
        left = provider_limits(database, provider)
        if left.config(kind) is None:
            of_level = Scope(provider, name) if kind is ScopeKind.ACCOUNT else Scope(provider, operation=name)
            database.rows("forget_states", {"provider": provider, "scope": of_level.name})
        return _raise_version(database, provider)


def _raise_version(database: Database, provider: str) -> int:
    row = database.row("raise_config_version", {"provider": provider})
    assert row is not None  # noqa: S101 - INSERT … ON CONFLICT DO UPDATE always returns the row
    return int(row["config_version"])


def _config(provider: str, row: Mapping[str, Any]) -> RateLimitConfig:
    try:
        kinds = {ErrorKind(kind): values for kind, values in row["backoff"].items()}
        return RateLimitConfig(
            scope_kind=ScopeKind(row["scope_kind"]),
            windows=row["windows"],
            unit_windows=row["unit_windows"],
            mode=WindowMode(row["mode"]),
            max_concurrency=row["max_concurrency"],
            cooldown_default_s=row["cooldown_default_s"],
            breaker=None if row["breaker"] is None else BreakerConfig(**row["breaker"]),
            scope_name=row["scope_name"],
            learned_floor=row["learned_floor"],
            backoff={kind: RetryPolicy.of_kind(kind, values) for kind, values in kinds.items()},
        )
    except (ConfigurationError, TypeError, ValueError) as error:
        level = f"{row['scope_kind']} {row['scope_name']}".rstrip()
        raise ConfigurationError(
            f"the stored limits of {provider} ({level}) are wrong: {error}",
            remedy=f"Set them again: jobqueue limits set {provider} …",
        ) from None


def batch_config(database: Database, provider: str, operation: str, *, largest: int) -> BatchConfig:
    """The batch sizes of an operation, never beyond *largest*, the most its API takes."""
    row = database.row("batch_config", {"provider": provider, "operation": operation})
    if row is None:
        return BatchConfig(1, largest, largest)
    top = min(row["max_size"], largest)
    return BatchConfig(min(row["min_size"], top), min(row["optimal_size"], top), top)


def stored_batch_config(database: Database, provider: str, operation: str) -> BatchConfig | None:
    """The batch sizes stored for an operation, or for ``*``; None when only its API's own bound holds."""
    row = database.row("batch_config", {"provider": provider, "operation": operation})
    return None if row is None else BatchConfig(row["min_size"], row["optimal_size"], row["max_size"])


def set_batch_config(database: Database, provider: str, operation: str, config: BatchConfig) -> int:
    """Store the batch sizes of an operation, ``*`` for all others; the version of the limits with it."""
    with changing(database, provider):
        database.rows(
            "set_batch_config",
            {
                "provider": provider,
                "operation": operation,
                "min_size": config.min_size,
                "optimal_size": config.optimal_size,
                "max_size": config.max_size,
            },
        )
        return _raise_version(database, provider)


def endpoint(database: Database, provider: str) -> Endpoint:
    """Where *provider* is reached, by its row.

    Raises:
        NotFoundError: It has no row.
    """
    row = database.row("provider", {"name": provider})
    if row is None:
        raise NotFoundError(f"provider {provider!r} is not configured.", remedy="List them: jobqueue providers list")
    return Endpoint(row["base_url"], row["token_url"])


def list_providers(database: Database) -> list[dict[str, Any]]:
    """All providers by name: name, base_url, token_url."""
    return database.rows("list_providers")


def set_endpoint(database: Database, provider: str, *, base_url: str | None, token_url: str | None) -> Endpoint:
    """Change where *provider* is reached, or add it; None leaves a value as it is.

    Raises:
        NotFoundError: It is new and *base_url* is None.
    """
    row = database.row("set_provider", {"name": provider, "base_url": base_url, "token_url": token_url})
    if row is None:
        raise NotFoundError(f"provider {provider!r} is not configured.", remedy="List them: jobqueue providers list")
    return Endpoint(row["base_url"], row["token_url"])


def save_cooldowns(database: Database, provider: str, cooldowns: Sequence[Cooldown]) -> None:
    """Keep cool-downs where a Redis flush cannot take them; a longer one stays."""
    for cooldown in cooldowns:
        database.rows(
            "save_cooldown",
            {
                "scope": cooldown.scope_name,
                "provider": provider,
                "remaining_s": cooldown.remaining_s,
                "reason": cooldown.reason,
            },
        )


def lift_cooldown(database: Database, scope_name: str) -> None:
    """Forget the pause of a scope, whatever is left of it."""
    database.rows("lift_cooldown", {"scope": scope_name})


def save_breakers(database: Database, provider: str, breakers: Sequence[CircuitBreakerState]) -> None:
    """Keep breakers that opened or closed."""
    for breaker in breakers:
        database.rows(
            "save_breaker",
            {
                "scope": breaker.scope_name,
                "provider": provider,
                "state": breaker.status,
                "open_for_s": breaker.open_remaining_s if breaker.status is BreakerStatus.OPEN else None,
                "opened": breaker.opens,
            },
        )


def begin_epoch(database: Database, provider: str, run_id: str) -> int:
    """A new epoch of the provider's limiter: intents whose grants came from an older one can no longer be recorded."""
    row = database.row("begin_epoch", {"provider": provider, "run_id": run_id})
    assert row is not None  # noqa: S101 - INSERT … ON CONFLICT DO UPDATE always returns the row
    return int(row["epoch"])


def sent_since(database: Database, provider: str, since_s: float) -> list[dict[str, Any]]:
    """Sends that were answered within *since_s* or may be on the wire; see ``queries/sent_since.sql``."""
    escaped = re.sub(r"([\\%_])", r"\\\1", provider)
    params = {"provider": provider, "of_accounts": f"{escaped}/%", "of_operations": f"{escaped}:%", "since_s": since_s}
    return database.rows("sent_since", params)


def save_learned(database: Database, provider: str, learned: Mapping[str, Sequence[LearnedLimit]]) -> None:
    """Keep what was learned about the windows of scopes, in place of what was kept for these scopes.

    Args:
        learned: By scope name; an empty sequence forgets that scope's.
    """
    if not learned:
        return
    rows = [
        {"scope": scope, "learned": {each.window_id: _as_stored(each) for each in found}}
        for scope, found in learned.items()
    ]
    database.rows("save_learned", {"provider": provider, "entries": json.dumps(rows, allow_nan=False)})


def _as_stored(learned: LearnedLimit) -> dict[str, Any]:
    return {
        "text": learned.text,
        "limit": learned.limit,
        "known": learned.known,
        "base": learned.base,
        "proofs": learned.proofs,
        "ago_s": learned.throttled_ago_s,
    }


def learned(database: Database, provider: str) -> list[LearnedLimit]:
    """What `save_learned` kept, grown older by the time since."""
    return [
        LearnedLimit(
            row["scope"],
            window_id,
            kept["text"],
            kept["limit"],
            kept["known"],
            kept["base"],
            kept["ago_s"] + row["kept_for_s"],
            kept["proofs"],
        )
        for row in database.rows("learned", {"provider": provider})
        for window_id, kept in row["learned"].items()
    ]


def cooldowns(database: Database, provider: str) -> list[Cooldown]:
    """Pauses that have not lifted yet."""
    rows = database.rows("cooldowns", {"provider": provider})
    return [Cooldown(row["scope"], row["remaining_s"], row["reason"]) for row in rows]


def breakers(database: Database, provider: str) -> list[CircuitBreakerState]:
    """Breakers that are not closed."""
    return [
        CircuitBreakerState(
            row["scope"], BreakerStatus(row["state"]), row["opened"], max(0.0, row["open_for_s"] or 0.0)
        )
        for row in database.rows("breakers", {"provider": provider})
        if row["state"] != BreakerStatus.CLOSED
    ]
