"""What can hold a job up, as values; see `jobqueue.model.why`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Constraint(StrEnum):
    """What kind of thing holds a job up."""

    NONE = "none"
    ENDED = "ended"
    AUTHORIZATION = "authorization"
    PAUSED = "paused"
    REDIS = "redis"
    NO_WORKER = "no_worker"
    REFUSED = "refused"
    NO_SCHEDULER = "no_scheduler"
    UNDONE_JOB = "undone_job"
    WINDOW = "window"
    COOLDOWN = "cooldown"
    BREAKER = "breaker"
    CONCURRENCY = "concurrency"
    REBUILD = "rebuild"
    LABEL = "label"
    LEASE = "lease"
    RETRY = "retry"
    TURN = "turn"
    BUSY = "busy"
    SWEEP = "sweep"
    QUARANTINE = "quarantine"
    PICKUP = "pickup"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that holds a job up.

    Attributes:
        detail: The constraint in words.
        lifts_in_s: Seconds until it lifts; None when nobody knows, or a person must lift it.
        remedy: What to do; empty when waiting is enough.
        is_total: Whether nothing of the job can move because of it.
        is_for_person: Whether it stays until a person acts.
    """

    kind: Constraint
    detail: str
    lifts_in_s: float | None = None
    remedy: str = ""
    is_total: bool = True
    is_for_person: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        lifts_s = None if self.lifts_in_s is None else round(self.lifts_in_s, 3)
        return {
            "constraint": str(self.kind),
            "detail": self.detail,
            "lifts_in_s": lifts_s,
            "remedy": self.remedy,
            "is_total": self.is_total,
        }
