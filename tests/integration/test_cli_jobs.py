"""Jobs from the command line: enqueued, followed, watched, paused, cancelled, retried, by the literal worker."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import Program, environment, install_picky_handler, wait_for_line, write_items

from jobqueue.engine import registry
from jobqueue.local import LocalStack

NOOP = ("enqueue", "noop", "--provider", "noop", "--items", "items.csv")
PICKY = ("enqueue", "picky", "--provider", "noop", "--items", "items.csv")


@pytest.fixture
def program(
    redis_url: str,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Program]:
    """The program on empty servers, with the job type ``picky``; five items of which two are refused by it."""
    install_picky_handler(tmp_path)
    names = environment(redis_url, database_url, tmp_path)
    for name in ("REDIS_URL", "DATABASE_URL", "PICKY_PARDON"):
        monkeypatch.setenv(name, names[name])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    registry._load.cache_clear()
    write_items(tmp_path / "items.csv", ["good1", "bad1", "good2", "bad2", "good3"])
    yield Program(capsys, names)
    registry._load.cache_clear()
    sys.modules.pop("picky_handlers", None)


def test_a_followed_job_that_succeeds_is_exit_code_0(program: Program) -> None:
    """In a pipe: the acceptance, lines for changes, a summary by outcome."""
    with program.worker():
        answer = program(*NOOP, "--follow")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0] == "job 1 enqueued: noop · noop · noop · 5 items"
    assert any(line.startswith("job 1 succeeded · 5/5 (100 %)") for line in lines)
    assert lines[-1].split() == ["succeeded", "5"]


def test_a_followed_job_as_json_is_one_document(program: Program) -> None:
    """Only the final document: the acceptance with the job's progress in it."""
    with program.worker():
        document = program.json(*NOOP, "--follow")
    assert (document["job_id"], document["item_count"], document["is_new"]) == (1, 5, True)
    assert (document["progress"]["status"], document["progress"]["succeeded"]) == ("succeeded", 5)


def test_a_followed_job_with_failed_items_is_exit_code_1(program: Program) -> None:
    """The summary counts them, gives their reason and names the next commands."""
    with program.worker():
        answer = program(*PICKY, "--follow")
    assert answer.code == 1
    assert "job 1 completed with failures" in answer.out
    assert "2   jobqueue items 1 --status failed" in answer.out
    assert "2 × refused: item …" in answer.out
    assert "try again: jobqueue retry 1" in answer.out
    assert "\x1b" not in answer.out
    status = program("status", 1)
    assert status.code == 1
    assert "jobqueue retry 1" in status.out
    assert program.json("status", 1, code=1)["failed"] == 2
    assert program.json("watch", 1, code=1)["failed"] == 2


def test_failed_items_are_listed_page_by_page(program: Program) -> None:
    """A page says how to get the next; following the marks gives every item once."""
    program(*PICKY)
    program.work()
    seen: list[str] = []
    mark: str | None = ""
    while mark is not None:
        page = program.json("items", 1, "--count", 2, "--after", mark)
        seen += [row["key"] for row in page["items"]]
        mark = page["next"]
    assert seen == ["good1", "bad1", "good2", "bad2", "good3"]
    failed = program("items", 1, "--status", "failed")
    assert failed.code == 0
    assert [line.split()[1] for line in failed.out.splitlines()[1:]] == ["bad1", "bad2"]
    assert "\\x1b[31mrefused" in failed.out
    more = program("items", 1, "--status", "failed", "--count", 1)
    command = more.err.removeprefix("more: jobqueue ").split()
    assert program(*command).out.splitlines()[1].split()[1] == "bad2"
    assert "'failedd' is unknown" in program.json("items", 1, "--status", "failedd", code=2)["error"]["message"]
    assert program.json("items", 1, "--after", "x", code=2)["error"]["field"] == "after"


def test_a_retried_job_succeeds_once_the_cause_is_gone(program: Program) -> None:
    """retry gives only the failed items another try."""
    program(*PICKY)
    program.work()
    Path(program.environment["PICKY_PARDON"]).touch()
    answer = program("retry", 1)
    assert (answer.code, "2 items to be tried again" in answer.out) == (0, True)
    program.work()
    status = program.json("status", 1)
    assert (status["status"], status["succeeded"], status["failed"]) == ("succeeded", 5, 0)
    assert program.json("retry", 1, code=2)["error"]["type"] == "InvalidTransitionError"


def test_dead_letters_are_shown_grouped_retried_and_discarded(program: Program) -> None:
    """A person decides about each: what is discarded stays failed, what is retried gets its outcome anew."""
    program(*PICKY)
    program.work()
    letters = program.json("dead-letters", "list", "--job", 1)["dead_letters"]
    assert [letter["key"] for letter in letters] == ["bad1", "bad2"]
    group = program.json("dead-letters", "list", "--groups")["groups"][0]
    assert group["count"] == 2
    assert program("dead-letters", "list", "--groups").out.splitlines()[1].split()[0] == "2"
    listing = program("dead-letters", "list", "--fingerprint", group["fingerprint"])
    assert listing.out.splitlines()[1].split()[:4] == [str(letters[0]["id"]), "1", "noop", "bad1"]
    shown = program("dead-letters", "show", letters[0]["id"])
    assert "bad1" in shown.out
    assert "\x1b" not in shown.out
    assert program.json("dead-letters", "show", letters[0]["id"])["key"] == "bad1"
    first = program.json("dead-letters", "discard", letters[0]["id"], 999, "--reason", "not worth it")
    assert first == {"discarded": [letters[0]["id"]], "not_found": [999]}
    assert program.json("dead-letters", "show", letters[0]["id"])["state"] == "discarded"
    Path(program.environment["PICKY_PARDON"]).touch()
    assert program.json("dead-letters", "retry", "--job", 1) == {"retried_items": 1}
    program.work()
    assert program.json("status", 1, code=1)["succeeded"] == 4
    assert "No dead letter waits" in program("dead-letters", "list").err
    assert program.json("dead-letters", "list") == {"dead_letters": [], "next": None}


def test_pause_resume_and_cancel_move_a_job(program: Program) -> None:
    """Each says where the job is now and what comes next; what its state forbids is exit code 2."""
    program(*NOOP)
    assert program.json("pause", 1) == {"job_id": 1, "status": "paused"}
    assert "go on with: jobqueue resume 1" in program("status", 1).out
    program.work()
    assert program.json("status", 1)["done"] == 0
    assert "jobqueue watch 1" in program("resume", 1).out
    assert program.json("resume", 1, code=2)["error"]["type"] == "InvalidTransitionError"
    assert "enqueue rollback 1" in program("cancel", 1).out
    ended = program.json("status", 1, code=1)
    assert (ended["status"], ended["cancelled"]) == ("cancelled", 5)
    assert program.json("pause", 1, code=2)["error"]["type"] == "InvalidTransitionError"


def test_jobs_are_listed_by_state_and_page(program: Program) -> None:
    """Latest first; the next page continues after the last id."""
    for _ in range(3):
        program(*NOOP)
    program("cancel", 2)
    assert [row["id"] for row in program.json("list")["jobs"]] == [3, 2, 1]
    assert [row["id"] for row in program.json("list", "--state", "cancelled")["jobs"]] == [2]
    page = program.json("list", "--count", 2)
    assert page["next"] == 2
    rest = program.json("list", "--count", 2, "--before", page["next"])
    assert ([row["id"] for row in rest["jobs"]], rest["next"]) == ([1], None)
    shown = program("list", "--count", 2)
    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["JOB", "STATUS"],
        ["3", "queued"],
        ["2", "cancelled"],
    ]
    assert "--before 2" in shown.err
    assert "There is no such job" in program("list", "--state", "failed").err


def test_ctrl_c_stops_watching_and_not_the_job(program: Program) -> None:
    """Exit code 130, how to watch again on standard error, and the job is as it was."""
    program(*NOOP)
    with program.started("watch", 1) as process:
        assert "0/5" in wait_for_line(process.stdout, "job 1 queued")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "job 1 goes on" in err
    assert "jobqueue watch 1" in err
    assert "Traceback" not in err
    assert program.json("status", 1)["status"] == "queued"


def test_ctrl_c_while_following_as_json_is_one_document(program: Program) -> None:
    """A program that is interrupted still gets JSON, with the job's id."""
    with program.started(*NOOP, "--follow", "--json", stdin=None) as process:
        while not program.json("list")["jobs"]:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert json.loads(out)["error"]["exit_code"] == 130
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error(program: Program) -> None:
    """Piping into head ends quietly."""
    program(*NOOP)
    with program.started("watch", 1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        program("cancel", 1)
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(20) == 141
    assert err == ""


def test_watching_outlasts_a_restart_of_postgres(program: Program, stack: LocalStack) -> None:
    """A server that is away for a while is told once and waited for; then watching goes on to the end."""
    program(*NOOP)
    with program.started("watch", 1) as process:
        wait_for_line(process.stdout, "job 1 queued")
        try:
            stack.postgres.stop()
            assert "Trying again" in wait_for_line(process.stderr, "Postgres cannot be reached")
        finally:
            stack.postgres.restart()
        assert program("cancel", 1).code == 0
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "job 1 cancelled" in out


def test_a_waiting_job_names_its_limit(program: Program) -> None:
    """When the quota is used up, status says which limit holds the job and when it lifts."""
    program("limits", "set", "noop", "--windows", "1/hour")
    program(*NOOP, "--batch-size", 2)
    with program.worker(), program.started("watch", 1) as process:
        wait_for_line(process.stdout, "waiting for noop: 1 per 1 hour, lifts in")
    answer = program("status", 1)
    assert answer.code == 0
    assert "waiting for noop: 1 per 1 hour, lifts in" in answer.out
    assert "quota 1 of 1 per 1 hour" in answer.out
    assert program.json("status", 1)["waiting_for"] == "noop: 1 per 1 hour"


def test_limits_are_shown_and_changed(program: Program) -> None:
    """set tells before and after, leaves what is not given, and show shows what is left."""
    program("limits", "set", "noop", "--windows", "10/second", "--max-concurrency", 3)
    change = program.json("limits", "set", "noop", "--windows", "10/second; 100/minute")
    assert (change["before"]["windows"], change["after"]["windows"]) == ("10/second", "10/second; 100/minute")
    assert change["after"]["max_concurrency"] == 3
    shown = program("limits", "show", "noop").out
    assert "10/second; 100/minute, 3 at once (strict)" in shown
    assert "100 per 1 minute" in shown
    view = program.json("limits", "show", "noop")
    assert [window["remaining"] for window in view["windows"]] == [10, 100]
    sizes = program.json("limits", "set", "noop", "--batch", "noop=1,5,10")["after"]["batch"]
    assert sizes == {"min": 1, "optimal": 5, "max": 10}
    assert "nothing changed" in program("limits", "set", "noop", "--batch", "noop=1,5,10").out
    program("limits", "set", "noop", "--account-level", "--windows", "2/second")
    assert "each account: 2/second" in program("limits", "show", "noop", "--account", "bo").out


def test_providers_are_listed_and_moved(program: Program) -> None:
    """Another server can stand in for a provider."""
    row = program.json("providers", "set", "spotify", "--base-url", "http://127.0.0.1:8700")
    assert row["base_url"] == "http://127.0.0.1:8700"
    assert "http://127.0.0.1:8700" in program("providers", "list").out
    listed: dict[str, Any] = {row["name"]: row for row in program.json("providers", "list")["providers"]}
    assert listed["spotify"] == row
    assert "http://x" in program("providers", "set", "noop", "--token-url", "http://x").out


def test_workers_are_listed(program: Program) -> None:
    """A live worker with its queues, or how to start one."""
    assert "rq worker high default low" in program("workers").err
    with program.worker():
        rows = program.json("workers")["workers"]
        assert [row["queues"] for row in rows] == [["high", "default", "low"]]
        assert str(rows[0]["pid"]) in program("workers").out


def test_cleanup_deletes_what_ended_long_enough_ago(program: Program) -> None:
    """Active jobs and young ones stay."""
    for _ in range(2):
        program(*NOOP)
    program("cancel", 1)
    assert program.json("cleanup") == {"deleted_jobs": []}
    assert program.json("cleanup", "--older-than", "1h") == {"deleted_jobs": []}
    assert program("cleanup", "--older-than", "0s").out == "1 job deleted\n"
    assert [row["id"] for row in program.json("list")["jobs"]] == [2]


def test_a_job_that_cannot_be_undone_says_so(program: Program) -> None:
    """A rollback of an operation without an inverse is refused."""
    program(*NOOP)
    error = program.json("enqueue", "rollback", 1, code=2)["error"]
    assert "cannot be undone" in error["message"]
    assert program.json("status", 1)["status"] == "queued"


def test_env_and_version_are_for_programs_too(program: Program) -> None:
    """Another shell can evaluate env; both have JSON."""
    shown = program("env").out
    assert shown.startswith("export REDIS_URL=")
    assert program.json("env")["DATABASE_URL"] == program.environment["DATABASE_URL"]
    assert program("version").out == f"jobqueue {program.json('version')['version']}\n"
    assert program("--version").out == program("version").out


def test_the_scheduler_runs_until_it_is_told_to_stop(program: Program) -> None:
    """It logs that it leads on standard error, and ends in order."""
    with program.started("scheduler", "--json") as process:
        wait_for_line(process.stderr, "leading")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert (process.returncode, json.loads(out)) == (0, {"exit_code": 0})
