"""A slice keeps its leases while its calls keep their deadlines, and lets go of what it lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from engine_world import QUICK, Scripted, World
from store_world import (
    checkpoint,
    claim_all,
    contents,
    expire_leases,
    one,
    scratch_database,
    sql,
)

from jobqueue.engine.heartbeat import Heartbeat
from jobqueue.engine.slice import HungCallError
from jobqueue.handler import Call
from jobqueue.local import LocalStack
from jobqueue.model.item import SUCCEEDED, ItemOutcome
from jobqueue.model.job import JobStatus
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_leases") as found:
        yield found


@pytest.fixture
def make(url: str, redis_url: str) -> Iterator[Callable[..., World]]:
    with Database(url) as database:

        def made(apply: Callable[[Call], Any] | None = None, handler: Scripted | None = None) -> World:
            return World(url, redis_url, database, handler or Scripted(apply))

        yield made


def test_a_lost_lease_writes_nothing_and_the_slice_lets_go(make: Callable[..., World], url: str) -> None:
    """Somebody claims the part during the request: its answer is thrown away, the successor repeats it with its key."""

    def apply(call: Call) -> Sequence[ItemOutcome]:
        if len(world.handler.calls) == 1:
            with Database(url) as other:
                expire_leases(other, world.job_id)
                claim_all(other, world.job_id, "successor")
        return [SUCCEEDED] * len(call.items)

    world = make(apply).with_job(5)
    world.config = replace(QUICK, slice_s=1.0)
    report = world.run("stale")
    assert (report.lost, report.finished) == (1, 0)
    assert world.outcomes == {}
    assert checkpoint(world.database, world.job_id)["holder"] == "successor"

    expire_leases(world.database, world.job_id)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    first, second = world.handler.calls
    assert (first.idempotency_key, first.items) == (second.idempotency_key, second.items)
    world.agrees(5)


def test_an_answer_to_a_request_of_an_earlier_lease_is_not_recorded_under_the_new_one(
    make: Callable[..., World], url: str
) -> None:
    """The slice lost the part while its request was out and claimed it again: the repetition's answer counts, once."""
    is_claimed_again, is_first_seen = threading.Event(), threading.Event()
    recorded_too_early: list[int] = []

    def seen_outcomes() -> list[int]:
        with Database(url) as other:
            return [row["seq"] for row in contents(other, world.job_id)["item_outcomes"]]

    def apply(call: Call) -> Sequence[ItemOutcome]:
        seqs = [item.seq for item in call.items]
        if seqs == [0] and not is_first_seen.is_set():
            is_first_seen.set()
            with Database(url) as other:
                sql(
                    other,
                    "UPDATE batch_checkpoints SET fence = fence + 1, holder = NULL, due_at = now() WHERE job_id = %(j)s",
                    {"j": world.job_id},
                )
            assert is_claimed_again.wait(10)
        elif seqs == [0]:
            is_claimed_again.set()
            # Long enough for the old answer to be recorded, if anything let it.
            until_s = time.monotonic() + 0.3
            while time.monotonic() < until_s and 0 not in seen_outcomes():
                time.sleep(0.01)
            recorded_too_early.extend(seen_outcomes())
        return [SUCCEEDED] * len(call.items)

    world = make(apply).with_job(2)
    world.size = 1
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert Counter(world.handler.sent)[(0,)] == 2
    assert 0 not in recorded_too_early
    world.agrees(2)


def test_heartbeats_keep_the_lease_over_a_call_that_is_longer_than_it(make: Callable[..., World], url: str) -> None:
    """The call ends only once the lease was prolonged past its first end; its outcome counts."""

    def apply(call: Call) -> Sequence[ItemOutcome]:
        with Database(url) as other:
            params = {"j": world.job_id}
            first = one(other, "SELECT due_at FROM batch_checkpoints WHERE job_id = %(j)s", params)
            while one(other, "SELECT due_at FROM batch_checkpoints WHERE job_id = %(j)s", params) == first:
                time.sleep(0.01)
        return [SUCCEEDED] * len(call.items)

    world = make(apply).with_job(5)
    report = world.run()
    assert (report.ended, report.lost) == (JobStatus.SUCCEEDED, 0)


class _StopWhile:
    """Tells the slice to stop once its call is under way; *is_told* when it has."""

    def __init__(self, is_under_way: threading.Event, *, reason: str) -> None:
        self.is_told = False
        self._is_under_way = is_under_way
        self._reason = reason

    def stop_reason(self) -> str:
        if not self._is_under_way.is_set():
            return ""
        self.is_told = True
        return self._reason


@pytest.mark.parametrize("reason", ["", "shutdown"], ids=["at work", "while stopping"])
def test_a_call_that_hangs_past_its_deadline_ends_the_slice_and_leaves_the_lease_to_lapse(
    make: Callable[..., World], reason: str
) -> None:
    """Also when the slice was only waiting for that call to leave."""
    is_under_way, lets_go = threading.Event(), threading.Event()

    def apply(call: Call) -> Sequence[ItemOutcome]:
        is_under_way.set()
        lets_go.wait(20)
        return [SUCCEEDED] * len(call.items)

    world = make(apply).with_job(5)
    signals = _StopWhile(is_under_way, reason=reason)
    world.signals = signals  # type: ignore[assignment]
    past_grace_s = world.operation.deadline_s + 6.0
    world.clock = lambda: time.monotonic() + (past_grace_s if signals.is_told else 0.0)
    try:
        with pytest.raises(HungCallError):
            world.run()
        assert checkpoint(world.database, world.job_id)["holder"] == "slice"
        (batch,) = world.batches
        assert batch["status"] == "sent"
    finally:
        lets_go.set()


class _Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_heartbeat_renews_what_is_held_until_a_call_hangs(make: Callable[..., World], url: str) -> None:
    """It stops at a call's deadline and grace, and says how long a part is certainly ours."""
    world = make().with_job(4, part_size=2)
    claims = claim_all(world.database, world.job_id, lease_s=5)
    clock = _Clock()
    heart = Heartbeat(Database(url), world.job_id, lease_s=20, interval_s=0.01, grace_s=5.0, clock=clock)
    for part, claim in claims.items():
        heart.hold(part, claim.fence, clock())
    heart.drop(1)
    assert heart.remaining_s(0) == 20
    assert heart.remaining_s(1) <= 0

    clock.now_s += 8
    heart.renew(world.database)
    assert heart.remaining_s(0) == 20
    assert checkpoint(world.database, world.job_id, 0)["due_at"] > checkpoint(world.database, world.job_id, 1)["due_at"]

    heart.called("a", 12.0)
    clock.now_s += 16.9
    assert not heart.is_hung
    clock.now_s += 0.2
    assert heart.is_hung
    heart.answered("a")
    assert not heart.is_hung

    sql(world.database, "UPDATE batch_checkpoints SET fence = fence + 1 WHERE job_id = %(j)s", {"j": world.job_id})
    heart.renew(world.database)
    assert heart.remaining_s(0) <= 0


def test_a_heartbeats_thread_renews_by_itself_and_not_while_a_call_hangs(make: Callable[..., World], url: str) -> None:
    """The lease's end moves on until then and stands still after."""
    world = make().with_job(2)
    claim = claim_all(world.database, world.job_id, lease_s=5)[0]
    clock = _Clock()
    heart = Heartbeat(Database(url), world.job_id, lease_s=20, interval_s=0.01, clock=clock)
    heart.hold(0, claim.fence, clock())

    def ends() -> Any:
        return checkpoint(world.database, world.job_id)["due_at"]

    heart.start()
    try:
        first = ends()
        while ends() == first:
            pass
        heart.called("a", 1.0)
        clock.now_s += 100
        time.sleep(0.05)  # a renewal that had begun before may still end
        stands = ends()
        time.sleep(0.1)
        assert ends() == stands
    finally:
        heart.stop()


def test_two_slices_at_once_share_the_parts(make: Callable[..., World]) -> None:
    """Both work until the job ends; every item is sent once, and one of them sees the end."""

    def apply(call: Call) -> Sequence[ItemOutcome]:
        gate.wait()
        return [SUCCEEDED] * len(call.items)

    gate = threading.Event()
    world = make(apply).with_job(80, part_size=5)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(world.run, f"slice-{n}") for n in range(2)]
        while len(world.handler.calls) < 8:
            time.sleep(0.005)
        gate.set()
        reports = [run.result(30) for run in runs]
    assert sorted(str(report.ended) for report in reports if report.ended) == ["succeeded"]
    assert Counter(seq for seqs in world.handler.sent for seq in seqs) == Counter(range(80))
    assert min(report.claimed for report in reports) > 0
    world.agrees(80)
