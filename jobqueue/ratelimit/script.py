"""Running Lua on one connection that always knows which server it speaks to."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from jobqueue.errors import ConfigurationError, JobQueueError, ServerUnavailableError

TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, put together from files at load time."""

    name: str
    text: str
    sha: str

    @classmethod
    def load(cls, name: str, *parts: str) -> Script:
        """Read ``lua/*.lua``, the shared *parts* first."""
        folder = resources.files("jobqueue.ratelimit") / "lua"
        text = "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*parts, name))
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_STATE = ("base", "window", "breaker", "common")

RESERVE = Script.load("reserve", *_STATE, "waiting")
SETTLE = Script.load("settle", *_STATE, "waiting")
REBUILD = Script.load("rebuild", *_STATE)
ADJUST = Script.load("adjust", *_STATE, "waiting")
LEAVE = Script.load("leave", *_STATE, "waiting")
DELETE = Script.load("delete")


class ScriptRunner:
    """Calls scripts over a connection of its own, opened at the first call, so it may be made before a fork.

    Every new connection asks for the server's run id before anything else, and a script is told the id of the very
    connection it is sent over. redis-py's own retries would send a script with the old server's id to a new one, which
    then could not tell that its state came from an old dump; so there are none.

    One thread at a time: a second one is refused.

    Args:
        redis_url_or_client: A URL, or a client whose settings are copied; its connections are not used.
        timeout_s: For connecting and for each answer.

    Raises:
        ConfigurationError: The URL cannot be read.
    """

    def __init__(self, redis_url_or_client: str | redis.Redis, *, timeout_s: float = TIMEOUT_S) -> None:
        self._pool = _private_pool(redis_url_or_client, timeout_s)
        self._connection: Any = None
        self._run_id = ""
        self._pid = 0
        self._lock = threading.Lock()

    def run(self, script: Script, keys: Sequence[str], configuration: str, *args: str | int) -> Any:
        """Call *script*; ARGV is the configuration, the server's run id, then *args*.

        Raises:
            ServerUnavailableError: Redis cannot be reached, refuses, or gave no answer in time (it may have run the
                script).
        """
        if not self._lock.acquire(blocking=False):
            raise JobQueueError(
                "a limiter is used by two threads at once.", remedy="Give each thread its own, or call from one alone."
            )
        try:
            try:
                return self._run_once(script, keys, configuration, args)
            except redis.TimeoutError as error:
                raise _unavailable("gave no answer in time", error) from None
            except (redis.ConnectionError, OSError):
                # The server went away, perhaps long ago: ask the one that is there now, by its own id.
                return self._run_once(script, keys, configuration, args)
        except redis.TimeoutError as error:
            raise _unavailable("gave no answer in time", error) from None
        except (redis.ConnectionError, OSError) as error:
            raise _unavailable("cannot be reached", error) from None
        except redis.ResponseError as error:
            raise _unavailable(f"refused {script.name}: {error}", error) from error
        finally:
            self._lock.release()

    def run_id(self) -> str:
        """The run id of the server the open connection leads to."""
        return self._run_id

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _run_once(self, script: Script, keys: Sequence[str], configuration: str, args: Sequence[str | int]) -> Any:
        connection = self._opened()
        try:
            try:
                connection.send_command("EVALSHA", script.sha, len(keys), *keys, configuration, self._run_id, *args)
                return connection.read_response()
            except NoScriptError:
                connection.send_command("EVAL", script.text, len(keys), *keys, configuration, self._run_id, *args)
                return connection.read_response()
        except redis.ResponseError:
            raise  # a whole answer was read: the connection stays good
        except BaseException:
            # An interrupted call leaves its answer in the socket, where the next one would take it for its own.
            self.close()
            raise

    def _opened(self) -> Any:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        connection: Any = self._pool.make_connection()
        try:
            connection.connect()
            connection.send_command("INFO", "server")
            info = connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        found = re.search(r"run_id:([0-9a-f]+)", info.decode() if isinstance(info, bytes) else str(info))
        if found is None:
            connection.disconnect()
            raise ServerUnavailableError(
                "Redis does not tell its run id.", remedy="Allow the command INFO for this user."
            )
        self._connection, self._run_id, self._pid = connection, found.group(1), os.getpid()
        return connection


def _private_pool(redis_url_or_client: str | redis.Redis, timeout_s: float) -> redis.ConnectionPool:
    own: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
    }
    if isinstance(redis_url_or_client, str):
        try:
            return redis.ConnectionPool.from_url(redis_url_or_client, **own)
        except ValueError:
            # The message must not repeat the URL: it may hold a password.
            raise ConfigurationError(
                "the Redis URL cannot be read.", remedy="Write it like redis://host:6379/0."
            ) from None
    shared = redis_url_or_client.connection_pool
    settings = {name: value for name, value in shared.connection_kwargs.items() if name not in _CLIENT_ONLY}
    return redis.ConnectionPool(connection_class=shared.connection_class, **{**settings, **own})


_CLIENT_ONLY = frozenset({"retry_on_timeout", "retry_on_error", "event_dispatcher", "maint_notifications_config"})


def _unavailable(what: str, error: BaseException) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"Redis {what} ({type(error).__name__}).", remedy="Check that it runs and that REDIS_URL is right."
    )
