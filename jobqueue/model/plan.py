"""What an estimate stands on: a job to be, its provider's windows, and what was measured of late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jobqueue.model.batching import BatchConfig

ASSUMED_LATENCY_S = 0.5
ASSUMED_SPREAD_S = 0.5
"""Mean and standard deviation of an answer's time where nothing was measured yet."""


@dataclass(frozen=True, slots=True)
class WindowLoad:
    """A window and what it holds now.

    Attributes:
        limit: Requests, or cost units if *is_weighted*.
        used: Those that count now, answered or under way.
        frees_in_s: Until the first of them counts no more.
        resets_in_s: Until none of them does; of a calendar window, until its next boundary, used or not.
        is_calendar: All counts end together at boundaries *length_s* apart.
        counts_from_send_s: The margin of a window in which a request counts from its sending; None where it counts from
            its answer (``strict``).
    """

    text: str
    scope_name: str
    limit: int
    length_s: float
    used: int = 0
    frees_in_s: float = 0.0
    resets_in_s: float = 0.0
    is_weighted: bool = False
    is_calendar: bool = False
    counts_from_send_s: float | None = None

    @property
    def name(self) -> str:
        """``spotify: 100 per 1 minute``."""
        return f"{self.scope_name}: {self.text}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What the provider did of late with requests like these.

    Attributes:
        count: Requests looked at; 0 when there were none, then the latency is assumed.
        latency_s: Mean from sending to the recorded answer; *spread_s* its standard deviation.
        repeats: How many had to be sent again, for any reason; *throttles* and *outages* are among them.
    """

    count: int = 0
    latency_s: float = ASSUMED_LATENCY_S
    spread_s: float = ASSUMED_SPREAD_S
    repeats: int = 0
    throttles: int = 0
    outages: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be estimated.

    Attributes:
        items: Items of the job.
        sizes: Batch sizes; *health* 0..1 as in `pick_batch_size`.
        requests_a_batch: 2 for a look and its effect, else 1; *units_a_batch* what they cost together.
        parts: Parts the items are cut into; at most one worker works on each, and no batch reaches over two.
        part_items: Items of each part but the last; 0 for all of them.
        workers: Live workers on the job's queue, each with *in_flight* batches under way.
        max_concurrency: Most requests under way at the provider; None for no cap.
        starts_in_s: Until the first request may go out: a cool-down, an open breaker.
        throttle_pause_s: How long a throttle stops everything.
    """

    items: int
    sizes: BatchConfig
    windows: Sequence[WindowLoad] = ()
    requests_a_batch: int = 1
    units_a_batch: int = 1
    is_ordered: bool = False
    parts: int = 1
    part_items: int = 0
    workers: int = 1
    in_flight: int = 4
    max_concurrency: int | None = None
    health: float = 1.0
    starts_in_s: float = 0.0
    throttle_pause_s: float = 30.0
    measured: Measured = field(default_factory=Measured)

    @property
    def left_over(self) -> int:
        """Room left in the last batches of all parts but the last, at the optimal size."""
        return max(0, self.parts - 1) * (-self.part_items % self.sizes.optimal_size)

    @property
    def lanes(self) -> int:
        """Batches under way at once."""
        lanes = min(self.workers, self.parts) * self.in_flight
        if self.max_concurrency is not None:
            lanes = min(lanes, max(1, self.max_concurrency // self.requests_a_batch))
        return 1 if self.is_ordered else max(1, lanes)
