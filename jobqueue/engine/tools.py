"""What a slice is given to work with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from jobqueue.engine.labels import Permit
from jobqueue.model.worker import WorkerConfig
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.store.checkpoints import Holder
from jobqueue.store.database import Database


class Signals(Protocol):
    """What tells a slice from outside to stop; asked at every boundary."""

    def stop_reason(self) -> str:
        """``shutdown``, ``orphaned``, ``yield`` or the empty string."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a slice works with; all of it belongs to this slice alone.

    Attributes:
        permit: Of the job's concurrency label, if it bears one.
    """

    database: Database
    heartbeat_database: Database
    limiter: Limiter
    holder: Holder
    signals: Signals
    config: WorkerConfig
    clock: Callable[[], float] = time.monotonic
    random: Random = field(default_factory=Random)
    permit: Permit | None = None

    def stop_reason(self) -> str:
        """Why the slice must stop; empty to go on."""
        if self.permit is not None and self.permit.remaining_s() <= 0:
            return f"the permit of {self.permit.label.name} is lost"
        return self.signals.stop_reason()
