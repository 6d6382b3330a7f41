"""How a slice lets go of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobqueue.engine.part import HeldPart
from jobqueue.errors import InvalidTransitionError
from jobqueue.model.job import JobEvent, JobStatus
from jobqueue.model.limit import Denied
from jobqueue.model.pace import Leave
from jobqueue.store import checkpoints, due, jobs
from jobqueue.store.database import Database

LEAD_S = 0.5
"""A parked part falls due so much before its limit lifts: a process has to start until then. A slice waits longer."""


@dataclass(slots=True)
class SliceReport:
    """What a slice did.

    Attributes:
        reason: Why it ended.
        ended: The state the job ended in, if this slice saw its end.
    """

    job_id: int
    reason: str = ""
    claimed: int = 0
    finished: int = 0
    lost: int = 0
    requests: int = 0
    ended: JobStatus | None = None


class Departure:
    """Releases parts and moves the job along."""

    def __init__(self, database: Database, job_id: int) -> None:
        self._database = database
        self._job_id = job_id

    def finish(self, parts: Sequence[HeldPart], report: SliceReport) -> None:
        """Every item of *parts* has its outcome; the job ends with its last part."""
        rows = [_row(part, due_in_s=0.0, reason="", is_finished=True) for part in parts]
        report.finished += len(checkpoints.release(self._database, self._job_id, rows))
        report.ended = jobs.finish(self._database, self._job_id) or report.ended

    def give_up(
        self, parts: Sequence[HeldPart], leave: Leave, denial: Denied | None, now_s: float, report: SliceReport
    ) -> None:
        """Release *parts* so that each falls due when something can be done about it."""
        if not parts:
            return
        rows = []
        for part in parts:
            ready_at_s = part.next_ready_at_s()
            due_in_s = 0.0 if part.can_send(now_s) or ready_at_s is None else max(0.0, ready_at_s - now_s)
            reason = "waiting for the next attempt" if due_in_s else ""
            if leave.park_s and denial is not None:
                due_in_s = max(due_in_s, leave.park_s - LEAD_S)
                reason = f"waiting for {denial.constraint}"
            rows.append(_row(part, due_in_s=due_in_s, reason=reason, is_finished=False))
        released = checkpoints.release(self._database, self._job_id, rows)
        if leave.park_s and denial is not None:
            # Else each of them would cost a process that learns the same.
            park_s = leave.park_s - LEAD_S
            due.park_idle(self._database, self._job_id, due_in_s=park_s, reason=f"waiting for {denial.constraint}")
        report.lost += len(parts) - len(released)

    def pause(self, reason: str) -> bool:
        """Pause the job until a person acts; False when its state does not allow it any more."""
        try:
            jobs.move(self._database, self._job_id, JobEvent.PAUSE, reason=reason)
        except InvalidTransitionError:
            return False
        jobs.stop_parts(self._database, self._job_id)
        return True


def _row(part: HeldPart, *, due_in_s: float, reason: str, is_finished: bool) -> dict[str, object]:
    return {
        "part": part.part,
        "fence": part.claim.fence,
        "due_in_s": due_in_s,
        "reason": reason,
        "is_finished": is_finished,
    }
