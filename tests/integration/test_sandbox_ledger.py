"""The sandbox's ledger: on the disk before any answer, and what it can be asked."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from handlers.sandbox import ledger_file
from handlers.sandbox.clock import NS_PER_S, LedgerClock
from handlers.sandbox.launch import SandboxProcess, start_sandbox
from handlers.sandbox.ledger import Entry, effects_by_item, max_in_any_window, read_ledger, repeated_calls
from handlers.sandbox.limiter import Limit
from handlers.sandbox.pipeline import Arrival
from handlers.sandbox.provider import SeedOptions
from handlers.sandbox.runtime import SandboxOptions, open_sandbox
from handlers.sandbox.seed import seed_track_id
from jobqueue.errors import ServerUnavailableError

OPTIONS = {"limit": "10000/60", "latency_ms": 4, "seed_library": 400, "seed_playlists": 1}
HEADERS = {"Authorization": "Bearer sandbox-demo"}


def track(n: int) -> str:
    """Name seed track *n*."""
    return f"spotify:track:{seed_track_id(n)}"


def remove(sandbox: SandboxProcess, n: int, session: requests.Session, key: str = "") -> int:
    """Remove one saved track; returns the status."""
    headers = {**HEADERS, **({"Idempotency-Key": key} if key else {})}
    return session.delete(
        f"{sandbox.base_url}/me/library", params={"uris": track(n)}, headers=headers, timeout=10
    ).status_code


def test_an_answer_waits_for_the_disk_and_one_flush_serves_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No line counts as durable before its flush ended; lines appended in the meantime share the next one."""
    flushing, disk = threading.Semaphore(0), threading.Semaphore(0)
    monkeypatch.setattr(ledger_file, "_flush_to_disk", lambda _fd: (flushing.release(), disk.acquire()))
    ledger = ledger_file.LedgerFile(tmp_path / "ledger.jsonl")
    durable: queue.Queue[int] = queue.Queue()

    def wait_for(ticket: int) -> None:
        ledger.sync(ticket)
        durable.put(ticket)

    waiters = [threading.Thread(target=wait_for, args=(ledger.append({"n": 1}),))]
    waiters[0].start()
    assert flushing.acquire(timeout=10)
    waiters += [threading.Thread(target=wait_for, args=(ledger.append({"n": n}),)) for n in range(2, 7)]
    for waiter in waiters[1:]:
        waiter.start()
    none_yet = durable.empty()
    disk.release()
    first = durable.get(timeout=10)
    assert flushing.acquire(timeout=10)
    none_more = durable.empty()
    disk.release()
    rest = {durable.get(timeout=10) for _ in range(5)}
    for waiter in waiters:
        waiter.join(10)

    assert (none_yet, first, none_more, rest) == (True, 1, True, {2, 3, 4, 5, 6})
    assert not flushing.acquire(blocking=False), "two flushes served six lines"
    ledger.close()


def test_no_answer_leaves_before_its_line_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A request is in the file, and not answered, while the disk has not confirmed it."""
    library = SeedOptions(accounts=("demo",), library=3, artists=0, playlists=0, playlist_items=0)
    options = SandboxOptions("spotify", (Limit(10, 60),), "rolling", library, latency_s=0)
    pipeline = open_sandbox(tmp_path, options)
    flushing, disk = threading.Semaphore(0), threading.Semaphore(0)
    monkeypatch.setattr(ledger_file, "_flush_to_disk", lambda _fd: (flushing.release(), disk.acquire()))
    answers: queue.Queue[int] = queue.Queue()
    arrival = Arrival(
        "DELETE", "/v1/me/tracks", f"ids={seed_track_id(1)}", {"authorization": "Bearer sandbox-demo"}, b""
    )
    client = threading.Thread(target=lambda: answers.put(pipeline.handle(arrival).status))
    client.start()

    assert flushing.acquire(timeout=10)
    written, is_silent = list(read_ledger(pipeline.ledger.path)), answers.empty()
    disk.release()

    assert answers.get(timeout=10) == 200
    assert (len(written), written[0].is_applied, is_silent) == (1, True, True)
    client.join(10)
    pipeline.ledger.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_never_an_answer():
    """When a line cannot be written the request fails, and so does every later one."""
    ledger = ledger_file.LedgerFile(Path("/dev/full"))

    for _ in range(2):
        with pytest.raises(ServerUnavailableError, match=r"ledger /dev/full cannot be written: .*No space left"):
            ledger.append({"n": 1})


def test_repeated_calls_are_found_by_key_and_by_contents(tmp_path: Path):
    """Equal keys, or equal contents without keys, are one repeated call, which may differ in contents."""
    with start_sandbox(tmp_path, **OPTIONS) as sandbox, requests.Session() as session:
        for n, key in [(0, "a"), (0, "a"), (1, "b"), (2, "b"), (3, ""), (3, ""), (4, "c"), (4, "d"), (5, "")]:
            remove(sandbox, n, session, key)

    found = repeated_calls(read_ledger(sandbox.ledger_path))

    assert [(call.entries[0].items, call.extra, call.is_verbatim) for call in found] == [
        ((track(0),), 1, True),
        ((track(1),), 1, False),
        ((track(3),), 1, True),
    ]
    effects = effects_by_item(read_ledger(sandbox.ledger_path))
    assert [effect.is_changed for effect in effects[track(0)]] == [True, False]


def entry_at(mono_ns: int, *, is_counted: bool = True) -> Entry:
    """Make an entry that arrived at *mono_ns*."""
    return Entry(
        seq=1,
        at_ns=0,
        mono_ns=mono_ns,
        method="GET",
        path="/",
        account="",
        operation="x",
        items=(),
        idempotency_key="",
        request_id="",
        digest="",
        is_counted=is_counted,
        decision="served",
        status=200,
        fault="",
        is_applied=True,
        changes=(),
    )


@given(st.lists(st.integers(0, 20), max_size=40), st.integers(1, 8))
def test_the_window_scan_agrees_with_counting(times_s, window_s):
    """The scan finds the fullest half-open window that brute force finds."""
    entries = [entry_at(at_s * NS_PER_S) for at_s in times_s]
    brute = max((sum(start <= at < start + window_s for at in times_s) for start in times_s), default=0)

    assert max_in_any_window([*entries, entry_at(0, is_counted=False)], window_s) == brute


def test_ledger_time_rises_over_a_reboot():
    """On the same boot the clock goes on as it is; after a reboot it continues behind the last line."""
    same, rebooted = LedgerClock(), LedgerClock()
    now_ns = same.now_ns()

    same.continue_from(last_ns=now_ns, last_epoch_ns=0, same_boot=True)
    rebooted.continue_from(last_ns=now_ns + 10**15, last_epoch_ns=2**62, same_boot=False)

    assert 0 <= same.now_ns() - now_ns < 60 * NS_PER_S
    assert 0 <= rebooted.now_ns() - (now_ns + 10**15) < 60 * NS_PER_S
