"""Slices run in the test's own process, against real servers, with a handler that the test writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from time import monotonic
from typing import Any

import redis
from store_world import PROVIDER, contents, holder, new_job, sql

from jobqueue.engine.context import JobContext
from jobqueue.engine.departure import SliceReport
from jobqueue.engine.history import PostgresHistory
from jobqueue.engine.slice import Slice
from jobqueue.engine.tools import Tools
from jobqueue.handler import BaseHandler, Call, Endpoint, Operation
from jobqueue.model.backoff import RetryPolicy
from jobqueue.model.batching import BatchConfig
from jobqueue.model.item import SUCCEEDED, ItemOutcome
from jobqueue.model.job import JobStatus
from jobqueue.model.limit import ProviderLimits, RateLimitConfig, Scope
from jobqueue.model.worker import WorkerConfig
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.store import jobs
from jobqueue.store.database import Database

PLENTY = RateLimitConfig(windows="1000000 per 1 minute", breaker=None)
SOON = RetryPolicy(max_attempts=3, base_s=0.001, cap_s=0.01)
QUICK = WorkerConfig(in_flight=4, poll_s=0.02, heartbeat_s=0.1, retry=SOON, outage=replace(SOON, max_attempts=1000))

Apply = Callable[[Call], Sequence[ItemOutcome]]


class Scripted(BaseHandler):
    """A handler whose effect is a function, and which notes every call in the order they start."""

    job_type = "noop"

    def __init__(self, apply: Apply | None = None) -> None:
        self.calls: list[Call] = []
        self.looks: list[Call] = []
        self.probes: list[Call] = []
        self._apply = apply
        self._lock = threading.Lock()

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        with self._lock:
            self.calls.append(call)
        return [SUCCEEDED] * len(call.items) if self._apply is None else self._apply(call)

    def note_look(self, call: Call) -> None:
        with self._lock:
            self.looks.append(call)

    def note_probe(self, call: Call) -> None:
        with self._lock:
            self.probes.append(call)

    @property
    def sent(self) -> list[tuple[int, ...]]:
        """The positions of each effect's items."""
        return [tuple(item.seq for item in call.items) for call in self.calls]


@dataclass
class OneProvider:
    """A provider with a single operation."""

    operations: Mapping[str, Operation]
    name: str = PROVIDER


@dataclass
class NoSignals:
    """Nothing from outside tells the slice to stop, unless a test says so."""

    reason: str = ""

    def stop_reason(self) -> str:
        return self.reason


@dataclass
class World:
    """One job and what its slices need.

    Attributes:
        operation: Not observed and idempotent unless changed.
        size: Items of a batch.
        limits: The provider's limits.
    """

    url: str
    redis_url: str
    database: Database
    handler: Scripted
    job_id: int = 0
    operation: Operation = field(
        default_factory=lambda: Operation(name="noop", columns=("item",), max_size=1000, is_observed=False)
    )
    size: int = 5
    limits: RateLimitConfig = PLENTY
    config: WorkerConfig = QUICK
    provider: str = PROVIDER
    clock: Callable[[], float] = monotonic
    signals: NoSignals = field(default_factory=NoSignals)
    limiter_type: type[Limiter] = Limiter

    def with_job(self, item_count: int = 10, **more: Any) -> World:
        """Make the job."""
        self.job_id = new_job(self.database, item_count, provider=self.provider, **more)
        return self

    def context(self) -> JobContext:
        """As `job_context` would look it up."""
        return JobContext(
            job=jobs.get(self.database, self.job_id),
            handler=self.handler,
            provider=OneProvider({self.operation.name: self.operation}, self.provider),
            operation=self.operation,
            endpoint=Endpoint("http://127.0.0.1"),
            scope=Scope(self.provider),
            limits=ProviderLimits(self.provider, (self.limits,), longest_request_s=30.0),
            sizes=BatchConfig(1, self.size, self.size),
        )

    @contextmanager
    def tools(self, name: str) -> Iterator[Tools]:
        """What a slice works with, on connections of its own."""
        configured = self.context().limits
        with Database(self.url, name=name) as own:
            limiter = self.limiter_type(self.redis_url, {self.provider: configured}, PostgresHistory(own))
            try:
                yield Tools(
                    database=own,
                    heartbeat_database=Database(self.url, name=f"{name}-heartbeat"),
                    limiter=limiter,
                    holder=holder(name),
                    signals=self.signals,
                    config=self.config,
                    clock=self.clock,
                    random=Random(1),
                )
            finally:
                limiter.close()

    def run(self, name: str = "slice") -> SliceReport:
        """One slice."""
        with self.tools(name) as tools:
            return Slice(self.context(), tools).run()

    def run_to_the_end(self, most_slices: int = 30) -> JobStatus:
        """Slices until the job has ended; parked parts are made due."""
        for number in range(most_slices):
            if self.status.is_terminal:
                return self.status
            self.wake()
            self.run(f"slice-{number}")
        assert self.status.is_terminal, f"still {self.status} after {most_slices} slices"
        return self.status

    def run_until(self, is_enough: Callable[[], bool], most_slices: int = 30) -> None:
        """Slices until *is_enough*."""
        for _ in range(most_slices):
            if is_enough():
                return
            self.wake()
            self.run()
        assert is_enough(), f"not after {most_slices} slices"

    def redis_forget_pause(self) -> None:
        """As if the pause the provider asked for were over."""
        sql(self.database, "DELETE FROM provider_rate_state")
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushall()

    def wake(self) -> None:
        """Let everything that waits for a time fall due now."""
        params = {"j": self.job_id}
        sql(
            self.database, "UPDATE batch_checkpoints SET due_at = now() WHERE job_id = %(j)s AND due_at > now()", params
        )
        sql(self.database, "UPDATE batches SET due_at = now() WHERE job_id = %(j)s AND due_at > now()", params)
        sql(self.database, "UPDATE item_retries SET due_at = now() WHERE job_id = %(j)s AND due_at > now()", params)

    @property
    def status(self) -> JobStatus:
        """Where the job stands."""
        return jobs.get(self.database, self.job_id).status

    @property
    def outcomes(self) -> dict[int, str]:
        """Every item's outcome."""
        return {row["seq"]: row["status"] for row in contents(self.database, self.job_id)["item_outcomes"]}

    @property
    def batches(self) -> list[dict[str, Any]]:
        """Every batch's row, by number."""
        return contents(self.database, self.job_id)["batches"]

    @property
    def letters(self) -> list[dict[str, Any]]:
        """The dead letters."""
        return contents(self.database, self.job_id)["dead_letters"]

    def agrees(self, item_count: int) -> None:
        """P1: one outcome for each item, and counters that say the same."""
        outcomes = self.outcomes
        assert sorted(outcomes) == list(range(item_count))
        row = jobs.progress_row(self.database, self.job_id)
        for status in ("succeeded", "skipped", "failed", "unconfirmed"):
            assert row[status] == list(outcomes.values()).count(status), status
        assert row["in_flight"] == row["retrying"] == 0
        # A batch left as waiting would be sent again by whoever claims the part next.
        assert {batch["status"] for batch in self.batches} <= {"recorded", "repeated", "split"}
