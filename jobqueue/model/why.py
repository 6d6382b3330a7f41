"""Why a job does not move, and when that lifts: a pure function of `Facts`.

Each rule of `jobqueue.model.hindrance` looks for one reason. Of those that stop the whole job the binding one is chosen
like this: what only a person can lift before what lifts by itself; then what lifts last; then the order of the rules,
which runs from the job itself outward. When the job moves nothing binds, and all reasons found are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobqueue.model.hindrance import RULES
from jobqueue.model.job import JobStatus
from jobqueue.model.reason import Constraint, Reason
from jobqueue.model.standstill import Facts
from jobqueue.model.words import counted, duration


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job stands where it stands.

    Attributes:
        state: The job's state.
        is_moving: Whether somebody works on it now.
        binding: The reason that binds; of kind ``none`` while the job moves.
        others: What holds it up besides.
        evidence: What else was seen, in words.
    """

    job_id: int
    state: JobStatus
    is_moving: bool
    binding: Reason
    others: tuple[Reason, ...] = ()
    evidence: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        binding = self.binding.as_dict()
        return {
            "job_id": self.job_id,
            "state": str(self.state),
            "is_moving": self.is_moving,
            "binding": binding["constraint"],
            "detail": binding["detail"],
            "lifts_in_s": binding["lifts_in_s"],
            "remedy": binding["remedy"],
            "others": [reason.as_dict() for reason in self.others],
            "evidence": list(self.evidence),
        }


def explain(facts: Facts) -> Explanation:
    """The binding constraint of the job, the others, and what was seen."""
    job = facts.progress.job
    found = [reason for rule in RULES if (reason := rule(facts)) is not None]
    is_stopped = job.status.is_terminal or job.status is JobStatus.PAUSED
    is_moving = bool(facts.live_holders) and not is_stopped
    if job.status.is_terminal:
        found = found[:1]
    total = [reason for reason in found if reason.is_total]
    # What stops some of the job is no answer while the rest is free to go: then it is just about to be taken up.
    binding = _moving(facts) if is_moving else max(total, key=_weight, default=found[-1])
    others = tuple(reason for reason in found if reason is not binding and reason.kind is not Constraint.PICKUP)
    return Explanation(job.id, job.status, is_moving, binding, others, tuple(_evidence(facts)))


def _weight(reason: Reason) -> tuple[bool, float]:
    """How much a reason binds; of equal ones `max` takes the first."""
    return reason.is_for_person, reason.lifts_in_s or 0.0


def _moving(facts: Facts) -> Reason:
    progress = facts.progress
    words = [counted(len(facts.live_holders), "slice")]
    words.append(f"{counted(progress.in_flight, 'request')} under way")
    if progress.items_per_s is not None:
        words.append(f"{progress.items_per_s:,.1f} items/s")
    verb = "planning" if not progress.job.is_planned else "running"
    return Reason(Constraint.NONE, f"{verb}: {', '.join(words)}", is_total=False)


def _evidence(facts: Facts) -> list[str]:
    if facts.progress.job.status.is_terminal:
        return []
    found = []
    if facts.delivery is not None:
        workers = facts.listeners
        idle = sum(not worker.queue for worker in workers)
        queue = facts.progress.job.priority.queue
        found.append(f"{counted(len(workers), 'worker')} on {queue}, {idle} idle")
    found.append("a scheduler leads" if facts.has_scheduler else "no scheduler is alive; slices keep the time")
    if facts.open_parts:
        held = sum(holder.parts for holder in facts.holders)
        found.append(
            f"{counted(facts.open_parts, 'open part')}: {held} held, {facts.due_parts} due, {facts.parked_parts} parked"
        )
    if facts.fails_in_s is not None:
        found.append(f"it fails in {duration(facts.fails_in_s)} if it is not done by then (--max-run)")
    if facts.delivery is not None and facts.delivery.refusal and facts.delivery.fails_in_s is not None:
        found.append(f"it fails in {duration(facts.delivery.fails_in_s)} if nobody takes it")
    return found
