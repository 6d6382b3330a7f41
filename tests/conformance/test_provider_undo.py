"""Every operation of every provider takes effect, and its inverse restores the state item by item."""

from __future__ import annotations

import pytest
from conformance_cases import CASES, Case, snapshot

from handlers.sandbox.ledger import read_ledger
from jobqueue.model.item import ItemStatus

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@each_case
def test_rollback_restores_the_state_item_by_item(case: Case, start) -> None:
    """All items take effect; the rollback leaves exactly the state before."""
    sandbox, runner = start(case)
    before = snapshot(sandbox)

    run = runner.enforce(case.operation, case.rows, case.options, batch_size=23)

    assert run.statuses == {ItemStatus.SUCCEEDED}
    assert len(run.outcomes) == len(case.rows)
    assert snapshot(sandbox) != before
    undone = runner.roll_back(run, batch_size=17)
    assert undone.statuses == {ItemStatus.SUCCEEDED}
    assert snapshot(sandbox) == before


@each_case
def test_rolling_back_a_rollback_applies_it_again(case: Case, start) -> None:
    """The rollback's own journal leads back to the state after the job."""
    sandbox, runner = start(case)
    run = runner.enforce(case.operation, case.rows, case.options)
    after = snapshot(sandbox)
    undone = runner.roll_back(run)

    again = runner.roll_back(undone)

    assert again.statuses == {ItemStatus.SUCCEEDED}
    assert snapshot(sandbox) == after


@each_case
def test_an_effect_without_a_record_is_rolled_back_too(case: Case, start) -> None:
    """P14: the journal has the before-state but no outcome, as after a kill between effect and record."""
    sandbox, runner = start(case)
    before = snapshot(sandbox)
    run = runner.enforce(case.operation, case.rows, case.options, is_recorded=False)
    assert {entry.status for entry in run.journal} == {None}

    runner.roll_back(run)

    assert snapshot(sandbox) == before


@each_case
def test_rolling_back_what_never_took_effect_changes_nothing(case: Case, start) -> None:
    """The journal is there, the effect is not: every item is skipped as it is already as before."""
    sandbox, runner = start(case)
    run = runner.enforce(case.operation, case.rows, case.options, is_recorded=False)
    runner.roll_back(run)
    before = snapshot(sandbox)

    second = runner.roll_back(run)

    assert second.statuses == {ItemStatus.SKIPPED}
    assert {outcome.result["why"] for outcome in second.outcomes.values()} == {"already as before"}
    assert second.effect_requests == 0
    assert snapshot(sandbox) == before


@pytest.mark.parametrize("case", [case for case in CASES if case.absent], ids=lambda case: case.id)
def test_items_that_are_as_wanted_are_skipped_without_an_effect_request(case: Case, start) -> None:
    """Nothing is sent but the look, and nothing is journalled."""
    _, runner = start(case)

    run = runner.enforce(case.operation, case.absent, case.options)

    assert run.statuses == {ItemStatus.SKIPPED}
    assert run.effect_requests == 0
    assert run.journal == []


@each_case
def test_each_call_is_one_request_with_its_idempotency_key(case: Case, start) -> None:
    """The ledger counts the requests the engine would have reserved, and each effect carries its key."""
    sandbox, runner = start(case)
    runner.enforce(case.operation, case.rows[:3], case.options)  # learns an older form
    seen = sandbox.control("stats")["arrivals"]

    run = runner.enforce(case.operation, case.rows[3:], case.options, batch_size=20)

    assert sandbox.control("stats")["arrivals"] - seen == run.observe_requests + run.effect_requests
    effects = [entry for entry in read_ledger(sandbox.ledger_path) if entry.is_mutation and entry.is_applied]
    keys = [entry.idempotency_key for entry in effects]
    assert all(keys)
    assert len(set(keys)) == len(keys)
