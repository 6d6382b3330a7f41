"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

from jobqueue.version import VERSION

FOREIGN = ("JOBQUEUE_", "RQ_", "REDIS_URL", "DATABASE_URL", "CELERY_")
BUSY_LOAD = 0.5


def forget_surroundings() -> None:
    """Remove what the environment says about other servers, so that a measurement meets its own alone."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]


def describe_machine(*, redis_url: str = "", database_url: str = "", packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """The machine, and the versions of Python, *packages* and the servers that are given."""
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
        "jobqueue": VERSION,
        "python": platform.python_version(),
    }
    found |= {name: version_of(name) for name in packages}
    if redis_url:
        with redis.Redis.from_url(redis_url) as client:
            server: dict[str, Any] = client.info("server")
        found["server"] = (
            f"{server.get('server_name', 'redis')} {server.get('valkey_version', server['redis_version'])}"
        )
    if database_url:
        with psycopg.connect(database_url) as connection:
            found["postgres"] = connection.info.parameter_status("server_version")
    return found


def version_of(package: str) -> str:
    """The installed version of *package*; ``absent`` without one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def heading(machine: dict[str, Any]) -> str:
    """The machine in one line, and a second one when it was busy with other things."""
    text = " · ".join(f"{name} {value}" for name, value in machine.items())
    if machine["load_before"] > BUSY_LOAD:
        text += f"\nthe machine was busy with other things (load {machine['load_before']}): expect worse than the truth"
    return text


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
