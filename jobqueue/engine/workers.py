"""A worker's configuration from the settings."""

from __future__ import annotations

from jobqueue.model.worker import WorkerConfig
from jobqueue.settings import Settings


def worker_config(settings: Settings) -> WorkerConfig:
    """The settings as a `WorkerConfig`.

    Raises:
        ConfigurationError: They do not fit together.
    """
    defaults = WorkerConfig()
    return WorkerConfig(
        in_flight=settings.in_flight or defaults.in_flight,
        slice_s=settings.slice_s,
        lease_s=settings.lease_s,
        heartbeat_s=settings.heartbeat_s,
        retention_h=settings.retention_h,
    )
