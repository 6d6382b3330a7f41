#!/usr/bin/env python3
"""Enqueue a job: the same as ``jobqueue enqueue``, from a checkout without installing it on the path.

    scripts/enqueue.py enforcement --provider spotify --account demo \\
        --operation unsave_tracks --items blocklist.csv --follow
    scripts/enqueue.py rollback JOB_ID --follow
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"


def is_ready() -> bool:
    """Whether this Python has what jobqueue needs."""
    return all(find_spec(name) for name in ("click", "rich", "rq", "rq_scheduler", "psycopg", "structlog", "limits"))


if __name__ == "__main__":
    if not is_ready():
        if not PYTHON.exists() or Path(sys.prefix).resolve() == PYTHON.parent.parent.resolve():
            sys.exit(
                f"Error: jobqueue is not installed here.\n"
                f"  Run: python3 -m venv {ROOT}/.venv && {PYTHON} -m pip install -e {ROOT}"
            )
        os.execv(PYTHON, [str(PYTHON), *sys.argv])  # noqa: S606 - our own Python, no shell
    if find_spec("jobqueue") is None:
        sys.path.insert(0, str(ROOT))
    from jobqueue.cli.enqueue import enqueue
    from jobqueue.cli.main import main

    sys.exit(main(program="scripts/enqueue.py", command=enqueue))
