"""How a job's items are cut into parts."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jobqueue.model.parting import MOST_PARTS, part_ranges, part_size

counts = st.integers(1, 2_000_000)
sizes = st.integers(1, 1000)


@given(counts, sizes, st.booleans(), st.integers(0, 3))
def test_parts_cover_every_item_exactly_once_and_in_order(
    item_count: int, optimal_size: int, is_ordered: bool, first_part: int
) -> None:
    """Ranges follow one another without gap or overlap, from the first item to the last, and number on from the first."""
    size = part_size(item_count, optimal_size=optimal_size, is_ordered=is_ordered)
    ranges = list(part_ranges(item_count, size, first_part=first_part))

    assert [r.part for r in ranges] == list(range(first_part, first_part + len(ranges)))
    assert ranges[0].first_seq == 0
    assert ranges[-1].last_seq == item_count - 1
    assert all(before.last_seq + 1 == after.first_seq for before, after in pairwise(ranges))
    assert all(r.first_seq <= r.last_seq for r in ranges)


@given(counts, sizes, st.booleans())
def test_parts_are_few_and_whole_batches(item_count: int, optimal_size: int, is_ordered: bool) -> None:
    """At most 64 parts, one where order matters; every part but the last ends with a full batch."""
    size = part_size(item_count, optimal_size=optimal_size, is_ordered=is_ordered)
    ranges = list(part_ranges(item_count, size))

    assert 1 <= len(ranges) <= (1 if is_ordered else MOST_PARTS)
    assert len(ranges) == 1 or size % optimal_size == 0


@given(st.integers(4, 100_000), sizes)
def test_a_job_of_several_batches_feeds_several_workers(batches: int, optimal_size: int) -> None:
    """From four batches on there are at least three parts, so that a second and a third worker find work."""
    item_count = batches * optimal_size
    size = part_size(item_count, optimal_size=optimal_size, is_ordered=False)
    assert len(list(part_ranges(item_count, size))) >= 3


def test_a_job_without_items_has_no_part() -> None:
    """Planning a rollback of nothing gives nothing to claim, and a size that divides."""
    assert part_size(0, optimal_size=25, is_ordered=False) >= 1
    assert list(part_ranges(0, 1)) == []
