"""The sandbox's own limit: exact in arithmetic, exact over real connections."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from handlers.sandbox.clock import NS_PER_S
from handlers.sandbox.launch import start_sandbox
from handlers.sandbox.ledger import max_in_any_window, max_in_fixed_windows, read_ledger
from handlers.sandbox.limiter import Limit, Limiter, parse_limits
from jobqueue.errors import ConfigurationError


class Clock:
    """Ledger time moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * NS_PER_S

    def __call__(self) -> int:
        return self.now_ns

    def forward(self, seconds: float) -> None:
        self.now_ns += round(seconds * NS_PER_S)


@pytest.fixture
def clock() -> Clock:
    """Give each test a clock of its own."""
    return Clock()


def admitted(limiter: Limiter, attempts: int) -> int:
    """Count how many of *attempts* at this instant are admitted."""
    return sum(limiter.admit().is_admitted for _ in range(attempts))


def test_rolling_window_frees_each_slot_one_window_after_it_was_taken(clock):
    """A slot is free exactly one window after its request, not a nanosecond before."""
    limiter = Limiter([Limit(2, 10)], kind="rolling", clock=clock)
    assert limiter.admit().is_admitted
    clock.forward(4)
    assert limiter.admit().is_admitted

    clock.forward(6 - 1e-9)
    refused = limiter.admit()
    clock.forward(1e-9)

    assert refused.retry_after_s == 1, "a nanosecond is rounded up to a whole second"
    assert admitted(limiter, 3) == 1
    assert limiter.admit().retry_after_s == 4


def test_retry_after_is_rounded_up(clock):
    """Whoever waits Retry-After seconds is served; it is never short."""
    limiter = Limiter([Limit(1, 10)], kind="rolling", clock=clock)
    limiter.admit()
    clock.forward(2.3)

    retry_after_s = limiter.admit().retry_after_s

    assert retry_after_s == 8
    clock.forward(retry_after_s)
    assert limiter.admit().is_admitted


def test_several_limits_count_all_or_nothing(clock):
    """A request one limit refuses is counted by none."""
    limiter = Limiter(parse_limits("3/60,2/1"), kind="rolling", clock=clock)

    first = admitted(limiter, 5)
    clock.forward(1)
    second = admitted(limiter, 5)

    assert (first, second) == (2, 1)
    assert limiter.admit().retry_after_s == 59


def test_fixed_windows_open_at_multiples_of_their_length(clock):
    """All slots return at once at the boundary, however late they were taken."""
    limiter = Limiter([Limit(3, 10)], kind="fixed", clock=clock)
    clock.forward(9.5)

    assert admitted(limiter, 5) == 3
    assert limiter.admit().retry_after_s == 1
    clock.forward(0.5)
    assert admitted(limiter, 5) == 3


def test_a_scaled_limit_returns_by_itself(clock):
    """Halving holds for its time, counting what was admitted before."""
    limiter = Limiter([Limit(10, 10)], kind="rolling", clock=clock)
    assert admitted(limiter, 4) == 4
    limiter.scale(0.5, for_s=20)

    assert admitted(limiter, 9) == 1
    clock.forward(20)
    assert admitted(limiter, 20) == 10


def test_a_competitor_takes_slots_of_the_same_limit(clock):
    """Another client at one request a second leaves us the rest, and nothing when the window is full."""
    limiter = Limiter([Limit(10, 10)], kind="rolling", clock=clock)
    limiter.compete(1, for_s=5)
    clock.forward(4.5)

    assert admitted(limiter, 20) == 5
    clock.forward(5.6)
    assert limiter.admit().is_admitted, "the competitor's first slot is free again"
    assert not limiter.admit().is_admitted


def test_a_block_refuses_everything_until_it_ends(clock):
    """After a long Retry-After nobody is served before it is over."""
    limiter = Limiter([Limit(10, 10)], kind="rolling", clock=clock)
    limiter.block(for_s=90)

    assert limiter.admit().retry_after_s == 90
    clock.forward(90)
    assert limiter.admit().is_admitted


@pytest.mark.parametrize("text", ["", "100", "0/60", "-1/60", "10/0", "10/inf", "10/nan", "a/b", "10/1,"])
def test_a_limit_that_cannot_be_is_refused(text):
    """What is not REQUESTS/SECONDS is named in the error."""
    with pytest.raises(ValueError, match="is not REQUESTS/SECONDS"):
        parse_limits(text)


@given(
    gaps_ns=st.lists(st.integers(0, 3 * NS_PER_S), max_size=60),
    requests_=st.integers(1, 6),
    window_s=st.sampled_from([0.5, 1.0, 7.0]),
    kind=st.sampled_from(["rolling", "fixed"]),
)
def test_no_window_ever_holds_more_and_nothing_is_refused_without_need(gaps_ns, requests_, window_s, kind):
    """For any arrivals the limiter agrees with counting, request by request, by the definition."""
    clock, taken = Clock(), []
    limiter = Limiter([Limit(requests_, window_s)], kind=kind, clock=clock)
    window_ns = round(window_s * NS_PER_S)
    for gap_ns in gaps_ns:
        clock.now_ns += gap_ns
        now = clock.now_ns
        if kind == "rolling":
            used = sum(now - window_ns < at <= now for at in taken)
        else:
            used = sum(at // window_ns == now // window_ns for at in taken)

        assert limiter.admit().is_admitted == (used < requests_)
        if used < requests_:
            taken.append(now)


def test_thirty_two_connections_get_exactly_the_limit(tmp_path: Path):
    """32 threads race for 50 slots over 32 connections; exactly 50 are served and each 429 says when."""
    gate = threading.Barrier(32)
    with start_sandbox(tmp_path, limit="50/60", latency_ms=5, seed_library=10) as sandbox:

        def attempt(_: int) -> list[tuple[int, str]]:
            with requests.Session() as session:
                session.headers["Authorization"] = "Bearer sandbox-demo"
                gate.wait()
                answers = [session.get(f"{sandbox.base_url}/me", timeout=20) for _ in range(4)]
            return [(answer.status_code, answer.headers.get("Retry-After", "")) for answer in answers]

        with ThreadPoolExecutor(32) as pool:
            answers = [answer for some in pool.map(attempt, range(32)) for answer in some]
        judged = sandbox.control("violations")
        stats = sandbox.control("stats")

    refused = [retry_after for status, retry_after in answers if status == 429]
    assert sum(status == 200 for status, _ in answers) == 50
    assert len(refused) == 128 - 50
    assert {int(retry_after) for retry_after in refused} <= set(range(50, 61))
    assert judged["limits"] == [
        {"limit": 50, "window_s": 60.0, "max_served": 50, "max_arrivals": 128, "is_violated": True}
    ]
    assert (stats["arrivals"], stats["served"], stats["refused"]) == (128, 50, 78)
    entries = list(read_ledger(sandbox.ledger_path))
    assert max_in_any_window((entry for entry in entries if entry.decision == "served"), 60) == 50
    assert max_in_fixed_windows((entry for entry in entries if entry.decision == "served"), 3600) <= 50


def test_limits_change_while_it_runs(tmp_path: Path):
    """The control API sets limits, halves them, blocks and competes; bad values are refused with their name."""
    with start_sandbox(tmp_path, limit="4/60", latency_ms=0, seed_library=1) as sandbox:

        def served(attempts: int) -> int:
            headers = {"Authorization": "Bearer sandbox-demo"}
            return sum(requests.get(f"{sandbox.base_url}/me", headers=headers, timeout=10).ok for _ in range(attempts))

        assert served(6) == 4
        sandbox.control("limits", {"limits": "10/60"})
        sandbox.control("limits", {"factor": 0.7, "for_s": 600})
        assert served(6) == 3
        sandbox.control("limits", {"factor": 1, "for_s": 1})
        sandbox.control("limits", {"block_s": 600})
        assert served(2) == 0
        for wrong in ({"limits": "x"}, {"window": "sideways"}, {"limit": "10/60"}):
            with pytest.raises(ConfigurationError, match="limit"):
                sandbox.control("limits", wrong)


@pytest.mark.parametrize("kind", ["rolling", "fixed"])
def test_another_client_holds_its_share_and_is_first_at_every_slot(clock, kind):
    """It takes half of a window at once, the next half as soon as it may, and lets go when its time ends."""
    limiter = Limiter([Limit(10, 10)], kind=kind, clock=clock)
    limiter.share(0.5, for_s=25)
    assert admitted(limiter, 20) == 5

    clock.forward(10)
    assert admitted(limiter, 20) == 5
    began_ns = 1_000 * NS_PER_S
    assert limiter.shared_ns() == [began_ns] * 5 + [began_ns + 10 * NS_PER_S] * 5

    clock.forward(20)
    assert admitted(limiter, 20) == 10
    assert len(limiter.shared_ns()) == 15, "its third half came in between, unwatched"


def test_another_client_that_finds_the_window_used_up_takes_slots_as_they_free(clock):
    """Nothing is free when it comes, so it gets what frees first, ahead of whoever asks at the same instant."""
    limiter = Limiter([Limit(4, 10)], kind="rolling", clock=clock)
    for _ in range(4):
        assert limiter.admit().is_admitted
        clock.forward(1)
    limiter.share(0.5, for_s=60)

    clock.forward(6)
    assert admitted(limiter, 4) == 0
    clock.forward(2)

    assert admitted(limiter, 4) == 1, "the third slot is free, the first two went to the other client"
    assert limiter.shared_ns() == [(1_000 + second) * NS_PER_S for second in (10, 11)]


def test_another_client_takes_more_once_the_limit_is_raised(clock):
    """It does not wait for the slot it had in view before."""
    limiter = Limiter([Limit(4, 10)], kind="rolling", clock=clock)
    limiter.share(0.5, for_s=60)
    clock.forward(1)
    limiter.configure([Limit(8, 10)])
    clock.forward(1)

    assert admitted(limiter, 8) == 4
    assert limiter.shared_ns() == [1_000 * NS_PER_S] * 2 + [1_001 * NS_PER_S] * 2


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_that_cannot_be_is_refused(clock, share):
    """The message names the field."""
    limiter = Limiter([Limit(4, 10)], kind="rolling", clock=clock)
    with pytest.raises(ValueError, match="share_taken"):
        limiter.share(share, for_s=1)
