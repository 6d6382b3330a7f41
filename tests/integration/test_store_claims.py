"""Leases: who holds which part, until when, and what happens to a part between its holders."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from store_world import (
    checkpoint,
    claim_all,
    expire_leases,
    finish_part,
    holder,
    new_job,
    one,
    release,
    scratch_database,
    sql,
)

from jobqueue.engine import control
from jobqueue.engine.sweep import sweep
from jobqueue.local import LocalStack
from jobqueue.model.job import JobEvent, JobStatus, Priority
from jobqueue.store import checkpoints, due, jobs
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "store_claims") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


def test_twenty_workers_at_once_never_take_one_part_twice(url: str, database: Database) -> None:
    """Twenty connections race for forty parts until none is left; each part has exactly one holder and fence 1."""
    job_id = new_job(database, 40, part_size=1)
    gate = threading.Barrier(20)

    def work(number: int) -> list[tuple[int, int]]:
        taken = []
        with Database(url) as own:
            assert not own.connection.closed
            gate.wait(30)
            while found := checkpoints.claim(own, job_id, holder(f"w{number}"), count=1, lease_s=20):
                taken += [(claim.part, claim.fence) for claim in found]
        return taken

    with ThreadPoolExecutor(20) as pool:
        taken = [pair for pairs in pool.map(work, range(20)) for pair in pairs]

    assert Counter(part for part, _ in taken) == Counter(range(40))
    assert {fence for _, fence in taken} == {1}
    assert jobs.get(database, job_id).status is JobStatus.RUNNING
    assert jobs.get(database, job_id).started_at is not None


def test_a_part_under_a_live_lease_is_not_claimed_and_one_whose_lease_ended_is(database: Database) -> None:
    """The fence grows with each claim, and a lease that ended by itself counts as a crash of its holder."""
    job_id = new_job(database)
    first = claim_all(database, job_id, "first")[0]
    assert (first.fence, first.was_held, first.crashes) == (1, False, 0)
    assert claim_all(database, job_id, "second") == {}
    expire_leases(database, job_id)
    second = claim_all(database, job_id, "second")[0]
    assert (second.fence, second.was_held, second.crashes) == (2, True, 1)


def test_only_the_holder_renews(database: Database) -> None:
    """A renewal under an old fence, or of a part that was released, changes nothing."""
    job_id = new_job(database, 4, part_size=2)
    old = claim_all(database, job_id, "old")
    expire_leases(database, job_id)
    assert checkpoints.renew(database, job_id, {0: old[0].fence, 1: old[1].fence}, lease_s=60) == {0, 1}
    expire_leases(database, job_id)
    new = claim_all(database, job_id, "new")
    before = checkpoint(database, job_id)["due_at"]

    assert checkpoints.renew(database, job_id, {0: old[0].fence, 1: old[1].fence}, lease_s=600) == set()
    assert checkpoint(database, job_id)["due_at"] == before
    release(database, job_id, new[0], due_in_s=60)
    assert checkpoints.renew(database, job_id, {0: new[0].fence, 1: new[1].fence}, lease_s=60) == {1}


def test_a_stale_release_changes_nothing(database: Database) -> None:
    """The part stays with the one who took it over."""
    job_id = new_job(database)
    old = claim_all(database, job_id, "old")[0]
    expire_leases(database, job_id)
    claim_all(database, job_id, "new")
    before = checkpoint(database, job_id)
    assert release(database, job_id, old) == set()
    assert checkpoint(database, job_id) == before


def test_a_parked_part_falls_due_at_its_time(database: Database) -> None:
    """The reason stays readable, nothing is claimed before, and the time is in the transaction that gives the lease up."""
    job_id = new_job(database)
    claim = claim_all(database, job_id)[0]
    row = {"part": 0, "fence": claim.fence, "due_in_s": 30.0, "reason": "waiting for noop", "is_finished": False}
    assert checkpoints.release(database, job_id, [row]) == {0}
    found = checkpoint(database, job_id)
    assert (found["holder"], found["holder_host"], found["holder_pid"]) == (None, None, None)
    assert found["wait_reason"] == "waiting for noop"
    assert 29 < due.next_due_in_s(database, job_id=job_id) <= 30  # type: ignore[operator]
    assert claim_all(database, job_id) == {}


@pytest.mark.parametrize("stop", [control.pause, control.cancel])
def test_a_part_released_after_its_job_was_stopped_does_not_fall_due(database: Database, stop: object) -> None:
    """Paused or cancelled, nothing wakes it but a person."""
    job_id = new_job(database, 4, part_size=2)
    claims = claim_all(database, job_id)
    release(database, job_id, claims[1], due_in_s=5)
    stop(database, job_id)  # type: ignore[operator]
    assert checkpoint(database, job_id, 0)["holder"] == "holder"
    assert checkpoint(database, job_id, 1)["due_at"] is None
    assert release(database, job_id, claims[0]) == {0}
    assert checkpoint(database, job_id, 0)["due_at"] is None
    assert claim_all(database, job_id) == {}


def test_a_finished_part_is_never_due_again_and_an_unfinished_one_is_not_finished(database: Database) -> None:
    """Finished needs an outcome for every item; short of that the part falls due instead."""
    job_id = new_job(database, 4, part_size=2)
    claims = claim_all(database, job_id)
    finish_part(database, job_id, claims[0])
    assert release(database, job_id, claims[1], is_finished=True) == {1}
    done, left = checkpoint(database, job_id, 0), checkpoint(database, job_id, 1)
    assert (done["due_at"], done["finished_at"] is not None) == (None, True)
    assert (left["due_at"] is not None, left["finished_at"]) == (True, None)
    assert list(claim_all(database, job_id)) == [1]


def test_two_last_parts_that_end_at_once_end_the_job_once(url: str, database: Database) -> None:
    """Ten jobs whose two parts are released by two connections together: each ends, and one of the two sees it."""
    gate = threading.Barrier(2)
    job_ids = [new_job(database, 2, part_size=1) for _ in range(10)]
    claims = {job_id: claim_all(database, job_id) for job_id in job_ids}

    def end(part: int) -> list[JobStatus | None]:
        seen = []
        with Database(url) as own:
            for job_id in job_ids:
                gate.wait(30)
                finish_part(own, job_id, claims[job_id][part])
                seen.append(jobs.finish(own, job_id))
        return seen

    with ThreadPoolExecutor(2) as pool:
        seen = list(zip(*pool.map(end, range(2)), strict=True))

    assert all(set(pair) == {JobStatus.SUCCEEDED, None} for pair in seen)
    assert {jobs.get(database, job_id).status for job_id in job_ids} == {JobStatus.SUCCEEDED}


def _in_thread_until_blocked(pool: ThreadPoolExecutor, url: str, database: Database, work: object, *args: object):  # type: ignore[no-untyped-def]
    """Start *work* on its own connection and return once Postgres makes it wait for a lock."""
    name = f"blocked-{threading.get_ident()}"

    def run() -> object:
        with Database(url, name=name) as own:
            return work(own, *args)  # type: ignore[operator]

    future = pool.submit(run)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %(n)s AND wait_event_type = 'Lock'"
    while not one(database, waits, {"n": name}):
        assert not future.done(), future.result()
    return future


@pytest.mark.parametrize(("event", "state"), [(JobEvent.PAUSE, "paused"), (JobEvent.CANCEL, "cancelled")])
def test_a_first_claim_that_races_with_a_person_does_not_start_the_job_again(
    url: str, database: Database, event: JobEvent, state: str
) -> None:
    """The claim saw the job queued and waits for its row; the person's decision, committed meanwhile, stands."""
    job_id = new_job(database)
    with ThreadPoolExecutor(1) as pool, Database(url) as other:
        with other.transaction():
            jobs.move(other, job_id, event)
            claimed = _in_thread_until_blocked(pool, url, database, claim_all, job_id)
        claimed.result(30)
    assert checkpoints.job_state(database, job_id) == state


def test_a_part_released_while_its_job_is_resumed_is_not_lost(url: str, database: Database) -> None:
    """The release still saw the pause and the resume still saw the holder; the sweep lets the part fall due."""
    job_id = new_job(database)
    claim = claim_all(database, job_id)[0]
    control.pause(database, job_id)
    with ThreadPoolExecutor(1) as pool, Database(url) as other:
        with other.transaction():
            sql(other, "SELECT FROM batch_checkpoints WHERE job_id = %(j)s FOR UPDATE", {"j": job_id})
            released = _in_thread_until_blocked(pool, url, database, release, job_id, claim)
            control.resume(database, job_id)
        assert released.result(30) == {0}
    sweep(database)
    assert list(claim_all(database, job_id)) == [0]


def test_the_sweep_leaves_parts_of_stopped_jobs_and_ended_parts_alone(database: Database) -> None:
    """What a person paused does not fall due, nor what is done, nor what waits for its time."""
    paused, running = new_job(database), new_job(database, 4, part_size=2)
    claims = claim_all(database, running)
    finish_part(database, running, claims[0])
    release(database, running, claims[1], due_in_s=60)
    control.pause(database, paused)
    before = [checkpoint(database, paused), checkpoint(database, running, 0), checkpoint(database, running, 1)]
    sweep(database)
    assert [checkpoint(database, paused), checkpoint(database, running, 0), checkpoint(database, running, 1)] == before


def test_a_lease_that_ended_after_its_job_was_stopped_is_taken_back_for_good(database: Database) -> None:
    """Nobody will claim the part, so the sweep does; its holder, should it wake up, can renew and release no more."""
    job_id = new_job(database)
    stale = claim_all(database, job_id)[0]
    control.cancel(database, job_id)
    expire_leases(database, job_id)
    sweep(database)
    found = checkpoint(database, job_id)
    assert (found["holder"], found["due_at"]) == (None, None)
    assert found["fence"] > stale.fence
    assert checkpoints.renew(database, job_id, {0: stale.fence}, lease_s=20) == set()
    assert release(database, job_id, stale) == set()


def test_parts_of_dead_holders_fall_due_at_once_and_keep_their_names(database: Database) -> None:
    """So the next claim counts the crash; other holders keep their leases."""
    dead_job, live_job = new_job(database), new_job(database)
    claim_all(database, dead_job, "dead")
    claim_all(database, live_job, "alive")
    assert due.end_leases_of(database, ["dead", "unknown"]) == 1
    assert due.end_leases_of(database, ["dead"]) == 0
    assert due.end_leases_of(database, []) == 0
    assert claim_all(database, live_job) == {}
    assert claim_all(database, dead_job)[0].was_held


def test_a_hint_is_not_repeated_within_ten_seconds(database: Database) -> None:
    """A part is handed to the dispatcher once; again when the hint is old, or when it fell due anew."""
    job_id = new_job(database, 3, part_size=1, priority=Priority.LOW)

    def hinted(**more: float) -> list[int]:
        found = due.take_due(database, Priority.LOW, count=2, job_id=job_id, **more)
        return [part.part for part in found]

    assert hinted() == [0, 1]
    assert due.next_due_in_s(database, job_id=job_id) is not None
    assert hinted() == [2]
    assert hinted() == []
    assert due.next_due_in_s(database, job_id=job_id) is None
    assert hinted(again_after_s=0.0) == [0, 1]
    claim = checkpoints.claim(database, job_id, holder(), count=1, lease_s=20)[0]
    release(database, job_id, claim)
    assert hinted() == [claim.part]
    assert due.take_due(database, Priority.HIGH, count=5, job_id=job_id) == []


def test_one_leads_until_its_lease_ends_or_it_steps_down(database: Database) -> None:
    """The leader may renew, nobody else may take over before, and stepping down frees the lead at once."""
    assert due.lead(database, "test", "first", lease_s=60)
    assert due.lead(database, "test", "first", lease_s=60)
    assert not due.lead(database, "test", "second", lease_s=60)
    assert due.leader(database, "test") == "first"
    due.step_down(database, "test", "second")
    assert due.leader(database, "test") == "first"
    due.step_down(database, "test", "first")
    assert due.leader(database, "test") is None
    assert due.lead(database, "test", "second", lease_s=60)
    sql(database, "UPDATE leader_leases SET lease_until = now() - interval '1 second' WHERE role = 'test'")
    assert due.leader(database, "test") is None
    assert due.lead(database, "test", "first", lease_s=60)
