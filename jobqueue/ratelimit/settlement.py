"""What settle sends to Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jobqueue.model.limit import Cooldown, Settled, SlotResult, SlotUse, Throttle, Window
from jobqueue.model.quota import QuotaReport, QuotaUnit
from jobqueue.model.window import MICROSECONDS, UNLIMITED
from jobqueue.ratelimit.layout import Layout
from jobqueue.ratelimit.rebuild import microseconds

SHORTEST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 30 * 86_400.0
"""A longer pause is a provider's mistake; 24 h has been seen in earnest."""


def settlement(layout: Layout, results: Sequence[SlotResult]) -> str:
    """The results as ``lua/settle.lua`` reads them; *layout* holds every level their slots touch."""
    numbers = {level.scope.name: number for number, level in enumerate(layout.levels, start=1)}
    now_s = time.monotonic()
    return json.dumps([_entry(layout, numbers, result, now_s) for result in results], separators=(",", ":"))


def outdated_settlement(layout: Layout, results: Sequence[SlotResult]) -> Settled:
    """What of *results* holds although the limits they were granted under are no longer in force: the pauses.

    The slots were counted anew when the limits changed.
    """
    entries = json.loads(settlement(layout, results))
    pauses: dict[str, float] = {}
    for entry in entries:
        if entry["pause_us"]:
            name = layout.levels[entry["pause_scope"] - 1].scope.name
            pauses[name] = max(pauses.get(name, 0.0), entry["pause_us"] / MICROSECONDS)
    return Settled(0, tuple(Cooldown(name, pause_s) for name, pause_s in pauses.items()))


def _entry(layout: Layout, numbers: Mapping[str, int], result: SlotResult, now_s: float) -> dict[str, Any]:
    scope = result.slot.scope
    # The provider's level always, the operation's and the account's where limits are kept for them.
    touched = [numbers[level.name] for level in scope.levels() if level.name in numbers]
    answered_at_s = now_s if result.answered_at_s is None else result.answered_at_s
    entry: dict[str, Any] = {
        "id": result.slot.id,
        "cost": result.slot.cost_units,
        "use": result.use.value,
        "scopes": touched,
        "pause_us": 0,
        "pause_scope": touched[0],
        "hinted": True,
        "learn": 0,
        "latency_us": microseconds(max(0.0, result.latency_s or 0.0)),
        "age_us": int(max(0.0, now_s - answered_at_s) * MICROSECONDS),
        "operation": result.operation,
        "size": int(result.is_size_caused),
        "malformed": result.malformed_headers,
        "reports": [place for report in result.reports if (place := _place(layout, touched, report))],
    }
    if result.use is SlotUse.THROTTLED:
        throttle = result.throttle or Throttle()
        paused = numbers.get(scope.level(throttle.scope_kind).name, touched[0])
        hint_s = throttle.retry_after_s
        if hint_s is None:
            # Nothing left until then is as good as a pause.
            resets_s = [r.reset_in_s for r in result.reports if r.remaining == 0 and r.reset_in_s is not None]
            hint_s = max(resets_s, default=None)
        default_s = layout.levels[paused - 1].cooldown_default_s
        pause_s = default_s if hint_s is None else hint_s
        entry["pause_us"] = microseconds(min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, pause_s)))
        entry |= {"pause_scope": paused, "hinted": hint_s is not None}
        entry["learn"] = throttled_window(layout.windows[paused - 1], hint_s)
    return entry


def throttled_window(windows: Sequence[Window], retry_after_s: float | None) -> int:
    """The number, from 1, of the window a throttle most likely speaks of; 0 when of none that can be learned.

    That is the shortest one the pause fits into: whole seconds are rounded up, so one second more is forgiven.
    """
    fitting = [
        (window.length_s, number)
        for number, window in enumerate(windows, start=1)
        if window.is_learnable and window.length_s + 1 >= (retry_after_s or 0.0)
    ]
    return min(fitting)[1] if fitting else 0


def _place(layout: Layout, touched: Sequence[int], report: QuotaReport) -> list[int] | None:
    """The scope, window, remainder and time to reset of a report; None when no window is like it."""
    if report.unit not in (QuotaUnit.REQUESTS, QuotaUnit.UNITS):
        return None
    windows = [
        (level, number, window)
        for level in reversed(touched)
        for number, window in enumerate(layout.windows[level - 1], start=1)
        if window.is_weighted is (report.unit is QuotaUnit.UNITS) and window.limit < UNLIMITED
    ]
    if report.window_s is not None:
        found = [place for place in windows if place[2].length_s == report.window_s]
        found = [place for place in found if place[2].limit == report.limit] or found
    else:
        found = [place for place in windows if place[2].limit == report.limit] or (windows if len(windows) == 1 else [])
    if not found:
        return None
    level, number, window = found[0]
    reset_s = window.length_s if report.reset_in_s is None else min(float(window.length_s), report.reset_in_s)
    return [level, number, max(0, report.remaining), microseconds(max(0.0, reset_s))]
