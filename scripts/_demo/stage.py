"""Everything the demo needs running: servers, the provider, workers, scheduler and dashboard; gone when it closes."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import requests

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from jobqueue.delivery.queue import JobQueue
from jobqueue.errors import ConflictError
from jobqueue.local import LocalStack, Supervisor, line_writer, parse_procfile
from jobqueue.settings import STACK_FILE, Settings

ROOT = Path(__file__).resolve().parent.parent.parent
# Servers and data of its own: a demo must never touch the jobs of a `jobqueue up` in the same checkout.
PLACE = ROOT / ".jobqueue" / "demo"
LIBRARY = 3000
# Slow enough to watch, and to have calls in flight when a worker dies. The limits stay the default, 100 in 60 s.
LATENCY_MS = 1200
GRACE_S = 10.0


class Stage:
    """Servers and processes of one demo.

    Args:
        is_verbose: Write the processes' lines to the terminal instead of to files.
    """

    def __init__(self, *, is_verbose: bool) -> None:
        self._is_verbose = is_verbose
        self._closing = ExitStack()
        self.logs = PLACE / "logs"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def start_servers(self) -> Settings:
        """Start Valkey and Postgres on empty data.

        Raises:
            ConflictError: Another demo runs in this checkout.
        """
        _clear()
        self.logs.mkdir(parents=True)
        self._closing.enter_context(LocalStack(PLACE))
        self.settings = Settings.from_environ(cwd=PLACE)
        return self.settings

    def start_provider(self) -> SandboxProcess:
        """Start the sandbox and make it the provider of everything started from here on."""
        self.sandbox = self._closing.enter_context(
            start_sandbox(PLACE / "sandbox", seed_library=LIBRARY, latency_ms=LATENCY_MS)
        )
        os.environ["JOBQUEUE_SPOTIFY_BASE_URL"] = self.sandbox.base_url
        os.environ["JOBQUEUE_SPOTIFY_ACCESS_TOKEN"] = "sandbox-demo"  # noqa: S105 - the sandbox's own
        self.settings = Settings.from_environ(cwd=PLACE)
        return self.sandbox

    def start_processes(self) -> dict[str, str]:
        """Start what the Procfile names; returns each one's command and, as ``dashboard``, the address of that."""
        environment = self.settings.child_environment()
        specs = parse_procfile(ROOT / "Procfile", environment | {"RQ_CONFIG": "jobqueue.delivery.rq_config"})
        secrets = [self.settings.redis_url, self.settings.database_url]
        self._supervisor = Supervisor(
            specs, on_line=self._writer([s.name for s in specs]), grace_s=GRACE_S, secrets=secrets
        )
        self._closing.enter_context(self._supervisor)
        commands = {spec.name: " ".join(spec.argv) for spec in specs}
        ports = [spec.env["DASHBOARD_PORT"] for spec in specs if "DASHBOARD_PORT" in spec.env]
        return commands | {"dashboard": f"http://127.0.0.1:{ports[0]}"}

    def open_queue(self) -> JobQueue:
        """A client that closes with the stage."""
        return self._closing.enter_context(JobQueue(self.settings))

    def kill_busy_worker(self) -> tuple[str, list[int]]:
        """SIGKILL a worker that has a horse at work, and the horse; its name and the dead, itself first.

        Nothing dies when no worker is busy.
        """
        for name, pid in self._supervisor.pids().items():
            with suppress(psutil.NoSuchProcess):
                horses = [child.pid for child in psutil.Process(pid).children(recursive=True)]
                if name.startswith("worker") and horses:
                    self._supervisor.kill_one(name)
                    return name, [pid, *horses]
        return "", []

    def _writer(self, names: list[str]) -> Callable[[str, str], None]:
        if self._is_verbose:
            return line_writer(names)
        files = {name: self._closing.enter_context((self.logs / f"{name}.log").open("w")) for name in names}

        def write(name: str, line: str) -> None:
            files[name].write(line + "\n")
            files[name].flush()

        return write


class Blow(threading.Thread):
    """Kills a busy worker while the provider has requests to remove tracks under way.

    Args:
        stage: Where.
        at_least: After so many such requests have arrived.
        on_kill: Called with the worker's name and the processes that died.
    """

    def __init__(self, stage: Stage, *, at_least: int, on_kill: Callable[[str, list[int]], None]) -> None:
        super().__init__(name="blow", daemon=True)
        self._stage, self._at_least, self._on_kill = stage, at_least, on_kill
        self.victims: list[int] = []

    def run(self) -> None:
        """Wait for the requests, then kill."""
        # The provider is gone when the demo is interrupted.
        with suppress(TimeoutError, requests.RequestException):
            self._stage.sandbox.wait_for("arrivals", self._at_least, operation="remove_library", timeout_s=60)
            name, self.victims = self._stage.kill_busy_worker()
            if self.victims:
                self._on_kill(name, self.victims)


def _clear() -> None:
    """Remove what the last demo left.

    Raises:
        ConflictError: It still runs.
    """
    lock_file = PLACE / STACK_FILE.parent / "lock"
    with suppress(FileNotFoundError), lock_file.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConflictError(
                f"A demo runs here already, as process {lock.read().strip() or '?'}.",
                remedy="End it with Ctrl-C first.",
            ) from None
        shutil.rmtree(PLACE)
    shutil.rmtree(PLACE, ignore_errors=True)
