"""When a job would be done: exact where it can be known, never too early, never later for more quota."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobqueue.model.batching import BatchConfig
from jobqueue.model.plan import Measured, Plan, WindowLoad
from jobqueue.model.preflight import estimate, judge

ONE = BatchConfig(1, 1, 1)
AT_ONCE = Measured(count=1000, latency_s=0.0, spread_s=0.0)


def window(limit: int, length_s: float, **more: object) -> WindowLoad:
    return WindowLoad(f"{limit} per {length_s:g} s", "spotify", limit, float(length_s), **more)  # type: ignore[arg-type]


def plan(items: int, *windows: WindowLoad, **more: object) -> Plan:
    """One item a batch, one request each, answered at once unless *more* says otherwise."""
    settled: dict[str, object] = {"measured": AT_ONCE, "parts": 4} | more
    return Plan(items, windows=windows, **({"sizes": ONE} | settled))  # type: ignore[arg-type]


windows = st.builds(window, st.integers(1, 60), st.sampled_from([1.0, 6.0, 60.0, 3600.0]))
loaded = st.builds(
    lambda base, used, frees, rest: replace(
        base,
        used=min(used, base.limit),
        frees_in_s=frees * base.length_s,
        resets_in_s=(frees + rest * (1 - frees)) * base.length_s,
    ),
    windows,
    st.integers(0, 60),
    st.floats(0, 1),
    st.floats(0, 1),
)
measures = st.builds(
    Measured,
    count=st.integers(5, 2000),
    latency_s=st.floats(0, 3),
    spread_s=st.floats(0, 2),
)
plans = st.builds(
    Plan,
    items=st.integers(1, 3000),
    sizes=st.integers(1, 40).map(lambda size: BatchConfig(size, size, size)),
    windows=st.lists(loaded, max_size=3, unique_by=lambda each: each.length_s),
    requests_a_batch=st.integers(1, 2),
    is_ordered=st.booleans(),
    parts=st.integers(1, 8),
    workers=st.integers(1, 8),
    max_concurrency=st.none() | st.integers(1, 20),
    measured=measures,
)


@given(st.integers(1, 5000), st.integers(1, 500), st.sampled_from([1, 6, 60, 3600]))
def test_one_window_without_latency_is_exact(items: int, limit: int, length_s: int) -> None:
    """(⌈n/L⌉ - 1) windows, to the second."""
    found = estimate(plan(items, window(limit, length_s)))
    assert found.p50_s == pytest.approx((math.ceil(items / limit) - 1) * length_s)


@pytest.mark.parametrize(("items", "limit", "windows_waited"), [(10**6, 100, 9_999), (10**6 + 1, 100, 10_000)])
def test_a_million_items_are_exact_too(items: int, limit: int, windows_waited: int) -> None:
    """Whole periods are leapt over, and the rest is walked."""
    assert estimate(plan(items, window(limit, 60))).p50_s == pytest.approx(windows_waited * 60)


@given(st.integers(1, 400), st.integers(1, 50), st.floats(0.01, 5), st.integers(1, 16))
def test_without_windows_the_lanes_decide(items: int, size: int, latency_s: float, lanes: int) -> None:
    """Waves of as many batches as may be under way, a latency each."""
    found = estimate(
        plan(
            items,
            sizes=BatchConfig(size, size, size),
            in_flight=lanes,
            measured=Measured(count=10, latency_s=latency_s, spread_s=0.0),
        )
    )
    assert found.p50_s == pytest.approx(math.ceil(math.ceil(items / size) / lanes) * latency_s)


@given(st.integers(101, 200), st.floats(0.1, 2))
def test_a_request_counts_until_its_answer_and_a_window_more(items: int, latency_s: float) -> None:
    """The 101st of 100 a minute waits for the first answer's minute: strict costs a latency each window."""
    measured = Measured(count=10, latency_s=latency_s, spread_s=0.0)
    found = estimate(plan(items, window(100, 60), in_flight=200, parts=1, measured=measured))
    assert found.p50_s == pytest.approx(latency_s + 60 + latency_s)
    eager = estimate(plan(items, window(100, 60, counts_from_send_s=0.05), in_flight=200, parts=1, measured=measured))
    assert eager.p50_s == pytest.approx(60.05 + latency_s)


@given(plans, st.integers(1, 2000))
@settings(deadline=None)
def test_more_items_are_never_done_earlier(base: Plan, more: int) -> None:
    """Monotone in the items, P50 as well as P90."""
    few, many = estimate(base), estimate(replace(base, items=base.items + more))
    assert few.p50_s <= many.p50_s * (1 + 1e-9)
    assert few.requests <= many.requests


@given(plans)
@settings(deadline=None)
def test_no_window_is_ever_beaten(base: Plan) -> None:
    """Never below what each window alone would take, unused; P90 never before P50."""
    found = estimate(base)
    for each in base.windows:
        least_s = (math.ceil(found.requests / each.limit) - 1) * each.length_s
        assert found.p50_s >= least_s
    assert found.p90_s >= found.p50_s


@given(plans, st.integers(0, 2), st.integers(1, 100))
@settings(deadline=None)
def test_more_quota_is_never_later(base: Plan, index: int, more: int) -> None:
    """With batches of one size: a higher limit, and as little of it used, only helps."""
    if index >= len(base.windows) or any(each.limit < base.requests_a_batch for each in base.windows):
        return
    wider = [replace(each, limit=each.limit + more * (i == index)) for i, each in enumerate(base.windows)]
    assert estimate(replace(base, windows=wider)).p50_s <= estimate(base).p50_s * (1 + 1e-9)


@given(plans, st.integers(0, 2))
@settings(deadline=None)
def test_what_a_window_holds_now_only_delays(base: Plan, index: int) -> None:
    """An empty window is never worse than a used one, and a full one holds everything until something leaves it."""
    if index >= len(base.windows):
        return
    empty = [
        replace(each, used=0, frees_in_s=0.0, resets_in_s=0.0) if i == index else each
        for i, each in enumerate(base.windows)
    ]
    assert estimate(replace(base, windows=empty)).p50_s <= estimate(base).p50_s * (1 + 1e-9)


def test_a_full_window_delays_the_first_request() -> None:
    """Used now counts: nothing goes out before the first of it leaves."""
    full = window(100, 60, used=100, frees_in_s=25.0, resets_in_s=40.0)
    assert estimate(plan(1, full)).p50_s == pytest.approx(25.0)
    assert estimate(plan(1, full)).p90_s == pytest.approx(40.0)
    assert estimate(plan(100, full)).p50_s == pytest.approx(40.0)


def test_a_calendar_window_frees_all_at_its_boundary() -> None:
    """Midnight in an hour: what is left goes now, a day's worth at midnight, the rest at the next one."""
    day = window(10_000, 86_400, used=9_000, resets_in_s=3600.0, is_calendar=True)
    assert estimate(plan(1_000, day)).p50_s == pytest.approx(0.0)
    assert estimate(plan(1_001, day)).p50_s == pytest.approx(3600.0)
    assert estimate(plan(11_001, day)).p50_s == pytest.approx(3600.0 + 86_400)
    assert estimate(plan(1_000_000, day)).p50_s == pytest.approx(3600.0 + 99 * 86_400)


def test_units_are_counted_where_a_window_counts_units() -> None:
    """50 units a request fit 10,000 units two hundred times."""
    units = window(10_000, 86_400, is_weighted=True)
    found = estimate(plan(201, units, units_a_batch=50))
    assert found.p50_s == pytest.approx(86_400)
    assert (found.cost_units, found.needs[0].needs, found.needs[0].windows) == (10_050, 10_050, 1.005)


def test_a_look_and_its_effect_that_never_fit_together_go_one_by_one() -> None:
    """Two requests of a batch through one a minute take a minute, not for ever."""
    assert estimate(plan(3, window(1, 60), requests_a_batch=2)).p50_s == pytest.approx(5 * 60)


def test_the_binding_constraint_is_the_one_worth_lifting() -> None:
    """Ten a second is waited for most often, three hundred a minute is what holds the job up."""
    second, minute = window(10, 1), window(300, 60)
    found = estimate(plan(10_000, second, minute, measured=Measured(count=10, latency_s=0.2, spread_s=0.1)))
    assert (found.binding_kind, found.binding) == ("window", minute.name)
    assert found.waits_s[second.name] > found.waits_s[minute.name]


def test_workers_bind_where_windows_do_not() -> None:
    """Too few requests under way, by the workers, by a cap, or because order matters."""
    slow = Measured(count=10, latency_s=1.0, spread_s=0.1)
    wide = window(10_000, 60)
    assert estimate(plan(500, wide, measured=slow)).binding_kind == "workers"
    assert estimate(plan(500, wide, measured=slow, max_concurrency=2)).binding_kind == "concurrency"
    assert estimate(plan(500, wide, measured=slow, is_ordered=True)).binding_kind == "order"
    assert estimate(plan(1, wide, measured=slow)).binding_kind == "latency"


def test_more_workers_than_parts_are_of_no_use() -> None:
    """A part is held by one worker."""
    slow = Measured(count=10, latency_s=1.0, spread_s=0.0)
    one, many = (estimate(plan(80, measured=slow, parts=2, workers=count)).p50_s for count in (2, 20))
    assert one == many == pytest.approx(10.0)


def test_measured_failures_add_requests_and_pauses() -> None:
    """A tenth sent again is a ninth more requests; throttles bring their pause; a spread moves P90 alone."""
    clean = Measured(count=1000, latency_s=0.2, spread_s=0.0)
    base = plan(900, measured=clean)
    again = estimate(replace(base, measured=replace(clean, repeats=100)))
    assert again.requests == 1000
    throttled = estimate(replace(base, measured=replace(clean, repeats=100, throttles=10)))
    assert throttled.p50_s == pytest.approx(again.p50_s + 1000 * 0.01 / 4 * 30)
    wild = estimate(replace(base, measured=replace(clean, spread_s=1.0)))
    calm = estimate(base)
    assert wild.p50_s == calm.p50_s
    assert wild.p90_s > calm.p90_s


def test_the_size_of_batches_follows_the_quota() -> None:
    """Plenty: the optimum. Scarce: toward the largest, so fewer requests than the optimum would need."""
    sizes = BatchConfig(1, 20, 40)
    slow = Measured(count=10, latency_s=1.0, spread_s=0.0)
    plenty = estimate(plan(2_000, window(1000, 60), sizes=sizes, measured=slow))
    scarce = estimate(plan(2_000, window(10, 60), sizes=sizes, measured=slow))
    assert plenty.batches == 100
    assert 50 <= scarce.batches < 100


def test_the_last_batch_of_each_part_is_a_short_one() -> None:
    """Four parts of 25 in batches of 10: three batches each, not ten in all."""
    sizes = BatchConfig(1, 10, 10)
    assert estimate(plan(100, sizes=sizes, parts=4, part_items=25)).batches == 12
    assert estimate(plan(100, sizes=sizes, parts=5, part_items=20)).batches == 10


def test_nothing_to_do_takes_no_time() -> None:
    """A rollback of a job that did nothing."""
    found = estimate(plan(0, window(10, 60), parts=0))
    assert (found.requests, found.p50_s, found.p90_s) == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("deadline_s", "can_meet", "is_likely"), [(41, True, True), (30, False, True), (20, False, False)]
)
def test_p90_decides_about_a_deadline(deadline_s: float, can_meet: bool, is_likely: bool) -> None:
    """Between P50 and P90 it is likely and no promise."""
    verdict = judge(estimate(plan(1, window(100, 60, used=100, frees_in_s=25.0, resets_in_s=40.0))), deadline_s)
    assert (verdict.can_meet, verdict.is_likely) == (can_meet, is_likely)
    assert verdict.margin_s == pytest.approx(deadline_s - 40.0)
