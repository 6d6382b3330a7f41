"""What the limiter refuses, and how it says so."""

from __future__ import annotations

import pytest
from ratelimit_world import provider_limits

from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.model.limit import ProviderLimits, RateLimitConfig, Scope, ScopeKind, UnknownProviderError
from jobqueue.ratelimit.history import NoHistory
from jobqueue.ratelimit.limiter import Limiter


@pytest.fixture
def limiter(redis_url):
    """Of ``spotify``; a request may take ten seconds."""
    limiter = Limiter(redis_url, {"spotify": provider_limits("5/second")}, NoHistory())
    yield limiter
    limiter.close()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"want": 0}, "want 0"),
        ({"want": 1001}, "want 1001"),
        ({"cost_units": -1}, "cost_units -1"),
        ({"deadline_s": 0}, "deadline_s 0"),
        ({"deadline_s": 11}, "deadline_s 11"),
    ],
)
def test_a_request_out_of_range_is_refused(limiter, request_, field):
    """The error names field and value."""
    with pytest.raises(InvalidInputError, match=field):
        limiter.reserve(Scope("spotify"), **request_)


def test_an_unknown_provider_is_named(limiter):
    """So are the known ones."""
    with pytest.raises(UnknownProviderError, match=r"'tidal'.*Known: spotify"):
        limiter.reserve(Scope("tidal"))


@pytest.mark.parametrize("windows", ["ten a day", "0/second", "5/minute; 6/minute", "5/minute 6/hour"])
def test_windows_that_mean_nothing_are_refused(windows):
    """The error repeats what was written."""
    with pytest.raises(ConfigurationError, match=windows):
        RateLimitConfig(windows=windows)


@pytest.mark.parametrize("provider", ["", "a/b", "{a}", "a b"])
def test_a_provider_that_would_break_a_key_is_refused(provider):
    """Braces would move the hash tag, slashes would make an account."""
    with pytest.raises(InvalidInputError, match="scope"):
        Scope(provider)


def test_two_configurations_of_one_level_are_refused():
    """Which of them holds could not be told."""
    with pytest.raises(ConfigurationError, match="two"):
        ProviderLimits("spotify", (RateLimitConfig(), RateLimitConfig()))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: RateLimitConfig(max_concurrency=0), "max_concurrency 0"),
        (lambda: RateLimitConfig(cooldown_default_s=0), "cooldown_default_s 0"),
        (lambda: ProviderLimits("spotify", longest_request_s=4000), "longest_request_s 4000"),
    ],
)
def test_a_configuration_out_of_range_is_refused(make, field):
    """The error names field and value."""
    with pytest.raises(ConfigurationError, match=field):
        make()


def test_a_provider_may_be_limited_per_account_only(redis_url):
    """Its own level then has a pause and nothing else."""
    limits = ProviderLimits("spotify", (RateLimitConfig(ScopeKind.ACCOUNT, windows="2/minute"),))
    limiter = Limiter(redis_url, {"spotify": limits}, NoHistory())
    assert len(limiter.reserve(Scope("spotify", "alice"), want=9).slots) == 2
    assert len(limiter.reserve(Scope("spotify", "bob"), want=9).slots) == 2
    assert len(limiter.reserve(Scope("spotify"), want=9).slots) == 9
    limiter.close()
