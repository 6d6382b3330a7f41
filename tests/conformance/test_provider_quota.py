"""What each adapter passes on of an answer's rate-limit headers: from the provider's own limiter to the call's notes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from conformance_cases import CASES, Case
from conformance_runner import Runner

from handlers.sandbox.headers import RESETS
from handlers.sandbox.launch import SandboxProcess
from handlers.sandbox.ledger import Entry, read_ledger
from jobqueue.errors import RateLimited
from jobqueue.handler import Call
from jobqueue.model.quota import HeaderFormat, QuotaReport, ResetFormat
from jobqueue.notes import AnswerNotes

Started = tuple[SandboxProcess, Runner]
CASE = CASES[0]
AN_HOUR_S = 3600
SLACK_S = 5
"""A busy machine may take that long from counting a request to answering it; a misread form is off by far more."""


def look(runner: Runner, case: Case = CASE, form: HeaderFormat | None = None) -> Call:
    """One request that reads, with its answer noted."""
    items = runner.items(case.operation, case.rows[:1], case.options)
    call = replace(runner.call(case.operation, items, case.options), notes=AnswerNotes(form))
    runner.enforcement.observe_step(call, {})
    return call


def refused(runner: Runner) -> tuple[Call, RateLimited]:
    """One request that the provider throttles."""
    items = runner.items(CASE.operation, CASE.rows[:1], CASE.options)
    call = runner.call(CASE.operation, items, CASE.options)
    with pytest.raises(RateLimited) as caught:
        runner.enforcement.observe_step(call, {})
    return call, caught.value


def counted(sandbox: SandboxProcess) -> list[Entry]:
    """What the provider's limits have counted, in order."""
    return [one for one in read_ledger(sandbox.ledger_path) if one.is_counted and one.decision != "refused"]


def wait_s(sandbox: SandboxProcess, window_s: float) -> int:
    """From the latest arrival until the first counted request counts no more; whole seconds, rounded up."""
    latest = list(read_ledger(sandbox.ledger_path))[-1]
    return math.ceil(counted(sandbox)[0].mono_ns / 1e9 + window_s - latest.mono_ns / 1e9)


def used(sandbox: SandboxProcess, window: str, window_s: int) -> int:
    """How much of a limit is used up, by the ledger; a fixed window may open in mid-test."""
    times_ns, window_ns = [one.mono_ns for one in counted(sandbox)], window_s * 10**9
    opens_ns = times_ns[-1] - (times_ns[-1] % window_ns if window == "fixed" else window_ns - 1)
    return sum(at_ns >= opens_ns for at_ns in times_ns)


def one_of(call: Call) -> QuotaReport:
    """The only report of the call's answer."""
    assert call.notes.malformed == 0
    (report,) = call.notes.reports
    return report


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_operation_passes_on_what_the_answer_says(case: Case, start: Callable[..., Started]) -> None:
    """Reads and effects alike; each answer says one less."""
    sandbox, runner = start(case, limit="500/60", headers="draft10")
    read = one_of(look(runner, case))
    assert (read.remaining, read.limit, read.window_s) == (500 - len(counted(sandbox)), 500, 60)

    items = runner.items(case.operation, case.rows[:2], case.options)
    call = runner.prepared(case.operation, items, case.options)
    runner.apply(call)
    assert one_of(call).remaining == 500 - len(counted(sandbox)) < read.remaining


@pytest.mark.parametrize("window", ["rolling", "fixed"])
@pytest.mark.parametrize("family", ["draft10", "draft07", "draft06", "draft02", "x_ratelimit", "x_window"])
def test_each_family_arrives_as_the_provider_counts(family: str, window: str, start: Callable[..., Started]) -> None:
    """Two limits: those families that can, tell of both, the others of the one that is closer."""
    sandbox, runner = start(CASE, limit="40/60,1000/3600", window=window, headers=family, date_offset_s=-AN_HOUR_S)
    look(runner)
    call = look(runner)

    minute, hour = (40 - used(sandbox, window, 60), 40, 60), (1000 - used(sandbox, window, 3600), 1000, 3600)
    expected = [minute, hour] if family in ("draft10", "x_window") else [minute]
    if family == "x_ratelimit":
        expected = [(*minute[:2], None)]
    assert sorted((one.remaining, one.limit, one.window_s) for one in call.notes.reports) == expected
    assert call.notes.malformed == 0
    if family != "x_window":
        tightest = min(call.notes.reports, key=lambda one: one.remaining)
        assert tightest.reset_in_s is not None
        assert 0 < tightest.reset_in_s <= 60
        if window == "rolling":
            assert wait_s(sandbox, 60) - SLACK_S <= tightest.reset_in_s <= wait_s(sandbox, 60)


@pytest.mark.parametrize("family", ["draft06", "x_ratelimit"])
def test_each_form_of_reset_arrives_as_the_same_seconds(family: str, start: Callable[..., Started]) -> None:
    """By name, and by its value where it can be told; the server's clock is an hour off and does not matter."""
    sandbox, runner = start(CASE, limit="500/60", headers=family, date_offset_s=AN_HOUR_S)
    look(runner)
    for reset in RESETS:
        sandbox.control("headers", {"reset": reset})
        for form in (ResetFormat(reset), ResetFormat.AUTO):
            report = one_of(look(runner, form=HeaderFormat(reset=form)))
            assert report.reset_in_s is not None
            if (form, reset) == (ResetFormat.AUTO, "delta_milliseconds"):
                assert report.reset_in_s > 1000, "which only the provider's HeaderFormat can tell"
            else:
                assert wait_s(sandbox, 60) - SLACK_S <= report.reset_in_s <= wait_s(sandbox, 60), reset


@pytest.mark.parametrize("offset_s", [-AN_HOUR_S, AN_HOUR_S])
def test_a_retry_date_is_read_by_the_servers_own_clock(offset_s: int, start: Callable[..., Started]) -> None:
    """An hour off this machine's, either way: the seconds are those the provider's limiter names."""
    sandbox, runner = start(CASE, limit="1/50", headers="draft10", retry_after="http_date", date_offset_s=offset_s)
    look(runner)
    call, error = refused(runner)
    assert error.retry_after_s == call.notes.retry_after_s == wait_s(sandbox, 50) >= 45
    assert one_of(call).remaining == 0


@pytest.mark.parametrize("how", ["seconds", "http_date", "milliseconds"])
def test_a_pause_of_a_day_arrives_whole(how: str, start: Callable[..., Started]) -> None:
    """86400 seconds, however they are written."""
    sandbox, runner = start(CASE, retry_after=how, date_offset_s=AN_HOUR_S)
    sandbox.control("faults", {"kind": "throttle", "retry_after": "86400", "times": 1})
    call, error = refused(runner)
    assert error.retry_after_s == call.notes.retry_after_s == 86_400


@pytest.mark.parametrize(("how", "malformed"), [("none", 0), ("malformed", 1)])
def test_a_throttle_without_a_readable_hint_says_so(how: str, malformed: int, start: Callable[..., Started]) -> None:
    """None, not zero: how long to wait is the limiter's to decide."""
    _, runner = start(CASE, limit="1/50", retry_after=how)
    look(runner)
    call, error = refused(runner)
    assert (error.retry_after_s, call.notes.retry_after_s, call.notes.malformed) == (None, None, malformed)


def test_malformed_headers_harm_nothing(start: Callable[..., Started]) -> None:
    """The request succeeds, nothing is reported, and what was ignored is counted."""
    _, runner = start(CASE, headers="malformed")
    call = look(runner)
    assert (call.notes.reports, call.notes.malformed) == ((), 3)
    items = runner.items(CASE.operation, CASE.rows[:2], CASE.options)
    assert len(runner.enforcement.apply(runner.prepared(CASE.operation, items, CASE.options))) == 2


def test_a_limit_halved_behind_our_back_shows_at_once(start: Callable[..., Started]) -> None:
    """What is in force is reported, not what was configured; a blocked provider has nothing left."""
    sandbox, runner = start(CASE, limit="100/60", headers="draft10")
    sandbox.control("limits", {"factor": 0.5, "for_s": 60})
    halved = one_of(look(runner))
    assert (halved.limit, halved.remaining) == (50, 49)

    sandbox.control("limits", {"block_s": 500})
    call, error = refused(runner)
    blocked = one_of(call)
    assert (blocked.remaining, error.retry_after_s) == (0, 500)
    assert blocked.reset_in_s is not None
    assert 500 - SLACK_S <= blocked.reset_in_s <= 500
