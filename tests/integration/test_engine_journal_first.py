"""The order of record and effect, with the record held up by somebody else's lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic, sleep

import psycopg
import pytest
from engine_world import Scripted, World

from jobqueue.handler import Call, Decision, Effect, Reading
from jobqueue.model.item import SUCCEEDED, ItemOutcome, State
from jobqueue.model.job import JobStatus
from jobqueue.store.database import Database


class Held(Scripted):
    """Somebody takes a lock as soon as a look was made; the effect says that it was asked for."""

    def __init__(self, on_look: Callable[[], None]) -> None:
        super().__init__()
        self.is_applied = threading.Event()
        self._on_look = on_look

    def observe_step(self, call: Call, carry: Mapping[str, object]) -> Reading:
        self._on_look()
        return Reading(tuple({"saved": True} for _ in call.items))

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        return [Effect({"saved": False}) for _ in before]

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        self.is_applied.set()
        return [SUCCEEDED] * len(call.items)


@contextmanager
def running(world: World) -> Iterator[threading.Thread]:
    """The job's slices on a thread of their own."""
    thread = threading.Thread(target=world.run_to_the_end)
    thread.start()
    yield thread
    thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.mark.parametrize("table", ["item_journal", "batches"])
def test_no_effect_is_sent_before_its_record_is_committed(database_url: str, redis_url: str, table: str) -> None:
    """The journal, or the intent, cannot be written: the provider is not asked until it can."""
    with (
        psycopg.connect(database_url) as blocker,
        Database(database_url) as database,
        psycopg.connect(database_url, autocommit=True) as watcher,
    ):
        handler = Held(lambda: blocker.execute(f"LOCK TABLE {table} IN SHARE MODE"))
        world = World(database_url, redis_url, database, handler)
        world.operation = replace(world.operation, is_observed=True)
        world.with_job(5)
        with running(world):
            waiting = f"SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND NOT granted"
            ends_s = monotonic() + 20
            while watcher.execute(waiting).fetchone() == (0,):
                assert monotonic() < ends_s, "the record never waited"
                sleep(0.01)
            was_asked = handler.is_applied.wait(0.3)
            blocker.rollback()

    assert not was_asked
    assert handler.is_applied.is_set()
    with Database(database_url) as database:
        assert (
            JobStatus(database.connection.execute("SELECT state FROM jobs").fetchone()["state"]) is JobStatus.SUCCEEDED
        )
