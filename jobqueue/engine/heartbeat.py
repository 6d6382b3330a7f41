"""Renews a slice's leases and its permit, on its own thread and its own connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jobqueue.engine.labels import Permit
from jobqueue.errors import JobQueueError
from jobqueue.store import checkpoints
from jobqueue.store.database import Database


class Heartbeat:
    """Leases are renewed every *interval_s* as long as every request keeps its deadline.

    A request that hangs beyond its deadline and the grace loses its lease: then somebody else may take the part over.

    Args:
        database: A connection of its own; the thread opens and closes it.
        grace_s: How long past its deadline a request may still be under way.
        permit: What the slice works under besides its leases, if anything: without it no part counts as ours.
    """

    def __init__(
        self,
        database: Database,
        job_id: int,
        *,
        lease_s: float,
        interval_s: float,
        grace_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        permit: Permit | None = None,
    ) -> None:
        self._permit = permit
        self._database = database
        self._job_id = job_id
        self._lease_s = lease_s
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._clock = clock
        self._lock = threading.Lock()
        self._fences: dict[int, int] = {}
        self._ends_at_s: dict[int, float] = {}
        self._deadlines: dict[object, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing and wait for the thread; the permit learns how long a request may still be under way."""
        self._stop.set()
        if self._permit is not None:
            with self._lock:
                self._permit.busy_s = max((until - self._clock() for until in self._deadlines.values()), default=0.0)
        if self._thread.is_alive():
            self._thread.join(timeout=self._interval_s)

    def hold(self, part: int, fence: int, claimed_at_s: float) -> None:
        """Renew this part's lease from now on; it was taken at *claimed_at_s* of the clock."""
        with self._lock:
            self._fences[part] = fence
            self._ends_at_s[part] = claimed_at_s + self._lease_s

    def drop(self, part: int) -> None:
        """Renew it no longer."""
        with self._lock:
            self._fences.pop(part, None)
            self._ends_at_s.pop(part, None)

    def called(self, key: object, deadline_s: float) -> None:
        """A request started; it must be answered within *deadline_s*."""
        with self._lock:
            self._deadlines[key] = self._clock() + deadline_s

    def answered(self, key: object) -> None:
        """That request was answered."""
        with self._lock:
            self._deadlines.pop(key, None)

    @property
    def is_hung(self) -> bool:
        """Whether a request is past its deadline and grace."""
        with self._lock:
            return any(self._clock() > until + self._grace_s for until in self._deadlines.values())

    def remaining_s(self, part: int) -> float:
        """Seconds the part is certainly ours; 0 or less when it was lost."""
        with self._lock:
            part_s = self._ends_at_s.get(part, 0.0) - self._clock()
        return part_s if self._permit is None else min(part_s, self._permit.remaining_s())

    def renew(self, database: Database) -> None:
        """Renew the permit and all leases over *database*, from the caller's thread.

        Raises:
            ServerUnavailableError: Postgres cannot be reached; the leases run on.
        """
        if self._permit is not None:
            self._permit.renew(database)
        with self._lock:
            fences = dict(self._fences)
        if not fences:
            return
        asked_at_s = self._clock()
        still_ours = checkpoints.renew(database, self._job_id, fences, lease_s=self._lease_s)
        with self._lock:
            for part, fence in fences.items():
                if self._fences.get(part) == fence:
                    self._ends_at_s[part] = asked_at_s + self._lease_s if part in still_ours else 0.0

    def _run(self) -> None:
        with self._database:
            while not self._stop.wait(self._interval_s):
                if self.is_hung:
                    continue
                try:
                    self.renew(self._database)
                except JobQueueError:
                    continue  # the leases end by themselves if Postgres stays away
