"""Bad input on the command line: one clear message, its exit code, and nothing stored."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from cli_world import ROOT, Program, environment, write_items

TRACK = "4iV5W9uYEdYUVa79Axb7Rh"
NOOP = ("enqueue", "noop", "--provider", "noop", "--operation", "noop")
UNSAVE = ("enqueue", "enforcement", "--provider", "spotify", "--account", "demo", "--operation", "unsave_tracks")


@pytest.fixture
def program(
    redis_url: str,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Program:
    """The program on empty servers, in a directory of its own."""
    names = environment(redis_url, database_url, tmp_path)
    for name in ("REDIS_URL", "DATABASE_URL"):
        monkeypatch.setenv(name, names[name])
    monkeypatch.chdir(tmp_path)
    write_items(tmp_path / "items.csv", range(5))
    return Program(capsys, names)


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (
            ("enqueue", "enforcment", "--provider", "spotify"),
            "type 'enforcment' is unknown",
            "Did you mean 'enforcement'?",
        ),
        (
            ("enqueue", "noop", "--provider", "spotfy", "--items", "x"),
            "provider 'spotfy' is unknown",
            "Did you mean 'spotify'?",
        ),
        (("enqueue", "noop", "--items", "items.csv"), "--provider is missing", "noop, spotify"),
        (("enqueue", "noop", "--provider", "noop"), "--items is missing", "standard input"),
        (
            (*NOOP[:4], "--operation", "nop", "--items", "items.csv"),
            "operation 'nop' is unknown at noop",
            "Did you mean 'noop'?",
        ),
        (
            ("enqueue", "enforcement", "--provider", "spotify", "--items", "items.csv"),
            "--operation is missing",
            "unsave_tracks",
        ),
        ((*NOOP, "--items", "items.csv", "--priority", "hihg"), "priority 'hihg' is unknown", "high, default, low"),
        ((*NOOP, "--items", "gone.csv"), "there is no file 'gone.csv'", "Check the path"),
        ((*NOOP, "--items", "."), "'.' is a directory", "CSV file"),
        ((*NOOP, "--items", "items.csv", "--batch-size", "1001"), "noop takes at most 1000", "Use 1 to 1000"),
        ((*NOOP, "--items", "items.csv", "--batch-size", "0"), "0 is not in the range", "enqueue --help"),
        ((*NOOP, "--items", "items.csv", "--option", "colour=red"), "option 'colour' is unknown", "no options"),
        ((*NOOP, "--items", "items.csv", "--option", "colour"), "is not NAME=VALUE", "--option"),
        ((*NOOP, "--items", "items.csv", "--option", "a=1", "--option", "a=2"), "'a' is given twice", "Keep one"),
        ((*NOOP, "--items", "items.csv", "--option", "batch_size=3"), "an option of its own", "--batch-size N"),
        ((*NOOP, "--items", "items.csv", "--max-run", "soon"), "'soon' is no duration", "enqueue --help"),
        ((*NOOP, "--items", "items.csv", "--max-run", "99999d"), "longer than ten years", "enqueue --help"),
        ((*NOOP, "--items", "items.csv", "--max-run", "0s"), "max_run_s 0.0 is out of range", "more than 0 s"),
        ((*NOOP, "--items", "items.csv", "--owner", "x" * 201), "owner 'xxx", "200 printable"),
        ((*NOOP, "stray.csv", "--items", "items.csv"), "'stray.csv' is one argument too many", "--items stray.csv"),
        ((*NOOP, "--itmes", "items.csv"), "No such option '--itmes'", "enqueue --help"),
        (("enqueue", "rollback"), "the job to roll back is missing", "enqueue rollback JOB_ID"),
        (("enqueue", "rollback", "x7"), "'x7' is no job id", "jobqueue list"),
        (("enqueue", "rollback", "9" * 19), "is no job id", "jobqueue list"),
        (("enqueue", "rollback", "7"), "there is no job 7", "jobqueue list"),
        (("enqueue", "rollback", "7", "--items", "items.csv"), "--items does not go with a rollback", "JOB_ID"),
        (("enqueue", "rollback", "7", "--unique"), "--unique does not go with a rollback", "JOB_ID"),
        (("enqueue",), "Missing argument 'TYPE'", "enqueue --help"),
        (("statsu", "1"), "No such command 'statsu'. Did you mean 'status'?", "jobqueue --help"),
        (("frobnicate",), "No such command 'frobnicate'. There are: up,", "jobqueue --help"),
        (("status", "eleven"), "'eleven' is not a valid integer", "status --help"),
        (("status", "0"), "0 is not in the range", "status --help"),
        *(
            (((name, "77")), "there is no job 77", "jobqueue list")
            for name in ("status", "watch", "pause", "resume", "cancel", "retry", "items")
        ),
        (("list", "--state", "asleep"), "'asleep' is not one of", "list --help"),
        (("list", "--count", "1001"), "1001 is not in the range", "list --help"),
        (("dead-letters", "lst"), "Did you mean 'list'?", "dead-letters --help"),
        (("dead-letters", "show", "5"), "there is no dead letter 5", "dead-letters list"),
        (("dead-letters", "retry"), "which letters is not clear", "either ids, or"),
        (("dead-letters", "retry", "5", "--job", "7"), "which letters is not clear", "either ids, or"),
        (("dead-letters", "retry", "5"), "no waiting dead letter has the id 5", "dead-letters list"),
        (("dead-letters", "retry", "--job", "5"), "no such dead letter waits", "dead-letters list"),
        (("dead-letters", "discard", "5", "--reason", "x"), "no waiting dead letter has the id 5", "dead-letters list"),
        (("limits", "show", "spotfy"), "provider 'spotfy' is not configured", "providers list"),
        (("limits", "set", "noop"), "nothing is to be changed", "--windows"),
        (("limits", "set", "noop", "--windows", "fast"), "'fast' is not a list of limits", "100 per minute"),
        (("limits", "set", "noop", "--batch", "noop=1,2"), "is not OPERATION=MIN,OPTIMAL,MAX", "set --help"),
        (("limits", "set", "noop", "--batch", "noop=3,2,1"), "3, 2, 1 are not in order", "min_size"),
        (("providers", "set", "noop"), "Nothing is to be changed", "set --help"),
        (("providers", "set", "noop", "--base-url", "ftp://x"), "is no web address", "https://"),
        (("providers", "set", "nope", "--base-url", "http://x"), "provider 'nope' is unknown", "Installed: "),
        (("cleanup", "--older-than", "5"), "'5' is no duration", "cleanup --help"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_bad_usage_is_told_clearly(program: Program, arguments: tuple[str, ...], message: str, remedy: str) -> None:
    """Exit code 2, what was wrong and what to do on standard error, nothing on standard output; the same as JSON."""
    answer = program(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("Error: ")
    assert message in answer.err
    assert remedy in answer.err
    assert "Traceback" not in answer.err
    error = program.json(*arguments, code=2)["error"]
    assert message in error["message"]
    assert remedy in error["remedy"] + error["message"]
    assert error["exit_code"] == 2
    assert program.json("list")["jobs"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "tracks.csv is empty"),
        (b"track\n", "has a header and no items"),
        (f"{TRACK}\n".encode(), "The first line must be the header: track"),
        (b"trak\nx\n", "The first line must be the header: track"),
        (b"track,colour\nx,red\n", "unknown column 'colour'"),
        (b"track\nB\xe9b\xe9\n", "line 2: byte 0xe9 at byte 7 of the file is not UTF-8"),
        (b"track\na,b\n", "line 2: 2 columns where the header has 1"),
        (b"track\n\n\nnot-an-id\n", "line 4: track 'not-an-id' is no Spotify track"),
    ],
)
def test_a_bad_file_is_told_clearly(program: Program, content: bytes, message: str) -> None:
    """The file, the line and the value are named; nothing is stored."""
    Path("tracks.csv").write_bytes(content)
    answer = program(*UNSAVE, "--items", "tracks.csv")
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert "tracks.csv" in answer.err
    assert program.json("list")["jobs"] == []


def spotify_ids(count: int) -> list[str]:
    """Different ids of the right form."""
    return [f"{number:022d}" for number in range(count)]


def test_an_invalid_id_is_named_by_line_and_value(program: Program) -> None:
    """Line 731 of a long file is found, and nothing is stored."""
    ids = spotify_ids(900)
    ids[729] = "spotify:album:" + ids[729]
    write_items(Path("tracks.csv"), ids, header="track")
    error = program.json(*UNSAVE, "--items", "tracks.csv", code=2)["error"]
    assert error["message"].startswith("tracks.csv, line 731: track 'spotify:album:0000")
    assert (error["line"], error["field"]) == (731, "track")
    assert "--skip-invalid" in error["remedy"]
    assert program.json("list")["jobs"] == []


def test_invalid_rows_are_skipped_and_reported(program: Program) -> None:
    """With --skip-invalid the rest is enqueued, and what was left out is told, for people and for programs."""
    ids: list[str] = spotify_ids(50)
    ids[10:10] = [f"bad\x1b[31m{number}" for number in range(12)]
    write_items(Path("tracks.csv"), ids, header="track")
    document = program.json(*UNSAVE, "--items", "tracks.csv", "--skip-invalid")
    assert (document["item_count"], document["skipped_count"]) == (50, 12)
    assert document["skipped"][0]["line"] == 12
    assert document["skipped"][0]["value"].startswith("bad")
    answer = program(*UNSAVE, "--items", "tracks.csv", "--skip-invalid")
    assert answer.code == 0
    assert "12 invalid rows left out" in answer.out
    assert re.search(r"^    12: .*no Spotify track", answer.out, re.MULTILINE)
    assert "and 2 more" in answer.out
    assert "\x1b" not in answer.out


def test_duplicates_are_collapsed_and_counted(program: Program) -> None:
    """An id, its URI and its link are one item."""
    write_items(
        Path("tracks.csv"),
        [TRACK, f"spotify:track:{TRACK}", f"https://open.spotify.com/track/{TRACK}", *spotify_ids(2)],
        header="track",
    )
    answer = program(*UNSAVE, "--items", "tracks.csv")
    assert answer.code == 0
    assert "3 items" in answer.out
    assert "2 duplicates collapsed" in answer.out
    assert program.json("status", 1)["summary"]["duplicates"] == 2


def test_an_idempotency_key_gives_the_same_job(program: Program) -> None:
    """The same request again is the same job; another payload under the key is refused."""
    once = program.json(*NOOP, "--items", "items.csv", "--idempotency-key", "k1")
    again = program.json(*NOOP, "--items", "items.csv", "--idempotency-key", "k1")
    assert (once["is_new"], again["is_new"]) == (True, False)
    assert once["job_id"] == again["job_id"]
    assert "was enqueued before" in program(*NOOP, "--items", "items.csv", "--idempotency-key", "k1").out
    write_items(Path("others.csv"), range(6))
    error = program.json(*NOOP, "--items", "others.csv", "--idempotency-key", "k1", code=2)["error"]
    assert error["type"] == "IdempotencyConflictError"
    assert program.json(*NOOP, "--items", "others.csv", "--idempotency-key", "k1", "--owner", "bo")["is_new"]


def test_a_second_unique_job_names_the_first(program: Program) -> None:
    """The active job's id is in the message and in the document."""
    first = program.json(*NOOP, "--items", "items.csv", "--unique")
    error = program.json(*NOOP, "--items", "items.csv", "--unique", code=2)["error"]
    assert error["type"] == "DuplicateJobError"
    assert error["job_id"] == first["job_id"]
    assert f"jobqueue watch {first['job_id']}" in error["remedy"]


def closed_port(url: str) -> str:
    """*url* with a port where nothing listens."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:1"))


@pytest.mark.parametrize(
    ("variable", "arguments", "server"),
    [
        ("DATABASE_URL", (*NOOP, "--items", "items.csv"), "Postgres"),
        ("REDIS_URL", (*NOOP, "--items", "items.csv"), "Redis"),
        ("DATABASE_URL", ("list",), "Postgres"),
        ("DATABASE_URL", ("watch", "1"), "Postgres"),
        ("DATABASE_URL", ("migrate",), "Postgres"),
        ("REDIS_URL", ("workers",), "Redis"),
        ("REDIS_URL", ("limits", "show", "noop"), "Redis"),
    ],
)
def test_an_unreachable_server_is_exit_code_3(
    program: Program, monkeypatch: pytest.MonkeyPatch, variable: str, arguments: tuple[str, ...], server: str
) -> None:
    """Which server, which setting to look at, no password, and nothing stored."""
    right = program.environment[variable]
    monkeypatch.setenv(variable, closed_port(right))
    answer = program(*arguments)
    assert (answer.code, answer.out) == (3, "")
    assert f"{server} cannot be reached" in answer.err
    assert variable in answer.err
    password = urlsplit(right).password
    assert password
    assert password not in answer.err
    assert program.json(*arguments, code=3)["error"]["type"] == "ServerUnavailableError"
    monkeypatch.setenv(variable, right)
    assert program.json("list")["jobs"] == []


def test_no_servers_configured_says_how_to_get_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without addresses and without a local stack every command names both ways out."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    answer = Program(capsys, {})("list")
    assert answer.code == 2
    assert "jobqueue up" in answer.err
    assert "DATABASE_URL=postgresql://" in answer.err


def test_an_unmigrated_database_says_what_to_run(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitting to an empty database names the command; that command helps, and a second time has nothing to do."""
    parts = urlsplit(program.environment["DATABASE_URL"])
    with psycopg.connect(program.environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("CREATE DATABASE unmigrated")
        try:
            monkeypatch.setenv("DATABASE_URL", urlunsplit(parts._replace(path="/unmigrated")))
            answer = program(*NOOP, "--items", "items.csv")
            assert answer.code == 2
            assert "jobqueue migrate" in answer.err
            assert "0001_jobs" in program.json("migrate")["applied"]
            assert program.json("migrate") == {"applied": []}
            assert "up to date" in program("migrate").out
            assert program(*NOOP, "--items", "items.csv").code == 0
        finally:
            connection.execute("DROP DATABASE IF EXISTS unmigrated WITH (FORCE)")


def test_a_bug_is_one_line_unless_debugging(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error shows no traceback; JOBQUEUE_DEBUG=1 shows it."""
    monkeypatch.setattr("jobqueue.store.jobs.list_jobs", None)
    answer = program("list")
    assert answer.code == 1
    assert answer.err.startswith("Error: unexpected TypeError")
    assert "Traceback" not in answer.err
    monkeypatch.setenv("JOBQUEUE_DEBUG", "1")
    assert "Traceback" in program("list").err
    monkeypatch.setenv("JOBQUEUE_DEBUG", "0")
    assert "Traceback" not in program("list").err
    assert "Traceback" in program("list", "--debug").err


def test_a_family_without_a_command_says_that_one_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """It is an error with a pointer to the help, not a page of it."""
    answer = Program(capsys, {})("dead-letters")
    assert answer.code == 2
    assert answer.err == "Error: Missing command.\n  See: jobqueue dead-letters --help\n"


def every_command() -> list[tuple[str, ...]]:
    """All commands there are."""
    simple = ["up", "enqueue", "status", "watch", "list", "items", "pause", "resume", "cancel", "retry", "workers"]
    simple += ["scheduler", "migrate", "cleanup", "env", "version"]
    families = {"dead-letters": "list show retry discard", "limits": "show set remove", "providers": "list set"}
    nested = [(group, name) for group, names in families.items() for name in names.split()]
    return [(name,) for name in simple] + nested


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_every_command_has_help_with_examples_and_json(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """--help needs no server, shows how the command is used, and offers --json."""
    answer = Program(capsys, {})(*command, "--help")
    assert answer.code == 0
    assert "Examples:" in answer.out
    assert f"jobqueue {' '.join(command)}" in answer.out.partition("Examples:")[2]
    assert "--json" in answer.out


def test_the_bare_program_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command there is help, and the exit code says that nothing was done."""
    answer = Program(capsys, {})()
    assert answer.code == 2
    assert "Commands:" in answer.out


def test_the_script_is_the_same_command(program: Program) -> None:
    """scripts/enqueue.py enqueues, from any directory, and fails as jobqueue enqueue does."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(ROOT / "scripts" / "enqueue.py"), *arguments]
        return subprocess.run(argv, env=program.environment, capture_output=True, text=True, check=False)

    done = run(*NOOP[1:], "--items", "items.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["item_count"] == 5
    failed = run("nop")
    assert failed.returncode == 2
    assert "type 'nop' is unknown" in failed.stderr
    assert "Usage: scripts/enqueue.py [OPTIONS] TYPE" in run("--help").stdout
