"""The arithmetic of scripts/bench/quota, on ledgers written by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from handlers.sandbox.ledger import Entry
from jobqueue.errors import InvalidInputError

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))

from case import CASES, HOLD, Case, Limit, parse_case
from figures import NS_PER_S, Shortage, figures
from trial import Disturbance, Plan

TWO_IN_TEN = Case((Limit(2, 10),))
BEGAN_S = 1_000


def ledger(*times_s: float, refused: tuple[float, ...] = (), uncounted: tuple[float, ...] = ()) -> list[Entry]:
    """Entries at these seconds; a time in *refused* was answered by 429, one in *uncounted* no limit counts."""

    def entry(seq: int, at_s: float) -> Entry:
        is_refused = at_s in refused
        return Entry(
            seq=seq,
            at_ns=0,
            mono_ns=round((BEGAN_S + at_s) * NS_PER_S),
            method="GET",
            path="/v1/me",
            account="demo",
            operation="get_profile",
            items=(),
            idempotency_key="",
            request_id="",
            digest="",
            is_counted=at_s not in uncounted,
            decision="refused" if is_refused else "served",
            status=429 if is_refused else 200,
            fault="",
            is_applied=False,
            changes=(),
        )

    return [entry(seq, at_s) for seq, at_s in enumerate([*times_s, *refused, *uncounted], start=1)]


def at_ns(second: float) -> int:
    return round((BEGAN_S + second) * NS_PER_S)


def test_quota_used_is_full_windows_by_the_time_from_first_to_last_arrival():
    """Six calls of two in ten seconds need two windows; they took 22 seconds."""
    found = figures(ledger(0, 1, 10.5, 11.5, 21, 22), TWO_IN_TEN, "rolling")

    assert found.calls == 6
    assert found.elapsed_s == 22
    assert found.quota_used == pytest.approx(2 * 10 / 22)
    assert found.most_arrivals == {"2/10s": 2}


def test_a_started_window_counts_as_whole():
    """Five calls need as many windows as six."""
    assert figures(ledger(0, 1, 10, 11, 20), TWO_IN_TEN, "rolling").quota_used == pytest.approx(1.0)


def test_refused_calls_raise_arrivals_and_not_the_quota_used():
    """A 429 is no work done; it does lengthen the time when it comes last."""
    found = figures(ledger(0, 1, 11, 12, refused=(9, 20), uncounted=(30,)), TWO_IN_TEN, "rolling")

    assert (found.calls, found.refused) == (4, 2)
    assert found.quota_used == pytest.approx(10 / 20)
    assert found.most_arrivals == {"2/10s": 3}


def test_fixed_windows_are_scanned_as_the_provider_lays_them():
    """Twice the limit around a boundary is no violation there."""
    assert figures(ledger(8, 9, 10, 11), TWO_IN_TEN, "fixed").most_arrivals == {"2/10s": 2}
    assert figures(ledger(8, 9, 10, 11), TWO_IN_TEN, "rolling").most_arrivals == {"2/10s": 4}


def test_of_two_windows_the_one_that_takes_longest_by_itself_is_judged():
    """300 a minute are slower than 10 a second."""
    case = parse_case("10/1s; 300/60s")
    assert case.tightest == Limit(300, 60)
    assert parse_case("1/1s; 300/60s").tightest == Limit(1, 1)


def test_windows_of_a_shortage_by_another_client():
    """What the other client took is not available, and counts as used."""
    shortage = Shortage(at_ns(20), at_ns(40), 0.5, taken_ns=(at_ns(20), at_ns(30)))
    found = figures(ledger(0, 1, 10, 11, 21, 31, 40, 41, refused=(22,)), TWO_IN_TEN, "rolling", shortage)

    assert [(row.index, row.arrivals, row.served, row.refused, row.available, row.used) for row in found.rows] == [
        (-2, 2, 2, 0, 2, 1.0),
        (-1, 2, 2, 0, 2, 1.0),
        (0, 2, 1, 1, 1, 1.0),
        (1, 1, 1, 0, 1, 1.0),
        (2, 2, 2, 0, 2, 1.0),
    ]
    assert found.quota_used == pytest.approx((4 - 1 + 1) * 10 / 41)


def test_recovery_is_the_first_window_length_that_is_used_again():
    """Rolling: at the request that fills it. Fixed: when the window closes."""
    shortage = Shortage(at_ns(10), at_ns(20), 0.5)
    served = ledger(0, 1, 10, 25, 27, 38)

    assert figures(served, TWO_IN_TEN, "rolling", shortage).recovery_windows == pytest.approx(0.7)
    assert figures(served, TWO_IN_TEN, "fixed", shortage).recovery_windows == pytest.approx(1.0)
    assert figures(ledger(0, 1, 10, 25, 38), TWO_IN_TEN, "rolling", shortage).recovery_windows is None


def test_a_lowered_limit_counts_by_the_time_it_overlaps():
    """Half a window of half the limit leaves three quarters."""
    shortage = Shortage(at_ns(5), at_ns(10), 0.5)
    rows = figures(ledger(0, 1, 10), TWO_IN_TEN, "fixed", shortage).rows
    assert [(row.index, row.available) for row in rows] == [(0, 1.5), (1, 2)]


def test_work_is_full_windows_and_the_burst_that_ends_the_last():
    """What a halved quota takes away is left out, so that the run lasts as long."""
    plan = Plan(parse_case("60/6s"), "rolling", windows=10, workers=4, in_flight=4, latency_ms=200, seed=1)
    halved = Plan(**{name: getattr(plan, name) for name in plan.__slots__} | {"disturbance": Disturbance(halve_for=4)})

    assert plan.calls == 660
    assert halved.calls == 660 - 120


@pytest.mark.parametrize("text", ["", "100", "100/60s lazy", "0/60s", "10/0s", "10/1.5s", "10/1s; ", "a/b strict"])
def test_a_case_that_cannot_be_read_is_refused(text):
    """The error names the field."""
    with pytest.raises(InvalidInputError, match="cannot be read"):
        parse_case(text)


def test_every_case_has_a_number_to_hold():
    """A case that is spelt differently would be measured and never judged."""
    assert {str(parse_case(text)) for text in CASES} == set(HOLD)
    assert parse_case("10/1s; 300/60s").for_sandbox == "10/1,300/60"
    assert parse_case("30/1s eager").expressions == "30 per 1 second"
