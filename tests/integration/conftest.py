"""A limiter's clock, history and limits, for every test of it."""

from __future__ import annotations

import pytest
from ratelimit_world import Clock, MemoryHistory, provider_limits

from jobqueue.ratelimit.limiter import Limiter


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def history(clock):
    """A history in memory."""
    return MemoryHistory(clock)


@pytest.fixture
def make(redis_url, clock, history):
    """Make limiters of ``spotify`` on the standing clock; closed after the test."""
    made = []

    def make(windows="", *, limits=None, **options):
        limits = limits or provider_limits(windows, **options)
        made.append(Limiter(redis_url, {"spotify": limits}, history, clock_us=clock))
        return made[-1]

    yield make
    for limiter in made:
        limiter.close()
