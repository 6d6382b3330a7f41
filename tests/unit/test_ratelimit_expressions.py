"""Limits written down in a few words."""

from __future__ import annotations

import pytest

from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.model.limit import ProviderLimits, RateLimitConfig, Scope, ScopeKind
from jobqueue.ratelimit.expressions import limits_from


def levels(limits, name):
    """The windows of each level a scope lies in."""
    return {
        level.scope.name: [window.text for window in level.windows]
        for level in limits["spotify"].limits_for(Scope.parse(name))
    }


def test_each_key_is_a_level_of_its_provider():
    """An account's own limits are in place of those for each; an operation's are beside all others."""
    limits = limits_from(
        {
            "spotify": "10/second; 10000/day resets at midnight America/Los_Angeles",
            "spotify:search": "30/minute",
            "spotify/*": "100/minute",
            "spotify/team-7": "300/minute",
        }
    )
    whole = ["10 per 1 second", "10000 per 1 day, resets at midnight America/Los_Angeles"]
    assert levels(limits, "spotify:search/anna") == {
        "spotify": whole,
        "spotify:search": ["30 per 1 minute"],
        "spotify/anna": ["100 per 1 minute"],
    }
    assert levels(limits, "spotify/team-7") == {"spotify": whole, "spotify/team-7": ["300 per 1 minute"]}


def test_a_provider_may_have_limits_below_it_alone():
    """Its own level then has none."""
    limits = limits_from({"spotify/*": "100/minute"}, longest_request_s=5)
    assert levels(limits, "spotify/anna") == {"spotify": [], "spotify/anna": ["100 per 1 minute"]}
    assert limits["spotify"].longest_request_s == 5


def test_a_configuration_says_what_an_expression_cannot():
    """Its level is the key's, whatever it says itself."""
    config = RateLimitConfig(ScopeKind.ACCOUNT, unit_windows="100/day", max_concurrency=3, scope_name="other")
    limits = limits_from({"spotify:search": config})
    found = limits["spotify"].config(ScopeKind.OPERATION, "search")
    assert (found.unit_windows, found.max_concurrency) == ("100/day", 3)


def test_the_whole_limits_of_a_provider_are_taken_as_they_are():
    """Beside others' expressions."""
    whole = ProviderLimits("spotify", (RateLimitConfig(windows="1/minute"),), 9.0)
    limits = limits_from({"spotify": whole, "web": "1/second"}, longest_request_s=30)
    assert limits["spotify"] is whole
    assert limits["web"].longest_request_s == 30


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"spotify": "soon"}, "soon"),
        ({"spotify": " "}, "'spotify' are empty"),
        ({"spotify:search/anna": "1/minute"}, "an operation and an account"),
        ({"spotify": ProviderLimits("spotify"), "spotify/*": "1/minute"}, r"'spotify/\*' stand beside"),
        ({"web": ProviderLimits("spotify")}, "limits of spotify are given under 'web'"),
    ],
)
def test_what_cannot_be_meant_is_refused(written, words):
    """The error names the key or the words."""
    with pytest.raises(ConfigurationError, match=words):
        limits_from(written)


def test_a_key_that_is_no_scope_is_refused():
    """As everywhere."""
    with pytest.raises(InvalidInputError, match="'my service'"):
        limits_from({"my service": "1/minute"})
