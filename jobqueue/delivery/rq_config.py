"""For ``RQ_CONFIG=jobqueue.delivery.rq_config``: loads handlers in the worker, so that a horse starts in
milliseconds.
"""

from __future__ import annotations

from jobqueue.delivery import entry
from jobqueue.engine import registry
from jobqueue.model.job import Priority
from jobqueue.settings import Settings

REDIS_URL = Settings.from_environ().redis_url
QUEUES = [priority.queue for priority in Priority]

registry.preload()

__all__ = ["QUEUES", "REDIS_URL", "entry"]
