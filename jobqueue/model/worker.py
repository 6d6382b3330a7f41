"""How a worker works."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobqueue.bounds import LEASE_MARGIN_S, LONGEST_EFFECT_S, LONGEST_SLICE_S, MOST_IN_FLIGHT
from jobqueue.errors import ConfigurationError
from jobqueue.model.backoff import RetryPolicy

__all__ = ["LEASE_MARGIN_S", "LONGEST_EFFECT_S", "WorkerConfig"]


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How a worker works. Durations are seconds.

    Attributes:
        in_flight: Most requests a slice keeps under way.
        slice_s: How long a slice claims new work before it makes way for the next.
        job_types: The job types this worker takes; empty for all.
        max_run_s: Longest time a job may take, counted from its submission; then it fails. None for no bound.
        lease_s: How long a part stays with a holder that says nothing.
        heartbeat_s: How often leases are renewed.
        poll_s: How often a slice looks for pause, cancel, shutdown and higher work.
        retention_h: How long ended jobs are kept, in hours.
        retry: Attempts and delays of items that may pass later.
        outage: Delays between repeats while the provider is out; its attempts do not count.
        outage_budget_s: How long a batch is repeated while the provider is out before its items fail.
        max_bugs: How often a batch may raise an unexpected error before it is split.

    Raises:
        ConfigurationError: Values that do not fit together; the message names them.
    """

    in_flight: int = 4
    slice_s: float = 20.0
    job_types: tuple[str, ...] = ()
    max_run_s: float | None = None
    lease_s: float = 20.0
    heartbeat_s: float = 5.0
    poll_s: float = 0.25
    retention_h: float = 24.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    outage: RetryPolicy = field(default_factory=lambda: RetryPolicy(max_attempts=1_000_000, base_s=1.0, cap_s=60.0))
    outage_budget_s: float = 6 * 3600.0
    max_bugs: int = 3

    def __post_init__(self) -> None:
        checks = {
            "in_flight": 1 <= self.in_flight <= MOST_IN_FLIGHT,
            "slice_s": 0 < self.slice_s <= LONGEST_SLICE_S,
            "heartbeat_s": 0 < self.heartbeat_s <= self.lease_s - LONGEST_EFFECT_S - LEASE_MARGIN_S,
            "poll_s": 0 < self.poll_s <= 2,
            "retention_h": self.retention_h >= 0,
            "max_bugs": self.max_bugs >= 1,
            "outage_budget_s": self.outage_budget_s > 0,
            "max_run_s": self.max_run_s is None or self.max_run_s > 0,
        }
        for name, is_right in checks.items():
            if not is_right:
                raise ConfigurationError(
                    f"{name} {getattr(self, name)} is out of range.",
                    remedy="See WorkerConfig; a lease must outlast a heartbeat and the longest effect.",
                )
