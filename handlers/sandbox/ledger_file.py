"""Append to the ledger: a line is in the kernel when `append` returns and on the disk when `sync` does.

So kill -9 of the sandbox loses no appended line, and a power cut loses none that was answered.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

from jobqueue.errors import ConflictError, ServerUnavailableError

# macOS has no fdatasync.
_flush_to_disk = getattr(os, "fdatasync", os.fsync)


class LedgerFile:
    """The one writer of a ledger.

    Args:
        path: The file; made when missing. A torn last line (power cut) is removed: nobody was answered for it.

    Raises:
        ConflictError: Another sandbox writes this ledger.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise ConflictError(
                f"ledger {path} is in use by another sandbox.", remedy="Stop it, or give another --data folder."
            ) from error
        self._drop_torn_line()
        self._changed = threading.Condition()
        self._appended = 0
        self._durable = 0
        self._is_syncing = False
        self._broken: OSError | None = None

    def append(self, line: dict[str, Any]) -> int:
        """Write one line to the kernel; returns the ticket to `sync` on."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._changed:
            self._raise_if_broken()
            try:
                if os.write(self._fd, data) != len(data):
                    raise OSError("short write")
            except OSError as error:
                self._broken = error
                self._raise_if_broken()
            self._appended += 1
            return self._appended

    def sync(self, ticket: int) -> None:
        """Wait until the line of *ticket* is on the disk; one flush serves all who wait.

        Raises:
            ServerUnavailableError: The disk failed; nothing may be answered any more.
        """
        while True:
            with self._changed:
                self._raise_if_broken()
                if self._durable >= ticket:
                    return
                if self._is_syncing:
                    self._changed.wait()
                    continue
                self._is_syncing = True
                upto = self._appended
            self._flush(upto)

    def close(self) -> None:
        """Flush and give the file up."""
        self.sync(self._appended)
        os.close(self._fd)

    def _flush(self, upto: int) -> None:
        broken: OSError | None = None
        try:
            _flush_to_disk(self._fd)
        except OSError as error:
            broken = error
        with self._changed:
            self._is_syncing = False
            self._broken = self._broken or broken
            if broken is None:
                self._durable = max(self._durable, upto)
            self._changed.notify_all()

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise ServerUnavailableError(f"ledger {self.path} cannot be written: {self._broken}") from self._broken

    def _drop_torn_line(self) -> None:
        size = os.fstat(self._fd).st_size
        end = size
        while end > 0:
            start = max(0, end - 65536)
            newline = os.pread(self._fd, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            os.ftruncate(self._fd, end)
