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
        failing_for_s: Seconds since the first of its failures in a row, when this flight was made.
        tries: How often its items were tried before in all.
        replaces: Number of the row this flight repeats.
        is_paired: Whether a look's slot comes together with its effect's; limits too tight for two let it go alone.
        carry: What an observation that takes several requests continues from.
        granted_at_s: When its slots were asked for, on the slice's clock.
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
    tries: int = 0
    failing_for_s: float = 0.0
    replaces: int | None = None
    before: dict[int, State] = field(default_factory=dict)
    after: dict[int, State] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    granted_at_s: float = 0.0
    requests: int = 0
    step: Step = Step.APPLY
    is_paired: bool = True
    carry: Mapping[str, Any] | None = None

    @property
    def seqs(self) -> list[int]:
        """The items' positions, in order."""
        return [item.seq for item in self.items]

    @property
    def has_look(self) -> bool:
        """Whether it looks before anything else."""
        return self.step is not Step.APPLY

    @property
    def has_effect(self) -> bool:
        """Whether the effect may follow before it is recorded."""
        return self.step is Step.APPLY or self.is_paired

    @property
    def most_requests(self) -> int:
        """Requests it may make until it is recorded."""
        return self.has_look + self.has_effect

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
            failing_for_s=self.failing_for_s,
            due_in_s=0.0,
            carry=self.carry,
        )


def idempotency_key(job_id: int, seqs: Sequence[int], attempt: int, tries: int = 0) -> str:
    """The same for every repetition of the same items at the same attempt, whoever holds the part.

    Args:
        tries: How often the items were tried before in all: a person's retry is another call, and a provider that
            honours
            keys must not answer it with the refusal it remembers.
    """
    text = f"{job_id}:{attempt}:{tries}:{','.join(map(str, seqs))}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
