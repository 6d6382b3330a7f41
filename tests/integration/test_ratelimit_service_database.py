"""The public face beside the queue: its stored limits, its epochs, one count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobqueue.engine.history import PostgresHistory
from jobqueue.engine.limits import change_limits
from jobqueue.model.limit import DenialReason, Scope, ScopeKind, Slot
from jobqueue.model.limit_change import LimitsChange
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.ratelimit.service import RateLimitService
from jobqueue.store import limits
from jobqueue.store.database import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        change_limits(opened, "spotify", LimitsChange(windows="3/minute", unit_windows=""))
        yield opened


def stored(database: Database) -> dict:
    """The limits as they are now."""
    return {"spotify": limits.provider_limits(database, "spotify")}


def queues_own(database: Database, redis_url: str) -> Limiter:
    """As a worker has it."""
    return Limiter(redis_url, stored(database), PostgresHistory(database))


def serve(database: Database, redis_url: str) -> RateLimitService:
    """As docs/rate-limit-service.md tells to."""
    limiter = queues_own(database, redis_url)
    return RateLimitService(limiter, reload=lambda: stored(database))


def test_the_service_and_the_queue_share_one_count(database, redis_url):
    """What one takes the other misses, and both are of one epoch."""
    with serve(database, redis_url) as service:
        worker = queues_own(database, redis_url)
        assert isinstance(service.wait_for_rate_limit("spotify", timeout_s=0), Slot)
        grant = worker.reserve(Scope("spotify"), want=5)
        assert len(grant.slots) == 2
        assert not service.can_proceed("spotify")
        assert service.status("spotify").epoch == grant.epoch
        worker.close()


def test_limits_set_by_command_hold_for_the_service(database, redis_url):
    """From the first use of the new ones by anybody, an operation's among them."""
    with serve(database, redis_url) as service:
        assert service.can_proceed("spotify", operation="save_tracks")
        change_limits(database, "spotify", LimitsChange(windows="4/minute"))
        change_limits(database, "spotify", LimitsChange(ScopeKind.OPERATION, "save_tracks", windows="1/minute"))
        worker = queues_own(database, redis_url)
        assert worker.why(Scope("spotify")) is None
        worker.close()
        assert isinstance(service.wait_for_rate_limit("spotify", timeout_s=0, operation="save_tracks"), Slot)
        assert not service.can_proceed("spotify", operation="save_tracks")
        assert [window.limit for window in service.status("spotify").windows] == [4]


def test_a_service_without_a_database_is_refused_beside_the_queue(database, redis_url):
    """It would count for itself by limits of its own."""
    worker = queues_own(database, redis_url)
    assert worker.why(Scope("spotify")) is None
    worker.close()
    with RateLimitService.from_url(redis_url, {"spotify": "1000/minute"}) as service:
        assert service.wait_for_rate_limit("spotify", timeout_s=30).reason is DenialReason.OUTDATED
        assert not service.can_proceed("spotify")
