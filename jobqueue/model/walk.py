"""Walking through windows: when n items are done if requests go out as early as every meter lets them.

Between two instants nothing changes, so the walk jumps from one release to the next and sends groups: its cost grows
with the number of different instants, not of requests.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobqueue.model.batching import BatchConfig, pick_batch_size

LANES = "lanes"
"""The name of the meter of requests under way."""

_SIZE_AGE_S = 0.5
"""The service looks the batch size up at most this often."""

_MOST_STEPS = 200_000
_GROUPS = 200


@dataclass(slots=True)
class Meter:
    """Room for weight that comes back later.

    Attributes:
        weight: What one batch takes.
        held_s: How long it is taken; of a calendar meter the length of its period.
        boundary_s: The next boundary of a calendar meter; None for a rolling one.
        releases: (time, weight), the earliest first.
    """

    name: str
    limit: int
    weight: int
    held_s: float
    room: int
    boundary_s: float | None = None
    is_quota: bool = True
    releases: deque[tuple[float, int]] = field(default_factory=deque)

    def advance(self, now_s: float) -> None:
        """Take back what is released by *now_s*."""
        if self.boundary_s is not None and now_s >= self.boundary_s:
            self.boundary_s += self.held_s * (math.floor((now_s - self.boundary_s) / self.held_s) + 1)
            self.room = self.limit
        while self.releases and self.releases[0][0] <= now_s:
            self.room += self.releases.popleft()[1]

    def allows(self) -> int:
        """Batches that fit now."""
        return self.room // self.weight

    def lifts_at_s(self) -> float:
        """When one batch fits."""
        if self.boundary_s is not None:
            return self.boundary_s
        room = self.room
        for at_s, weight in self.releases:
            room += weight
            if room >= self.weight:
                return at_s
        raise ValueError(f"{self.name}: {self.weight} never fit {self.limit}")

    def take(self, count: int, now_s: float) -> None:
        """Send *count* batches now."""
        self.room -= count * self.weight
        if self.boundary_s is None:
            self.releases.append((now_s + self.held_s, count * self.weight))

    def shift(self, by_s: float) -> None:
        """Move everything later."""
        self.releases = deque((at_s + by_s, weight) for at_s, weight in self.releases)
        if self.boundary_s is not None:
            self.boundary_s += by_s

    @property
    def pace(self) -> float:
        """Batches a second, in the long run."""
        return max(1, self.limit // self.weight) / self.held_s


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk found.

    Attributes:
        finish_s: When the last answer is in.
        waits_s: How long each meter alone, or as the last of several, held the walk up.
    """

    finish_s: float
    batches: int
    waits_s: Mapping[str, float]


def rolling_meter(
    name: str, limit: int, weight: int, held_s: float, used: int, frees_in_s: float, resets_in_s: float
) -> Meter:
    """A rolling window that holds *used* now, which leaves it evenly from *frees_in_s* to *resets_in_s*."""
    meter = Meter(name, limit, weight, held_s, limit - min(used, limit))
    left = min(used, limit)
    groups = min(left, _GROUPS)
    for index in range(groups):
        part = left // (groups - index)
        left -= part
        share = index / max(1, groups - 1)
        meter.releases.append((frees_in_s + (resets_in_s - frees_in_s) * share, part))
    return meter


def calendar_meter(name: str, limit: int, weight: int, length_s: float, used: int, resets_in_s: float) -> Meter:
    """A window whose count starts anew at *resets_in_s* and then every *length_s*."""
    return Meter(name, limit, weight, length_s, limit - min(used, limit), boundary_s=resets_in_s)


def lane_meter(lanes: int, flight_s: float) -> Meter:
    """At most *lanes* batches under way, each for *flight_s*."""
    return Meter(LANES, lanes, 1, flight_s, lanes, is_quota=False)


def walk(items: int, sizes: BatchConfig, meters: Sequence[Meter], *, flight_s: float, health: float = 1.0) -> Walked:
    """Send *items* in batches as early as *meters* let them; they are used up by it."""
    now_s, left, batches, size, size_at_s = 0.0, items, 0, sizes.optimal_size, float("-inf")
    waits_s = {meter.name: 0.0 for meter in meters}
    periods = _Periods(meters)
    for _ in range(_MOST_STEPS):
        for meter in meters:
            meter.advance(now_s)
        count = min((meter.allows() for meter in meters), default=left)
        if count <= 0:
            binding = max((meter for meter in meters if meter.allows() <= 0), key=Meter.lifts_at_s)
            at_s = binding.lifts_at_s()
            waits_s[binding.name] += at_s - now_s
            now_s = at_s
            continue
        leap = periods.leap(_Mark(now_s, left, batches, tuple(meter.room for meter in meters), dict(waits_s)))
        if leap is not None:
            now_s, left, batches, size_at_s = (
                now_s + leap.by_s,
                left - leap.items,
                batches + leap.batches,
                float("-inf"),
            )
            waits_s = {name: waited_s + leap.waits_s[name] for name, waited_s in waits_s.items()}
            for meter in meters:
                meter.shift(leap.by_s)
        if now_s - size_at_s >= _SIZE_AGE_S:
            size, size_at_s = _size(sizes, meters, health), now_s
        count = min(count, -(-left // size))
        for meter in meters:
            meter.take(count, now_s)
        left -= count * size
        batches += count
        if left <= 0:
            return Walked(now_s + flight_s, batches, waits_s)
    # No period showed in so many steps: the rest goes at the pace so far.
    more = left / max(1, items - left)
    waits_s = {name: waited_s * (1 + more) for name, waited_s in waits_s.items()}
    return Walked(now_s * (1 + more) + flight_s, math.ceil(batches * (1 + more)), waits_s)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where the walk stands; the waits are those of each meter so far."""

    at_s: float
    left: int
    batches: int
    rooms: tuple[int, ...]
    waits_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Leap:
    by_s: float
    items: int
    batches: int
    waits_s: Mapping[str, float]


class _Periods:
    """Notices when the walk repeats itself, a period of the slowest meter at a time."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = meters
        self._period_s = min(meters, key=lambda meter: meter.pace).held_s if meters else math.inf
        self._marks: deque[_Mark] = deque(maxlen=3)

    def leap(self, now: _Mark) -> _Leap | None:
        """As many whole periods as leave at least one to walk, once two of them were alike."""
        if self._marks and now.at_s < self._marks[-1].at_s + self._period_s * (1 - 1e-9):
            return None
        self._marks.append(now)
        if len(self._marks) < 3 or not self._is_steady(*self._marks):
            return None
        before = self._marks[1]
        items, batches, by_s = before.left - now.left, now.batches - before.batches, now.at_s - before.at_s
        count = now.left // items - 1
        if count < 1:
            return None
        self._marks.clear()
        return _Leap(
            count * by_s,
            count * items,
            count * batches,
            {name: count * (waited_s - before.waits_s[name]) for name, waited_s in now.waits_s.items()},
        )

    def _is_steady(self, first: _Mark, second: _Mark, third: _Mark) -> bool:
        """Whether both periods did the same, and every meter is as it was or has more than enough for what is left."""
        if first.left - second.left != second.left - third.left or first.left == second.left:
            return False
        if not math.isclose(second.at_s - first.at_s, third.at_s - second.at_s, rel_tol=1e-6, abs_tol=1e-9):
            return False
        batches = (third.batches - second.batches) * (third.left // (second.left - third.left) + 1)
        return all(
            second.rooms[i] == third.rooms[i] or third.rooms[i] - batches * meter.weight >= meter.limit / 2
            for i, meter in enumerate(self._meters)
        )


def _size(sizes: BatchConfig, meters: Sequence[Meter], health: float) -> int:
    windows = [meter for meter in meters if meter.is_quota]
    tightest = min(windows, key=lambda meter: meter.room / meter.limit, default=None)
    return pick_batch_size(
        sizes,
        remaining=None if tightest is None else max(0, tightest.room),
        limit=None if tightest is None else tightest.limit,
        health=health,
    )
