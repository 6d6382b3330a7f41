"""Limits: what may be sent, under which scope, and the values a reservation deals in.

A limit is counted under a *scope*: ``spotify`` for everything sent to the provider, ``spotify/account-7`` for one
account of it. A reservation for an account takes the provider's limits too. Durations are seconds unless a name says
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jobqueue.errors import ConfigurationError
from jobqueue.model.breaker import BreakerConfig, CircuitBreakerState
from jobqueue.model.reservation import (
    Cooldown,
    CostExceedsLimitError,
    DenialReason,
    Denied,
    Granted,
    RateLimitState,
    Settled,
    Slot,
    SlotResult,
    SlotUse,
    Throttle,
    UnknownProviderError,
    WindowState,
)
from jobqueue.model.scope import Scope, ScopeKind
from jobqueue.model.window import Window, WindowMode, parse_windows

__all__ = [
    "BreakerConfig",
    "CircuitBreakerState",
    "Cooldown",
    "CostExceedsLimitError",
    "DenialReason",
    "Denied",
    "Granted",
    "ProviderLimits",
    "RateLimitConfig",
    "RateLimitState",
    "Scope",
    "ScopeKind",
    "ScopeLimits",
    "Settled",
    "Slot",
    "SlotResult",
    "SlotUse",
    "Throttle",
    "UnknownProviderError",
    "Window",
    "WindowMode",
    "WindowState",
    "parse_windows",
]


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """The limits of one level of a provider.

    Attributes:
        scope_kind: Whether they hold for the whole provider or for each account alone.
        windows: Limits on the number of requests, such as ``10/second; 100/minute``; empty for none.
        unit_windows: Limits on cost units, such as ``10000/day``; empty for none.
        mode: When a request stops counting.
        max_concurrency: Most requests in flight at once; None for no cap.
        cooldown_default_s: Pause after a throttle that named no time.
        breaker: The circuit breaker of each scope; None for none.

    Raises:
        ConfigurationError: A value is out of range or *windows* cannot be read.
    """

    scope_kind: ScopeKind = ScopeKind.PROVIDER
    windows: str = ""
    unit_windows: str = ""
    mode: WindowMode = WindowMode.STRICT
    max_concurrency: int | None = None
    cooldown_default_s: float = 30.0
    breaker: BreakerConfig | None = field(default_factory=BreakerConfig)

    def __post_init__(self) -> None:
        self.parsed_windows()
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

    def parsed_windows(self) -> tuple[Window, ...]:
        """All windows, those on requests first."""
        return parse_windows(self.windows) + parse_windows(self.unit_windows, is_weighted=True)


@dataclass(frozen=True, slots=True)
class ScopeLimits:
    """Everything that can say no to a request of one scope."""

    scope: Scope
    windows: tuple[Window, ...] = ()
    max_concurrency: int | None = None
    cooldown_default_s: float = 30.0
    breaker: BreakerConfig | None = None


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """All limits of one provider.

    Attributes:
        configs: At most one per level. Without one for accounts, account scopes share everything of the provider,
            cool-downs included.
        longest_request_s: The longest any request may stay unanswered. Slots live no longer, and after Redis lost its
            state requests without an answer are held this long from their sending.

    Raises:
        ConfigurationError: Two configurations of one level, or *longest_request_s* is out of range.
    """

    provider: str
    configs: tuple[RateLimitConfig, ...] = ()
    longest_request_s: float = 75.0

    def __post_init__(self) -> None:
        if len({config.scope_kind for config in self.configs}) < len(self.configs):
            raise ConfigurationError(
                f"{self.provider} has two rate-limit configurations of one level.", remedy="Keep one of each kind."
            )
        if not 0 < self.longest_request_s <= 3600:
            raise ConfigurationError(
                f"longest_request_s {self.longest_request_s} of {self.provider} is out of range.",
                remedy="Use more than 0 and at most 3600 seconds.",
            )

    def config(self, kind: ScopeKind) -> RateLimitConfig | None:
        """The configuration of one level."""
        return next((config for config in self.configs if config.scope_kind is kind), None)

    def limits_for(self, scope: Scope) -> tuple[ScopeLimits, ...]:
        """The limits a request of *scope* must pass, the provider's first."""
        levels = [_scope_limits(Scope(self.provider), self.config(ScopeKind.PROVIDER))]
        of_account = self.config(ScopeKind.ACCOUNT)
        if scope.account and of_account is not None:
            levels.append(_scope_limits(scope, of_account))
        return tuple(levels)

    @property
    def longest_window_s(self) -> int:
        """The longest window of any level, in seconds; 0 without windows."""
        return max((w.length_s for config in self.configs for w in config.parsed_windows()), default=0)

    @property
    def fingerprint(self) -> str:
        """Tells whether the counts kept in Redis are those these limits need: what is counted over which lengths."""
        parts = []
        for kind in ScopeKind:
            config = self.config(kind)
            windows = config.parsed_windows() if config else ()
            parts.append(f"{kind}={','.join(sorted(window.id for window in windows))}")
        return ";".join(parts)


def _scope_limits(scope: Scope, config: RateLimitConfig | None) -> ScopeLimits:
    if config is None:
        return ScopeLimits(scope)
    return ScopeLimits(
        scope, config.parsed_windows(), config.max_concurrency, config.cooldown_default_s, config.breaker
    )
