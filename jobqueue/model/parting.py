"""How a job's items are cut into parts, the units of claiming."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MOST_PARTS = 64
FEWEST_PARTS = 4
BATCHES_A_PART = 20


@dataclass(frozen=True, slots=True)
class PartRange:
    """One part: the items first_seq..last_seq, both included."""

    part: int
    first_seq: int
    last_seq: int


def part_size(item_count: int, *, optimal_size: int, is_ordered: bool) -> int:
    """Items in each part but the last.

    Enough parts for several workers even of a small job; few enough that the short last batch of each costs little
    quota and that progress stays a sum over few rows. Whole batches of the optimal size, so that a part ends with a
    full one. One part where order matters.
    """
    if is_ordered or item_count <= optimal_size:
        return max(1, item_count)
    batches = -(-item_count // optimal_size)
    parts = min(MOST_PARTS, batches, max(FEWEST_PARTS, batches // BATCHES_A_PART))
    return -(-batches // parts) * optimal_size


def part_ranges(item_count: int, size: int, *, first_part: int = 0) -> Iterator[PartRange]:
    """The parts of a job of *item_count* items, *size* in each."""
    for index, start in enumerate(range(0, item_count, size)):
        yield PartRange(first_part + index, start, min(start + size, item_count) - 1)
