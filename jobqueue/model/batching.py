"""How many items go into one request."""

from __future__ import annotations

from dataclasses import dataclass

from jobqueue.errors import ConfigurationError

PLENTY = 0.5
"""Share of the quota above which the size stays at the optimum."""

FULL_HEALTH_PERMILLE = 1000
GROWTH_PERMILLE = 50
"""What one success adds to the health: twenty of them undo all that was halved away."""


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """Batch sizes of one operation of a provider, in items.

    Attributes:
        min_size: Never fewer, except where fewer items are left.
        optimal_size: The size that works best while quota is plenty.
        max_size: Most the provider takes.

    Raises:
        ConfigurationError: The sizes are not in order.
    """

    min_size: int = 1
    optimal_size: int = 1
    max_size: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_size <= self.optimal_size <= self.max_size:
            raise ConfigurationError(
                f"batch sizes {self.min_size}, {self.optimal_size}, {self.max_size} are not in order.",
                remedy="Use 1 <= min_size <= optimal_size <= max_size.",
            )


def pick_batch_size(config: BatchConfig, *, remaining: int | None, limit: int | None, health: float) -> int:
    """Items for the next request.

    While at least half the quota is left the size is the optimum. Below that it grows in a straight line up to the
    largest as the quota runs out, because then requests are dearer than the risk of a large one. Whatever that gives is
    multiplied by the health, which `halved` and `grown` keep. Never outside ``min_size..max_size``.

    Args:
        config: The sizes.
        remaining: Requests (or units) left in the tightest window; None when unknown.
        limit: That window's limit; None when there is none, which counts as plenty.
        health: 0..1.
    """
    size = float(config.optimal_size)
    if remaining is not None and limit:
        share = min(1.0, max(0.0, remaining / limit))
        scarcity = max(0.0, 1.0 - share / PLENTY)
        size += (config.max_size - config.optimal_size) * scarcity
    return max(config.min_size, min(config.max_size, int(size * min(1.0, max(0.0, health)))))


def halved(health_permille: int) -> int:
    """The health after a failure that a smaller batch would not have had."""
    return max(1, health_permille // 2)


def grown(health_permille: int) -> int:
    """The health after a success."""
    return min(FULL_HEALTH_PERMILLE, health_permille + GROWTH_PERMILLE)
