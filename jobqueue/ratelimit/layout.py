"""How limits are laid out in Redis: key names, and the configuration the scripts are called with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobqueue.model.batching import FULL_HEALTH_PERMILLE, GROWTH_PERMILLE
from jobqueue.model.limit import BreakerConfig, ProviderLimits, ScopeLimits, Window
from jobqueue.model.window import CALENDAR_GUARD_S, LEARNING_WINDOW, MICROSECONDS

REBUILD_LEASE_MS = 2000
"""How long one client has the rebuild to itself."""

GRACE_US = 2_000_000
"""How long a place in line is kept for somebody who may ask and does not."""

HORIZON_US = 60_000_000
"""Work of a lower priority is held back for one of a higher whose time is nearer than this."""

LOOK_AGAIN_US = 50_000
"""When whoever is held back asks again."""

HEALTH_TTL_MS = 7 * 86_400_000
_IDLE_TTL_S = 3600
FIRST_MARGIN, LEAST_MARGIN, MOST_MARGIN = 40, 64, 2
"""An eager window's margin as parts of its length: at first, at least, at most. A throttle costs a whole second's
pause, more than a wider margin does: measured at 30/s, one down to 1/500 was throttled up to three times a minute."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys and the configuration of one call.

    Attributes:
        levels: The scopes in the order the scripts number them, from 1.
        windows: The windows of each level, as the scripts number them; one to learn from comes last where none of the
            configured ones is short enough.
        keys: All under the provider's hash tag: meta, lease, health, then those of each scope.
        configuration: JSON.
        valid_until_s: When the calendar boundaries in it must be computed anew.
    """

    levels: tuple[ScopeLimits, ...]
    windows: tuple[tuple[Window, ...], ...]
    keys: tuple[str, ...]
    configuration: str
    valid_until_s: float = math.inf

    @property
    def own_keys(self) -> tuple[str, ...]:
        """The keys of the innermost level alone."""
        return self.keys[-_KEYS_A_SCOPE - len(self.windows[-1]) :]


_KEYS_A_SCOPE = 5


def lay_out(limits: ProviderLimits, levels: Sequence[ScopeLimits], key_prefix: str = "", *, now_s: float) -> Layout:
    """The layout for a call that touches *levels* of one provider.

    Args:
        limits: The provider's.
        levels: Outermost first.
        key_prefix: Put before every key.
        now_s: Seconds since 1970, for the calendar's boundaries; a day wrong does no harm but makes them rolling.
    """
    tag = f"{key_prefix}{{{limits.provider}}}:limit"
    keys = [f"{tag}:meta", f"{tag}:lease", f"{tag}:health"]
    windows = tuple(counted_windows(level) for level in levels)
    for level, counted in zip(levels, windows, strict=True):
        scope = level.scope
        # An account may be called anything, ":slots" too.
        account = scope.account.replace("%", "%25").replace(":", "%3A")
        prefix = f"{tag}:operation:{scope.operation}" if scope.operation else f"{tag}:scope:{account}"
        keys += [f"{prefix}{suffix}" for suffix in ("", ":slots", ":probes", ":waiting", ":wants")]
        keys += [f"{prefix}:{window.id}" for window in counted]
    configuration = {
        "fingerprint": limits.fingerprint,
        "version": limits.version,
        "ttl_ms": int(2000 * (limits.longest_window_s + limits.longest_request_s + _IDLE_TTL_S)),
        "grace_us": GRACE_US,
        "horizon_us": HORIZON_US,
        "look_again_us": LOOK_AGAIN_US,
        "rebuild_lease_ms": REBUILD_LEASE_MS,
        "health": {"full": FULL_HEALTH_PERMILLE, "growth": GROWTH_PERMILLE, "ttl_ms": HEALTH_TTL_MS},
        "scopes": [_scope(level, counted, now_s) for level, counted in zip(levels, windows, strict=True)],
    }
    # The boundary after the running period is known too, so it is early enough to look again at its end.
    ends = [w.boundaries_us(now_s)[1] / MICROSECONDS for counted in windows for w in counted if w.calendar]
    text = json.dumps(configuration, separators=(",", ":"))
    return Layout(tuple(levels), windows, tuple(keys), text, min(ends, default=math.inf))


def counted_windows(level: ScopeLimits) -> tuple[Window, ...]:
    """The windows of *level*, and one more to learn from if all of them are too long for it."""
    if any(window.is_learnable for window in level.windows):
        return level.windows
    return (*level.windows, LEARNING_WINDOW)


def _scope(level: ScopeLimits, windows: Sequence[Window], now_s: float) -> dict[str, Any]:
    eager_us = [window.length_us for window in windows if window.is_eager]
    scope = {
        "fields": [f"{kind}_{window.id}" for window in windows for kind in ("total", "extra")],
        "windows": [_window(window, now_s) for window in windows],
        "max_concurrency": level.max_concurrency,
        "floor": level.learned_floor,
        "margin": _margin(min(eager_us)) if eager_us else None,
        "breaker": _breaker(level.breaker) if level.breaker else None,
    }
    return _without_defaults(scope)


def _window(window: Window, now_s: float) -> dict[str, Any]:
    return _without_defaults(
        {
            "us": window.length_us,
            "limit": window.limit,
            "quantum": window.quantum_us,
            "weighted": window.is_weighted,
            "eager": window.is_eager,
            "learnable": window.is_learnable,
            "ends": window.boundaries_us(now_s),
            "guard": CALENDAR_GUARD_S * MICROSECONDS if window.calendar else 0,
        }
    )


def _without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is false, zero or empty is left out: the scripts read all of it with every call."""
    return {name: value for name, value in values.items() if value}


def _margin(length_us: int) -> dict[str, int]:
    return {
        "first": length_us // FIRST_MARGIN,
        "least": length_us // LEAST_MARGIN,
        "most": length_us // MOST_MARGIN,
    }


def _breaker(config: BreakerConfig) -> dict[str, int]:
    return {
        "failure_permille": config.failure_permille,
        "minimum_calls": config.minimum_calls,
        "window_calls": config.window_calls or 0,
        "bucket_us": config.bucket_us,
        "slow_call_us": config.slow_call_us,
        "slow_permille": config.slow_permille,
        "open_us": round(config.open_s * 1_000_000),
        "open_max_us": round(config.open_max_s * 1_000_000),
        "jitter": config.jitter_permille,
        "probes": config.probes,
        "slow_start_us": config.slow_start_us,
    }
