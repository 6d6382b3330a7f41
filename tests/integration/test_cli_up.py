"""``jobqueue up``: everything from one command, and nothing left after Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from cli_world import ROOT, environment, wait_for_line, write_items

from jobqueue.local import LocalStack

UP = [sys.executable, "-m", "jobqueue.cli.main", "up"]
JOBQUEUE = UP[:-1]
LEAKY = (
    """leaky: python -c "import os, time; print('leaked', os.environ['DATABASE_URL'], flush=True); time.sleep(600)"\n"""
)


@pytest.fixture
def project() -> Iterator[Path]:
    """A project directory, removed with the data of its stack, wherever that lies."""
    root = Path(tempfile.mkdtemp(prefix="jobqueue-project-"))
    yield root
    directory = LocalStack(root).data_directory
    shutil.rmtree(directory if directory.is_relative_to(root) else directory.parent, ignore_errors=True)
    shutil.rmtree(root)


def bare_environment() -> dict[str, str]:
    """An environment that names no servers."""
    kept = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    return {**kept, "PYTHONPATH": str(ROOT)}


@contextmanager
def running_up(project: Path, env: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``jobqueue up`` in *project*, in a process group of its own."""
    output = subprocess.PIPE
    with subprocess.Popen(
        [*UP, *arguments], cwd=project, env=env, stdout=output, stderr=output, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def run(argv: list[str], project: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in *project* to its end."""
    return subprocess.run(argv, cwd=project, env=env, capture_output=True, text=True, timeout=60, check=False)


def read_until(process: subprocess.Popen[str], *texts: str) -> list[str]:
    """The lines of its standard output up to the one by which each of *texts* has come."""
    assert process.stdout is not None
    wanted, lines = set(texts), []
    for line in process.stdout:
        lines.append(line)
        wanted -= {text for text in wanted if text in line}
        if not wanted:
            return lines
    raise AssertionError(f"{wanted} never came:\n{''.join(lines)}")


def test_up_starts_everything_and_ctrl_c_leaves_nothing(project: Path) -> None:
    """A job runs from another shell; Ctrl-C ends every process; no line holds a secret."""
    env = bare_environment()
    write_items(project / "items.csv", range(50))
    (project / "Procfile").write_text("worker: rq worker high default low\nscheduler: jobqueue scheduler\n" + LEAKY)
    with running_up(project, env) as process:
        wait_for_line(process.stdout, "applied 0001_jobs")
        wait_for_line(process.stdout, "from another shell")
        lines = read_until(process, "Listening on", "leaked ")
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > 4
        enqueue = [*JOBQUEUE, "enqueue", "noop", "--provider", "noop", "--items", "items.csv", "--follow", "--json"]
        done = run(enqueue, project, env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["progress"]["succeeded"] == 50
        addresses = json.loads(run([*JOBQUEUE, "env", "--json"], project, env).stdout)
        second = run(UP, project, env)
        assert second.returncode == 2
        assert "runs already" in second.stderr
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    for name in ("REDIS_URL", "DATABASE_URL"):
        password = urlsplit(addresses[name]).password
        assert password
        assert password not in "".join(lines) + out + err


def test_up_uses_the_servers_it_is_given(project: Path, redis_url: str, database_url: str) -> None:
    """With both addresses set no server is started; --json is one document, and the lines go to standard error."""
    env = environment(redis_url, database_url, project)
    (project / "Procfile").write_text("scheduler: jobqueue scheduler\n")
    with running_up(project, env, "--json") as process:
        wait_for_line(process.stderr, "leading")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    document = json.loads(out)
    assert document["processes"] == {"scheduler": ["jobqueue", "scheduler"]}
    assert (document["source"], document["dashboard"]) == ("environment", None)
    assert not (project / ".jobqueue").exists()


def test_up_without_a_procfile_runs_workers_scheduler_and_dashboard(
    project: Path, redis_url: str, database_url: str
) -> None:
    """An installed package needs no checkout."""
    env = environment(redis_url, database_url, project)
    with running_up(project, env, "--json") as process:
        wait_for_line(process.stderr, "Listening on high, default, low")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    document = json.loads(out)
    assert list(document["processes"])[:3] == ["worker1", "worker2", "scheduler"]
    assert document["processes"]["worker1"] == ["rq", "worker", "high", "default", "low"]
    if "dashboard" in document["processes"]:
        assert document["dashboard"].startswith("http://127.0.0.1:")


def test_a_wrong_procfile_is_told_and_leaves_nothing(project: Path, redis_url: str, database_url: str) -> None:
    """The file and the line are named; nothing is running afterwards."""
    (project / "Procfile").write_text("worker rq worker\n")
    env = environment(redis_url, database_url, project)
    done = run(UP, project, env)
    assert done.returncode == 2
    assert "Procfile, line 1" in done.stderr
