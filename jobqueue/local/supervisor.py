"""Run several processes together: their lines in one place, started again when they die, all gone in the end.

Every process has a keeper (`jobqueue.local.keeper`), so neither a kill -9 of the supervisor nor an RQ work-horse in a
process group of its own leaves anything behind.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Self, TextIO

from jobqueue.errors import ConfigurationError, NotFoundError
from jobqueue.local.process import KeptProcess
from jobqueue.local.procfile import ProcessSpec, parse_procfile

__all__ = ["ProcessSpec", "Supervisor", "line_writer", "parse_procfile"]

LONGEST_LINE_BYTES = 65_536
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LAST_LINES_S = 5.0
# A process that lived this long has not failed at starting: the pauses begin anew.
STEADY_S = 10.0
# Bright first, and no red: that reads as an error.
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class _Child:
    """One process through all its lives, on a thread of its own."""

    def __init__(self, spec: ProcessSpec, *, grace_s: float, say: Callable[[str, str], None]) -> None:
        self.spec = spec
        self.exit_code: int | None = None
        self._grace_s = grace_s
        self._say = say
        self._lock = threading.Lock()
        self._process: KeptProcess | None = None
        self._is_gone = threading.Event()
        self._unwanted = threading.Event()
        self._unwanted.set()
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        with self._lock:
            return self._process.pid if self._process else None

    @property
    def is_alive(self) -> bool:
        """Whether it runs or waits to run again."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        if self.is_alive and not self._unwanted.is_set():
            return
        self.join()
        self._unwanted.clear()
        process = self._spawn()
        # A daemon: should the main thread fail, the interpreter ends, and the keepers see to the rest.
        self._thread = threading.Thread(target=self._keep, args=(process,), name=f"child-{self.spec.name}", daemon=True)
        self._thread.start()

    def request_stop(self) -> None:
        self._unwanted.set()
        with self._lock:
            if self._process is not None:
                self._process.request_stop()

    def request_kill(self) -> threading.Event:
        """Kill the present life and return what is set when it is over."""
        with self._lock:
            if self._process is not None:
                self._process.request_kill()
            return self._is_gone

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _spawn(self) -> KeptProcess:
        process = KeptProcess(
            self.spec.argv, env=self.spec.env, cwd=self.spec.cwd, output=subprocess.PIPE, grace_s=self._grace_s
        )
        with self._lock:
            self._process = process
            self._is_gone = threading.Event()
            if self._unwanted.is_set():
                process.request_stop()
        self._say(self.spec.name, f"started, process {process.pid}")
        return process

    def _keep(self, process: KeptProcess | None) -> None:
        failures = 0
        while True:
            started_at = time.monotonic()
            if process is not None:
                self._live(process)
            if self._unwanted.is_set() or not self.spec.restart:
                return
            failures = 1 if time.monotonic() - started_at > STEADY_S else failures + 1
            pause_s = min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S)
            self._say(self.spec.name, f"starting again in {pause_s:g} s")
            if self._unwanted.wait(pause_s):
                return
            try:
                process = self._spawn()
            except (OSError, ConfigurationError) as error:
                process = None
                self._say(self.spec.name, f"cannot be started: {error}")

    def _live(self, process: KeptProcess) -> None:
        """Pass on its lines until it has ended."""
        reader = threading.Thread(target=self._read, args=(process,), name=f"lines-{self.spec.name}", daemon=True)
        reader.start()
        # Not after the output's end: a horse may hold that open, and this wait is what ends a horse whose keeper died.
        code = process.wait()
        reader.join(LAST_LINES_S)
        with self._lock:
            self.exit_code = code
            self._process = None
        self._say(self.spec.name, f"ended {_how(code)}")
        self._is_gone.set()

    def _read(self, process: KeptProcess) -> None:
        if process.output is None:
            raise AssertionError("the output is a pipe")
        with process.output:
            while raw := process.output.readline(LONGEST_LINE_BYTES):
                self._say(self.spec.name, raw.decode(errors="replace").rstrip())


class Supervisor:
    """Run *specs* until told to stop.

    Args:
        specs: What to run.
        on_line: Called with a process's name and a line of its output or about it; on several threads, one at a time.
        grace_s: Seconds from the request to stop to SIGKILL; RQ's worker first lets its horse reach a boundary.
        secrets: Texts to replace by ``***`` in lines.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        on_line: Callable[[str, str], None],
        grace_s: float = 35.0,
        secrets: Iterable[str] = (),
    ) -> None:
        self._on_line = on_line
        self._line_lock = threading.Lock()
        self._secrets = [secret for secret in secrets if secret]
        self._children = {spec.name: _Child(spec, grace_s=grace_s, say=self._say) for spec in specs}

    def start(self) -> None:
        """Start every process.

        Raises:
            ConfigurationError: One cannot be started; none is left running.
        """
        try:
            for child in self._children.values():
                child.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask all to stop at once, and return when all are gone, by SIGKILL if need be."""
        for child in self._children.values():
            child.request_stop()
        for child in self._children.values():
            child.join()

    def run(self) -> int:
        """Start every process, wait for Ctrl-C, SIGTERM or SIGHUP or the end of all, and stop; a second signal kills.

        Call it from the main thread, which alone may handle signals.

        Returns:
            130 after Ctrl-C, 0 after another signal; when all ended by themselves, 0 if all did so with 0, else 1.
        """
        with _signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
            self.start()
            first = self._wait(received)
            if first is None:
                return 1 if any(child.exit_code for child in self._children.values()) else 0
            for child in self._children.values():
                child.request_stop()
            if self._wait(received) is not None:
                for child in self._children.values():
                    child.request_kill()
            self.stop()
        return 130 if first == signal.SIGINT else 0

    def start_one(self, name: str) -> None:
        """Start *name* unless it runs."""
        self._child(name).start()

    def stop_one(self, name: str) -> None:
        """Stop *name* in order and leave it stopped."""
        child = self._child(name)
        child.request_stop()
        child.join()

    def kill_one(self, name: str) -> None:
        """SIGKILL *name* and all its descendants, as a crash would; it is started again if its spec says so."""
        self._child(name).request_kill().wait()

    def pids(self) -> dict[str, int]:
        """Return the process ids of those running now."""
        return {name: pid for name, child in self._children.items() if (pid := child.pid) is not None}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self, received: queue.SimpleQueue[int]) -> int | None:
        """Wait for a signal and return it, or None when every process has ended for good."""
        while any(child.is_alive for child in self._children.values()):
            with suppress(queue.Empty):
                return received.get(timeout=0.1)
        return None

    def _child(self, name: str) -> _Child:
        try:
            return self._children[name]
        except KeyError:
            raise NotFoundError(
                f"No process is called {name!r}.", remedy=f"There are {', '.join(self._children)}."
            ) from None

    def _say(self, name: str, line: str) -> None:
        for secret in self._secrets:
            line = line.replace(secret, "***")
        # A terminal that went away must not stop a process's output from being read: it would block.
        with self._line_lock, suppress(OSError, ValueError):
            self._on_line(name, line)


def line_writer(
    names: Sequence[str], stream: TextIO | None = None, *, is_coloured: bool | None = None
) -> Callable[[str, str], None]:
    """Return an ``on_line`` that writes ``name | line``, the names aligned and each in its colour on a terminal.

    Args:
        names: All the names there will be.
        stream: Where to; standard output if None.
        is_coloured: None: only if the stream is a terminal.
    """
    target = stream or sys.stdout
    coloured = target.isatty() if is_coloured is None else is_coloured
    width = max(map(len, names), default=0)
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}

    def write(name: str, line: str) -> None:
        label = f"{name:<{width}} |"
        prefix = f"\x1b[{colours.get(name, 37)}m{label}\x1b[0m" if coloured else label
        target.write(f"{prefix} {line}\n")
        target.flush()

    return write


@contextmanager
def _signals(*numbers: signal.Signals) -> Iterator[queue.SimpleQueue[int]]:
    """Collect signals instead of obeying them."""
    received: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(number: int, _: FrameType | None) -> None:
        received.put(number)

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _how(code: int) -> str:
    if code >= 0:
        return f"with code {code}"
    with suppress(ValueError):
        return f"by {signal.Signals(-code).name}"
    return f"by signal {-code}"
