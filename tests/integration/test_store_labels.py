"""The semaphore of rows: never more than its capacity, first come first served, and nobody forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import pytest
from store_world import checkpoint, claim_all, finish_part, holder, new_job, one, scratch_database, sql

from jobqueue.engine import control
from jobqueue.local import LocalStack
from jobqueue.model.job import Priority
from jobqueue.model.label import Label
from jobqueue.store import due, jobs, labels
from jobqueue.store.database import Database
from jobqueue.store.labels import Entered, Idle, Waiting

_numbers = count(1)


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "store_labels") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


@pytest.fixture
def label() -> Label:
    """A label of this test alone, with one permit."""
    return Label(f"rechunk:{next(_numbers)}", 1)


def ask(database: Database, label: Label, job_id: int, name: str = "") -> Entered | Waiting | Idle:
    return labels.acquire(database, label, job_id, holder(name or f"slice-of-{job_id}"))


def leave(database: Database, label: Label, job_id: int, name: str = "") -> tuple[int, ...]:
    return labels.release(database, label, job_id, name or f"slice-of-{job_id}")


def inside(database: Database, label: Label) -> list[int]:
    return [each.job_id for each in labels.status(database, label.name).holders]


def line(database: Database, label: Label) -> list[int]:
    return [each.job_id for each in labels.status(database, label.name).waiters]


def is_due(database: Database, job_id: int) -> bool:
    return bool(
        one(database, "SELECT due_at <= now() FROM batch_checkpoints WHERE job_id = %(j)s AND part = 0", {"j": job_id})
    )


def run_out(database: Database, label: Label) -> None:
    """As if every permit's time had passed."""
    sql(
        database,
        "UPDATE concurrency_holders SET until = now() - interval '1 second' WHERE label = %(l)s",
        {"l": label.name},
    )


def never_comes(database: Database, job_id: int) -> None:
    """As if the job had been called long ago."""
    sql(
        database,
        "UPDATE concurrency_waiters SET called_at = now() - make_interval(secs => %(s)s) WHERE job_id = %(j)s",
        {"s": labels.CALL_S + 1, "j": job_id},
    )


@pytest.mark.parametrize("capacity", [1, 3])
def test_twenty_jobs_at_once_never_exceed_the_capacity(
    url: str, database: Database, label: Label, capacity: int
) -> None:
    """Twenty connections ask at the same instant: as many enter as there are permits, the others are all in line."""
    label = replace(label, capacity=capacity)
    job_ids = [new_job(database) for _ in range(20)]
    gate = threading.Barrier(20)

    def attempt(job_id: int) -> Entered | Waiting | Idle:
        with Database(url) as own:
            assert own.row("job_state", {"job_id": job_id})
            gate.wait()
            return ask(own, label, job_id)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(attempt, job_ids))

    entered = {job_id for job_id, answer in zip(job_ids, answers, strict=True) if isinstance(answer, Entered)}
    assert len(entered) == capacity
    assert set(inside(database, label)) == entered
    assert set(line(database, label)) == set(job_ids) - entered


def test_twenty_jobs_that_come_and_go_never_meet(url: str, database: Database, label: Label) -> None:
    """Each enters and leaves until all were inside once; whoever is inside sees at most the capacity, itself included."""
    label = replace(label, capacity=2)
    job_ids = [new_job(database) for _ in range(20)]
    lock = threading.Lock()
    present: set[int] = set()
    most: list[int] = []

    def attempt(job_id: int) -> None:
        with Database(url) as own:
            turn = threading.Event()
            for _ in range(500):
                if isinstance(ask(own, label, job_id), Entered):
                    break
                turn.wait(0.02)
            else:
                raise AssertionError(f"job {job_id} never came in")
            with lock:
                present.add(job_id)
                most.append(len(present))
            turn.wait(0.02)
            with lock:
                present.discard(job_id)
            leave(own, label, job_id)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(attempt, job_ids))

    assert len(most) == 20
    assert max(most) == 2
    assert inside(database, label) == []


def test_a_denied_job_parks_its_due_parts_and_says_what_it_waits_for(database: Database, label: Label) -> None:
    """Until the permit may run out; the parts of a job that waits are no work for anybody."""
    first, second = new_job(database), new_job(database, 10, part_size=5)
    assert isinstance(ask(database, label, first), Entered)
    answer = ask(database, label, second)

    assert isinstance(answer, Waiting)
    assert (answer.in_use, answer.capacity, answer.ahead, answer.is_inside) == (1, 1, 0, False)
    for part in (0, 1):
        row = checkpoint(database, second, part)
        assert row["wait_reason"] == f"waiting for {label.name} (1 of 1 in use)"
    assert 15 < (due.next_due_in_s(database, job_id=second) or 0) <= 20
    assert claim_all(database, second) == {}
    assert jobs.get(database, second).status == "queued"


def test_a_release_wakes_the_first_in_line_and_nobody_else(database: Database, label: Label) -> None:
    """In the statement that gives the permit up its parts fall due; the second one sleeps on."""
    inside_now, first, second = (new_job(database) for _ in range(3))
    for job_id in (inside_now, first, second):
        ask(database, label, job_id)
    assert not is_due(database, first)

    assert leave(database, label, inside_now) == (first,)

    assert is_due(database, first)
    assert checkpoint(database, first)["hinted_at"] is None
    assert not is_due(database, second)
    assert isinstance(ask(database, label, first), Entered)


def test_the_line_is_first_come_first_served(database: Database, label: Label) -> None:
    """Whoever asks out of turn, a free permit or not, stays behind those who were there before."""
    inside_now, *waiting = (new_job(database) for _ in range(4))
    for job_id in (inside_now, *waiting):
        ask(database, label, job_id)
    served = []
    leave(database, label, inside_now)
    while waiting:
        for job_id in reversed(waiting):
            if isinstance(ask(database, label, job_id), Entered):
                served.append(job_id)
                waiting.remove(job_id)
                leave(database, label, job_id)
                break
        else:
            raise AssertionError(f"a free permit, and none of {waiting} gets it")

    assert served == sorted(served)
    assert len(served) == 3


def test_a_newcomer_does_not_overtake_who_was_called(database: Database, label: Label) -> None:
    """Between the call and its coming the permit is free, and kept."""
    inside_now, called, newcomer = (new_job(database) for _ in range(3))
    ask(database, label, inside_now)
    ask(database, label, called)
    leave(database, label, inside_now)

    answer = ask(database, label, newcomer)

    assert isinstance(answer, Waiting)
    assert (answer.in_use, answer.ahead) == (0, 1)
    assert answer.reason == f"waiting for {label.name} (0 of 1 in use, 1 ahead)"
    assert isinstance(ask(database, label, called), Entered)


def test_a_job_with_a_higher_priority_goes_first(database: Database, label: Label) -> None:
    """It passes whoever waits, called or not; they keep their order."""
    inside_now, low, high = (
        new_job(database),
        new_job(database, priority=Priority.LOW),
        new_job(database, priority=Priority.HIGH),
    )
    for job_id in (inside_now, low, high):
        ask(database, label, job_id)
    assert line(database, label) == [high, low]
    assert leave(database, label, inside_now) == (high,)


def test_who_was_called_and_never_comes_does_not_block_the_others(database: Database, label: Label) -> None:
    """Its worker may be gone: after a while others pass it, and it keeps its place for when it comes."""
    inside_now, lost, other = (new_job(database) for _ in range(3))
    for job_id in (inside_now, lost, other):
        ask(database, label, job_id)
    leave(database, label, inside_now)
    never_comes(database, lost)

    assert isinstance(ask(database, label, other), Entered)
    assert isinstance(ask(database, label, lost), Waiting)
    assert line(database, label)[0] == lost
    assert leave(database, label, other) == (lost,)


def test_the_sweep_passes_over_who_never_comes(database: Database, label: Label) -> None:
    """The next in line is called without anybody asking."""
    inside_now, lost, other = (new_job(database) for _ in range(3))
    for job_id in (inside_now, lost, other):
        ask(database, label, job_id)
    leave(database, label, inside_now)
    assert labels.tidy_all(database) == ()
    never_comes(database, lost)
    assert labels.tidy_all(database) == (other,)
    assert is_due(database, other)


def test_a_crashed_holder_is_out_when_its_permit_has_run_out(database: Database, label: Label) -> None:
    """Not before; then the sweep wakes the first in line."""
    crashed, waiting = new_job(database), new_job(database)
    ask(database, label, crashed)
    ask(database, label, waiting)
    assert labels.tidy_all(database) == ()
    assert isinstance(ask(database, label, waiting), Waiting)

    run_out(database, label)

    assert labels.tidy_all(database) == (waiting,)
    assert is_due(database, waiting)
    assert isinstance(ask(database, label, waiting), Entered)
    assert inside(database, label) == [waiting]


def test_a_permit_that_ran_out_is_taken_over_without_a_sweep(database: Database, label: Label) -> None:
    """Whoever asks clears away what has run out."""
    crashed, waiting = new_job(database), new_job(database)
    ask(database, label, crashed)
    run_out(database, label)
    assert isinstance(ask(database, label, waiting), Entered)
    assert not labels.renew(database, label, f"slice-of-{crashed}")
    assert inside(database, label) == [waiting]


def test_a_renewed_permit_lasts(database: Database, label: Label) -> None:
    """A heartbeat moves its end on, also when it comes late but before anybody else."""
    job_id, other = new_job(database), new_job(database)
    ask(database, label, job_id)
    run_out(database, label)
    assert labels.renew(database, label, f"slice-of-{job_id}")
    assert isinstance(ask(database, label, other), Waiting)


def test_a_holder_known_to_be_dead_is_out_at_once(database: Database, label: Label) -> None:
    """Its permit of each label it held is free, and the first in line woken."""
    crashed, waiting = new_job(database), new_job(database)
    ask(database, label, crashed)
    ask(database, label, waiting)
    assert labels.end_permits_of(database, [f"slice-of-{crashed}"]) == (waiting,)
    assert inside(database, label) == []
    assert is_due(database, waiting)


def test_a_request_that_may_be_under_way_keeps_the_permit_for_so_long(database: Database, label: Label) -> None:
    """A slice that broke off leaves its request at the provider: the next one enters when it must have ended."""
    broken, waiting = new_job(database), new_job(database)
    ask(database, label, broken)
    ask(database, label, waiting)
    assert labels.release(database, label, broken, f"slice-of-{broken}", busy_s=9.0) == ()
    assert isinstance(ask(database, label, waiting), Waiting)
    params = {"l": label.name}
    left_s = one(
        database, "SELECT extract(epoch FROM until - now())::float FROM concurrency_holders WHERE label = %(l)s", params
    )
    assert 8 < left_s <= 9


def test_the_smaller_of_two_capacities_holds_while_its_job_asks(database: Database, label: Label) -> None:
    """Three were let in under three; one that says one waits for all of them, and enters alone."""
    three, two_of_them = replace(label, capacity=3), [new_job(database) for _ in range(2)]
    careful, late = new_job(database), new_job(database)
    for job_id in two_of_them:
        assert isinstance(ask(database, three, job_id), Entered)
    answer = ask(database, label, careful)
    assert isinstance(answer, Waiting)
    assert (answer.in_use, answer.capacity) == (2, 1)

    assert isinstance(ask(database, three, late), Waiting)
    assert labels.status(database, label.name).capacity == 1
    assert leave(database, three, two_of_them[0]) == ()
    assert leave(database, three, two_of_them[1]) == (careful,)
    assert isinstance(ask(database, label, careful), Entered)
    assert isinstance(ask(database, three, late), Waiting)
    leave(database, label, careful)
    assert isinstance(ask(database, three, late), Entered)
    assert labels.status(database, label.name).capacity == 3


def test_slices_of_one_job_count_each(database: Database, label: Label) -> None:
    """One permit a slice: of two slices of a job the second waits, and the job's parts stay there for the first."""
    job_id = new_job(database, 10, part_size=5)
    assert isinstance(ask(database, label, job_id, "one"), Entered)
    answer = ask(database, label, job_id, "two")
    assert isinstance(answer, Waiting)
    assert answer.is_inside
    assert set(claim_all(database, job_id, "one")) == {0, 1}


def test_parts_that_the_slice_inside_takes_are_not_hinted_at(database: Database, label: Label) -> None:
    """A hint would only fork a horse to be denied; once the slice has left, one permit is worth one hint."""
    job_id = new_job(database, 10, part_size=2, priority=Priority.LOW)
    ask(database, label, job_id, "one")
    assert due.take_due(database, Priority.LOW, count=10, job_id=job_id) == []
    leave(database, label, job_id, "one")
    assert len(due.take_due(database, Priority.LOW, count=10, job_id=job_id)) == 1


def test_who_had_a_turn_goes_behind_those_who_wait(database: Database, label: Label) -> None:
    """Two jobs with many parts take turns, however often each of them asks."""
    one_job, other = new_job(database, 10, part_size=1), new_job(database, 10, part_size=1)
    ask(database, label, one_job)
    ask(database, label, one_job, "second")
    ask(database, label, other)
    assert line(database, label) == [one_job, other]
    turns = []
    current, name = one_job, ""
    for _ in range(4):
        (following,) = leave(database, label, current, name)
        assert isinstance(ask(database, label, current), Waiting)
        assert isinstance(ask(database, label, following), Entered)
        turns.append(following)
        current = following
    assert turns == [other, one_job, other, one_job]


def test_a_job_with_nothing_due_neither_enters_nor_waits(database: Database, label: Label) -> None:
    """A hint that came twice takes nobody's turn."""
    job_id = new_job(database)
    claim_all(database, job_id)
    assert ask(database, label, job_id) == Idle()
    assert ask(database, label, 987_654_321) == Idle()
    assert (inside(database, label), line(database, label)) == ([], [])


def test_a_waiting_job_whose_work_was_done_is_passed_over(database: Database, label: Label) -> None:
    """Its own slice inside took the last part: its place in line holds nobody up."""
    busy, other = new_job(database, 2), new_job(database)
    ask(database, label, busy, "one")
    ask(database, label, busy, "two")
    ask(database, label, other)
    finish_part(database, busy, claim_all(database, busy, "one")[0])
    jobs.finish(database, busy)
    assert leave(database, label, busy, "one") == (other,)


@pytest.mark.parametrize("stop", [control.pause, control.cancel])
def test_a_stopped_job_leaves_the_line(
    database: Database, label: Label, stop: Callable[[Database, int], object]
) -> None:
    """Paused or cancelled, it is not called, and its parts do not fall due."""
    inside_now, stopped, other = (new_job(database) for _ in range(3))
    for job_id in (inside_now, stopped, other):
        ask(database, label, job_id)
    stop(database, stopped)
    assert one(database, "SELECT count(*) FROM concurrency_waiters WHERE job_id = %(j)s", {"j": stopped}) == 0
    assert leave(database, label, inside_now) == (other,)
    assert checkpoint(database, stopped)["due_at"] is None


def test_the_wait_is_counted_from_the_first_denial_and_anew_after_a_turn(database: Database, label: Label) -> None:
    """Asking again does not start it over; having been inside does."""
    inside_now, job_id = new_job(database), new_job(database)
    ask(database, label, inside_now)
    ask(database, label, job_id)
    sql(
        database, "UPDATE concurrency_waiters SET since = now() - interval '1 hour' WHERE job_id = %(j)s", {"j": job_id}
    )
    answer = ask(database, label, job_id)
    assert isinstance(answer, Waiting)
    assert 3600 <= answer.waited_s < 3660
    leave(database, label, inside_now)
    ask(database, label, job_id)
    ask(database, label, inside_now)
    leave(database, label, job_id)
    ask(database, label, inside_now)
    answer = ask(database, label, job_id)
    assert isinstance(answer, Waiting)
    assert answer.waited_s < 60


def test_a_job_is_looked_at_when_its_wait_is_over(database: Database, label: Label) -> None:
    """Not only when the permit may run out: it fails in time."""
    inside_now, job_id = new_job(database), new_job(database)
    ask(database, label, inside_now)
    ask(database, replace(label, max_sleep_s=3.0), job_id)
    assert 2 < (due.next_due_in_s(database, job_id=job_id) or 0) <= 3


def test_labels_do_not_hinder_each_other(database: Database, label: Label) -> None:
    """Another label is another semaphore."""
    first, second = new_job(database), new_job(database)
    ask(database, label, first)
    assert isinstance(ask(database, replace(label, name=label.name + "x"), second), Entered)


def test_the_status_names_who_is_inside_and_who_waits_in_order(database: Database, label: Label) -> None:
    """Nobody, then one inside and two in line."""
    assert labels.status(database, label.name).as_dict() == {
        "label": label.name, "capacity": None, "holders": [], "waiters": [],
    }  # fmt: skip
    job_ids = [new_job(database) for _ in range(3)]
    for job_id in job_ids:
        ask(database, label, job_id)
    found = labels.status(database, label.name).as_dict()
    assert found["capacity"] == 1
    assert [each["job_id"] for each in found["holders"]] == job_ids[:1]
    assert [each["job_id"] for each in found["waiters"]] == job_ids[1:]
