"""The local stack: Valkey and Postgres of one project directory, started together.

<project>/.jobqueue/    lock          held while a stack runs; names the process
                        stack.json    where the running stack is (0600); read by `jobqueue.settings`
                        ports.json    the last ports, used again if free
                        valkey/       data, log, password
                        postgres/     the same; as root in /var/tmp/jobqueue-<uid>-<hash of the project's path>/postgres
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from jobqueue.errors import ConfigurationError, ConflictError
from jobqueue.local.binaries import SHARED_DIRECTORY, is_reachable, trusted_directory
from jobqueue.local.postgres import Postgres
from jobqueue.local.server import write_secret
from jobqueue.local.valkey import Valkey
from jobqueue.settings import STACK_FILE, process_start_id

EPHEMERAL_PREFIX = "jobqueue-ephemeral-"
ABANDONED_AFTER_S = 60.0


class LocalStack:
    """Valkey and Postgres for the project in *root*, until `stop` or the end of this process, kill -9 included.

    Args:
        root: The project's directory; ``.jobqueue`` is made in it.
        data_dir: Where the servers' data lies, if elsewhere.
        is_throwaway: The data need not survive a crash of the machine.
    """

    def __init__(self, root: Path, *, data_dir: Path | None = None, is_throwaway: bool = False) -> None:
        self.root = root.resolve()
        self._state = self.root / STACK_FILE.parent
        self._data_dir = data_dir.resolve() if data_dir else None
        self._is_throwaway = is_throwaway
        self._lock = -1
        self.valkey = Valkey(self._state / "valkey")
        self.postgres = Postgres(self.data_directory, is_throwaway=is_throwaway)

    @property
    def redis_url(self) -> str:
        """Where Valkey is, with its password."""
        return self.valkey.url

    @property
    def database_url(self) -> str:
        """Where Postgres is, with its password."""
        return self.postgres.url

    @property
    def data_directory(self) -> Path:
        """Where Postgres keeps its data, log and password."""
        if self._data_dir is None and os.geteuid() == 0:
            return self._place_for_nobody() / "postgres"
        return (self._data_dir or self._state) / "postgres"

    def start(self) -> None:
        """Start both servers and write ``stack.json``; return when both answer.

        Raises:
            ConfigurationError: The wheels are not installed, or the directory cannot be used.
            ConflictError: A stack of this directory runs already.
            ServerUnavailableError: A server did not start.
        """
        self._make_state_directory()
        self._lock = self._take_lock()
        try:
            self._place_data()
            self.valkey.start()
            self.postgres.start()
            ports = {"valkey": self.valkey.port, "postgres": self.postgres.port}
            write_secret(self._state / "ports.json", json.dumps(ports))
            running = {"pid": os.getpid(), "start_id": process_start_id(os.getpid())}
            addresses = {"redis_url": self.redis_url, "database_url": self.database_url}
            write_secret(self.root / STACK_FILE, json.dumps(running | addresses, indent=1))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both servers; their data stays. Does nothing when they do not run."""
        if self._lock < 0:
            return
        try:
            (self.root / STACK_FILE).unlink(missing_ok=True)
            self.postgres.stop()
            self.valkey.stop()
        finally:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_state_directory(self) -> None:
        try:
            self._state.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"Cannot make {self._state}: {error.strerror}.", remedy="Start in a directory you may write to."
            ) from None
        owner = self._state.stat().st_uid
        if owner != os.geteuid():
            raise ConfigurationError(
                f"{self._state} belongs to user {owner}, and you are user {os.geteuid()}.",
                remedy="Start as that user, or remove it with all its data.",
            )
        ignore = self._state / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def _take_lock(self) -> int:
        lock = os.open(self._state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 20, 0).decode() or "unknown"
            os.close(lock)
            raise ConflictError(
                f"A local stack of {self.root} runs already, started by process {holder}.",
                remedy="Use that one, or stop it first.",
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock

    def _place_data(self) -> None:
        """Decide where the servers' data lies and on which ports they had better listen."""
        ports: dict[str, int] = {}
        with suppress(OSError, ValueError):
            ports = json.loads((self._state / "ports.json").read_text())
        base = self._data_dir or self._state
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._data_dir is None and os.geteuid() == 0:
            self._claim_place_for_nobody()
        self.valkey = Valkey(base / "valkey", preferred_port=ports.get("valkey", 0))
        self.postgres = Postgres(
            self.data_directory, preferred_port=ports.get("postgres", 0), is_throwaway=self._is_throwaway
        )

    def _place_for_nobody(self) -> Path:
        """Return this project's place outside itself, where Postgres can reach it when we are root."""
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return SHARED_DIRECTORY / f"jobqueue-{os.geteuid()}-{name}"

    def _claim_place_for_nobody(self) -> None:
        """Make that place, rid of what an earlier checkout at the same path left there."""
        mark = self._state / "id"
        if not mark.exists():
            write_secret(mark, secrets.token_hex(16))
        place = trusted_directory(self._place_for_nobody())
        owner = place / "id"
        if not owner.exists() or owner.read_text() != mark.read_text():
            for entry in place.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            write_secret(owner, mark.read_text())


@contextmanager
def ephemeral_stack(*, is_durable: bool = False) -> Iterator[LocalStack]:
    """Run a stack with data of its own, removed afterwards.

    Args:
        is_durable: Sync every commit to the disk, as the real stack does. Without it commits survive a kill -9 of the
            server all the same.
    """
    base = Path(tempfile.gettempdir()).resolve()
    if os.geteuid() == 0 and not is_reachable(base):
        base = SHARED_DIRECTORY
    _remove_abandoned(base)
    root = Path(tempfile.mkdtemp(prefix=EPHEMERAL_PREFIX, dir=base))
    # The servers' own folders are closed; nobody must be able to pass.
    root.chmod(0o711)
    (root / "data").mkdir(mode=0o711)
    try:
        with LocalStack(root, data_dir=root / "data", is_throwaway=not is_durable) as stack:
            yield stack
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _remove_abandoned(base: Path) -> None:
    """Remove what ephemeral stacks left behind whose process was killed."""
    for root in base.glob(f"{EPHEMERAL_PREFIX}*"):
        with suppress(OSError):
            found = root.lstat()
            # A young one may be about to take its lock.
            if found.st_uid != os.geteuid() or time.time() - found.st_mtime < ABANDONED_AFTER_S:
                continue
            lock = os.open(root / STACK_FILE.parent / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
            finally:
                os.close(lock)
