"""An embedded Valkey."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobqueue.local.binaries import valkey_server
from jobqueue.local.process import User
from jobqueue.local.server import Server, read_secret, write_secret


class Valkey(Server):
    """Valkey with an append-only file, synced every second, that never evicts a key.

    It has a password although it listens on 127.0.0.1 only: RQ runs what lies in its queues, so whoever may write there
    may run programs as this user.
    """

    name = "valkey"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        """Where it is reached, with its password."""
        return f"redis://:{self._password()}@127.0.0.1:{self.port}/0"

    def prepare(self) -> User | None:
        """Make the folder and the password; it runs as the present user."""
        (self.directory / "data").mkdir(mode=0o700, exist_ok=True)
        if not self._password_file.exists():
            write_secret(self._password_file, secrets.token_hex(24))
        self._program = valkey_server()
        return None

    def command(self) -> list[str]:
        """Write the configuration, so that the password is on no command line, and return the command."""
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self._password()}",
            "dir ./data",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
        ]
        write_secret(self.directory / "valkey.conf", "\n".join(lines) + "\n")
        return [str(self._program), "valkey.conf"]

    def is_ready(self, pid: int) -> bool:
        """Return whether the process *pid* answers and has read its file."""
        with redis.Redis.from_url(self.url, socket_timeout=2.0, retry=Retry(NoBackoff(), 0)) as client:
            try:
                info: dict[str, object] = client.info("server")
            except (redis.ConnectionError, redis.TimeoutError, redis.AuthenticationError):
                return False
        return info["process_id"] == pid

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def _password(self) -> str:
        return read_secret(self._password_file)
