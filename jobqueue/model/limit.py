"""Limits: what may be sent, under which scope, and the values a reservation deals in.

A limit is counted under a *scope*: ``spotify`` for everything sent to the provider, ``spotify:unsave_tracks`` for one
operation, ``spotify/account-7`` for one account. A reservation takes the limits of every level its scope lies in.
Limits come in two steps: the defaults of a provider and its accounts, and overrides by the name of an account, a site
or an operation. Durations are seconds unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from jobqueue.errors import ConfigurationError
from jobqueue.model.backoff import ErrorKind, RetryPolicy
from jobqueue.model.breaker import BreakerConfig, CircuitBreakerState
from jobqueue.model.limit_state import Cooldown, LearnedLimit, RateLimitState, Waiter, WindowState
from jobqueue.model.reservation import (
    Adjustment,
    CostExceedsLimitError,
    DenialReason,
    Denied,
    Granted,
    Settled,
    Slot,
    SlotResult,
    SlotUse,
    Throttle,
    UnknownProviderError,
)
from jobqueue.model.scope import Scope, ScopeKind
from jobqueue.model.window import Window, WindowMode, parse_windows

__all__ = [
    "Adjustment",
    "BreakerConfig",
    "CircuitBreakerState",
    "Cooldown",
    "CostExceedsLimitError",
    "DenialReason",
    "Denied",
    "ErrorKind",
    "Granted",
    "LearnedLimit",
    "ProviderLimits",
    "RateLimitConfig",
    "RateLimitState",
    "RetryPolicy",
    "Scope",
    "ScopeKind",
    "ScopeLimits",
    "Settled",
    "Slot",
    "SlotResult",
    "SlotUse",
    "Throttle",
    "UnknownProviderError",
    "Waiter",
    "Window",
    "WindowMode",
    "WindowState",
    "parse_windows",
]

LARGEST_FLOOR = 1_000_000


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """The limits of one level of a provider, or of one account or operation of it.

    Attributes:
        scope_kind: Whether they hold for the whole provider, for an operation or for each account alone.
        windows: Limits on the number of requests, such as ``10/second; 100/minute``; empty for none.
        unit_windows: Limits on cost units, such as ``10000/day``; empty for none.
        mode: When a request stops counting.
        max_concurrency: Most requests in flight at once; None for no cap.
        cooldown_default_s: Pause after a throttle that named no time.
        breaker: The circuit breaker of each scope; None for none.
        scope_name: The account, site or operation they hold for, in place of the default of the kind; empty for that
            default. A limit of kind operation always names one.
        learned_floor: Requests a window never falls below by learning, whatever the provider answers.
        backoff: How failures of a kind are repeated, in place of the worker's own policy; on the provider's level only.

    Raises:
        ConfigurationError: A value is out of range or *windows* cannot be read.
    """

    scope_kind: ScopeKind = ScopeKind.PROVIDER
    windows: str = ""
    unit_windows: str = ""
    mode: WindowMode = WindowMode.AUTO
    max_concurrency: int | None = None
    cooldown_default_s: float = 30.0
    breaker: BreakerConfig | None = field(default_factory=BreakerConfig)
    scope_name: str = ""
    learned_floor: int = 1
    backoff: Mapping[ErrorKind, RetryPolicy] = field(default_factory=dict)
    _windows: tuple[Window, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        windows = parse_windows(self.windows, mode=self.mode)
        windows += parse_windows(self.unit_windows, is_weighted=True)
        # Frozen, and read once: of a thousand overrides each is asked for its windows again and again.
        object.__setattr__(self, "_windows", windows)
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ConfigurationError(
                f"max_concurrency {self.max_concurrency} lets nothing through.",
                remedy="Use at least 1, or None for no cap.",
            )
        if not 0 < self.cooldown_default_s <= 86_400:
            raise ConfigurationError(
                f"cooldown_default_s {self.cooldown_default_s} is out of range.",
                remedy="Use more than 0 and at most 86400 seconds.",
            )
        if not 1 <= self.learned_floor <= LARGEST_FLOOR:
            raise ConfigurationError(
                f"learned_floor {self.learned_floor} is out of range.",
                remedy=f"Use 1 to {LARGEST_FLOOR}: with nothing sent, nothing would be learned any more.",
            )
        self._check_level()

    def _check_level(self) -> None:
        if (self.scope_kind is ScopeKind.PROVIDER and self.scope_name) or (
            self.scope_kind is ScopeKind.OPERATION and not self.scope_name
        ):
            raise ConfigurationError(
                f"scope_name {self.scope_name!r} does not fit limits of kind {self.scope_kind}.",
                remedy="Name the operation; leave it out for the provider.",
            )
        if self.backoff and self.scope_kind is not ScopeKind.PROVIDER:
            raise ConfigurationError(
                f"backoff cannot be set for limits of kind {self.scope_kind}.",
                remedy="Set it for the whole provider.",
            )

    def parsed_windows(self) -> tuple[Window, ...]:
        """All windows, those on requests first."""
        return self._windows


@dataclass(frozen=True, slots=True)
class ScopeLimits:
    """Everything that can say no to a request of one scope."""

    scope: Scope
    windows: tuple[Window, ...] = ()
    max_concurrency: int | None = None
    cooldown_default_s: float = 30.0
    breaker: BreakerConfig | None = None
    learned_floor: int = 1


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """All limits of one provider.

    Attributes:
        configs: At most one per level and name. Without one for accounts, account scopes share everything of the
            provider, cool-downs included; an account with an override of its own has its own level all the same.
        longest_request_s: The longest any request may stay unanswered. Slots live no longer, and after Redis lost its
            state requests without an answer are held this long from their sending.
        version: Grows with every stored change of these limits; 0 where they are not stored.

    Raises:
        ConfigurationError: Two configurations of one level and name, or *longest_request_s* is out of range.
        InvalidInputError: A name cannot stand in a scope.
    """

    provider: str
    configs: tuple[RateLimitConfig, ...] = ()
    longest_request_s: float = 75.0
    version: int = 0
    _by_level: Mapping[tuple[ScopeKind, str], RateLimitConfig] = field(init=False, repr=False, compare=False)
    longest_window_s: int = field(init=False, repr=False, compare=False)
    """The longest window of any level, in seconds; 0 without windows."""
    fingerprint: str = field(init=False, repr=False, compare=False)
    """Tells whether the counts kept in Redis are those these limits need: what is counted over which lengths."""

    def __post_init__(self) -> None:
        by_level = {(config.scope_kind, config.scope_name): config for config in self.configs}
        if len(by_level) < len(self.configs):
            raise ConfigurationError(
                f"{self.provider} has two rate-limit configurations of one level.",
                remedy="Keep one of each kind and name.",
            )
        if not 0 < self.longest_request_s <= 3600:
            raise ConfigurationError(
                f"longest_request_s {self.longest_request_s} of {self.provider} is out of range.",
                remedy="Use more than 0 and at most 3600 seconds.",
            )
        for kind, name in by_level:
            if kind is ScopeKind.OPERATION:
                Scope(self.provider, operation=name)
        lengths_s = (window.length_s for config in self.configs for window in config.parsed_windows())
        # Frozen, and worked out once: both are asked for with every scope that is laid out.
        object.__setattr__(self, "_by_level", by_level)
        object.__setattr__(self, "longest_window_s", max(lengths_s, default=0))
        object.__setattr__(self, "fingerprint", _fingerprint(by_level))

    def config(self, kind: ScopeKind, name: str = "") -> RateLimitConfig | None:
        """The configuration of one level: of *name* alone, or with an empty one the default."""
        return self._by_level.get((kind, name))

    def limits_for(self, scope: Scope) -> tuple[ScopeLimits, ...]:
        """The limits a request of *scope* must pass: the provider's, its operation's, its account's.

        An operation has a level only where limits are configured for it; an account has one by its own configuration
        or else by the default for accounts. What has its own does not take the default's as well.
        """
        levels = [_scope_limits(scope.level(ScopeKind.PROVIDER), self.config(ScopeKind.PROVIDER))]
        of_operation = self.config(ScopeKind.OPERATION, scope.operation) if scope.operation else None
        if of_operation is not None:
            levels.append(_scope_limits(scope.level(ScopeKind.OPERATION), of_operation))
        of_account = self.config(ScopeKind.ACCOUNT, scope.account) or self.config(ScopeKind.ACCOUNT)
        if scope.account and of_account is not None:
            levels.append(_scope_limits(scope.level(ScopeKind.ACCOUNT), of_account))
        return tuple(levels)

    @property
    def backoff(self) -> Mapping[ErrorKind, RetryPolicy]:
        """How failures are repeated, by their kind, where the provider has its own way."""
        config = self.config(ScopeKind.PROVIDER)
        return config.backoff if config else {}


def _scope_limits(scope: Scope, config: RateLimitConfig | None) -> ScopeLimits:
    if config is None:
        return ScopeLimits(scope)
    return ScopeLimits(
        scope,
        config.parsed_windows(),
        config.max_concurrency,
        config.cooldown_default_s,
        config.breaker,
        config.learned_floor,
    )


def _fingerprint(by_level: Mapping[tuple[ScopeKind, str], RateLimitConfig]) -> str:
    """What is counted over which lengths.

    The defaults are spelt out, as they were before there were overrides, so that workers of both versions agree while
    a deploy rolls. Overrides may be a thousand: they are a digest, and one that counts as its default does is left out.
    """
    counted = {level: _counted(config) for level, config in by_level.items()}
    defaults = {kind: counted.get((kind, "")) for kind in (ScopeKind.PROVIDER, ScopeKind.ACCOUNT)}
    parts = [f"{kind}={ids or ''}" for kind, ids in defaults.items()]
    overrides = sorted(
        f"{kind}={ids}={name}" for (kind, name), ids in counted.items() if name and ids != defaults.get(kind)
    )
    if overrides:
        parts.append(f"overrides={sha256(chr(10).join(overrides).encode()).hexdigest()[:16]}")
    return ";".join(parts)


def _counted(config: RateLimitConfig) -> str:
    return ",".join(sorted(window.id for window in config.parsed_windows()))
