"""What a slice does with what a crash, a hang or a lost lease left behind."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from engine_world import QUICK, Scripted, World
from store_world import (
    PROVIDER,
    claim_all,
    contents,
    expire_leases,
    one,
    opened_row,
    part_row,
    scratch_database,
    sql,
    write,
)

from jobqueue.engine.aftermath import Aftermath
from jobqueue.engine.departure import SliceReport
from jobqueue.engine.draft import Draft
from jobqueue.engine.heartbeat import Heartbeat
from jobqueue.engine.holding import Holding
from jobqueue.handler import Call, Reading
from jobqueue.local import LocalStack
from jobqueue.model.item import SUCCEEDED, ItemOutcome
from jobqueue.model.job import JobStatus
from jobqueue.store.checkpoints import Record
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_crash") as found:
        yield found


@pytest.fixture
def make(url: str, redis_url: str) -> Iterator[Callable[..., World]]:
    with Database(url) as database:

        def made(apply: Callable[[Call], Any] | None = None, handler: Scripted | None = None) -> World:
            return World(url, redis_url, database, handler or Scripted(apply))

        yield made


def crash_with(world: World, *batches: dict[str, Any], cursor: int, journal: Sequence[int] = ()) -> None:
    """As if a worker had died after committing these intents, with their requests perhaps on the wire."""
    claim = claim_all(world.database, world.job_id, "crashed")[0]
    epoch = one(world.database, "SELECT epoch FROM limiter_epochs WHERE provider = %(p)s", {"p": PROVIDER})
    entries = [{"part": 0, "seq": seq, "batch_no": 1, "before": {"n": seq}, "after": {"n": -seq}} for seq in journal]
    row = part_row(0, claim.fence, has_intents=True, cursor=cursor, batch_no=max(b["no"] for b in batches))
    write(world.database, world.job_id, Record([row], opened=list(batches), journal=entries), epoch=epoch)
    expire_leases(world.database, world.job_id)


class _Death(Exception):
    """Ends the slice where a real process would die."""


class _Mortal:
    """What a killed process looks like from outside: a fatal call never answers, and its slice ends without a word.

    Attributes:
        deaths: The positions of each fatal call's items.
    """

    def __init__(self, is_fatal: Callable[[Call], bool]) -> None:
        self.deaths: list[tuple[int, ...]] = []
        self._is_fatal = is_fatal
        self._is_dying = False
        self._is_over = threading.Event()

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        if self._is_fatal(call):
            self.deaths.append(tuple(item.seq for item in call.items))
            self._is_dying = True
            self._is_over.wait(20)
        return [SUCCEEDED] * len(call.items)

    def stop_reason(self) -> str:
        if self._is_dying:
            raise _Death
        return ""

    def run(self, world: World, most: int = 40) -> None:
        """Slices until the job has ended, each taking over from its dead predecessor."""
        world.signals = self  # type: ignore[assignment]
        for number in range(most):
            if world.status.is_terminal:
                return
            expire_leases(world.database, world.job_id)
            self._is_dying, self._is_over = False, threading.Event()
            with suppress(_Death):
                world.run(f"mortal-{number}")
            self._is_over.set()
        raise AssertionError(f"still {world.status} after {most} slices: {self.deaths}")


def test_what_was_in_flight_at_a_crash_is_repeated_verbatim(make: Callable[..., World]) -> None:
    """The same items under the same key, whatever the batch size is now; the rest goes on behind it."""
    world = make().with_job(12)
    crash_with(world, opened_row(0, 1, 0, 6, idempotency_key="the-key"), cursor=7)
    world.size = 3
    assert world.run_to_the_end() is JobStatus.SUCCEEDED

    repeated = [call for call in world.handler.calls if call.idempotency_key == "the-key"]
    assert [[item.seq for item in call.items] for call in repeated] == [[0, 1, 2, 3, 4, 5, 6]]
    assert Counter(seq for seqs in world.handler.sent for seq in seqs) == Counter(range(12))
    assert [(b["no"], b["status"], b["crashes"]) for b in world.batches][:2] == [(1, "repeated", 0), (2, "recorded", 1)]
    world.agrees(12)


def test_a_crash_before_an_effect_that_must_not_be_repeated_is_probed(make: Callable[..., World]) -> None:
    """The recorded intent says the effect may have been sent; only what certainly did not happen is sent."""

    class Probing(Scripted):
        def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
            self.note_probe(call)
            return [None if item.seq == 2 else SUCCEEDED for item in call.items]

    world = make(handler=Probing()).with_job(4)
    world.operation = replace(world.operation, is_idempotent=False)
    crash_with(world, opened_row(0, 1, 0, 3), cursor=4)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    assert world.handler.sent == [(2,)]
    world.agrees(4)


def test_an_effect_under_way_when_its_process_died_is_on_record_as_such(make: Callable[..., World]) -> None:
    """The successor looks before it sends, and finds that nothing is left to send."""
    dies = [True]
    mortal = _Mortal(lambda call: bool(dies and dies.pop()))

    class Probing(Scripted):
        def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
            self.note_probe(call)
            return [SUCCEEDED] * len(call.items)

    world = make(handler=Probing(mortal.apply)).with_job(3)
    world.operation = replace(world.operation, is_idempotent=False)
    mortal.run(world)
    assert (len(world.handler.calls), len(world.handler.probes)) == (1, 1)
    assert set(world.outcomes.values()) == {"succeeded"}
    world.agrees(3)


def test_the_before_state_recorded_before_a_crash_stands(make: Callable[..., World]) -> None:
    """A look after the crash might show our own effect: the repeated call gets the journalled state, and no look is made."""

    class Observing(Scripted):
        def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
            self.note_look(call)
            return Reading(tuple({"n": 99} for _ in call.items))

    world = make(handler=Observing()).with_job(3)
    world.operation = replace(world.operation, is_observed=True)
    crash_with(world, opened_row(0, 1, 0, 2, requests=2), cursor=3, journal=[0, 1, 2])
    assert world.run_to_the_end() is JobStatus.SUCCEEDED
    (call,) = world.handler.calls
    assert call.before == ({"n": 0}, {"n": 1}, {"n": 2})
    assert call.after == ({"n": 0}, {"n": -1}, {"n": -2})
    assert world.handler.looks == []
    assert [j["before"] for j in contents(world.database, world.job_id)["item_journal"]] == list(call.before)


def test_two_crashes_split_a_batch_and_each_half_is_then_alone(make: Callable[..., World]) -> None:
    """The suspect's halves run with nothing beside them; the rest of the job waits for them."""
    at_once: list[tuple[int, tuple[int, ...]]] = []
    lock, count = threading.Lock(), [0]

    def apply(call: Call) -> Sequence[ItemOutcome]:
        with lock:
            count[0] += 1
            at_once.append((count[0], tuple(item.seq for item in call.items)))
        time.sleep(0.002)  # long enough for another request to start beside it, if anything let it
        with lock:
            count[0] -= 1
        return [SUCCEEDED] * len(call.items)

    world = make(apply).with_job(40)
    crash_with(world, opened_row(0, 1, 0, 3, crashes=1), opened_row(0, 2, 4, 7), cursor=8)
    assert world.run_to_the_end() is JobStatus.SUCCEEDED

    assert at_once[:2] == [(1, (0, 1)), (1, (2, 3))]
    assert {seqs for _, seqs in at_once[2:]} >= {(4, 5, 6, 7)}
    world.agrees(40)


def test_a_killer_is_quarantined_and_its_neighbours_finish(make: Callable[..., World]) -> None:
    """Found by halving within a bounded number of deaths; it becomes a dead letter that says so."""
    mortal = _Mortal(lambda call: any(item.seq == 13 for item in call.items))
    world = make(mortal.apply).with_job(20)
    mortal.run(world)
    deaths = mortal.deaths

    assert world.status is JobStatus.COMPLETED_WITH_FAILURES
    assert {seq for seq, status in world.outcomes.items() if status == "failed"} == {13}
    (letter,) = world.letters
    assert (letter["seq"], letter["reason"]) == (13, "the worker died 2 times with this item alone in flight")
    assert letter["fingerprint"].startswith("poison:")
    assert deaths[-2:] == [(13,), (13,)]
    assert len(deaths) <= 2 + 3 + 2
    world.agrees(20)


def test_a_crash_is_charged_to_what_was_in_flight_and_not_to_the_part(make: Callable[..., World]) -> None:
    """Each of the part's four batches dies once and passes the second time: none becomes suspect."""
    seen: set[tuple[int, ...]] = set()

    def dies_once(call: Call) -> bool:
        seqs = tuple(item.seq for item in call.items)
        is_first = seqs not in seen
        seen.add(seqs)
        return is_first

    mortal = _Mortal(dies_once)
    world = make(mortal.apply).with_job(20)
    world.config = replace(QUICK, in_flight=1)
    mortal.run(world)
    assert len(mortal.deaths) == 4
    assert not any(batch["is_isolated"] for batch in world.batches)
    assert set(world.outcomes.values()) == {"succeeded"}
    world.agrees(20)


def test_innocent_neighbours_of_a_killer_are_never_quarantined(make: Callable[..., World]) -> None:
    """Two killers among sixty items with four requests in flight: both are found, everybody else finishes."""
    mortal = _Mortal(lambda call: any(item.seq in (7, 41) for item in call.items))
    world = make(mortal.apply).with_job(60, part_size=20)
    mortal.run(world)
    assert {seq for seq, status in world.outcomes.items() if status != "succeeded"} == {7, 41}
    assert sorted(letter["seq"] for letter in world.letters) == [7, 41]
    world.agrees(60)


def test_a_suspect_whose_part_is_lost_between_look_and_effect_does_not_hold_up_the_rest(
    make: Callable[..., World], url: str
) -> None:
    """The slice goes on with its other part at once instead of keeping it free for a batch that is gone."""

    class Stolen(Scripted):
        def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
            self.note_look(call)
            if call.items[0].seq == 0:
                with Database(url) as other:
                    sql(
                        other,
                        "UPDATE batch_checkpoints SET fence = fence + 1, holder = 'thief',"
                        " due_at = now() + interval '1 hour' WHERE job_id = %(j)s AND part = 0",
                        {"j": world.job_id},
                    )
            return Reading(tuple({} for _ in call.items))

    world = make(handler=Stolen()).with_job(8, part_size=4)
    world.operation = replace(world.operation, is_observed=True)
    crash_with(world, opened_row(0, 1, 0, 0, crashes=1, requests=2, has_effect=False), cursor=1)
    sql(
        world.database,
        "UPDATE batch_checkpoints SET holder = NULL WHERE job_id = %(j)s AND part = 1",
        {"j": world.job_id},
    )
    world.config = replace(QUICK, slice_s=3.0)
    report = world.run()
    assert (report.lost, report.reason) == (1, "nothing is due")
    assert sorted(world.outcomes) == [4, 5, 6, 7]


def test_a_suspect_is_not_taken_beside_what_is_under_way(make: Callable[..., World], url: str) -> None:
    """It goes back where it was, with all that was taken before it, until nothing else is out."""
    world = make().with_job(10)
    crash_with(world, opened_row(0, 1, 0, 0, is_isolated=True), cursor=1)
    context, report = world.context(), SliceReport(world.job_id)
    heartbeat = Heartbeat(Database(url), world.job_id, lease_s=20, interval_s=5)
    with world.tools("taker") as tools:
        holding = Holding(context, tools, heartbeat, Aftermath(context, tools.config, tools.random), report)
        holding.claim(Draft(world.job_id))
        assert holding.take(4, 5, may_be_isolated=False) == []
        (flight,) = holding.take(4, 5, may_be_isolated=True)
        assert (flight.seqs, flight.is_isolated) == ([0], True)
        fresh = holding.take(4, 5, may_be_isolated=False)
    assert [taken.seqs for taken in fresh] == [[1, 2, 3, 4, 5], [6, 7, 8, 9]]
