"""A simulation of workers that die: the verdicts on batches in flight must find the killers and nobody else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from jobqueue.model.poison import Verdict, judge


@dataclass
class Batch:
    items: tuple[int, ...]
    crashes: int = 0
    is_isolated: bool = False


@dataclass
class World:
    """One part worked on by one process after the other.

    Attributes:
        kills: For each process in turn, whether it is killed from outside while its batches are in flight.
    """

    killers: frozenset[int]
    kills: Iterator[bool]
    capacity: int
    waiting: list[Batch]
    done: set[int] = field(default_factory=set)
    quarantined: set[int] = field(default_factory=set)
    crashed_alone: Counter[int] = field(default_factory=Counter)
    crashes: int = 0
    outside_kills: int = 0

    def run(self) -> None:
        while self.waiting:
            self._step(self._take())

    def _take(self) -> list[Batch]:
        suspect = next((batch for batch in self.waiting if batch.is_isolated), None)
        taken = [suspect] if suspect else self.waiting[: self.capacity]
        self.waiting = [batch for batch in self.waiting if all(batch is not other for other in taken)]
        return taken

    def _step(self, in_flight: list[Batch]) -> None:
        is_killed = next(self.kills, False)
        self.outside_kills += is_killed
        if not is_killed and not any(self.killers & set(batch.items) for batch in in_flight):
            for batch in in_flight:
                self.done |= set(batch.items)
            return
        self.crashes += 1
        if len(in_flight) == 1 and len(in_flight[0].items) == 1:
            self.crashed_alone[in_flight[0].items[0]] += 1
        for batch in in_flight:
            self._judge(batch)

    def _judge(self, batch: Batch) -> None:
        crashes = batch.crashes + 1
        match judge(crashes=crashes, is_isolated=batch.is_isolated, item_count=len(batch.items)):
            case Verdict.REPEAT:
                self.waiting.append(Batch(batch.items, crashes, batch.is_isolated))
            case Verdict.ISOLATE:
                self.waiting.append(Batch(batch.items, 0, True))
            case Verdict.SPLIT:
                middle = (len(batch.items) + 1) // 2
                self.waiting += [Batch(batch.items[:middle], 0, True), Batch(batch.items[middle:], 0, True)]
            case Verdict.QUARANTINE:
                self.quarantined |= set(batch.items)


@st.composite
def worlds(draw: st.DrawFn, *, with_kills: bool) -> tuple[World, int, int]:
    """A part of up to 60 items in batches of one size, a few killers among them."""
    item_count, size = draw(st.integers(1, 60)), draw(st.integers(1, 25))
    killers = draw(st.frozensets(st.integers(0, item_count - 1), max_size=5))
    kills = draw(st.lists(st.booleans(), max_size=40)) if with_kills else []
    batches = [Batch(tuple(range(start, min(start + size, item_count)))) for start in range(0, item_count, size)]
    return World(killers, iter(kills), draw(st.integers(1, 4)), batches), item_count, size


@given(worlds(with_kills=False))
def test_exactly_the_killers_are_quarantined(case: tuple[World, int, int]) -> None:
    """Without kills from outside every killer is found and every other item gets done."""
    world, item_count, _ = case
    world.run()
    assert world.quarantined == world.killers
    assert world.done == set(range(item_count)) - world.killers


@given(worlds(with_kills=True))
def test_kills_from_outside_never_quarantine_an_item_that_did_not_crash_alone_twice(
    case: tuple[World, int, int],
) -> None:
    """Killers are still found; an innocent item is quarantined only after two crashes with it alone in the process."""
    world, item_count, _ = case
    world.run()
    assert world.killers <= world.quarantined
    assert all(world.crashed_alone[item] >= 2 for item in world.quarantined)
    assert world.done | world.quarantined == set(range(item_count))
    assert not world.done & world.quarantined


@given(worlds(with_kills=True))
def test_the_number_of_crashes_is_bounded(case: tuple[World, int, int]) -> None:
    """Each killer costs two crashes to be suspected, one a halving and two alone; each kill from outside costs itself."""
    world, _, size = case
    world.run()
    a_killer = 2 + math.ceil(math.log2(size)) + 2
    assert world.crashes <= len(world.killers) * a_killer + world.outside_kills


def test_a_batch_alone_is_suspect_only_after_two_crashes() -> None:
    """One kill of a worker repeats what was in flight as it was."""
    assert judge(crashes=1, is_isolated=False, item_count=25) is Verdict.REPEAT
    assert judge(crashes=2, is_isolated=False, item_count=25) is Verdict.SPLIT
    assert judge(crashes=2, is_isolated=False, item_count=1) is Verdict.ISOLATE
    assert judge(crashes=1, is_isolated=True, item_count=1) is Verdict.REPEAT
    assert judge(crashes=2, is_isolated=True, item_count=1) is Verdict.QUARANTINE
