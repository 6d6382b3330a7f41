"""What a breaker's configuration may say."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from jobqueue.errors import ConfigurationError
from jobqueue.model.breaker import BreakerConfig


def test_what_is_left_out_is_filled_in_and_can_be_stored():
    """A row without a word means a minute of calls; a filled configuration reads back as itself."""
    assert BreakerConfig().window_s == 60
    assert BreakerConfig(window_calls=20).window_s is None
    assert BreakerConfig(slow_call_s=2).slow_rate == 0.5
    for config in (BreakerConfig(), BreakerConfig(window_calls=20), BreakerConfig(slow_call_s=2)):
        assert BreakerConfig(**asdict(config)) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failure_rate", 0),
        ("failure_rate", 1.1),
        ("failure_rate", float("nan")),
        ("failure_rate", True),
        ("failure_rate", "0.5"),
        ("minimum_calls", 0),
        ("minimum_calls", 2.5),
        ("minimum_calls", None),
        ("window_s", 0),
        ("window_s", float("inf")),
        ("window_calls", 0),
        ("window_calls", 1001),
        ("slow_call_s", 0),
        ("slow_rate", 2),
        ("open_s", 0),
        ("open_max_s", 3601),
        ("jitter", -0.1),
        ("probes", 0),
        ("slow_start_s", -1),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    """The error says which field holds which wrong value, and what would be right."""
    with pytest.raises(ConfigurationError, match=rf"{name} {value} is .*Use a (whole )?number in ") as caught:
        BreakerConfig(**{name: value})
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"window_s": 30, "window_calls": 50}, "window_s 30 and window_calls 50"),
        ({"window_calls": 9, "minimum_calls": 10}, "minimum_calls 10 .* window_calls 9"),
        ({"slow_rate": 0.3}, "slow_rate 0.3 .* slow_call_s"),
        ({"open_s": 700}, "open_s 700 .* open_max_s 600"),
    ],
)
def test_values_that_do_not_go_together_are_named(values, named):
    """Both are said, and what to do about it."""
    with pytest.raises(ConfigurationError, match=named) as caught:
        BreakerConfig(**values)
    assert caught.value.remedy
