"""Checkpoints: who holds which part, until when, under which fence; and the one statement that records work."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobqueue.model.item import Item, State
from jobqueue.store.database import Database


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that may hold leases.

    Attributes:
        name: Unique for every slice, such as its RQ id.
        host: Tells machines and process-id namespaces apart.
        pid_started: When the process started, in clock ticks since boot (elsewhere than on Linux: seconds since the
            epoch); a reused pid differs in it.
    """

    name: str
    host: str
    pid: int
    pid_started: float


@dataclass(frozen=True, slots=True)
class Claim:
    """A part this process holds.

    Attributes:
        fence: Grows with every claim; a write under an older one changes nothing.
        cursor: The next item no batch was made of yet.
        batch_no: The number of the latest batch.
        was_held: Whether the holder before never released it: it crashed, or hangs.
    """

    part: int
    kind: str
    first_seq: int
    last_seq: int
    cursor: int
    batch_no: int
    fence: int
    crashes: int
    was_held: bool
    done: int
    item_count: int


@dataclass(frozen=True, slots=True)
class UnfinishedBatch:
    """A request that was intended and has no recorded answer, or waits to be repeated."""

    no: int
    first_seq: int
    last_seq: int
    seqs: tuple[int, ...] | None
    item_count: int
    status: str
    idempotency_key: str
    attempt: int
    failures: int
    crashes: int
    is_isolated: bool
    has_effect: bool
    failing_for_s: float
    due_in_s: float
    carry: Mapping[str, Any] | None = None

    def covers(self, seq: int) -> bool:
        """Whether the item of that position is in it."""
        return self.first_seq <= seq <= self.last_seq and (self.seqs is None or seq in self.seqs)


@dataclass(frozen=True, slots=True)
class JournalledItem:
    """An item with the before- and after-state journalled for it, if any."""

    item: Item
    before: State | None
    after: State | None


@dataclass(slots=True)
class Record:
    """What one `record` writes; each list holds rows of ``queries/record.sql`` by column name."""

    parts: list[dict[str, Any]] = field(default_factory=list)
    closed: list[dict[str, Any]] = field(default_factory=list)
    opened: list[dict[str, Any]] = field(default_factory=list)
    split: list[dict[str, Any]] = field(default_factory=list)
    turned: list[dict[str, Any]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    unjournalled: list[dict[str, Any]] = field(default_factory=list)
    ranges: list[dict[str, Any]] = field(default_factory=list)
    singles: list[dict[str, Any]] = field(default_factory=list)
    dead: list[dict[str, Any]] = field(default_factory=list)
    retries: list[dict[str, Any]] = field(default_factory=list)


_SECTIONS = tuple(Record.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What `record` found.

    Attributes:
        held: Parts that were still ours; of the others nothing was written.
        is_epoch_current: False when the limiter was rebuilt since the grants: no intent was written.
        state: The job's state now.
        epoch: The provider's epoch now; 0 when it is not known.
        config_version: The version of the provider's limits now; None when it is not known.
    """

    held: frozenset[int]
    is_epoch_current: bool
    state: str
    epoch: int = 0
    config_version: int | None = None


def claim(database: Database, job_id: int, holder: Holder, *, count: int, lease_s: float) -> list[Claim]:
    """Take up to *count* due parts of the job; parts somebody else is taking are passed over."""
    rows = database.rows(
        "claim",
        {
            "job_id": job_id,
            "count": count,
            "holder": holder.name,
            "host": holder.host,
            "pid": holder.pid,
            "pid_started": holder.pid_started,
            "lease_s": lease_s,
        },
    )
    return [Claim(**row) for row in rows]


def renew(database: Database, job_id: int, fences: Mapping[int, int], *, lease_s: float) -> set[int]:
    """Extend the leases of the parts in *fences*; the parts that are still ours."""
    params = {"job_id": job_id, "parts": list(fences), "fences": list(fences.values()), "lease_s": lease_s}
    return {row["part"] for row in database.rows("renew", params)}


def release(database: Database, job_id: int, parts: Sequence[Mapping[str, Any]]) -> set[int]:
    """Give parts up: each with part, fence, due_in_s, reason, is_finished."""
    return {row["part"] for row in database.rows("release", {"job_id": job_id, "parts": json.dumps(list(parts))})}


def record(
    database: Database, job_id: int, record: Record, *, commit: int, scope: str, provider: str, epoch: int
) -> Recorded:
    """Write *record* as one transaction.

    Args:
        commit: A number drawn for this call; `was_committed` asks for it when the answer got lost.
        epoch: The limiter epoch the intents' grants came from.

    Raises:
        ServerUnavailableError: The connection broke; ask `was_committed` over a new one.
    """
    params: dict[str, Any] = {name: _as_json(getattr(record, name)) for name in _SECTIONS}
    params |= {"job_id": job_id, "commit": commit, "scope": scope, "provider": provider, "epoch": epoch}
    row = database.row("record", params)
    assert row is not None  # noqa: S101 - the statement always returns one row
    return Recorded(
        frozenset(row["held"]),
        row["is_epoch_current"],
        row["state"] or "cancelled",
        row["epoch"] or 0,
        row["config_version"] or 0,
    )


# Read from the left, so that an escaped backslash and a whole surrogate pair are passed over.
_UNSTORABLE = re.compile(r"\\\\|\\ud[89ab]..\\ud[c-f]..|(\\u0000|\\ud[89a-f]..)")


def _as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """*rows* for jsonb, which holds neither NUL nor half a surrogate pair; both come from providers in earnest."""
    text = json.dumps(rows)
    if "\\u0000" not in text and "\\ud" not in text:
        return text
    return _UNSTORABLE.sub(lambda found: "\\ufffd" if found[1] else found[0], text)


def was_committed(database: Database, job_id: int, parts: Sequence[int], *, commit: int) -> set[int]:
    """The parts whose latest record is *commit*; waits for a backend that may still be at it."""
    rows = database.rows("what_was_committed", {"job_id": job_id, "parts": list(parts)})
    return {row["part"] for row in rows if row["last_commit"] == commit}


def batch_exists(database: Database, job_id: int, part: int, no: int) -> bool:
    """Whether that intent was committed."""
    return database.row("batch_exists", {"job_id": job_id, "part": part, "no": no}) is not None


def unfinished_batches(database: Database, job_id: int, part: int) -> list[UnfinishedBatch]:
    """What a predecessor left open, and what waits to be repeated, oldest first."""
    found = []
    for row in database.rows("unfinished_batches", {"job_id": job_id, "part": part}):
        row.pop("part")
        row["seqs"] = None if row["seqs"] is None else tuple(row["seqs"])
        found.append(UnfinishedBatch(**row))
    return found


def items_of_batch(database: Database, job_id: int, part: int, batch: UnfinishedBatch) -> list[JournalledItem]:
    """The batch's items that have no outcome yet."""
    rows = database.rows(
        "items_of_batch",
        {
            "job_id": job_id,
            "part": part,
            "first_seq": batch.first_seq,
            "last_seq": batch.last_seq,
            "seqs": None if batch.seqs is None else list(batch.seqs),
        },
    )
    return [JournalledItem(_item(row), row["before"], row["after"]) for row in rows]


def items_from(database: Database, job_id: int, part: int, seq: int, *, count: int) -> list[Item]:
    """Up to *count* items of the part from *seq* on, in order."""
    rows = database.rows("items_from", {"job_id": job_id, "part": part, "seq": seq, "count": count})
    return [_item(row) for row in rows]


@dataclass(frozen=True, slots=True)
class WaitingItem:
    """An item that waits for another attempt.

    Attributes:
        attempts: Attempts used of this round; a person's retry starts a new one.
        tries: Times it was tried in all.
        is_in_doubt: Whether an earlier try may have taken effect.
    """

    row: JournalledItem
    attempts: int
    tries: int
    is_in_doubt: bool
    due_in_s: float


def retries_of_part(database: Database, job_id: int, part: int, *, count: int) -> list[WaitingItem]:
    """Up to *count* stragglers, the earliest due first."""
    rows = database.rows("retries_of_part", {"job_id": job_id, "part": part, "count": count})
    return [
        WaitingItem(
            JournalledItem(_item(row), row["before"], row["after"]),
            row["attempts"],
            row["tries"],
            row["is_in_doubt"],
            row["due_in_s"],
        )
        for row in rows
    ]


def _item(row: Mapping[str, Any]) -> Item:
    return Item(row["seq"], row["key"], row["payload"] or {})


def job_state(database: Database, job_id: int) -> str:
    """The stored state; ``cancelled`` when the job is gone."""
    row = database.row("job_state", {"job_id": job_id})
    return "cancelled" if row is None else str(row["state"])
