"""Each fault the sandbox can inject, seen from the client, the ledger and the state."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from handlers.sandbox.ledger import Entry, read_ledger
from handlers.sandbox.seed import seed_track_id
from jobqueue.errors import ConfigurationError

LIBRARY = 20


def track(n: int) -> str:
    """Name seed track *n*."""
    return f"spotify:track:{seed_track_id(n)}"


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxProcess]:
    """Run a sandbox without limits that matter."""
    with start_sandbox(tmp_path, limit="10000/60", latency_ms=0, seed_library=LIBRARY) as process:
        yield process


def remove(sandbox: SandboxProcess, *numbers: int, timeout: float = 10) -> requests.Response:
    """Remove saved tracks."""
    uris = ",".join(track(n) for n in numbers)
    headers = {"Authorization": "Bearer sandbox-demo"}
    return requests.delete(f"{sandbox.base_url}/me/library", params={"uris": uris}, headers=headers, timeout=timeout)


def saved(sandbox: SandboxProcess) -> int:
    """Count what is saved."""
    return len(sandbox.control("state", account="demo")["tracks"])


def last(sandbox: SandboxProcess) -> Entry:
    """Return the latest entry of the ledger."""
    return list(read_ledger(sandbox.ledger_path))[-1]


@pytest.mark.parametrize(("when", "left"), [("before", LIBRARY), ("after", LIBRARY - 1)])
def test_a_5xx_comes_before_or_after_the_effect(sandbox, when, left):
    """The same 502 may hide an effect; the ledger tells."""
    sandbox.control("faults", {"kind": "status", "status": 502, "when": when, "times": 1, "retry_after": "7"})

    answer = remove(sandbox, 0)

    assert (answer.status_code, answer.json()["error"]["status"], answer.headers["Retry-After"]) == (502, 502, "7")
    assert saved(sandbox) == left
    assert (last(sandbox).decision, last(sandbox).status, last(sandbox).is_applied) == ("fault", 502, when == "after")
    assert remove(sandbox, 0).status_code == 200, "it struck once"


@pytest.mark.parametrize(
    ("when", "left", "status"), [("before", LIBRARY, 0), ("after", LIBRARY - 1, 0), ("midway", LIBRARY - 1, 200)]
)
def test_a_dropped_connection_leaves_the_client_in_doubt(sandbox, when, left, status):
    """The client sees a connection error whether the effect happened or not."""
    sandbox.control("faults", {"kind": "drop", "when": when, "times": 1})

    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        remove(sandbox, 0)

    assert saved(sandbox) == left
    assert (last(sandbox).decision, last(sandbox).status, last(sandbox).is_applied) == (
        "fault",
        status,
        when != "before",
    )


@pytest.mark.parametrize(("when", "left"), [("before", LIBRARY), ("after", LIBRARY - 1)])
def test_a_held_answer_waits_for_a_signal(sandbox, when, left):
    """A request is held before or after its effect until the rule is withdrawn, and then answered as usual."""
    (rule_id,) = sandbox.control("faults", {"kind": "hold", "when": when})["ids"]
    answers: list[int] = []
    client = threading.Thread(target=lambda: answers.append(remove(sandbox, 0).status_code))
    client.start()
    sandbox.wait_for("held", 1)

    while_held = (saved(sandbox), last(sandbox).decision, list(answers))
    sandbox.control(f"faults/{rule_id}", method="DELETE")
    client.join(10)

    assert while_held == (left, "unfinished" if when == "before" else "served", [])
    assert answers == [200]
    assert saved(sandbox) == LIBRARY - 1
    assert len(list(read_ledger(sandbox.ledger_path))) == 1, "an arrival and its decision are one entry"


def test_a_slow_answer_outlasts_the_client(sandbox):
    """A client with a shorter timeout gives up although the effect took place."""
    sandbox.control("faults", {"kind": "slow", "when": "after", "delay_s": 5, "times": 1})

    with pytest.raises(requests.ReadTimeout):
        remove(sandbox, 0, timeout=0.2)

    assert saved(sandbox) == LIBRARY - 1


def test_a_throttle_says_when_and_can_mean_it(sandbox):
    """An injected 429 carries its Retry-After verbatim; enforced, it really refuses until then."""
    date = "Fri, 31 Dec 2027 23:59:59 GMT"
    sandbox.control("faults", {"kind": "throttle", "retry_after": date, "times": 1})
    polite = [remove(sandbox, 0), remove(sandbox, 0)]
    sandbox.control("faults", {"kind": "throttle", "retry_after": "86400", "enforce": True, "times": 1})
    strict = [remove(sandbox, 1), remove(sandbox, 1)]

    assert [(answer.status_code, answer.headers.get("Retry-After")) for answer in polite] == [(429, date), (200, None)]
    assert [answer.status_code for answer in strict] == [429, 429]
    assert 86390 <= int(strict[1].headers["Retry-After"]) <= 86400
    assert strict[0].json() == {"error": {"status": 429, "message": "API rate limit exceeded"}}
    assert [entry.decision for entry in read_ledger(sandbox.ledger_path)] == ["fault", "served", "fault", "refused"]


def test_the_next_k_requests_fail_after_those_that_may_pass(sandbox):
    """``skip`` lets some pass and ``times`` bounds the rest."""
    sandbox.control("faults", {"kind": "status", "skip": 1, "times": 2})

    assert [remove(sandbox, n).status_code for n in range(4)] == [200, 503, 503, 200]


def test_a_poison_fails_every_batch_it_is_in(sandbox):
    """Only batches with the poisoned item fail, each time, and nothing of them is applied."""
    poison = {"kind": "status", "status": 400, "message": "invalid id", "contains": track(3)}
    sandbox.control("faults", poison)

    answers = [remove(sandbox, 1, 2, 3), remove(sandbox, 1, 2), remove(sandbox, 3)]

    assert [answer.status_code for answer in answers] == [400, 200, 400]
    assert answers[0].json() == {"error": {"status": 400, "message": "invalid id"}}
    assert saved(sandbox) == LIBRARY - 2


def test_an_outage_lasts_until_told_otherwise(sandbox):
    """A rule without a count holds for every matching request until it is withdrawn."""
    sandbox.control("faults", {"kind": "status", "operation": "remove_library"})
    headers = {"Authorization": "Bearer sandbox-demo"}

    during = [remove(sandbox, n).status_code for n in range(3)]
    other = requests.get(f"{sandbox.base_url}/me", headers=headers, timeout=10).status_code
    rules = sandbox.control("faults")
    removed = sandbox.control("faults", method="DELETE")

    assert (during, other) == ([503, 503, 503], 200)
    assert [(rule["rule_id"], rule["struck"]) for rule in rules] == [("fault-1", 3)]
    assert removed == {"removed": 1}
    assert remove(sandbox, 0).status_code == 200


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"kind": "meteor"},
        {"kind": "status", "when": "midway"},
        {"kind": "status", "colour": 1},
        {"kind": "throttle", "enforce": True, "retry_after": "soon"},
    ],
)
def test_an_impossible_fault_is_refused(sandbox, rule):
    """A rule that could not strike as written is refused with the reason, and none is put in force."""
    with pytest.raises(ConfigurationError, match="fault: "):
        sandbox.control("faults", [{"kind": "status"}, rule])
    assert sandbox.control("faults") == []


def fates(data: Path, seed: str) -> list[Any]:
    """Return for 60 removals what the client saw and whether it was applied."""
    with start_sandbox(
        data, limit="10000/60", latency_ms=0, seed_library=60, fault_rate="5xx=0.3,drop=0.2", seed=seed
    ) as sandbox:
        seen: list[Any] = []
        for n in range(60):
            try:
                seen.append(remove(sandbox, n).status_code)
            except requests.ConnectionError:
                seen.append("dropped")
        applied = [entry.is_applied for entry in read_ledger(sandbox.ledger_path)]
    return list(zip(seen, applied, strict=True))


def test_random_faults_are_reproducible(tmp_path: Path):
    """The same seed gives each request the same fate, another seed another; effects hide behind some faults."""
    first, again, other = fates(tmp_path / "1", "a"), fates(tmp_path / "2", "a"), fates(tmp_path / "3", "b")

    assert first == again
    assert first != other
    assert {(503, True), (503, False), ("dropped", True), ("dropped", False), (200, True)} <= set(first)
