"""The breaker in Lua and the breaker in Python are one machine."""

from __future__ import annotations

from collections import Counter

import pytest
from breaker_world import CONFIGS, BothBreakers
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from jobqueue.model.breaker import BreakerStatus
from jobqueue.model.limit import SlotUse


def test_lua_and_model_agree_on_every_sequence_of_events(redis_url):
    """Grants, answers, deadlines, waits, commands and new configurations in any order leave both the same."""
    run_state_machine_as_test(
        lambda: BothBreakers(redis_url, Counter()),
        settings=settings(
            max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_lua_and_model_agree_on_a_tour_of_all_there_is(redis_url, name):
    """Every status, denial and transition of the table is met once on a way that does not depend on chance."""
    both = BothBreakers(redis_url, seen := Counter())
    both.begin(name, is_quiet=False, already=0, is_slow=False)
    has_slow_calls = both.config.slow_call_s is not None

    both.meet(9, SlotUse.THROTTLED, 0.2)
    both.meet(9, SlotUse.FAILURE, None)
    both.reserve(1, 1.0)
    both.clock.now_us = both.model.open_until_us
    both.reserve(9, 0.2)
    both.reserve(1, 1.0)
    both.clock.advance(0.2)
    both.meet(9, SlotUse.THROTTLED, None)
    both.meet(9, SlotUse.FAILURE, None)
    both.are_alike()
    if has_slow_calls:
        both.clock.now_us = both.model.open_until_us
        both.meet(9, SlotUse.OK, 0.1)
    both.clock.now_us = both.model.open_until_us
    both.meet(9, SlotUse.OK, 0.099999)
    both.look(1)
    for _ in range(6):
        both.reserve(9, 3.0)
        both.reserve(1, 3.0)
        both.look(9)
        both.clock.now_us += both.config.slow_start_us // 5 + 1
    both.meet(9, SlotUse.OK, 0.1 if has_slow_calls else 0.05)
    both.look(1)
    for status in (BreakerStatus.FORCED_OPEN, BreakerStatus.DISABLED, BreakerStatus.CLOSED):
        both.command(status)
        both.reserve(2, 1.0)
        both.look(1)
    for step in range(12):
        both.meet(1, SlotUse.FAILURE if step % 3 == 0 else SlotUse.OK, 0.1 if step % 4 == 0 else 0.01)
        both.look(1)
        both.are_alike()
    both.teardown()

    expected = {"closed to open: failure", "half_open to open: failure", "half_open to closed: ok", "denied: open"}
    expected |= {"denied: half_open", "denied: forced_open", "a dead probe's lease was used again"}
    expected |= {"closed to open: slow", "half_open to open: slow"} if has_slow_calls else set()
    expected |= {"denied: slow start", "granted fewer: slow start"} if both.config.slow_start_us else set()
    assert expected <= {what for what, times in seen.items() if times}
