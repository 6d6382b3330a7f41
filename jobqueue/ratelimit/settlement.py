"""What settle sends to Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jobqueue.model.limit import SlotResult, SlotUse, Throttle
from jobqueue.ratelimit.layout import Layout
from jobqueue.ratelimit.rebuild import microseconds

SHORTEST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 30 * 86_400.0
"""A longer pause is a provider's mistake; 24 h has been seen in earnest."""


def settlement(layout: Layout, results: Sequence[SlotResult]) -> str:
    """The results as ``lua/settle.lua`` reads them; *layout* holds every level their slots touch."""
    numbers = {level.scope.name: number for number, level in enumerate(layout.levels, start=1)}
    return json.dumps([_entry(layout, numbers, result) for result in results], separators=(",", ":"))


def _entry(layout: Layout, numbers: Mapping[str, int], result: SlotResult) -> dict[str, Any]:
    scope = result.slot.scope
    # The provider's level always, the operation's and the account's where limits are kept for them.
    touched = [numbers[level.name] for level in scope.levels() if level.name in numbers]
    pause_us, paused = 0, touched[0]
    if result.use is SlotUse.THROTTLED:
        throttle = result.throttle or Throttle()
        paused = numbers.get(scope.level(throttle.scope_kind).name, touched[0])
        default_s = layout.levels[paused - 1].cooldown_default_s
        named_s = default_s if throttle.retry_after_s is None else throttle.retry_after_s
        pause_us = microseconds(min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, named_s)))
    return {
        "id": result.slot.id,
        "cost": result.slot.cost_units,
        "use": result.use.value,
        "scopes": touched,
        "pause_us": pause_us,
        "pause_scope": paused,
        "latency_us": microseconds(max(0.0, result.latency_s or 0.0)),
        "operation": result.operation,
        "size": int(result.is_size_caused),
    }
