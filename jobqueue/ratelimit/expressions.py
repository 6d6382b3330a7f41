"""Limits written down in a few words, for use without a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jobqueue.errors import ConfigurationError
from jobqueue.model.limit import ProviderLimits, RateLimitConfig, Scope, ScopeKind

EACH_ACCOUNT = "*"

WrittenLimits = Mapping[str, str | RateLimitConfig | ProviderLimits]


def limits_from(written: WrittenLimits, *, longest_request_s: float = 75.0) -> dict[str, ProviderLimits]:
    """Limits by provider, from expressions by scope name.

    Example:
        >>> limits = limits_from({
        ...     "spotify": "10/second; 10000/day resets at midnight America/Los_Angeles",
        ...     "spotify:search": "30/minute",
        ...     "spotify/*": "100/minute",
        ...     "spotify/team-7": "300/minute",
        ... })
        >>> [config.windows for config in limits["spotify"].configs][1:]
        ['30/minute', '100/minute', '300/minute']

    Args:
        written: Under ``provider``, ``provider:operation``, ``provider/account`` or ``provider/*`` (each account
            without limits of its own): an expression as `parse_windows` reads it, or a `RateLimitConfig` for what an
            expression cannot say, whose level is the key's. Under ``provider`` also the whole `ProviderLimits`.
        longest_request_s: The longest any request may stay unanswered, where no `ProviderLimits` says so.

    Raises:
        ConfigurationError: An expression or a value cannot be read, or a provider is given twice.
        InvalidInputError: A key is no scope's name.
    """
    whole = {name: given for name, given in written.items() if isinstance(given, ProviderLimits)}
    by_provider: dict[str, list[RateLimitConfig]] = {}
    for name, given in written.items():
        if isinstance(given, ProviderLimits):
            if given.provider != name:
                raise ConfigurationError(
                    f"limits of {given.provider} are given under {name!r}.",
                    remedy="Use the provider's name as the key.",
                )
            continue
        scope = Scope.parse(name)
        if scope.provider in whole:
            raise ConfigurationError(
                f"limits {name!r} stand beside the ProviderLimits of {scope.provider}.", remedy="Put them into it."
            )
        by_provider.setdefault(scope.provider, []).append(_config(name, scope, given))
    found = {
        provider: ProviderLimits(provider, tuple(configs), longest_request_s)
        for provider, configs in by_provider.items()
    }
    return {**found, **whole}


def _config(name: str, scope: Scope, given: str | RateLimitConfig) -> RateLimitConfig:
    if scope.operation and scope.account:
        raise ConfigurationError(
            f"limits {name!r} name an operation and an account.", remedy="Limits are kept under one of the two."
        )
    kind, of = ScopeKind.PROVIDER, ""
    if scope.operation:
        kind, of = ScopeKind.OPERATION, scope.operation
    elif scope.account:
        kind, of = ScopeKind.ACCOUNT, "" if scope.account == EACH_ACCOUNT else scope.account
    if isinstance(given, RateLimitConfig):
        return replace(given, scope_kind=kind, scope_name=of)
    if not given.strip():
        raise ConfigurationError(f"limits {name!r} are empty.", remedy='Write them like "10/second; 100/minute".')
    return RateLimitConfig(kind, windows=given, scope_name=of)
