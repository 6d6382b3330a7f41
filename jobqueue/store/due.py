"""What falls due, who leads the sweep, and whose leases have lost their holder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobqueue.model.job import Priority
from jobqueue.store.database import Database


@dataclass(frozen=True, slots=True)
class DuePart:
    """A part that somebody should be told about."""

    job_id: int
    part: int
    fence: int
    type: str
    provider: str
    operation: str
    item_count: int


def take_due(
    database: Database, priority: Priority, *, count: int, again_after_s: float = 10.0, job_id: int | None = None
) -> list[DuePart]:
    """Up to *count* due parts nobody hinted at within *again_after_s*; marks them as hinted."""
    rows = database.rows(
        "hint_due", {"priority": int(priority), "count": count, "again_after_s": again_after_s, "job_id": job_id}
    )
    return [DuePart(**row) for row in rows]


def hint_again_soon(database: Database, job_id: int) -> None:
    """The hint reached a worker that does not take the job: let the next sweep hint again, for another one."""
    database.rows("hint_again_soon", {"job_id": job_id})


def next_due_in_s(database: Database, *, job_id: int | None = None) -> float | None:
    """Seconds until the earliest part falls due; None when nothing waits."""
    row = database.row("next_due", {"job_id": job_id})
    return None if row is None or row["in_s"] is None else float(row["in_s"])


def park_idle(database: Database, job_id: int, *, due_in_s: float, reason: str) -> None:
    """Let the job's parts that nobody holds wait as well: what binds one of them binds all."""
    database.rows("park_idle", {"job_id": job_id, "due_in_s": due_in_s, "reason": reason})


def job_work(database: Database, job_id: int) -> tuple[int, int, float | None]:
    """Parts of the job due now and held by nobody, parts under a live lease, seconds until the earliest falls due."""
    row = database.row("job_work", {"job_id": job_id})
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
    return row["due"], row["held"], row["next_due_in_s"]


def lead(database: Database, role: str, holder: str, *, lease_s: float) -> bool:
    """Become or stay the leader of *role* for *lease_s*; False when somebody else is."""
    return database.row("lead", {"role": role, "holder": holder, "lease_s": lease_s}) is not None


def step_down(database: Database, role: str, holder: str) -> None:
    """Give the lead up."""
    database.rows("step_down", {"role": role, "holder": holder})


def leader(database: Database, role: str) -> str | None:
    """Who leads *role*, None when nobody does."""
    row = database.row("leader", {"role": role})
    return None if row is None else str(row["holder"])


def holders_on_host(database: Database, host: str) -> list[dict[str, Any]]:
    """Live leases of that host's processes: holder, holder_pid, holder_started."""
    return database.rows("holders_on_host", {"host": host})


def end_leases_of(database: Database, holders: Sequence[str]) -> int:
    """Let the parts of dead *holders* fall due now; how many there were."""
    return len(database.rows("end_leases_of", {"holders": list(holders)})) if holders else 0


def end_abandoned_leases(database: Database) -> int:
    """Take back leases of holders that died after their job was stopped."""
    return len(database.rows("end_abandoned_leases"))


def revive_parts(database: Database) -> int:
    """Let unfinished parts of working jobs fall due that nothing would wake; how many there were."""
    return len(database.rows("revive_parts"))


def wake_parked(database: Database, provider: str, *, job_ids: Sequence[int] | None = None) -> int:
    """Let the parts that wait for a limit of *provider* fall due now, of some jobs or of all; how many there were."""
    if job_ids is not None and not job_ids:
        return 0
    params = {"provider": provider, "job_ids": None if job_ids is None else list(job_ids)}
    return len(database.rows("wake_parked", params))


def finishable_jobs(database: Database) -> list[int]:
    """Running jobs all of whose parts have ended."""
    return [row["id"] for row in database.rows("finishable_jobs")]


def overdue_jobs(database: Database) -> list[int]:
    """Jobs that took longer than they may."""
    return [row["id"] for row in database.rows("overdue_jobs")]


def live_leases(database: Database, job_id: int) -> tuple[int, float]:
    """How many parts of the job are held, and seconds until the last lease ends."""
    row = database.row("live_leases", {"job_id": job_id})
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY returns one row
    return row["leases"], row["longest_s"]


def flights_until_s(database: Database, job_id: int) -> float:
    """Seconds until no request of the job can be on the wire any more; 0 or less: none is."""
    row = database.row("flights_until", {"job_id": job_id})
    return 0.0 if row is None else float(row["longest_s"])
