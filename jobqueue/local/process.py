"""Programs that cannot outlive the process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from jobqueue.errors import ConfigurationError
from jobqueue.settings import process_start_id

KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True)
class User:
    """A user to run a program as."""

    uid: int
    gid: int


class KeptProcess:
    """A program under a keeper: when this process ends, however it ends, so do the program and all its descendants.

    Args:
        argv: The program and its arguments; must hold no secret, because any local user may list them.
        env: The program's whole environment.
        cwd: Where it runs.
        output: A descriptor for both its outputs, or `subprocess.PIPE`.
        stop_signal: What asks it to end in order.
        grace_s: Seconds from `stop` to SIGKILL.
        orphan_grace_s: The same when the starter died.
        user: Whom to run it as; None for the present user.

    Raises:
        ConfigurationError: The program could not be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        output: int | IO[bytes],
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 35.0,
        orphan_grace_s: float = 3.0,
        user: User | None = None,
    ) -> None:
        self._lock = threading.Lock()
        alive_read, self._alive_write = os.pipe()
        status_read, status_write = os.pipe()
        words = (alive_read, status_write, os.getpid(), int(stop_signal), grace_s, orphan_grace_s)
        identity = (user.uid, user.gid) if user else (-1, -1)
        try:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), *(str(word) for word in (*words, *identity)), *argv],
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(alive_read, status_write),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._alive_write)
            os.close(status_read)
            raise
        finally:
            os.close(alive_read)
            os.close(status_write)
        self.output = self._keeper.stdout
        try:
            with open(status_read, "rb") as status:
                pid, _, problem = status.read().decode(errors="replace").partition("\n")
            if problem or not pid:
                raise ConfigurationError(f"Cannot start {problem or argv[0]}.", remedy="Is it installed?")
            self.pid = int(pid)
            self._start_id = process_start_id(self.pid)
        except BaseException:
            self._close()
            self._keeper.wait()
            if self.output is not None:
                self.output.close()
            raise

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number when a signal ended it, or None while it runs."""
        return self._keeper.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the program and all its descendants to be gone and return its exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        code = self._keeper.wait(timeout_s)
        self._close()
        return code

    def stop(self) -> int:
        """Ask the program to end, kill what is left of it after the grace time, and return its exit code."""
        self.request_stop()
        return self.wait()

    def request_stop(self) -> None:
        """Ask the program to end; the keeper sees to the deadline."""
        self._keeper.send_signal(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL the program and all its descendants, and return its exit code."""
        self.request_kill()
        return self.wait()

    def request_kill(self) -> None:
        """SIGKILL the program and all its descendants, without waiting."""
        self._keeper.send_signal(signal.SIGUSR1)

    def _close(self) -> None:
        """Let go of the keeper, and clean up after one that was itself killed."""
        with self._lock:
            descriptor, self._alive_write = self._alive_write, -1
        if descriptor >= 0:
            os.close(descriptor)
        pid = getattr(self, "pid", 0)
        # The program may be gone before its keeper is missed; its session's number stays taken while anyone is in it.
        if pid and self._keeper.returncode is not None and process_start_id(pid) in (None, self._start_id):
            for member in session_members(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)


def is_running(pid: int, start_id: str | None) -> bool:
    """Return whether *pid* still is the process that `process_start_id` named."""
    return start_id is not None and process_start_id(pid) == start_id


def session_members(session: int) -> Iterator[int]:
    """Yield the processes of *session*; its number is not reused while it has any."""
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session:
                yield pid


def end_leftover(pid: int, start_id: str, stop_signal: signal.Signals, *, grace_s: float = 20.0) -> None:
    """End a process some earlier run left behind: first in order, then by SIGKILL."""
    for number, limit_s in ((stop_signal, grace_s), (signal.SIGKILL, 10.0)):
        if not is_running(pid, start_id):
            return
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            process = psutil.Process(pid)
            os.kill(pid, number)
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(limit_s)
