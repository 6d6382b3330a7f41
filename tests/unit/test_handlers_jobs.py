"""Enforcement, rollback and noop as the engine meets them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from handlers.enforcement import EnforcementJobHandler
from handlers.noop import NoopJobHandler, NoopProvider
from handlers.providers.contract import CHANGED_SINCE
from handlers.providers.spotify import SpotifyProvider
from handlers.rollback import RollbackJobHandler
from jobqueue.errors import InvalidInputError
from jobqueue.handler import Call, Effect, Endpoint, JobHandler, Provider
from jobqueue.model.item import Item, ItemOutcome, ItemStatus, JournalEntry
from jobqueue.model.job import Job, JobRequest, JobStatus, Priority


def job(provider: str, operation: str) -> Job:
    """A running job."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Job(
        id=7,
        type="enforcement",
        provider=provider,
        account="demo",
        operation=operation,
        priority=Priority.DEFAULT,
        options={},
        status=JobStatus.RUNNING,
        status_reason="",
        item_count=1,
        rollback_of=None,
        created_at=now,
        started_at=now,
        finished_at=None,
        deadline_at=None,
        is_planned=True,
        summary={},
    )


def call(provider: Provider, operation: str, *items: Item) -> Call:
    """A call whose endpoint nobody serves."""
    one = provider.operations[operation]
    return Call(job(provider.name, operation), one, provider, Endpoint("http://127.0.0.1:9"), items, "key", 1.0)


def request(provider: str, operation: str) -> JobRequest:
    """What a user asks for."""
    return JobRequest("enforcement", provider, operation=operation)


@pytest.mark.parametrize("handler", [EnforcementJobHandler(), RollbackJobHandler(), NoopJobHandler()])
def test_handlers_have_the_protocols_methods(handler: JobHandler) -> None:
    """Entry points give classes that need no arguments, each with its own job type."""
    names = {name for name in vars(JobHandler) if not name.startswith("_")}
    assert all(callable(getattr(handler, name)) for name in names)
    assert handler.job_type in {"enforcement", "rollback", "noop"}


@pytest.mark.parametrize("provider", [SpotifyProvider(), NoopProvider()])
def test_providers_fit_the_protocol(provider: object) -> None:
    """Name and operations."""
    assert isinstance(provider, Provider)


def test_noop_succeeds_without_a_server() -> None:
    """Nothing listens at the endpoint, and nothing is asked there."""
    provider, handler = NoopProvider(), NoopJobHandler()
    operation = handler.operation(request("noop", "noop"), provider)
    assert handler.read_item(request("noop", "noop"), operation, {"item": "a"}) == ("a", {})
    items = [Item(n, f"i{n}") for n in range(3)]

    outcomes = handler.apply(call(provider, "noop", *items))

    assert [one.status for one in outcomes] == [ItemStatus.SUCCEEDED] * 3
    assert not operation.is_observed
    assert operation.max_size == 1000


def test_enforcement_refuses_a_provider_without_actions() -> None:
    """The provider is named; noop jobs are for it."""
    with pytest.raises(InvalidInputError) as caught:
        EnforcementJobHandler().operation(request("noop", "noop"), NoopProvider())
    assert caught.value.field == "provider"


def test_an_unknown_operation_names_the_known_ones() -> None:
    """The message lists what Spotify offers."""
    with pytest.raises(InvalidInputError, match="unsave_tracks"):
        EnforcementJobHandler().operation(request("spotify", "delete_everything"), SpotifyProvider())


def test_a_rollback_takes_no_rows() -> None:
    """Its items come from the journal."""
    provider, handler = SpotifyProvider(), RollbackJobHandler()
    operation = handler.operation(request("spotify", "save_tracks"), provider)
    with pytest.raises(InvalidInputError, match="rollback"):
        handler.read_item(request("spotify", "save_tracks"), operation, {"track": "x"})


@pytest.mark.parametrize(
    ("now", "expected"),
    [({"saved": True}, ItemStatus.SKIPPED), ({"saved": False}, None), ({"saved": "maybe"}, ItemStatus.FAILED)],
)
def test_a_rollback_restores_only_what_is_as_the_job_left_it(now: dict, expected: ItemStatus | None) -> None:
    """As before: skipped. As we left it: restored. Anything else: a conflict, left alone."""
    payload = {"before": {"saved": True}, "after": {"saved": False}}
    one = call(SpotifyProvider(), "save_tracks", Item(0, "spotify:track:x", payload))

    (decision,) = RollbackJobHandler().decide(one, [now])

    if expected is None:
        assert decision == Effect({"saved": True})
    else:
        assert isinstance(decision, ItemOutcome)
        assert decision.status is expected
        assert decision.error is None or decision.error.code == CHANGED_SINCE


def test_a_rollback_plans_all_that_may_have_happened_latest_first() -> None:
    """Failed, unconfirmed and unrecorded effects are looked at too; skipped ones never had any."""
    statuses = [*ItemStatus, None]
    entries = [
        JournalEntry(0, n, f"k{n}", n, n, {"saved": True}, {"saved": False}, {}, status)
        for n, status in enumerate(statuses)
    ]
    provider = SpotifyProvider()

    planned = EnforcementJobHandler().plan_undo(provider.operations["unsave_tracks"], provider, reversed(entries))

    wanted = [f"k{n}" for n, status in enumerate(statuses) if status is not ItemStatus.SKIPPED]
    assert [one.key for one in planned] == wanted[::-1]


def test_planning_a_rollback_streams() -> None:
    """The first item is there before the journal was read to its end."""

    def endless():
        number = 0
        while True:
            yield JournalEntry(0, number, f"k{number}", 0, number, {"saved": True}, {"saved": False}, {}, None)
            number += 1

    provider = SpotifyProvider()
    planned = EnforcementJobHandler().plan_undo(provider.operations["unsave_tracks"], provider, endless())
    assert next(iter(planned)).key == "k0"
