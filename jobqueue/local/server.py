"""What the two embedded servers have in common: start, be ready, stop, kill, start again on the same port."""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jobqueue.errors import ConfigurationError, ServerUnavailableError
from jobqueue.local.binaries import free_port
from jobqueue.local.process import KeptProcess, User, end_leftover
from jobqueue.settings import child_environment, process_start_id

LOG_LIMIT_BYTES = 5_000_000
PORT_ATTEMPTS = 5
POLL_S = 0.01


class Server(ABC):
    """A server on 127.0.0.1, with its data in a folder of its own.

    Args:
        directory: Where its data, log and password lie; made if need be, kept afterwards.
        preferred_port: Used if free.
    """

    name: str
    stop_signal: signal.Signals
    ready_limit_s = 60.0

    def __init__(self, directory: Path, *, preferred_port: int = 0) -> None:
        self.directory = directory
        self.port = preferred_port
        self._process: KeptProcess | None = None

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            ServerUnavailableError: It does not run.
        """
        if self._process is None:
            raise ServerUnavailableError(f"{self.name} does not run.")
        return self._process.pid

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is reached, with its password."""

    @property
    def log_file(self) -> Path:
        """What the server prints."""
        return self.directory / f"{self.name}.log"

    @property
    def run_file(self) -> Path:
        """Names the running server's process, for whoever must end it when its keeper did not."""
        return self.directory / f"{self.name}.run"

    def start(self) -> None:
        """Start it on the data that is there, or on new data; return when it answers.

        Raises:
            ConfigurationError: It cannot run here.
            ServerUnavailableError: It did not start; the end of its log is in the message.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._end_leftover()
        user = self.prepare()
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_LIMIT_BYTES:
            self.log_file.unlink()
        for attempt in range(PORT_ATTEMPTS):
            # Between the choice of a port and its use anybody may take it.
            self.port = free_port(self.port if attempt == 0 else 0)
            if self._try_start(user):
                return
        raise ServerUnavailableError(f"{self.name} found no free port in {PORT_ATTEMPTS} attempts.")

    def stop(self) -> None:
        """Stop it in order; its data stays."""
        self._end(KeptProcess.stop)

    def kill(self) -> None:
        """SIGKILL it and all its processes, as a crash would."""
        self._end(KeptProcess.kill)

    def restart(self) -> None:
        """Start it again on the same port, after stopping it if it runs."""
        port = self.port
        self.stop()
        self.start()
        if self.port != port:
            self.stop()
            raise ServerUnavailableError(f"Port {port}, which {self.name} had, is taken.")

    @abstractmethod
    def prepare(self) -> User | None:
        """Make the data and the configuration ready and return whom to run as, None for the present user."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line; it holds no secret."""

    @abstractmethod
    def is_ready(self, pid: int) -> bool:
        """Return whether the process *pid*, and no other, answers on our port."""

    def record(self, pid: int) -> None:
        """Note which process serves this directory, so that the next start can end it if nobody else did."""
        self.run_file.write_text(f"{pid} {process_start_id(pid)}")

    def working_directory(self) -> Path:
        """Return where the server runs."""
        return self.directory

    def _try_start(self, user: User | None) -> bool:
        """Start it and wait until it answers; return False if its port was taken from under it."""
        with self.log_file.open("ab") as log:
            start_of_log = log.tell()
            process = KeptProcess(
                self.command(),
                env=child_environment(LC_ALL="C", TZ="UTC"),
                cwd=self.working_directory(),
                output=log,
                stop_signal=self.stop_signal,
                grace_s=30.0,
                orphan_grace_s=15.0,
                user=user,
            )
        try:
            self.record(process.pid)
            until = time.monotonic() + self.ready_limit_s
            while not self.is_ready(process.pid):
                if process.returncode is not None or time.monotonic() > until:
                    return self._failed(process, self.log_file.read_bytes()[start_of_log:].decode(errors="replace"))
                time.sleep(POLL_S)
        except BaseException:
            process.kill()
            raise
        self._process = process
        return True

    def _failed(self, process: KeptProcess, log: str) -> bool:
        ended = process.returncode
        process.kill()
        if ended is not None and "ddress already in use" in log:
            return False
        how = f"ended with code {ended}" if ended is not None else f"did not answer within {self.ready_limit_s:g} s"
        raise ServerUnavailableError(f"{self.name} {how}. The end of {self.log_file}:\n{log[-1500:].strip()}")

    def _end(self, how: Callable[[KeptProcess], int]) -> None:
        process, self._process = self._process, None
        if process is not None:
            how(process)
            self.run_file.unlink(missing_ok=True)

    def _end_leftover(self) -> None:
        if self._process is not None and self._process.returncode is None:
            raise ServerUnavailableError(f"{self.name} runs already, as process {self._process.pid}.")
        with suppress(FileNotFoundError, ValueError):
            pid, _, start_id = self.run_file.read_text().partition(" ")
            end_leftover(int(pid), start_id, self.stop_signal)
            self.run_file.unlink()


def write_secret(file: Path, text: str, *, owner: User | None = None) -> None:
    """Write a file that only its owner may read, replacing it as a whole."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as stream:
        if owner is not None:
            os.fchown(descriptor, owner.uid, owner.gid)
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    unfinished.replace(file)


def read_secret(file: Path) -> str:
    """Return what `write_secret` wrote.

    Raises:
        ConfigurationError: It is missing although there is data.
    """
    try:
        return file.read_text()
    except FileNotFoundError:
        raise ConfigurationError(
            f"{file} is gone, and with it the password of the data beside it.",
            remedy=f"Remove {file.parent} to start anew.",
        ) from None
