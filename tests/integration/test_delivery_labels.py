"""What a real worker leaves behind of a label: nothing, however its slice ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import Program, environment, write_items
from store_world import holder, one, sql

from jobqueue.model.label import Label
from jobqueue.store import labels
from jobqueue.store.database import Database

NOOP = ("enqueue", "noop", "--provider", "noop", "--account", "demo", "--items", "items.csv", "--concurrency", "x=1")


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


def test_a_slice_that_succeeds_gives_its_permit_up(program: Program, database_url: str) -> None:
    """Both jobs with one label succeed on one worker, and nobody is inside or in line."""
    program.json(*NOOP)
    program.json(*NOOP)
    program.work()
    with Database(database_url) as database:
        assert sql(database, "SELECT state FROM jobs") == [{"state": "succeeded"}] * 2
        assert labels.status(database, "x") == labels.LabelStatus("x", None, (), ())


def test_a_slice_that_ends_in_an_error_gives_its_permit_up(program: Program, database_url: str) -> None:
    """The limits of its provider cannot be read: both jobs fail one after the other, and nobody is left inside."""
    program.json(*NOOP)
    program.json(*NOOP)
    with Database(database_url) as database:
        sql(database, "UPDATE rate_limit_configs SET windows = 'nonsense' WHERE provider = 'noop'")
        program.work()
        found = sql(database, "SELECT state, state_reason FROM jobs")
        assert [row["state"] for row in found] == ["failed"] * 2
        assert all("nonsense" in row["state_reason"] for row in found)
        assert one(database, "SELECT count(*) FROM concurrency_holders") == 0


def test_the_status_names_the_label_and_who_is_inside(program: Program, database_url: str) -> None:
    """In words and as JSON; a job without a label has none."""
    for _ in range(2):
        program.json(*NOOP)
    program.json(*NOOP[:-2])
    with Database(database_url) as database:
        for job_id in (1, 2):
            labels.acquire(database, Label("x", 1), job_id, holder(f"slice-{job_id}"))
    status = program("status", 2).out
    assert "waiting for x (1 of 1 in use)" in status
    assert "label x: 1 of 1 in use (job 1), 1 in line" in status
    found = program.json("status", 1)["label"]
    assert (found["label"], found["capacity"]) == ("x", 1)
    assert [each["job_id"] for each in found["holders"]] == [1]
    assert [each["job_id"] for each in found["waiters"]] == [2]
    assert program.json("status", 3)["label"] is None
    assert "label" not in program("status", 3).out
