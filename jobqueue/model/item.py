"""Items and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

State = Mapping[str, Any]
"""What a provider holds about one resource, as JSON: ``{"saved": true}``."""


class ItemStatus(StrEnum):
    """What became of an item; all but ``retrying`` are terminal."""

    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNCONFIRMED = "unconfirmed"
    RETRYING = "retrying"


@dataclass(frozen=True, slots=True)
class Item:
    """One unit of a job.

    Attributes:
        seq: Position in the job, counted from 0, unique in the job.
        key: What the item is, in the provider's canonical form; equal keys are duplicates.
        payload: Further columns, as JSON.
    """

    seq: int
    key: str
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item failed.

    Attributes:
        code: Short and stable, such as ``invalid_id``; dead letters are grouped by it.
        message: The provider's or the handler's own words, without secrets.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What one call made of one item.

    Attributes:
        result: What the provider returned for it, as JSON.
        error: Set when the item failed, is unconfirmed or is retried.
    """

    status: ItemStatus
    result: Any = None
    error: ItemError | None = None

    @classmethod
    def succeeded(cls, result: Any = None) -> ItemOutcome:
        """The effect took place."""
        return cls(ItemStatus.SUCCEEDED, result)

    @classmethod
    def skipped(cls, why: str) -> ItemOutcome:
        """There was nothing to do; *why* says so in words."""
        return cls(ItemStatus.SKIPPED, {"why": why})

    @classmethod
    def failed(cls, code: str, message: str) -> ItemOutcome:
        """The provider refuses the item for good."""
        return cls(ItemStatus.FAILED, None, ItemError(code, message))

    @classmethod
    def unconfirmed(cls, message: str) -> ItemOutcome:
        """Whether the effect took place cannot be known."""
        return cls(ItemStatus.UNCONFIRMED, None, ItemError("unconfirmed", message))

    @classmethod
    def retrying(cls, code: str, message: str) -> ItemOutcome:
        """The item may pass later; uses up one attempt."""
        return cls(ItemStatus.RETRYING, None, ItemError(code, message))


SUCCEEDED = ItemOutcome(ItemStatus.SUCCEEDED)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The before-state of one item, committed before its effect; what a rollback reads.

    Attributes:
        batch_no: The batch it was sent with; the items of one batch have one effect.
        effect_seq: Position in the order of effects of the job.
        before: The state before the effect.
        after: The state our effect leaves, to tell a later change by somebody else from ours.
        status: The item's outcome; None when none was recorded (a crash between effect and record).
    """

    part: int
    seq: int
    key: str
    batch_no: int
    effect_seq: int
    before: State
    after: State
    payload: Mapping[str, Any]
    status: ItemStatus | None
