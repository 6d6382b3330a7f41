"""A slice's permit: kept by heartbeats, missed when it is gone, freed behind crashes; and the wait that is too long."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import pytest
from engine_world import QUICK, Scripted, World
from store_world import checkpoint, holder, new_job, one, scratch_database, sql

from jobqueue.engine import registry
from jobqueue.engine.enqueue import enqueue, enqueue_rollback
from jobqueue.engine.intake import Rows
from jobqueue.engine.labels import Permit, Waiting, enter, label_of
from jobqueue.engine.process import this_holder
from jobqueue.engine.slice import Slice
from jobqueue.engine.sweep import end_leases_of_dead_processes, sweep
from jobqueue.engine.tools import Tools
from jobqueue.errors import ConcurrencyLimitExceededError, InvalidInputError
from jobqueue.handler import Call
from jobqueue.local import LocalStack
from jobqueue.model.item import SUCCEEDED, ItemOutcome
from jobqueue.model.job import JobRequest
from jobqueue.model.label import ConcurrencyLimit, Label
from jobqueue.store import jobs, labels
from jobqueue.store.database import Database

_numbers = count(1)


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_labels") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


@pytest.fixture
def label() -> Label:
    return Label(f"rechunk:{next(_numbers)}", 1)


def permit_of(database: Database, label: Label, job_id: int, name: str) -> Permit:
    permit = enter(database, label, jobs.get(database, job_id), holder(name))
    assert isinstance(permit, Permit)
    return permit


@contextmanager
def inside(world: World, label: Label, name: str) -> Iterator[tuple[Permit, Tools]]:
    """Tools of a slice that has a permit."""
    with world.tools(name) as tools:
        permit = permit_of(world.database, label, world.job_id, name)
        yield permit, replace(tools, permit=permit)


def held(database: Database, label: Label) -> int:
    return len(labels.status(database, label.name).holders)


def test_heartbeats_renew_the_permit_of_a_slice(url: str, redis_url: str, database: Database, label: Label) -> None:
    """During a call the permit's end moves on, and after the slice the permit is given up."""

    def apply(call: Call) -> Sequence[ItemOutcome]:
        statement = "SELECT until FROM concurrency_holders WHERE label = %(l)s"
        with Database(url) as other:
            first = one(other, statement, {"l": label.name})
            while one(other, statement, {"l": label.name}) == first:
                threading.Event().wait(0.01)
        return [SUCCEEDED] * len(call.items)

    world = World(url, redis_url, database, Scripted(apply)).with_job(5)
    with inside(world, label, "slice") as (permit, tools):
        report = Slice(world.context(), tools).run()
    assert report.finished == 1
    assert permit.busy_s == 0
    permit.leave(database)
    assert held(database, label) == 0


def test_a_slice_that_lost_its_permit_stops_sending(url: str, redis_url: str, database: Database, label: Label) -> None:
    """Somebody cleared it away during the first call: no second one is sent, and the parts are free for a successor."""

    def apply(call: Call) -> Sequence[ItemOutcome]:
        with Database(url) as other:
            labels.end_permits_of(other, ["slice"])
        while permits[0].remaining_s() > 0:
            threading.Event().wait(0.01)
        return [SUCCEEDED] * len(call.items)

    world = World(url, redis_url, database, Scripted(apply)).with_job(20)
    world.config = replace(QUICK, in_flight=1)
    permits: list[Permit] = []
    with inside(world, label, "slice") as (permit, tools):
        permits.append(permit)
        report = Slice(world.context(), tools).run()
    assert report.reason == f"the permit of {label.name} is lost"
    assert world.handler.sent == [(0, 1, 2, 3, 4)]
    assert checkpoint(database, world.job_id)["holder"] is None


def test_a_permit_that_could_run_out_during_the_request_is_not_used(
    url: str, redis_url: str, database: Database, label: Label
) -> None:
    """The clock stood still over the grant: what is left is shorter than a request may take, and it cannot be renewed."""
    world = World(url, redis_url, database, Scripted()).with_job(5)
    with inside(world, label, "slice") as (permit, tools):
        sql(database, "DELETE FROM concurrency_holders WHERE label = %(l)s", {"l": label.name})
        permit._ends_at_s = permit._clock() + 5.0
        Slice(world.context(), tools).run()
    assert world.handler.calls == []


def test_a_broken_off_slice_keeps_its_permit_while_its_request_may_be_under_way(
    url: str, redis_url: str, database: Database, label: Label
) -> None:
    """The slice dies of an error with a request out: nobody enters before that request's deadline."""
    is_out, may_end = threading.Event(), threading.Event()

    def apply(call: Call) -> Sequence[ItemOutcome]:
        is_out.set()
        assert may_end.wait(20)
        return [SUCCEEDED] * len(call.items)

    class Bomb:
        def stop_reason(self) -> str:
            if is_out.is_set():
                raise ArithmeticError("boom")
            return ""

    world = World(url, redis_url, database, Scripted(apply)).with_job(5)
    other = new_job(database)
    try:
        with inside(world, label, "slice") as (permit, tools), pytest.raises(ArithmeticError):
            Slice(world.context(), replace(tools, signals=Bomb())).run()
        assert 11 < permit.busy_s <= 12
        permit.leave(database)
        assert isinstance(enter(database, label, jobs.get(database, other), holder("other")), Waiting)
    finally:
        may_end.set()


def test_permits_of_dead_processes_of_this_host_end_at_once(database: Database) -> None:
    """A live process keeps its permit; a dead one, a reused pid and one that is told dead lose theirs and wake the next."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait()
    me = this_holder("permit-alive")
    holders = {
        "alive": me,
        "dead": replace(me, name="permit-dead", pid=gone.pid),
        "reused": replace(me, name="permit-reused", pid_started=me.pid_started - 100),
        "elsewhere": replace(me, name="permit-elsewhere", host="another", pid=gone.pid),
        "told": replace(me, name="permit-told", host="another"),
    }
    found = {name: Label(f"dead-or-alive:{name}", 1) for name in holders}
    waiting = {}
    for name, each in holders.items():
        assert isinstance(labels.acquire(database, found[name], new_job(database), each), labels.Entered)
        waiting[name] = new_job(database)
        assert isinstance(labels.acquire(database, found[name], waiting[name], holder(f"next-{name}")), Waiting)

    end_leases_of_dead_processes(database)
    assert {name for name in found if not held(database, found[name])} == {"dead", "reused"}
    sweep(database, dead_holders=lambda: ["permit-told"])
    assert {name for name in found if not held(database, found[name])} == {"dead", "reused", "told"}
    woken = {name for name, job_id in waiting.items() if checkpoint(database, job_id)["wait_reason"] == ""}
    assert woken == {"dead", "reused", "told"}


def test_a_job_that_waited_as_long_as_it_may_is_told_so(database: Database, label: Label) -> None:
    """The error names the label, the wait, who is inside and what to do; a job that is inside itself never gets it."""
    limited = replace(label, max_sleep_s=60.0)
    inside_now, job_id = new_job(database, 10, part_size=5), new_job(database)
    permit_of(database, limited, inside_now, "inside")
    for each in (inside_now, job_id):
        assert isinstance(enter(database, limited, jobs.get(database, each), holder("again")), Waiting)
    sql(
        database,
        "UPDATE concurrency_waiters SET since = now() - interval '61 s' WHERE label = %(l)s",
        {"l": label.name},
    )
    assert isinstance(enter(database, limited, jobs.get(database, inside_now), holder("again")), Waiting)
    assert isinstance(enter(database, label, jobs.get(database, job_id), holder("patient")), Waiting)
    with pytest.raises(ConcurrencyLimitExceededError) as caught:
        enter(database, limited, jobs.get(database, job_id), holder("again"))
    assert caught.value.label == label.name
    assert caught.value.message == (
        f"job {job_id} waited 61 s for a permit of '{label.name}' and may wait 60 s: 1 of 1 are in use;"
        f" inside: job {inside_now}."
    )
    assert f"jobqueue retry {job_id}" in caught.value.remedy


# --- declaring ---


def request(**more: object) -> JobRequest:
    return JobRequest(**({"type": "noop", "provider": "noop", "operation": "noop", "account": "demo"} | more))  # type: ignore[arg-type]


def test_a_handler_declares_a_label_for_all_its_jobs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was enqueued without one bears the handler's, jobs from before included; one of its own replaces it."""
    handler = registry.handler("noop")
    before = enqueue(database, request(), Rows(["a"])).job_id
    assert label_of(jobs.get(database, before)) is None
    monkeypatch.setattr(type(handler), "concurrency", ConcurrencyLimit("library:{account}", 2, 600.0), raising=True)
    own = enqueue(database, request(concurrency=ConcurrencyLimit("job {job}")), Rows(["b"])).job_id

    assert label_of(jobs.get(database, before)) == Label("library:demo", 2, 600.0)
    assert label_of(jobs.get(database, own)) == Label(f"job {own}", 1)


def test_a_label_that_cannot_be_made_stores_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one given with the job nor the handler's own: the job is refused before it exists."""
    jobs_before = one(database, "SELECT count(*) FROM jobs")
    with pytest.raises(InvalidInputError, match="'acount' is unknown"):
        enqueue(database, request(concurrency=ConcurrencyLimit("x:{acount}")), Rows(["a"]))
    with pytest.raises(InvalidInputError, match="too long"):
        enqueue(database, request(concurrency=ConcurrencyLimit("x" * 190 + "{job}")), Rows(["a"]))
    monkeypatch.setattr(type(registry.handler("noop")), "concurrency", ConcurrencyLimit("library:{account}"))
    with pytest.raises(InvalidInputError, match="this job has no account"):
        enqueue(database, request(account=""), Rows(["a"]))
    assert one(database, "SELECT count(*) FROM jobs") == jobs_before


def test_a_rollback_bears_the_label_of_the_job_it_undoes(database: Database) -> None:
    """The very label, whatever it was made of; and it waits as long as it takes."""
    limit = ConcurrencyLimit("{type} {{of}} {account}", 1, max_sleep_s=5.0)
    source = request(
        type="enforcement", provider="spotify", operation="unsave_tracks", concurrency=limit
    )  # a job that can be undone
    job_id = enqueue(database, source, Rows(["4iV5W9uYEdYUVa79Axb7Rh"])).job_id
    rollback = enqueue_rollback(database, job_id)
    assert label_of(jobs.get(database, rollback.job_id)) == Label("enforcement {of} demo", 1)
