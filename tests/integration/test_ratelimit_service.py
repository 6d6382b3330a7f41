"""The public face of the rate-limit service, for those who import nothing else."""

from __future__ import annotations

import doctest
from contextlib import closing
from itertools import pairwise

import pytest
from ratelimit_world import Clock, MemoryHistory, provider_limits

from jobqueue.errors import (
    AuthorizationExpired,
    BatchRejected,
    ConfigurationError,
    ItemRejected,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
)
from jobqueue.model.batching import BatchConfig
from jobqueue.model.breaker import BreakerConfig
from jobqueue.model.limit import (
    DenialReason,
    Denied,
    Granted,
    ProviderLimits,
    RateLimitConfig,
    ScopeKind,
    Slot,
    SlotUse,
)
from jobqueue.model.quota import HeaderFormat, QuotaReport, ResetFormat
from jobqueue.model.scope import Scope
from jobqueue.notes import AnswerNotes
from jobqueue.ratelimit import expressions as expressions_module
from jobqueue.ratelimit import service as service_module
from jobqueue.ratelimit.feedback import result_of
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.ratelimit.service import RateLimitService

SIZES = {("spotify", "save"): BatchConfig(min_size=2, optimal_size=10, max_size=20)}


@pytest.fixture
def clock():
    """A clock that only waiting moves."""
    return Clock()


@pytest.fixture
def serve(redis_url, clock):
    """Make services whose waiting moves the clock; closed after the test."""
    made = []

    def serve(windows, **options):
        limits = {"spotify": provider_limits(windows, **options)}
        limiter = Limiter(redis_url, limits, MemoryHistory(clock), clock_us=clock)
        made.append(limiter)
        return RateLimitService(limiter, SIZES, sleep=clock.advance, monotonic_s=lambda: clock.now_us / 1_000_000)

    yield serve
    for limiter in made:
        limiter.close()


@pytest.mark.parametrize("module", [service_module, expressions_module])
def test_the_examples_in_the_docs_run(module, redis_url):
    """What the docstrings show is what happens."""
    failed, tried = doctest.testmod(module, extraglobs={"redis_url": redis_url})
    assert tried > 1
    assert failed == 0


def test_waiting_takes_a_slot_as_soon_as_one_frees(serve, clock):
    """It waits as long as told, not longer, and gives up at once when that would be too long."""
    service = serve("1/minute")
    slot = service.wait_for_rate_limit("spotify", timeout_s=0)
    assert isinstance(slot, Slot)
    service.record_success(slot)
    assert not service.can_proceed("spotify")
    started_us = clock.now_us
    denied = service.wait_for_rate_limit("spotify", timeout_s=59)
    assert isinstance(denied, Denied)
    assert clock.now_us == started_us
    assert isinstance(service.wait_for_rate_limit("spotify", timeout_s=61), Slot)
    assert clock.now_us - started_us == 60_001_000


def test_outdated_limits_are_told_at_once_and_not_asked_for_again_and_again(redis_url, clock):
    """The queue uses newer ones of the same provider: no wait makes ours newer."""
    stored = provider_limits("9/minute")
    limits = [ProviderLimits(stored.provider, stored.configs, stored.longest_request_s, n) for n in (2, 1)]
    new, old = (Limiter(redis_url, {"spotify": each}, MemoryHistory(clock), clock_us=clock) for each in limits)
    waits: list[float] = []
    with closing(new), closing(old):
        assert isinstance(new.reserve(Scope("spotify")), Granted)
        denied = RateLimitService(old, SIZES, sleep=waits.append).wait_for_rate_limit("spotify", timeout_s=0.5)
    assert isinstance(denied, Denied)
    assert (denied.reason, waits) == (DenialReason.OUTDATED, [])


def test_a_slot_given_back_costs_nothing(serve):
    """The next caller may proceed at once."""
    service = serve("1/minute")
    service.give_back(service.wait_for_rate_limit("spotify"))
    assert service.can_proceed("spotify")


def test_batches_grow_as_the_quota_runs_out(serve):
    """Optimal while half is left, larger afterwards; all items in order, none twice."""
    service = serve("10/minute")
    batches = service.create_optimal_batches("spotify", "save", range(100))
    done = list(service.execute_batches(batches, fn=list))
    sizes = [len(result.value) for result in done]
    assert sizes[:5] == [10] * 5
    assert 10 < sizes[-2] <= 20
    assert [item for result in done for item in result.value] == list(range(100))


def test_a_size_caused_failure_halves_the_next_batch(serve):
    """The failure comes back with its batch; the next one is half as large."""
    service = serve("100/minute")

    def send(items):
        if len(items) > 6:
            raise ProviderUnavailable("413", is_size_caused=True)
        return len(items)

    batches = service.create_optimal_batches("spotify", "save", range(20))
    done = list(service.execute_batches(batches, send))
    assert [len(result.batch.items) for result in done] == [10, 5, 5]
    assert isinstance(done[0].error, ProviderUnavailable)
    assert [result.value for result in done] == [None, 5, 5]


def test_a_throttled_batch_waits_and_is_sent_again(serve, clock):
    """It pauses as long as the provider asked and uses up nothing else."""
    service = serve("100/minute")
    answers = [RateLimited("429", retry_after_s=20), None]

    def send(items):
        error = answers.pop(0)
        if error:
            raise error
        return clock.now_us

    started_us = clock.now_us
    (result,) = service.execute_batches(service.create_optimal_batches("spotify", "save", range(3)), send)
    assert result.value - started_us == 20_000_000


def test_a_batch_that_gets_no_slot_in_time_is_given_back(serve):
    """With what denied it."""
    service = serve("1/minute")
    batches = list(service.create_optimal_batches("spotify", "save", range(20)))
    results = list(service.execute_batches(batches, len, timeout_s=5))
    assert results[0].value == 10
    assert results[1].denied.reason is DenialReason.WINDOW


def test_what_an_answers_headers_say_is_told_with_its_slot(redis_url, clock):
    """Of a success and of a failure, for those who use the service alone."""

    class Told(Limiter):
        results = ()

        def settle(self, results):
            self.results = (*self.results, *results)
            return super().settle(results)

    notes = AnswerNotes()
    notes.headers({"RateLimit": '"default";r=5;t=3', "Retry-After": "soon"})
    limits = {"spotify": provider_limits("10/minute")}
    with closing(Told(redis_url, limits, MemoryHistory(clock), clock_us=clock)) as limiter:
        service = RateLimitService(limiter)
        service.record_success(service.wait_for_rate_limit("spotify"), notes=notes)
        service.record_failure(service.wait_for_rate_limit("spotify"), ItemRejected("404"), notes=notes)
        service.record_success(service.wait_for_rate_limit("spotify"))
    told = (QuotaReport(5, reset_in_s=3.0, policy="default"),)
    assert [(one.reports, one.malformed_headers) for one in limiter.results] == [(told, 1), (told, 1), ((), 0)]


def test_the_function_may_be_told_where_to_leave_the_headers(serve):
    """A provider that says nothing is left is believed; a function without the parameter is called with items alone."""
    service = serve("100/minute")

    def send(items, *, notes):
        notes.headers({"RateLimit-Policy": '"default";q=100;w=60', "RateLimit": '"default";r=40;t=30'})
        return len(items)

    (result,) = service.execute_batches(service.create_optimal_batches("spotify", "save", range(3)), send)
    assert result.value == 3
    (window,) = service.status("spotify").windows
    assert (window.remaining, window.foreign) == (40, 59)
    (result,) = service.execute_batches(service.create_optimal_batches("spotify", "save", range(3)), max)
    assert result.value == 2


def test_a_throttle_takes_its_pause_from_the_headers(serve, clock):
    """Where the error names none; one that names its own keeps it."""
    service = serve("100/minute")
    errors = [RateLimited("429"), RateLimited("429", retry_after_s=5), None]
    sent_at = []

    def send(items, notes):
        sent_at.append(clock.now_us)
        notes.headers({"Retry-After": "17"})
        if error := errors.pop(0):
            raise error

    list(service.execute_batches(service.create_optimal_batches("spotify", "save", range(3)), send))
    assert [later - at for at, later in pairwise(sent_at)] == [17_000_000, 5_000_000]


def test_a_batch_that_is_throttled_for_ever_is_given_back(serve, clock):
    """The wait is that of the batch, not of each of its repetitions."""
    service = serve("100/minute")
    started_us = clock.now_us

    def send(items):
        raise RateLimited("429", retry_after_s=20)

    (result,) = service.execute_batches(service.create_optimal_batches("spotify", "save", range(3)), send, timeout_s=50)
    assert result.denied.reason is DenialReason.COOLDOWN
    assert clock.now_us - started_us <= 50_000_000


def test_batches_cost_what_they_are_said_to(serve):
    """Provider units, in windows that count them."""
    service = serve("", unit_windows="100/day")
    batches = service.create_optimal_batches("spotify", "save", range(10), cost_units=40)
    assert [len(result.value) for result in service.execute_batches(batches, list)] == [10]
    assert service.status("spotify").windows[0].used == 40
    assert not service.can_proceed("spotify", cost_units=61)
    assert service.can_proceed("spotify", cost_units=60)


def test_limits_of_an_operation_hold_for_it_alone(redis_url):
    """And for batches of it."""
    limits = {"spotify": "100/minute", "spotify:save": "1/minute"}
    with RateLimitService.from_url(redis_url, limits, batch_sizes=SIZES) as service:
        batches = service.create_optimal_batches("spotify", "save", range(20))
        results = list(service.execute_batches(batches, list, timeout_s=0))
        assert results[0].value == list(range(10))
        assert results[1].denied.scope_name == "spotify:save"
        assert not service.can_proceed("spotify", operation="save")
        assert service.can_proceed("spotify", operation="search")
        assert service.can_proceed("spotify")


@pytest.mark.parametrize("kind", ScopeKind)
def test_a_throttle_pauses_what_it_is_said_to(redis_url, kind):
    """The whole provider, one operation or one account."""
    limits = {"spotify": "100/minute", "spotify:save": "50/minute", "spotify/*": "10/minute"}
    with RateLimitService.from_url(redis_url, limits) as service:
        slot = service.wait_for_rate_limit("spotify", "anna", operation="save")
        service.record_failure(slot, RateLimited("429", retry_after_s=50), throttle_kind=kind)
        proceeds = [
            service.can_proceed("spotify"),
            service.can_proceed("spotify", operation="save"),
            service.can_proceed("spotify", "anna"),
            service.can_proceed("spotify", "bert"),
        ]
    expected = {
        ScopeKind.PROVIDER: [False, False, False, False],
        ScopeKind.OPERATION: [True, False, True, True],
        ScopeKind.ACCOUNT: [True, True, False, True],
    }
    assert proceeds == expected[kind]


def test_batch_health_is_shared_by_all_services(redis_url):
    """A failure of one halves the next batch of the other, of that operation alone; successes let it grow again."""
    sizes = {**SIZES, ("spotify", "follow"): SIZES["spotify", "save"]}
    limits = {"spotify": RateLimitConfig(windows="1000/hour", breaker=None)}
    with (
        RateLimitService.from_url(redis_url, limits, batch_sizes=sizes) as one,
        RateLimitService.from_url(redis_url, limits, batch_sizes=sizes) as other,
    ):

        def size(operation):
            return len(next(other.create_optimal_batches("spotify", operation, range(100))).items)

        slot = one.wait_for_rate_limit("spotify", operation="save")
        one.record_failure(slot, ProviderUnavailable("413", is_size_caused=True))
        assert (size("save"), size("follow")) == (5, 10)
        sizes_seen = []
        for _ in range(10):
            one.record_success(one.wait_for_rate_limit("spotify", operation="save"))
            sizes_seen.append(size("save"))
        assert sizes_seen == sorted(sizes_seen)
        assert sizes_seen[-1] == 10


def test_a_provider_explains_its_headers(redis_url):
    """What they leave open is told once, by provider."""
    formats = {"spotify": HeaderFormat(reset=ResetFormat.DELTA_MILLISECONDS)}
    with RateLimitService.from_url(redis_url, {"spotify": "10/minute"}, header_formats=formats) as service:
        notes = service.notes("spotify")
        notes.headers({"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "2", "X-RateLimit-Reset": "30000"})
        assert notes.reports[0].reset_in_s == 30


def test_a_bug_in_the_function_passes_through_and_its_request_counts(serve):
    """Whether it was sent is unknown, so it stays in the window; the breaker learns nothing."""
    service = serve("2/minute", breaker=BreakerConfig(minimum_calls=1))
    batches = service.create_optimal_batches("spotify", "save", range(3))
    with pytest.raises(ZeroDivisionError):
        next(service.execute_batches(batches, lambda items: 1 / 0))
    state = service.limiter.snapshot(Scope("spotify"))
    assert (state.windows[0].used, state.in_flight, state.breakers[0].status) == (1, 0, "closed")


def test_an_operation_without_sizes_is_named(serve):
    """At once, not when the first batch is asked for."""
    with pytest.raises(ConfigurationError, match=r"spotify/follow.*Known: spotify/save"):
        serve("1/minute").create_optimal_batches("spotify", "follow", [1])


@pytest.mark.parametrize(
    ("error", "use", "is_size_caused"),
    [
        (None, SlotUse.OK, False),
        (RateLimited("429", retry_after_s=3), SlotUse.THROTTLED, False),
        (ProviderUnavailable("503"), SlotUse.FAILURE, False),
        (ProviderUnavailable("413", is_size_caused=True), SlotUse.FAILURE, True),
        (OutcomeUnknown("no answer"), SlotUse.FAILURE, False),
        (AuthorizationExpired("401"), SlotUse.OK, False),
        (BatchRejected("400"), SlotUse.OK, False),
        (ItemRejected("404"), SlotUse.OK, False),
    ],
)
def test_each_error_tells_the_limiter_what_it_means(error, use, is_size_caused):
    """A refusal is an answer, an outage a failure, a throttle a pause."""
    result = result_of(Slot("x.1.1", Scope("spotify")), error, operation="save", throttle_kind=ScopeKind.ACCOUNT)
    assert (result.use, result.is_size_caused) == (use, is_size_caused)
    assert (result.throttle is not None) == (use is SlotUse.THROTTLED)
    assert result.throttle is None or result.throttle.retry_after_s == 3
