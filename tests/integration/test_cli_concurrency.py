"""``--concurrency`` on the command line."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from cli_world import Program, environment, write_items

NOOP = ("enqueue", "noop", "--provider", "noop", "--account", "demo", "--items", "items.csv")


@pytest.fixture
def program(
    redis_url: str,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Program:
    names = environment(redis_url, database_url, tmp_path)
    for name in ("REDIS_URL", "DATABASE_URL"):
        monkeypatch.setenv(name, names[name])
    monkeypatch.chdir(tmp_path)
    write_items(tmp_path / "items.csv", range(5))
    return Program(capsys, names)


def test_a_label_is_stored_with_its_placeholders_filled_in(program: Program, database_url: str) -> None:
    """The label may hold an equals sign; the last one separates the capacity."""
    program.json(*NOOP, "--concurrency", "re={account}:{job}=3", "--concurrency-max-sleep", "10m")
    with psycopg.connect(database_url) as connection:
        (stored,) = connection.execute("SELECT concurrency FROM jobs").fetchone() or ((),)
    assert stored == {"name": "re=demo:1", "capacity": 3, "max_sleep_s": 600.0, "expiry_s": 20.0}


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        ((*NOOP, "--concurrency", "x"), "'x' is not LABEL=N", "rechunk:{account}=1"),
        ((*NOOP, "--concurrency", "x=many"), "'x=many' is not LABEL=N", "rechunk:{account}=1"),
        ((*NOOP, "--concurrency", "x=0"), "capacity 0 is out of range", "from 1 to 10,000"),
        ((*NOOP, "--concurrency", "=1"), "the label is empty", "such as rechunk:{account}"),
        ((*NOOP, "--concurrency", "x:{acount}=1"), "'acount' is unknown", "Did you mean {account}?"),
        ((*NOOP, "--concurrency", "x:{playlist}=1"), "'playlist' is unknown", "Known here: account"),
        ((*NOOP, "--concurrency", "{owner}=1"), "this job has no owner", "Give it one"),
        ((*NOOP, "--concurrency-max-sleep", "10m"), "needs --concurrency", "Name the label"),
        ((*NOOP, "--concurrency", "x=1", "--concurrency-max-sleep", "0s"), "max_sleep_s 0.0 is out", "more than 0 s"),
        (("enqueue", "rollback", 1, "--concurrency", "x=1"), "--concurrency does not go with a rollback", "JOB_ID"),
        (
            ("enqueue", "rollback", 1, "--concurrency-max-sleep", "1m"),
            "--concurrency-max-sleep does not go with a rollback",
            "JOB_ID",
        ),
    ],
)
def test_a_bad_label_is_exit_code_2_and_stores_nothing(
    program: Program, database_url: str, arguments: tuple[object, ...], message: str, remedy: str
) -> None:
    """One message that says what is wrong and what to do."""
    answer = program(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert remedy in answer.err
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
