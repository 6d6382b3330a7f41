"""Limits as people write them: what cannot be counted is refused before it is stored."""

from __future__ import annotations

import pytest

from jobqueue.errors import ConfigurationError
from jobqueue.model.window import parse_windows


@pytest.mark.parametrize(
    "windows",
    ["1/0second", "5 per 00 minute", "10/minute; 1/ 0 hour", "10/9999999999year", "1/2year", "1000000001/day"],
)
def test_a_window_without_length_or_beyond_counting_is_refused(windows):
    """The library takes them; Postgres and Redis would not."""
    with pytest.raises(ConfigurationError):
        parse_windows(windows)


@pytest.mark.parametrize("windows", ["1/year", "1000000000/day", "10/10second", "100 per 30 minute"])
def test_the_largest_and_longest_are_taken(windows):
    """A zero that is part of a number is no zero."""
    (window,) = parse_windows(windows)
    assert window.limit >= 1
