"""What a limiter whose Redis state is gone rebuilds it from: the intents in Postgres."""

from __future__ import annotations

from collections.abc import Iterable

from jobqueue.model.limit import CircuitBreakerState, Cooldown, LearnedLimit
from jobqueue.ratelimit.history import SentRequests
from jobqueue.store import limits
from jobqueue.store.database import Database


class PostgresHistory:
    """`RequestHistory` on ``batches``: every request has a row there before it is sent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin_epoch(self, provider: str, run_id: str) -> int:
        """A new epoch; `record` refuses intents of an older one."""
        return limits.begin_epoch(self._database, provider, run_id)

    def sent_since(self, provider: str, since_s: float) -> Iterable[SentRequests]:
        """One or two entries a batch: its effect with the whole cost, what it asked besides without."""
        for row in limits.sent_since(self._database, provider, since_s):
            answered_ago_s = row["closed_ago_s"]
            yield SentRequests(row["scope"], row["sent_ago_s"], answered_ago_s, row["cost_units"], 1)
            if row["requests"] > 1:
                yield SentRequests(row["scope"], row["sent_ago_s"], answered_ago_s, 0, row["requests"] - 1)

    def cooldowns(self, provider: str) -> Iterable[Cooldown]:
        """Pauses that have not lifted."""
        return limits.cooldowns(self._database, provider)

    def breakers(self, provider: str) -> Iterable[CircuitBreakerState]:
        """Breakers that are not closed."""
        return limits.breakers(self._database, provider)

    def learned(self, provider: str) -> Iterable[LearnedLimit]:
        """Limits learned from throttles."""
        return limits.learned(self._database, provider)
