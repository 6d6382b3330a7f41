"""Start a sandbox as a process of its own, from a test, the demo or the crash laboratory."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from handlers.sandbox.runtime import LEDGER_NAME
from jobqueue.errors import ConfigurationError, ServerUnavailableError

Option = str | int | float | bool | None

_READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_CONTROL_TIMEOUT_S = 70.0


class SandboxProcess:
    """A running sandbox; as a context manager it is stopped at the end.

    Attributes:
        base_url: Where the provider's API lies, such as ``http://127.0.0.1:41234/v1``.
        token_url: Its token endpoint.
        control_url: Its control API; see `handlers.sandbox.control`.
        ledger_path: What `handlers.sandbox.ledger.read_ledger` reads; stays after the process.
        pid: The process.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], ready: dict[str, Any], data: Path, options: dict[str, Option]
    ) -> None:
        self._process = process
        self._data = data
        self._options = options
        self.base_url: str = ready["base_url"]
        self.token_url: str = ready["token_url"]
        self.control_url: str = ready["control_url"]
        self.ledger_path = data / LEDGER_NAME
        self.pid = process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The TCP port, for a restart in the same place."""
        return int(self.control_url.rsplit(":", 1)[1].partition("/")[0])

    @property
    def is_running(self) -> bool:
        """True while the process lives."""
        return self._process.poll() is None

    def control(self, path: str, payload: Any = None, *, method: str = "", **query: Option) -> Any:
        """Call the control API: GET without a payload, else POST.

        Args:
            path: Such as ``stats``, ``faults`` or ``faults/fault-1``.
            payload: JSON value to send.
            method: Instead of GET or POST.
            query: Parameters, such as ``account="demo"``.

        Returns:
            The decoded answer.

        Raises:
            ConfigurationError: The call was refused; the message says why.
            TimeoutError: A ``wait`` ended without its count.
        """
        verb = method or ("GET" if payload is None else "POST")
        url = f"{self.control_url}/{path}"
        answer = requests.request(verb, url, json=payload, params=query, timeout=_CONTROL_TIMEOUT_S)
        if answer.status_code == requests.codes.request_timeout:
            raise TimeoutError(f"sandbox: {query} not reached: {answer.text}")
        if not answer.ok:
            raise ConfigurationError(f"sandbox refused {verb} {path}: {answer.text}")
        return answer.json()

    def wait_for(self, counter: str, at_least: int, *, operation: str = "", timeout_s: float = 10.0) -> None:
        """Block until a count of ``stats`` (``arrivals``, ``served``, ``refused``, ``faults``, ``held``) is reached.

        Raises:
            TimeoutError: It was not reached in *timeout_s* seconds, at most 60.
        """
        self.control("wait", counter=counter, at_least=at_least, operation=operation, timeout_s=min(timeout_s, 60.0))

    def stop(self) -> int:
        """End it in order (SIGTERM), or by force when it does not end; returns the exit code."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._reap()

    def kill(self) -> int:
        """End it by SIGKILL, as a crash would; returns the exit code."""
        self._process.kill()
        return self._reap()

    def restart(self, **changed: Option) -> SandboxProcess:
        """Start anew on the same data and the same port, after `kill` or `stop`; *changed* options replace the old."""
        return start_sandbox(self._data, **{**self._options, "port": self.port, **changed})

    def _reap(self) -> int:
        code = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code


def start_sandbox(data_dir: Path | str, **options: Option) -> SandboxProcess:
    """Start ``python -m handlers.sandbox`` and wait until it is ready.

    It dies with this process, and its messages go to ``sandbox.log`` in the folder.

    Args:
        data_dir: Folder of the ledger; made when missing, continued when it has one.
        options: The command's options with underscores, such as ``limit="100/60"``, ``latency_ms=5``,
            ``seed_library=300``; True is a bare flag, None leaves an option out.

    Raises:
        ConfigurationError: It refused its options or its folder.
        ServerUnavailableError: It was not ready in 30 s.
    """
    data = Path(data_dir)
    data.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "handlers.sandbox", "--data", str(data), "--die-with-parent", str(os.getpid())]
    for name, value in options.items():
        if value is not None and value is not False:
            command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    log_path = data / "sandbox.log"
    with log_path.open("ab") as log:
        offset = log.tell()
        # A session of its own: Ctrl-C in a terminal is for the starter, which then stops the sandbox in its order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    line = _ready_line(process)
    if line:
        return SandboxProcess(process, json.loads(line), data, options)
    process.kill()
    process.communicate()
    said = log_path.read_bytes()[offset:].decode(errors="replace").strip()
    if process.returncode == 2:
        raise ConfigurationError(f"sandbox in {data} did not start: {said.rpartition('error: ')[2]}")
    raise ServerUnavailableError(f"sandbox in {data} was not ready in {_READY_TIMEOUT_S:.0f} s: {said[-800:]}")


def _ready_line(process: subprocess.Popen[bytes]) -> bytes:
    """Return the line the sandbox prints when ready; empty when it ended or took too long."""
    deadline_s, line = time.monotonic() + _READY_TIMEOUT_S, b""
    assert process.stdout is not None  # noqa: S101 - opened as a pipe above
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(max(0.0, deadline_s - time.monotonic())):
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                return b""
            line += chunk
    return line if line.endswith(b"\n") else b""
