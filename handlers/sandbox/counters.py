"""Running counts, and a way to wait for them: tests wait for a request to happen, never for time to pass."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from typing import Any

from handlers.sandbox.ledger import Entry

# Decision in the ledger -> the count it goes to.
NAMES = {"served": "served", "refused": "refused", "fault": "faults", "unfinished": "unfinished"}


class Counters:
    """Counts since the ledger began, in all and by operation.

    ``arrivals`` = ``served`` + ``refused`` (429 by the limit) + ``faults`` + those under way or ``unfinished``;
    ``held`` are requests that a ``hold`` fault keeps waiting at this moment.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._all: Counter[str] = Counter()
        self._by_operation: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._by_status: Counter[int] = Counter()

    def add(self, name: str, operation: str, by: int = 1) -> None:
        """Move one count and wake who waits for it."""
        with self._changed:
            self._all[name] += by
            self._by_operation[operation][name] += by
            self._changed.notify_all()

    def decided(self, decision: str, status: int, operation: str) -> None:
        """Count a decision."""
        with self._changed:
            self._by_status[status] += 1
        self.add(NAMES[decision], operation)

    def replay(self, entry: Entry) -> None:
        """Count what an earlier process decided."""
        self.add("arrivals", entry.operation)
        self.decided(entry.decision, entry.status, entry.operation)

    def wait(self, name: str, at_least: int, *, operation: str = "", timeout_s: float) -> bool:
        """Wait until a count reaches *at_least*; returns False when *timeout_s* passed first."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            counts = self._by_operation[operation] if operation else self._all
            return self._changed.wait_for(lambda: counts[name] >= at_least, deadline_s - time.monotonic())

    def as_json(self) -> dict[str, Any]:
        """Return all counts."""
        with self._changed:
            names = ("arrivals", "served", "refused", "faults", "unfinished", "held")
            return {
                **{name: self._all[name] for name in names},
                "by_status": {str(status): count for status, count in sorted(self._by_status.items()) if status},
                "by_operation": {name: dict(counts) for name, counts in sorted(self._by_operation.items())},
            }
