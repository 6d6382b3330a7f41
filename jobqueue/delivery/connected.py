"""What every part of the public face stands on: the servers, and a limiter for each provider."""

from __future__ import annotations

from jobqueue.delivery import queues
from jobqueue.delivery.dispatch import dispatch
from jobqueue.engine.history import PostgresHistory
from jobqueue.errors import ServerUnavailableError
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import Settings
from jobqueue.store import limits
from jobqueue.store.database import Database
from jobqueue.store.migrate import check_migrated


class Connected:
    """Connections to both servers, opened when they are first needed; they belong to one thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._database = Database(settings.database_url, name="jobqueue-client")
        self._connection = queues.connect(settings.redis_url)
        self._limiters: dict[str, tuple[int, Limiter]] = {}  # with the version of their limits
        self._is_checked = False

    def close(self) -> None:
        """Close all connections."""
        self._database.close()
        self._connection.close()
        for _, limiter in self._limiters.values():
            limiter.close()
        self._limiters.clear()

    def _limiter(self, provider: str) -> Limiter:
        version, limiter = self._limiters.get(provider, (-1, None))
        if limiter is None or version != limits.config_version(self._database, provider):
            if limiter is not None:
                limiter.close()
            config = limits.provider_limits(self._database, provider)
            limiter = Limiter(self.settings.redis_url, {provider: config}, PostgresHistory(self._database))
            self._limiters[provider] = config.version, limiter
        return limiter

    def _tell(self, job_id: int | None = None) -> None:
        """Hint at what is due, of one job or of all; Redis going away now costs a few seconds, not the job."""
        try:
            dispatch(self._database, self._connection, job_id=job_id)
        except ServerUnavailableError:
            return

    def _check(self) -> None:
        self._check_migrated()
        with queues.translated():
            self._connection.ping()

    def _check_migrated(self) -> None:
        if not self._is_checked:
            check_migrated(self._database)
            self._is_checked = True
