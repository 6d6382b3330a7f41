"""A flight: one batch on its way through intent, request and record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from jobqueue.model.item import Item, State
from jobqueue.model.limit import Slot
from jobqueue.store.checkpoints import UnfinishedBatch


class Step(Enum):
    """The request a flight makes next."""

    PROBE = "probe"
    OBSERVE = "observe"
    APPLY = "apply"


@dataclass(slots=True)
class Flight:
    """One batch in the memory of the process that sends it.

    Attributes:
        no: Number of its row in ``batches``.
        is_effect_in_doubt: Whether an earlier send may have taken effect.
        is_journalled: Whether every item has its before-state on record.
        attempt: Attempt of its items, counted from 1.
        failures: Outages and bugs so far; they use up no attempt.
        first_sent_ago_s: Seconds since the batch was first sent when this flight was made.
        replaces: Number of the row this flight repeats.
        carry: What an observation that takes several requests continues from.
        slots: Limiter slots it holds, one for each request it may still make.
    """

    part: int
    no: int
    items: list[Item]
    idempotency_key: str
    attempt: int = 1
    failures: int = 0
    crashes: int = 0
    is_isolated: bool = False
    is_effect_in_doubt: bool = False
    is_journalled: bool = False
    is_retry: bool = False
    first_sent_ago_s: float = 0.0
    replaces: int | None = None
    before: dict[int, State] = field(default_factory=dict)
    after: dict[int, State] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    requests: int = 0
    step: Step = Step.APPLY
    carry: Mapping[str, Any] | None = None
    started_at_s: float = 0.0
    deadline_s: float = 0.0

    @property
    def seqs(self) -> list[int]:
        """The items' positions, in order."""
        return [item.seq for item in self.items]

    @property
    def most_requests(self) -> int:
        """Requests it may make until it is recorded: a look, where it needs one, and the effect."""
        return 1 if self.step is Step.APPLY else 2

    def range_columns(self) -> dict[str, Any]:
        """The row's first_seq, last_seq and seqs; seqs is NULL for a range without gaps."""
        seqs = self.seqs
        is_range = seqs[-1] - seqs[0] + 1 == len(seqs)
        return {
            "first_seq": seqs[0],
            "last_seq": seqs[-1],
            "seqs": None if is_range else seqs,
            "item_count": len(seqs),
        }

    def as_waiting(self, no: int) -> UnfinishedBatch:
        """This batch as the one that waits in row *no* to be sent again."""
        columns = self.range_columns()
        return UnfinishedBatch(
            no=no,
            first_seq=columns["first_seq"],
            last_seq=columns["last_seq"],
            seqs=None if columns["seqs"] is None else tuple(columns["seqs"]),
            item_count=len(self.items),
            status="waiting",
            idempotency_key=self.idempotency_key,
            attempt=self.attempt,
            failures=self.failures,
            crashes=self.crashes,
            is_isolated=self.is_isolated,
            has_effect=self.is_effect_in_doubt,
            first_sent_ago_s=self.first_sent_ago_s,
            due_in_s=0.0,
            carry=self.carry,
        )


def idempotency_key(job_id: int, seqs: Sequence[int], attempt: int) -> str:
    """The same for every repetition of the same items at the same attempt, whoever holds the part."""
    text = f"{job_id}:{attempt}:{','.join(map(str, seqs))}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
