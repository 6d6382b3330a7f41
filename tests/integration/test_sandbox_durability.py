"""What the sandbox keeps through kill -9, and how it starts and ends."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from handlers.sandbox.ledger import effects_by_item, read_ledger
from handlers.sandbox.seed import seed_playlist_id, seed_track_id
from jobqueue.errors import ConfigurationError

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


def test_kill_in_mid_run_loses_no_answered_effect(tmp_path: Path):
    """After kill -9 under load the state holds every effect that was answered and exactly those of the ledger."""
    answered: set[int] = set()
    sandbox = start_sandbox(tmp_path, **OPTIONS)

    def work(worker: int) -> None:
        with requests.Session() as session:
            for n in range(worker, 400, 8):
                try:
                    remove(sandbox, n, session)
                except requests.RequestException:
                    return
                answered.add(n)

    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(work, worker) for worker in range(8)]
        sandbox.wait_for("served", 60)
        sandbox.kill()
    for run in runs:
        run.result()
    applied = set(effects_by_item(read_ledger(sandbox.ledger_path)))

    with sandbox.restart() as revived:
        left = {row["id"] for row in revived.control("state", account="demo")["tracks"]}
        stats = revived.control("stats")

    assert 60 <= len(applied) < 400, "it was killed in the middle"
    assert {track(n) for n in answered} <= applied
    assert left == {seed_track_id(n) for n in range(400)} - {uri.rpartition(":")[2] for uri in applied}
    assert stats["served"] == len(applied)
    assert stats["arrivals"] == len(list(read_ledger(sandbox.ledger_path)))


def test_a_request_killed_before_its_effect_is_an_unfinished_arrival(tmp_path: Path):
    """What arrived and was never decided is in the ledger as such, counts for the limit, and changed nothing."""
    sandbox = start_sandbox(tmp_path, **{**OPTIONS, "limit": "2/600"})
    sandbox.control("faults", {"kind": "hold", "when": "before"})

    def attempt() -> None:
        with requests.Session() as session, pytest.raises(requests.ConnectionError):
            remove(sandbox, 0, session)

    client = threading.Thread(target=attempt)
    client.start()
    sandbox.wait_for("held", 1)
    sandbox.kill()
    client.join(10)

    with sandbox.restart() as revived, requests.Session() as session:
        after = [remove(revived, n, session) for n in (1, 2)]
        tracks = {row["id"] for row in revived.control("state", account="demo")["tracks"]}

    first, *_ = read_ledger(sandbox.ledger_path)
    assert (first.decision, first.status, first.is_applied, first.items) == ("unfinished", 0, False, (track(0),))
    assert after == [200, 429], "the window survives the restart"
    assert seed_track_id(0) in tracks
    assert [entry.seq for entry in read_ledger(sandbox.ledger_path)] == [1, 2, 3]


def test_playlists_and_tokens_are_replayed(tmp_path: Path):
    """Positions, dates, snapshot and an expired token are the same after kill -9."""
    sandbox = start_sandbox(tmp_path, **OPTIONS)
    path = f"{sandbox.base_url}/playlists/{seed_playlist_id(0)}/items"
    requests.delete(path, json={"items": [{"uri": track(0)}, {"uri": track(1)}]}, headers=HEADERS, timeout=10)
    requests.post(path, json={"uris": [track(1), track(9), track(1)], "position": 3}, headers=HEADERS, timeout=10)
    sandbox.control("expire_token", {"account": "demo"})
    before = sandbox.control("state", account="demo")
    sandbox.kill()

    with sandbox.restart() as revived:
        assert revived.base_url == sandbox.base_url
        assert revived.control("state", account="demo") == before
        assert requests.get(f"{revived.base_url}/me", headers=HEADERS, timeout=10).status_code == 401


def test_a_torn_last_line_is_dropped(tmp_path: Path):
    """A line half written in a power cut is left out by the reader and removed on the next start."""
    with start_sandbox(tmp_path, **OPTIONS) as sandbox, requests.Session() as session:
        remove(sandbox, 0, session)
    with sandbox.ledger_path.open("ab") as file:
        file.write(b'{"kind":"request","seq":2,"it')
    torn = [entry.seq for entry in read_ledger(sandbox.ledger_path)]

    with sandbox.restart() as revived, requests.Session() as session:
        remove(revived, 1, session)

    assert torn == [1]
    assert [(entry.seq, entry.items) for entry in read_ledger(sandbox.ledger_path)] == [
        (1, (track(0),)),
        (2, (track(1),)),
    ]


def test_a_folder_belongs_to_one_sandbox_and_one_seed(tmp_path: Path):
    """A second sandbox on a folder, another seed library, an unknown option or value are refused with the reason."""
    with start_sandbox(tmp_path, **OPTIONS), pytest.raises(ConfigurationError, match="in use by another sandbox"):
        start_sandbox(tmp_path, **OPTIONS)
    with pytest.raises(ConfigurationError, match="was begun with library"):
        start_sandbox(tmp_path, **{**OPTIONS, "seed_library": 3})
    for wrong in (
        {"colour": "red"},
        {"limit": "many"},
        {"fault_rate": "rain=1"},
        {"quirks": "moody"},
        {"latency_ms": -1},
    ):
        with pytest.raises(ConfigurationError, match=r"limit|colour|rain|moody|negative"):
            start_sandbox(tmp_path / "new", **wrong)


def test_it_dies_with_its_parent(tmp_path: Path):
    """When the starter is killed the sandbox ends by itself: its connections close and its folder is free."""
    program = (
        "import sys; from handlers.sandbox.launch import start_sandbox; "
        "print(start_sandbox(sys.argv[1], seed_library=1).port, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        port = int(starter.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            starter.kill()
            starter.wait()

            assert connection.recv(1) == b""

    start_sandbox(tmp_path, seed_library=1).stop()


def test_sigterm_ends_it_in_order(tmp_path: Path):
    """SIGTERM gives exit code 0, also while a request is held."""
    sandbox = start_sandbox(tmp_path, **OPTIONS)
    sandbox.control("faults", {"kind": "hold", "when": "after"})

    def attempt() -> None:
        with requests.Session() as session, contextlib.suppress(requests.ConnectionError):
            remove(sandbox, 0, session)

    client = threading.Thread(target=attempt)
    client.start()
    sandbox.wait_for("held", 1)

    assert sandbox.stop() == 0
    client.join(10)
    assert not sandbox.is_running
