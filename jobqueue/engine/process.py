"""Which process this is, and whether another one of this host is still there."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

import psutil

from jobqueue.store.checkpoints import Holder

_START_TOLERANCE_S = 1.0


@cache
def this_host() -> str:
    """Tells machines, boots and process-id namespaces apart: a pid means something only within one of them."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    marks = [socket.gethostname()]
    if boot.exists():
        marks.append(boot.read_text().strip())
    if namespace.exists():
        marks.append(str(namespace.stat().st_ino))
    return "/".join(marks)


def this_holder(name: str) -> Holder:
    """This process as a holder called *name*."""
    pid = os.getpid()
    return Holder(name, this_host(), pid, psutil.Process(pid).create_time())


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that had this pid and start time still runs; a zombie does not."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - started) < _START_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
