"""What can be known about a job that seems to stand still: facts, without a judgement; see `jobqueue.model.why`."""

from __future__ import annotations

from dataclasses import dataclass

from jobqueue.model.limit import Denied
from jobqueue.model.progress import JobProgress

NEXT_ATTEMPT = "waiting for the next attempt"
"""Why a part was parked whose items wait for a retry's delay."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Parts that nobody holds and that fall due later, for one reason.

    Attributes:
        reason: As the slice that parked them noted it, such as ``waiting for spotify: 100 per 1 minute``.
        next_in_s: Until the first of them falls due.
    """

    reason: str
    parts: int
    next_in_s: float


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """A slice that holds parts of the job.

    Attributes:
        ends_in_s: Until its last lease ends unless it is renewed.
        is_gone: Whether its process is known to have ended; only a process of this host can be.
        silent_for_s: How much longer ago than it should be the lease was renewed; 0 when it was in time.
    """

    name: str
    host: str
    pid: int
    parts: int
    ends_in_s: float
    is_gone: bool = False
    silent_for_s: float = 0.0

    @property
    def is_live(self) -> bool:
        """Whether there is no sign that it is not."""
        return not self.is_gone and self.silent_for_s <= 0


@dataclass(frozen=True, slots=True)
class Retries:
    """What waits for another try.

    Attributes:
        items: Items that were refused for now; *items_next_in_s* until the first is due.
        batches: Requests to be sent again after a failure; *batches_next_in_s* until the first is due.
        error: The latest of those failures, in its own words.
        suspects: Batches sent alone, because workers died with them under way.
        quarantined: Items given up because their worker died with them alone under way.
    """

    items: int = 0
    items_next_in_s: float | None = None
    batches: int = 0
    batches_next_in_s: float | None = None
    error: str = ""
    suspects: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class UndoneJob:
    """The job that a rollback undoes, before it is planned.

    Attributes:
        leases: Parts of it still held; *leases_end_in_s* until the last lease ends.
        flying_for_s: Until no request of it can be on the wire any more; 0 when none is.
    """

    job_id: int
    leases: int = 0
    leases_end_in_s: float = 0.0
    flying_for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LabelHold:
    """A concurrency label the job must have, and others hold.

    Attributes:
        lifts_in_s: Until a place frees for certain; None when only its holders know.
    """

    label: str
    capacity: int
    holders: int
    lifts_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """An RQ worker.

    Attributes:
        queues: Where it takes hints from, highest first.
        job_id: The job whose slice it runs; None when it is idle or does something else.
        queue: Where that slice's hint came from; empty when it is idle.
    """

    name: str
    queues: tuple[str, ...]
    job_id: int | None = None
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What Redis knows of workers and hints.

    Attributes:
        hints: Hints at the job in queues that some worker listens to.
        refusal: Why the worker that looked at the job last could not take it; empty when none refused it.
        fails_in_s: Until it fails for that; None when it does not.
    """

    workers: tuple[SeenWorker, ...] = ()
    hints: int = 0
    refusal: str = ""
    fails_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything about one job at one instant. Durations count from then.

    Attributes:
        progress: Its counts, pace and state.
        open_parts: Parts that have not ended.
        due_parts: Those of them that anybody might take now.
        asleep_parts: Those that nothing will wake by itself.
        denied: What keeps its next request from being sent now; None when nothing does, or it cannot be known.
        delivery: None when Redis is away; *redis_error* says how.
        has_scheduler: Whether a scheduler leads.
        ended_ago_s: Since it ended; None while it has not.
        fails_in_s: Until it has taken longer than it may; None without such a bound.
    """

    progress: JobProgress
    open_parts: int = 0
    due_parts: int = 0
    asleep_parts: int = 0
    parked: tuple[Parked, ...] = ()
    holders: tuple[LeaseHolder, ...] = ()
    retries: Retries = Retries()
    denied: Denied | None = None
    undone: UndoneJob | None = None
    labels: tuple[LabelHold, ...] = ()
    delivery: Delivery | None = None
    redis_error: str = ""
    has_scheduler: bool = True
    ended_ago_s: float | None = None
    fails_in_s: float | None = None

    @property
    def live_holders(self) -> tuple[LeaseHolder, ...]:
        """Slices at work on the job."""
        return tuple(holder for holder in self.holders if holder.is_live)

    @property
    def lost_holders(self) -> tuple[LeaseHolder, ...]:
        """Slices whose leases must end before anybody else may go on."""
        return tuple(holder for holder in self.holders if not holder.is_live)

    @property
    def parked_parts(self) -> int:
        """Parts that fall due later."""
        return sum(group.parts for group in self.parked)

    @property
    def listeners(self) -> tuple[SeenWorker, ...]:
        """Workers that take hints from the job's queue."""
        workers = self.delivery.workers if self.delivery else ()
        return tuple(worker for worker in workers if self.progress.job.priority.queue in worker.queues)
