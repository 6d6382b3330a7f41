"""What a change of limits makes of them, before anything is stored."""

from __future__ import annotations

import re
from typing import Any

import pytest

from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.model.backoff import ErrorKind, Jitter, RetryPolicy
from jobqueue.model.breaker import BreakerConfig
from jobqueue.model.limit import ProviderLimits, RateLimitConfig, ScopeKind
from jobqueue.model.limit_change import (
    OFF,
    LimitsChange,
    check_costs,
    check_operation,
    describe,
    difference,
    level_named,
)

BREAKER = BreakerConfig(failure_rate=0.25, minimum_calls=7, open_s=9.0)
DEFAULT = RateLimitConfig(
    ScopeKind.ACCOUNT, "5/second", "100/day", max_concurrency=3, cooldown_default_s=8, breaker=BREAKER, learned_floor=2
)
LIMITS = ProviderLimits("spotify", (RateLimitConfig(windows="9/second", breaker=BREAKER), DEFAULT))


def changed(**values: Any) -> dict[str, tuple[Any, Any]]:
    """What a change of the provider's own limits shows."""
    change = LimitsChange(**values)
    return difference(describe(change.base(LIMITS)), describe(change.applied(LIMITS)))


def test_an_override_begins_as_the_default_and_only_what_is_given_changes() -> None:
    """Every other value is the default's; the default stays as it is."""
    after = LimitsChange(ScopeKind.ACCOUNT, "big", windows="50/second").applied(LIMITS)
    assert describe(after) == describe(DEFAULT) | {"windows": "50/second"}
    assert (after.scope_kind, after.scope_name) == (ScopeKind.ACCOUNT, "big")


def test_a_later_change_of_an_override_begins_as_the_override() -> None:
    """What was set for it before is kept."""
    own = LimitsChange(ScopeKind.ACCOUNT, "big", windows="50/second").applied(LIMITS)
    both = ProviderLimits("spotify", (*LIMITS.configs, own))
    after = LimitsChange(ScopeKind.ACCOUNT, "big", max_concurrency=9).applied(both)
    assert (after.windows, after.max_concurrency) == ("50/second", 9)


def test_an_operation_begins_without_windows() -> None:
    """The provider's own hold beside them."""
    after = LimitsChange(ScopeKind.OPERATION, "save", unit_windows="5/day").applied(LIMITS)
    assert (after.windows, after.unit_windows, after.max_concurrency) == ("", "5/day", None)


def test_a_cap_and_a_breaker_can_be_taken_away() -> None:
    """0 is no cap; a breaker that goes shows as that, and not field by field."""
    change = LimitsChange(ScopeKind.ACCOUNT, max_concurrency=0, breaker=OFF)
    after = change.applied(LIMITS)
    assert (after.max_concurrency, after.breaker) == (None, None)
    shown = difference(describe(DEFAULT), describe(after))
    assert shown == {"max_concurrency": (3, None), "breaker": ("on", OFF)}


def test_fields_of_the_breaker_change_one_by_one() -> None:
    """Texts are read as the numbers they stand for; the difference names each field."""
    assert changed(breaker={"open_s": "30", "minimum_calls": 8}) == {
        "breaker.open_s": (9.0, 30.0),
        "breaker.minimum_calls": (7, 8),
    }
    assert changed(breaker={"open_s": 9}) == {}


def test_a_breaker_that_was_off_begins_anew() -> None:
    """With the values every breaker has."""
    limits = ProviderLimits("spotify", (RateLimitConfig(breaker=None),))
    assert LimitsChange(breaker={"probes": 5}).applied(limits).breaker == BreakerConfig(probes=5)


def test_backoff_is_set_and_dropped_by_kind_of_error() -> None:
    """The others stay."""
    first = LimitsChange(
        backoff={
            "outage": {"jitter": "equal", "base_s": 2, "cap_s": 60},
            "item": {"base_s": 1, "cap_s": 9, "max_attempts": 7},
        }
    ).applied(LIMITS)
    assert first.backoff[ErrorKind.ITEM] == RetryPolicy(7, 1, 9)
    assert first.backoff[ErrorKind.OUTAGE].jitter is Jitter.EQUAL
    second = LimitsChange(backoff={"item": None}).applied(ProviderLimits("spotify", (first,)))
    assert set(second.backoff) == {ErrorKind.OUTAGE}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"windows": "fast"}, "'fast' is not a list of limits"),
        ({"mode": "loose"}, "mode 'loose' is unknown"),
        ({"max_concurrency": -1}, "max_concurrency -1"),
        ({"cooldown_s": 0.0}, "cooldown_default_s 0"),
        ({"learned_floor": 0}, "learned_floor 0"),
        ({"breaker": {"opens_s": 1}}, "breaker: opens_s is unknown.* Did you mean 'open_s'"),
        ({"breaker": {"open_s": "soon"}}, "breaker: open_s 'soon' cannot be read. Use a number"),
        ({"breaker": {"minimum_calls": "1.5"}}, "minimum_calls '1.5' cannot be read. Use a whole number"),
        ({"breaker": {"minimum_calls": 1.5}}, "minimum_calls 1.5 cannot be read"),
        ({"breaker": {"failure_rate": "nan"}}, "failure_rate nan is out of range"),
        ({"breaker": {"failure_rate": 2}}, "failure_rate 2.0 is out of range"),
        ({"breaker": "on"}, "breaker 'on' cannot be read"),
        ({"backoff": {"weather": {}}}, "backoff 'weather' is no kind of error"),
        ({"backoff": {"outage": {"max_attempts": 3}}}, "backoff outage: max_attempts 3 cannot be set. .* time"),
        ({"backoff": {"item": {"tries": 3}}}, "backoff item: tries is unknown"),
        ({"backoff": {"item": {"base_s": "1"}}}, "base_s '1' is no number"),
        ({"backoff": {"item": {"base_s": 9, "cap_s": 1}}}, "base_s 9 and cap_s 1 do not fit"),
        ({"backoff": {"item": {"jitter": "some"}}}, "jitter 'some' is unknown"),
        ({"kind": ScopeKind.ACCOUNT, "backoff": {"bug": {}}}, "backoff cannot be set for limits of kind account"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    """Field, value and remedy; nothing was stored, for nothing here stores."""
    with pytest.raises(ConfigurationError) as caught:
        LimitsChange(**values).applied(LIMITS)
    assert re.search(words, str(caught.value)), str(caught.value)


def test_units_that_no_request_fits_are_refused() -> None:
    """Jobs of that operation would fail; limits of another operation do not concern it."""
    costs = {"search": 100, "look": 1}
    tight = RateLimitConfig(unit_windows="99/day")
    with pytest.raises(ConfigurationError, match="one request of search costs 100 units and never fits 99 per 1 day"):
        check_costs(tight, costs)
    check_costs(RateLimitConfig(unit_windows="100/day", windows="1/second"), costs)
    check_costs(RateLimitConfig(ScopeKind.OPERATION, unit_windows="99/day", scope_name="look"), costs)


def test_an_operation_the_provider_lacks_is_refused_where_its_operations_are_known() -> None:
    """With what was probably meant; a provider that is not installed here is believed."""
    with pytest.raises(InvalidInputError, match="Did you mean 'save'"):
        check_operation("sav", {"save": 1}, "spotify")
    check_operation("sav", {}, "spotify")


def test_one_level_is_named_at_a_time() -> None:
    """Nothing is the provider."""
    assert level_named() == (ScopeKind.PROVIDER, "")
    assert level_named(account="a") == (ScopeKind.ACCOUNT, "a")
    assert level_named(account_level=True) == (ScopeKind.ACCOUNT, "")
    assert level_named(operation="save") == (ScopeKind.OPERATION, "save")
    for names in ({"account": "a", "operation": "b"}, {"account": "a", "account_level": True}):
        with pytest.raises(InvalidInputError, match="one level"):
            level_named(**names)  # type: ignore[arg-type]
