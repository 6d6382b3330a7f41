"""Which process this is, and whether another one of this host is still there."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

from jobqueue.settings import process_start_id
from jobqueue.store.checkpoints import Holder


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
    start_id = process_start_id(pid)
    if start_id is None:
        raise ValueError("this process cannot look itself up: is /proc mounted?")
    return Holder(name, this_host(), pid, float(start_id))


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that had this pid and start mark still runs; a zombie does not.

    The mark is `process_start_id`, which no change of the wall clock moves. A process that may not be looked at counts
    as alive: its lease ends by itself.
    """
    start_id = process_start_id(pid)
    if start_id is not None:
        return float(start_id) == started
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False  # ours to look at, and a zombie
