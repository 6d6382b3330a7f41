"""What a reservation asks for: its checks, its form for the script, and the denials that need no look at the limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobqueue.errors import InvalidInputError
from jobqueue.model.job import Priority
from jobqueue.model.limit import Adjustment, CostExceedsLimitError, DenialReason, Denied, ProviderLimits
from jobqueue.ratelimit.layout import Layout

LARGEST_WANT = 1000
LONGEST_OWNER = 200


@dataclass(frozen=True, slots=True)
class Ask:
    """What ``lua/reserve.lua`` is asked."""

    operation: str
    want: int
    group: int
    cost_units: int
    life_us: int
    nonce: str
    owner: str = ""
    priority: Priority = Priority.DEFAULT

    def arguments(self, now: str) -> tuple[str | int, ...]:
        """In the script's order, but for the least epoch; *now* is empty for Redis's clock."""
        return (
            self.operation,
            self.want,
            self.group,
            self.cost_units,
            self.life_us,
            self.nonce,
            now,
            self.owner,
            int(self.priority) + 1,
        )


def check_request(layout: Layout, want: int, cost_units: int, group: int = 1, owner: str = "") -> None:
    """Raise `InvalidInputError` for what is out of range, `CostExceedsLimitError` for what no window can hold."""
    if not 1 <= want <= LARGEST_WANT:
        raise InvalidInputError(f"want {want} is out of range.", remedy=f"Ask for 1..{LARGEST_WANT}.", field="want")
    if not 1 <= group <= want:
        raise InvalidInputError(f"group {group} is out of range.", remedy=f"Use 1..{want}.", field="group")
    if len(owner) > LONGEST_OWNER:
        raise InvalidInputError(
            f"owner {owner[:20]!r}… has {len(owner)} characters.",
            remedy=f"Use at most {LONGEST_OWNER}, such as a job's id.",
            field="owner",
        )
    if cost_units < 0:
        raise InvalidInputError(f"cost_units {cost_units} is negative.", remedy="Use 0 or more.", field="cost_units")
    for level in layout.levels:
        for window in level.windows:
            if window.is_weighted and cost_units > window.limit:
                raise CostExceedsLimitError(
                    f"cost_units {cost_units} can never fit {level.scope.name}: {window.text}.",
                    remedy="Make the request smaller or raise the limit.",
                    field="cost_units",
                )


def deadline_within(limits: ProviderLimits, deadline_s: float | None) -> float:
    """*deadline_s*, or by default the longest the provider's limits allow; raises `InvalidInputError` beyond it."""
    deadline_s = limits.longest_request_s if deadline_s is None else deadline_s
    if not 0 < deadline_s <= limits.longest_request_s:
        raise InvalidInputError(
            f"deadline_s {deadline_s} is out of range.",
            remedy=f"{limits.provider} allows more than 0 and at most {limits.longest_request_s} s.",
            field="deadline_s",
        )
    return deadline_s


def check_adjustment(layout: Layout, adjustment: Adjustment) -> None:
    """Raise `InvalidInputError` where a breaker is to be changed and the innermost level has none."""
    innermost = layout.levels[-1]
    if adjustment.is_of_breaker and innermost.breaker is None:
        raise InvalidInputError(
            f"{innermost.scope.name} has no circuit breaker.",
            remedy="Configure one first: jobqueue limits set … --breaker …",
            field="breaker",
        )


def rebuilding(provider: str, wait_s: float) -> Denied:
    """Nothing can be granted while somebody counts again what was sent."""
    words = f"{provider}: what was sent is being counted again"
    return Denied(DenialReason.REBUILD, words, max(0.001, math.ceil(wait_s * 1000) / 1000), provider)


def outdated(provider: str) -> Denied:
    """The caller's limits are those of an earlier version."""
    words = f"{provider}: its limits were changed"
    return Denied(DenialReason.OUTDATED, words, 0.001, provider)
