"""From a provider's answer to what the limiter is told: a real server's headers, through a slice, into `settle`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import requests
from engine_world import OneProvider, Scripted, World
from store_world import PROVIDER, new_job

from handlers.noop import NoopProvider
from handlers.sandbox.launch import SandboxProcess, start_sandbox
from jobqueue.engine.context import JobContext, job_context
from jobqueue.errors import ConfigurationError, ItemRejected, ProviderUnavailable, RateLimited
from jobqueue.handler import Call, Reading, header_format
from jobqueue.model.item import SUCCEEDED, ItemOutcome
from jobqueue.model.job import JobStatus
from jobqueue.model.limit import Settled, SlotResult, SlotUse
from jobqueue.model.quota import HeaderFormat, QuotaReport, QuotaUnit, ResetFormat
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import jobs
from jobqueue.store.database import Database

Raised = Callable[[], Exception | None]


class Told(Limiter):
    """The limiter, which also keeps what it was told."""

    results: ClassVar[list[SlotResult]] = []

    def settle(self, results: Sequence[SlotResult]) -> Settled:
        self.results.extend(one for one in results if one.use is not SlotUse.UNUSED)
        return super().settle(results)


class Plain(Scripted):
    """What a user may write: plain `requests`, and one line that passes the headers on."""

    def __init__(self, sandbox: SandboxProcess, fails: Raised = lambda: None) -> None:
        super().__init__()
        self._sandbox = sandbox
        self._fails = fails

    def get(self, call: Call) -> None:
        headers = {"Authorization": "Bearer sandbox-demo"}
        response = requests.get(f"{self._sandbox.base_url}/me/tracks", headers=headers, timeout=call.deadline_s)
        call.notes.headers(response.headers)
        if response.status_code == 429:
            raise RateLimited("429", retry_after_s=call.notes.retry_after_s)

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        super().apply(call)
        self.get(call)
        if error := self._fails():
            raise error
        return [SUCCEEDED] * len(call.items)


class Looking(Plain):
    """One that looks before it acts."""

    def observe_step(self, call: Call, carry: object) -> Reading:
        self.get(call)
        return Reading(tuple({} for _ in call.items))


class Provider(OneProvider):
    """A provider whose headers need explaining."""

    quota_headers = HeaderFormat(reset=ResetFormat.DELTA_MILLISECONDS, unit=QuotaUnit.UNITS)


class Explained(World):
    """A world of that provider."""

    def context(self) -> JobContext:
        provider = Provider({self.operation.name: self.operation})
        return replace(super().context(), provider=provider, header_format=header_format(provider))


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxProcess]:
    with start_sandbox(tmp_path, limit="500/60", latency_ms=0, seed_library=3, headers="draft10") as process:
        yield process


@pytest.fixture
def world_of(database_url: str, redis_url: str) -> Iterator[Callable[..., World]]:
    Told.results.clear()
    with Database(database_url) as database:

        def made(handler: Scripted, kind: type[World] = World) -> World:
            return kind(database_url, redis_url, database, handler, limiter_type=Told).with_job(5)

        yield made


def test_a_success_tells_the_limiter_what_is_left(sandbox: SandboxProcess, world_of: Callable[..., World]) -> None:
    """The report of the one request arrives with its slot."""
    world = world_of(Plain(sandbox))

    assert world.run().ended is JobStatus.SUCCEEDED

    (result,) = Told.results
    (report,) = result.reports
    assert (report.remaining, report.limit, report.window_s, report.policy) == (499, 500, 60, "l0")
    assert report.reset_in_s is not None
    assert 55 <= report.reset_in_s <= 60
    assert (result.use, result.malformed_headers) == (SlotUse.OK, 0)


def test_a_look_tells_it_as_well_as_an_effect(sandbox: SandboxProcess, world_of: Callable[..., World]) -> None:
    """Each of a batch's requests has its own slot and its own answer."""
    world = world_of(Looking(sandbox))
    world.operation = replace(world.operation, is_observed=True)

    assert world.run().ended is JobStatus.SUCCEEDED

    assert [one.reports[0].remaining for one in Told.results] == [499, 498]


@pytest.mark.parametrize(
    ("error", "use"),
    [
        (ProviderUnavailable("503"), SlotUse.FAILURE),
        (ItemRejected("404"), SlotUse.OK),
        (ZeroDivisionError(), SlotUse.OK),
    ],
)
def test_a_failure_tells_it_too(
    sandbox: SandboxProcess, world_of: Callable[..., World], error: Exception, use: SlotUse
) -> None:
    """What the handler makes of the answer does not take back what its headers said."""
    world_of(Plain(sandbox, lambda: error)).run()
    assert (Told.results[0].use, Told.results[0].reports[0].remaining) == (use, 499)


@pytest.mark.parametrize(
    ("how", "expected_s", "malformed"), [("http_date", 86_400, 0), ("none", None, 0), ("malformed", None, 1)]
)
def test_a_throttle_of_a_day_arrives_whole_and_one_without_a_hint_as_none(
    sandbox: SandboxProcess, world_of: Callable[..., World], how: str, expected_s: float | None, malformed: int
) -> None:
    """The server's clock is an hour ahead; the part is parked, never cut short."""
    sandbox.control("headers", {"retry_after": how, "date_offset_s": 3600})
    sandbox.control("faults", {"kind": "throttle", "retry_after": "86400", "times": 1})
    world = world_of(Plain(sandbox))

    assert world.run().reason == "parked"

    (result,) = Told.results
    assert result.throttle is not None
    assert (result.throttle.retry_after_s, result.malformed_headers) == (expected_s, malformed)
    assert result.reports[0].remaining == 499


def test_malformed_headers_are_counted_and_harmless(sandbox: SandboxProcess, world_of: Callable[..., World]) -> None:
    """The job succeeds."""
    sandbox.control("headers", {"family": "malformed"})
    assert world_of(Plain(sandbox)).run().ended is JobStatus.SUCCEEDED
    assert [(one.reports, one.malformed_headers) for one in Told.results] == [((), 3)]


def test_a_handler_that_notes_nothing_reports_nothing(world_of: Callable[..., World]) -> None:
    """Noting is an offer, no duty."""
    assert world_of(Scripted()).run().ended is JobStatus.SUCCEEDED
    assert [(one.reports, one.malformed_headers) for one in Told.results] == [((), 0)]


def test_a_providers_own_header_format_is_used(sandbox: SandboxProcess, world_of: Callable[..., World]) -> None:
    """``quota_headers`` of the provider class says what its headers leave open."""
    sandbox.control("headers", {"family": "x_ratelimit", "reset": "delta_milliseconds"})
    assert world_of(Plain(sandbox), Explained).run().ended is JobStatus.SUCCEEDED
    (report,) = Told.results[0].reports
    assert report == QuotaReport(499, 500, None, report.reset_in_s, QuotaUnit.UNITS)
    assert report.reset_in_s is not None
    assert 55 <= report.reset_in_s <= 60


def test_a_job_takes_the_format_from_its_provider(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a worker looks everything up; a provider without one has its headers told by their values."""
    form = HeaderFormat(reset=ResetFormat.EPOCH_MILLISECONDS)
    with Database(database_url) as database:
        job, settings = jobs.get(database, new_job(database)), Settings(redis_url=redis_url, database_url=database_url)
        assert job_context(database, settings, job).header_format == HeaderFormat()
        monkeypatch.setattr(NoopProvider, "quota_headers", form, raising=False)
        assert job_context(database, settings, job).header_format == form


def test_a_wrong_header_format_is_refused_before_anything_is_sent() -> None:
    """With the provider and the value by name."""

    class Wrong(OneProvider):
        quota_headers = "epoch"

    with pytest.raises(ConfigurationError, match=rf"{PROVIDER}: quota_headers 'epoch'.*HeaderFormat"):
        header_format(Wrong({}))
