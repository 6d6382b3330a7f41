"""Writes what was gathered as one transaction, also when the answer to COMMIT gets lost."""

from __future__ import annotations

import random
import time

from jobqueue.engine.draft import Draft
from jobqueue.errors import ServerUnavailableError
from jobqueue.store import checkpoints
from jobqueue.store.checkpoints import Recorded
from jobqueue.store.database import Database

_RECONNECT_EVERY_S = 0.2


class Recorder:
    """Commits drafts; asks a new connection what happened when an answer gets lost.

    Args:
        database: The slice's connection.
        scope: Name of the rate-limit scope the intents are counted under.
        provider: Its provider.
    """

    def __init__(self, database: Database, job_id: int, *, scope: str, provider: str) -> None:
        self._database = database
        self._job_id = job_id
        self._scope = scope
        self._provider = provider

    def commit(
        self, draft: Draft, *, fences: dict[int, int], numbers: dict[int, int], epoch: int, until_s: float
    ) -> Recorded:
        """Write *draft* as one transaction.

        Args:
            fences: Fence of each part held.
            numbers: Latest batch number of each part held.
            epoch: Limiter epoch of the intents' grants.
            until_s: Instant of the monotonic clock up to which to try: the end of the lease.

        Raises:
            ServerUnavailableError: Postgres stayed away until then.
        """
        record = draft.finish(fences, numbers)
        commit = random.getrandbits(62)
        is_asked = False
        while True:
            try:
                if is_asked:
                    landed = self._landed(draft, commit)
                    if landed is not None:
                        return landed
                return checkpoints.record(
                    self._database,
                    self._job_id,
                    record,
                    commit=commit,
                    scope=self._scope,
                    provider=self._provider,
                    epoch=epoch,
                )
            except ServerUnavailableError:
                if time.monotonic() >= until_s:
                    raise
                is_asked = True
                time.sleep(_RECONNECT_EVERY_S)

    def _landed(self, draft: Draft, commit: int) -> Recorded | None:
        held = checkpoints.was_committed(self._database, self._job_id, draft.parts, commit=commit)
        if not held:
            return None
        opened = next((flight for flight in draft.opened if flight.part in held), None)
        is_current = opened is None or checkpoints.batch_exists(self._database, self._job_id, opened.part, opened.no)
        return Recorded(frozenset(held), is_current, checkpoints.job_state(self._database, self._job_id))
