"""Concurrency labels: who is inside, who is in line; a semaphore of rows, so that it outlives an emptied Redis.

Everything that changes who is inside takes the label's lock first, then looks with a statement of its own: a snapshot
taken before the lock would not see what its last owner did. A renewal takes no lock: it only keeps a row that counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobqueue.model.label import Label
from jobqueue.store.checkpoints import Holder
from jobqueue.store.database import Database

CALL_S = 30.0
"""How long a permit is kept for who was called: a busy worker ends its slice in that time, and the hint is repeated."""

_SHORTEST_PARK_S = 0.05
_NEVER = 10 * 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Entered:
    """The slice is inside; *called* are jobs that may come in too."""

    called: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """The job is in line and its due parts wait.

    Attributes:
        in_use: Permits held.
        capacity: Permits there are, by the smallest declaration of those asking.
        ahead: How many in line come first.
        is_inside: Whether another slice of the job holds a permit.
        waited_s: Seconds since the job had none.
        reason: For the part's checkpoint, such as ``waiting for rechunk:demo (1 of 1 in use)``.
        called: Jobs that may come in.
    """

    in_use: int
    capacity: int
    ahead: int
    is_inside: bool
    waited_s: float
    reason: str
    called: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Idle:
    """The job has nothing due: it neither enters nor waits."""


@dataclass(frozen=True, slots=True)
class LabelHolder:
    """A slice inside."""

    job_id: int
    holder: str
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class LabelWaiter:
    """A job in line."""

    job_id: int
    since: datetime


@dataclass(frozen=True, slots=True)
class LabelStatus:
    """A label now.

    Attributes:
        capacity: The smallest declared by those inside and in line; None when there is nobody.
        waiters: The first one enters next.
    """

    label: str
    capacity: int | None
    holders: tuple[LabelHolder, ...]
    waiters: tuple[LabelWaiter, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "label": self.label,
            "capacity": self.capacity,
            "holders": [
                {"job_id": each.job_id, "since": each.since.isoformat(), "until": each.until.isoformat()}
                for each in self.holders
            ],
            "waiters": [{"job_id": each.job_id, "since": each.since.isoformat()} for each in self.waiters],
        }


def acquire(database: Database, label: Label, job_id: int, holder: Holder) -> Entered | Waiting | Idle:
    """Let a slice of the job in, or put the job in line and park its due parts.

    A job enters when a permit is left over once all who come before it in line have one: higher priority first, then
    first come first served. Where jobs declare different capacities, the smallest of those inside or in line holds. Who
    was called and did not come for `CALL_S` neither counts nor keeps others waiting, and keeps its place.

    Raises:
        ServerUnavailableError: Postgres cannot be reached; if the answer alone got lost, the permit runs out by itself.
    """
    common = {"label": label.name, "job_id": job_id, "prefix": _prefix(label.name), "capacity": label.capacity}
    with database.transaction():
        # Its own name among the dead: RQ may run a hint again whose first process was killed.
        _tidy(database, label.name, dead=[holder.name])
        row = database.row("ask_permit", common | {"call_s": CALL_S})
        if row is None or not row["has_work"]:
            return Idle()
        in_use, capacity, ahead = row["in_use"], row["capacity"], row["ahead"]
        if in_use + ahead < capacity:
            database.rows(
                "grant_permit",
                common
                | {
                    "holder": holder.name,
                    "host": holder.host,
                    "pid": holder.pid,
                    "pid_started": holder.pid_started,
                    "expiry_s": label.expiry_s,
                    "is_last": in_use + 1 >= capacity,
                },
            )
            return Entered(_call(database, label.name))
        reason = _prefix(label.name) + f"{in_use} of {capacity} in use{f', {ahead} ahead' if ahead else ''})"
        database.rows(
            "wait_for_permit",
            common | {"is_inside": row["is_inside"], "due_in_s": _due_in_s(label, row), "reason": reason},
        )
        called = _call(database, label.name)
    return Waiting(in_use, capacity, ahead, row["is_inside"], row["waited_s"], reason, called)


def _due_in_s(label: Label, row: dict[str, Any]) -> float:
    """When to ask again if no release wakes the job first: the first in line when a permit may run out, the others
    a turn later each, and nobody later than its wait is over.
    """
    frees_in_s: float = label.expiry_s if row["frees_in_s"] is None else row["frees_in_s"]
    due_in_s: float = frees_in_s + (row["ahead"] // row["capacity"]) * label.expiry_s
    if label.max_sleep_s is not None and not row["is_inside"]:
        due_in_s = min(due_in_s, label.max_sleep_s - row["waited_s"])
    return max(_SHORTEST_PARK_S, min(due_in_s, _NEVER))


def renew(database: Database, label: Label, holder: str) -> bool:
    """Make the permit last for another expiry; False when it is gone."""
    params = {"label": label.name, "holder": holder, "expiry_s": label.expiry_s}
    return database.row("renew_permit", params) is not None


def release(database: Database, label: Label, job_id: int, holder: str, *, busy_s: float = 0.0) -> tuple[int, ...]:
    """Give the permit up and call the first in line; the jobs called.

    Args:
        busy_s: How long a request of the slice may still be under way; so long the permit stays.
    """
    params = {"label": label.name, "job_id": job_id, "holder": holder, "busy_s": busy_s}
    with database.transaction():
        database.rows("lock_label", {"label": label.name})
        database.rows("release_permit", params)
        _tidy(database, label.name)
        called = _call(database, label.name)
        if busy_s <= 0:
            _rouse(database, label.name, job_id, label.capacity)
    return called


def end_permits_of(database: Database, holders: Sequence[str]) -> tuple[int, ...]:
    """Free the permits of dead *holders*; the jobs called."""
    if not holders:
        return ()
    found = database.rows("labels_of_holders", {"holders": list(holders)})
    return tuple(job_id for row in found for job_id in tidy(database, row["label"], dead=holders))


def tidy_all(database: Database) -> tuple[int, ...]:
    """End what ran out and call whoever may come in, of all labels; the jobs called."""
    found = database.rows("labels_to_tidy", {"call_s": CALL_S})
    return tuple(job_id for row in found for job_id in tidy(database, row["label"]))


def tidy(database: Database, name: str, *, dead: Sequence[str] = ()) -> tuple[int, ...]:
    """End what ran out and what *dead* holders left of one label; the jobs called."""
    with database.transaction():
        ended = _tidy(database, name, dead=dead)
        called = _call(database, name)
        for row in ended:
            _rouse(database, name, row["job_id"], row["capacity"])
    return called


def status(database: Database, name: str) -> LabelStatus:
    """Who is inside and who waits, in the order they come in."""
    holders = database.rows("label_holders", {"label": name})
    waiters = database.rows("label_waiters", {"label": name, "call_s": CALL_S})
    asking = [*holders, *(row for row in waiters if row["is_coming"])]
    return LabelStatus(
        name,
        min((row["capacity"] for row in asking), default=None),
        tuple(LabelHolder(row["job_id"], row["holder"], row["acquired_at"], row["until"]) for row in holders),
        tuple(LabelWaiter(row["job_id"], row["since"]) for row in waiters),
    )


def _prefix(name: str) -> str:
    """How the reason of every part begins that waits for the label; a release finds them by it."""
    return f"waiting for {name} ("


def _tidy(database: Database, name: str, *, dead: Sequence[str] = ()) -> list[dict[str, Any]]:
    database.rows("lock_label", {"label": name})
    ended = database.rows("end_permits", {"label": name, "dead": list(dead)})
    database.rows("drop_idle_waiters", {"label": name, "prefix": _prefix(name)})
    return ended


def _call(database: Database, name: str) -> tuple[int, ...]:
    rows = database.rows("call_waiters", {"label": name, "prefix": _prefix(name), "call_s": CALL_S})
    return tuple(row["job_id"] for row in rows)


def _rouse(database: Database, name: str, job_id: int, capacity: int) -> None:
    row = database.row("free_permits", {"label": name, "call_s": CALL_S})
    free = capacity if row is None or row["permits"] is None else row["permits"]
    if free > 0:
        database.rows("rouse_job", {"job_id": job_id, "count": free})
