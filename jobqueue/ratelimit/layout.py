"""How limits are laid out in Redis: key names, and the configuration the scripts are called with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobqueue.model.batching import FULL_HEALTH_PERMILLE, GROWTH_PERMILLE
from jobqueue.model.limit import BreakerConfig, ProviderLimits, ScopeLimits

REBUILD_LEASE_MS = 2000
"""How long one client has the rebuild to itself."""

HEALTH_TTL_MS = 7 * 86_400_000
_IDLE_TTL_S = 3600


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys and the configuration of one call.

    Attributes:
        levels: The scopes in the order the scripts number them, from 1.
        keys: All under the provider's hash tag: meta, lease, health, then those of each scope.
        configuration: JSON.
    """

    levels: tuple[ScopeLimits, ...]
    keys: tuple[str, ...]
    configuration: str


def lay_out(limits: ProviderLimits, levels: Sequence[ScopeLimits], key_prefix: str = "") -> Layout:
    """The layout for a call that touches *levels* of one provider."""
    tag = f"{key_prefix}{{{limits.provider}}}:limit"
    keys = [f"{tag}:meta", f"{tag}:lease", f"{tag}:health"]
    for level in levels:
        scope = level.scope
        prefix = f"{tag}:operation:{scope.operation}" if scope.operation else f"{tag}:scope:{scope.account}"
        keys += [prefix, f"{prefix}:slots", f"{prefix}:probes"]
        keys += [f"{prefix}:{window.id}" for window in level.windows]
    configuration = {
        "fingerprint": limits.fingerprint,
        "ttl_ms": int(2000 * (limits.longest_window_s + limits.longest_request_s + _IDLE_TTL_S)),
        "rebuild_lease_ms": REBUILD_LEASE_MS,
        "health": {"full": FULL_HEALTH_PERMILLE, "growth": GROWTH_PERMILLE, "ttl_ms": HEALTH_TTL_MS},
        "scopes": [_scope(level) for level in levels],
    }
    return Layout(tuple(levels), tuple(keys), json.dumps(configuration, separators=(",", ":")))


def _scope(level: ScopeLimits) -> dict[str, Any]:
    return {
        "fields": [f"total_{window.id}" for window in level.windows],
        "windows": [
            {"us": w.length_us, "limit": w.limit, "quantum": w.quantum_us, "weighted": w.is_weighted}
            for w in level.windows
        ],
        "max_concurrency": level.max_concurrency or 0,
        "breaker": _breaker(level.breaker) if level.breaker else False,
    }


def _breaker(config: BreakerConfig) -> dict[str, int]:
    return {
        "failure_permille": config.failure_permille,
        "minimum_calls": config.minimum_calls,
        "bucket_us": config.bucket_us,
        "open_us": round(config.open_s * 1_000_000),
        "open_max_us": round(config.open_max_s * 1_000_000),
        "jitter": config.jitter_permille,
        "probes": config.probes,
    }
