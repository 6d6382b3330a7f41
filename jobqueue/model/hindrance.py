"""The rules of `jobqueue.model.why`: each looks for one reason why a job does not move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from jobqueue.model.job import JobStatus
from jobqueue.model.limit import DenialReason
from jobqueue.model.reason import Constraint, Reason
from jobqueue.model.standstill import NEXT_ATTEMPT, Facts, LeaseHolder
from jobqueue.model.words import counted, duration

SWEEP_S = 2.0
"""What the sweep repairs it repairs within this time."""

_NAMED = 3


def _ended(facts: Facts) -> Reason | None:
    job = facts.progress.job
    if not job.status.is_terminal:
        return None
    remedies = {
        JobStatus.SUCCEEDED: "There is nothing left to do.",
        JobStatus.COMPLETED_WITH_FAILURES: f"See what failed: jobqueue items {job.id} --status failed; try again:"
        f" jobqueue retry {job.id}",
        JobStatus.FAILED: f"Mend the cause, then: jobqueue retry {job.id}",
        JobStatus.CANCELLED: f"Undo what it did: jobqueue enqueue rollback {job.id}; or enqueue its items anew.",
    }
    reason = f": {job.status_reason}" if job.status_reason else ""
    return Reason(
        Constraint.ENDED,
        f"it {_ENDINGS[job.status]}{reason}",
        remedy=remedies[job.status],
        is_for_person=job.status is not JobStatus.SUCCEEDED,
    )


_ENDINGS = {
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.COMPLETED_WITH_FAILURES: "ended with failures",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "was cancelled",
}


def _paused(facts: Facts) -> Reason | None:
    job = facts.progress.job
    if job.status is not JobStatus.PAUSED:
        return None
    if job.status_reason.startswith("needs_authorization"):
        return Reason(
            Constraint.AUTHORIZATION,
            f"the provider refused the credentials of {job.account or 'its account'} ({job.status_reason})",
            remedy=f"Give the workers a fresh token (JOBQUEUE_{job.provider.upper()}_ACCESS_TOKEN), restart them, then:"
            f" jobqueue resume {job.id}",
            is_for_person=True,
        )
    reason = f": {job.status_reason}" if job.status_reason else ""
    return Reason(
        Constraint.PAUSED, f"it is paused{reason}", remedy=f"Go on with: jobqueue resume {job.id}", is_for_person=True
    )


def _redis(facts: Facts) -> Reason | None:
    if facts.delivery is not None and not facts.redis_error:
        return None
    return Reason(
        Constraint.REDIS,
        facts.redis_error or "Redis cannot be reached",
        remedy="Bring Redis back (REDIS_URL names it; locally: jobqueue up). No item is lost; workers cannot start.",
        is_for_person=True,
    )


def _no_worker(facts: Facts) -> Reason | None:
    if facts.delivery is None or facts.listeners or facts.live_holders:
        return None
    queue = facts.progress.job.priority.queue
    heard = Counter(name for worker in facts.delivery.workers for name in worker.queues)
    count = len(facts.delivery.workers)
    if count:
        seen = f"{counted(count, 'worker')} alive, listening to {', '.join(sorted(heard)) or 'nothing'} only"
    else:
        seen = "none is alive"
    return Reason(
        Constraint.NO_WORKER,
        f"no worker listens to the queue {queue} ({seen})",
        remedy="Start one: rq worker high default low (locally all at once: jobqueue up)",
        is_for_person=True,
    )


def _refused(facts: Facts) -> Reason | None:
    if facts.delivery is None or not facts.delivery.refusal or facts.live_holders:
        return None
    job = facts.progress.job
    return Reason(
        Constraint.REFUSED,
        f"no worker that looked at it can take it: {facts.delivery.refusal}",
        remedy=f"Install the package that brings {job.type} jobs and {job.provider} where the workers run, or start a"
        " worker that takes them, then restart the others.",
        is_for_person=True,
    )


def _no_scheduler(facts: Facts) -> Reason | None:
    """Slices and idle timers keep the time where no scheduler does, so only with neither the job is left alone."""
    delivery = facts.delivery
    if facts.has_scheduler or delivery is None or not facts.listeners or facts.live_holders:
        return None
    if delivery.hints or any(worker.queue for worker in delivery.workers):
        return None
    return Reason(
        Constraint.NO_SCHEDULER,
        "no scheduler is alive and no worker keeps the time: nobody will wake the job",
        remedy="Start one: jobqueue scheduler (locally all at once: jobqueue up)",
        is_for_person=True,
    )


def _undone_job(facts: Facts) -> Reason | None:
    undone = facts.undone
    if undone is None or not (undone.leases or undone.flying_for_s > 0):
        return None
    parts = f"{counted(undone.leases, 'part')} held" if undone.leases else "requests that may still be on the wire"
    return Reason(
        Constraint.UNDONE_JOB,
        f"job {undone.job_id}, which it undoes, has not let go yet: {parts}",
        max(undone.leases_end_in_s, undone.flying_for_s),
    )


def _limit(facts: Facts) -> Reason | None:
    denied = facts.denied
    if denied is None:
        return None
    lifts_s = denied.retry_after_s
    if _is_all_parked(facts):  # a freed slot is of no use to a part before its own time
        lifts_s = max(lifts_s, min(group.next_in_s for group in facts.parked))
    remedy = ""
    if denied.reason is DenialReason.BREAKER:
        provider = facts.progress.job.provider
        remedy = f"The provider kept failing; probes go out by themselves. See: jobqueue limits show {provider}"
    return Reason(Constraint(denied.reason.value), denied.constraint, lifts_s, remedy)


def _label(facts: Facts) -> Reason | None:
    if not facts.labels:
        return None
    held = max(facts.labels, key=lambda label: label.lifts_in_s or 0.0)
    return Reason(
        Constraint.LABEL,
        f"the concurrency label {held.label!r} is taken: {held.holders} of {held.capacity}",
        held.lifts_in_s,
    )


def _lease(facts: Facts) -> Reason | None:
    lost = facts.lost_holders
    if not lost:
        return None
    first = min(lost, key=lambda holder: holder.ends_in_s)
    parts = sum(holder.parts for holder in lost)
    return Reason(
        Constraint.LEASE,
        f"{counted(parts, 'part')} held by a worker that {_absence(first)} ({first.host.partition('/')[0]}, pid"
        f" {first.pid}); others may go on when its lease ends",
        first.ends_in_s,
        is_total=not facts.due_parts and not facts.live_holders,
    )


def _absence(holder: LeaseHolder) -> str:
    return "is gone" if holder.is_gone else f"has said nothing for {duration(holder.silent_for_s)} too long"


def _retry(facts: Facts) -> Reason | None:
    retries = facts.retries
    if not (retries.items or retries.batches):
        return None
    words = []
    if retries.items:
        words.append(f"{counted(retries.items, 'item')} to be tried again")
    if retries.batches:
        failure = f" after {retries.error}" if retries.error else ""
        words.append(f"{counted(retries.batches, 'request')} to be sent again{failure}")
    times = [at for at in (retries.items_next_in_s, retries.batches_next_in_s) if at is not None]
    waits = {group.reason for group in facts.parked}
    return Reason(
        Constraint.RETRY,
        " and ".join(words),
        max(0.0, min(times)) if times else None,
        is_total=_is_all_parked(facts) and waits <= {NEXT_ATTEMPT},
    )


def _turn(facts: Facts) -> Reason | None:
    """Parts parked for a limit that has lifted meanwhile: each comes back at a time of its own, against stampedes."""
    named = "" if facts.denied is None else f"waiting for {facts.denied.constraint}"
    groups = [g for g in facts.parked if g.reason not in (NEXT_ATTEMPT, named)]
    if not groups or facts.undone is not None:
        return None
    first = min(groups, key=lambda group: group.next_in_s)
    return Reason(
        Constraint.TURN,
        f"{counted(sum(g.parts for g in groups), 'part')} parked until their turn"
        + (f" ({first.reason})" if first.reason else ""),
        first.next_in_s,
        is_total=_is_all_parked(facts),
    )


def _busy(facts: Facts) -> Reason | None:
    job, workers = facts.progress.job, facts.listeners
    if not workers or not facts.due_parts or facts.live_holders:
        return None
    if any(not worker.queue or worker.job_id == job.id for worker in workers):
        return None
    by_queue = Counter(worker.queue for worker in workers)
    jobs = sorted({worker.job_id for worker in workers if worker.job_id is not None})
    named = f" (job {', '.join(map(str, jobs[:_NAMED]))}{', …' if len(jobs) > _NAMED else ''})" if jobs else ""
    what = ", ".join(f"{count} with {queue}" for queue, count in sorted(by_queue.items()))
    who = "the only worker" if len(workers) == 1 else f"all {len(workers)} workers"
    return Reason(
        Constraint.BUSY,
        f"{who} of its queue {job.priority.queue} busy with other jobs: {what}{named}",
        remedy="Wait, or start more workers: rq worker high default low",
    )


def _sweep(facts: Facts) -> Reason | None:
    if facts.progress.job.status.is_terminal or facts.progress.job.status is JobStatus.PAUSED:
        return None
    if facts.asleep_parts:
        what = f"{counted(facts.asleep_parts, 'part')} left without a time to wake; the sweep wakes them"
    elif not facts.open_parts:
        what = "all of its parts have ended; the sweep ends the job"
    else:
        return None
    return Reason(Constraint.SWEEP, what, SWEEP_S, is_total=facts.asleep_parts == facts.open_parts)


def _quarantine(facts: Facts) -> Reason | None:
    retries = facts.retries
    if not (retries.suspects or retries.quarantined):
        return None
    words = []
    if retries.suspects:
        words.append(f"{counted(retries.suspects, 'request')} sent alone, because workers died with it under way")
    if retries.quarantined:
        words.append(f"{counted(retries.quarantined, 'item')} in quarantine for ending its worker")
    remedy = f"Look at them: jobqueue dead-letters list --job {facts.progress.job.id}" if retries.quarantined else ""
    return Reason(Constraint.QUARANTINE, "; ".join(words), remedy=remedy, is_total=False)


def _pickup(facts: Facts) -> Reason | None:
    """Nothing in particular: it is due, and somebody will take it."""
    if facts.progress.job.status.is_terminal:
        return None
    words = f"{counted(facts.due_parts, 'part')} due" if facts.due_parts else "nothing due"
    return Reason(Constraint.PICKUP, f"{words}; a worker takes it up any moment", SWEEP_S, is_total=False)


RULES: tuple[Callable[[Facts], Reason | None], ...] = (
    _ended,
    _paused,
    _redis,
    _no_worker,
    _refused,
    _no_scheduler,
    _undone_job,
    _limit,
    _label,
    _lease,
    _retry,
    _turn,
    _busy,
    _sweep,
    _quarantine,
    _pickup,
)


def _is_all_parked(facts: Facts) -> bool:
    return bool(facts.parked) and not facts.due_parts and not facts.holders
