"""Use an installed jobqueue on servers of its own: migrate twice, enqueue, work, ask; prints what it saw as JSON.

`wheel.py` runs it as ``python -I`` with the Python of a virtual environment that knows no checkout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jobqueue
from jobqueue.local import ephemeral_stack

BIN = Path(sys.executable).parent
ITEM_COUNT = 250


def main() -> int:
    """Do it; returns the exit code."""
    with ephemeral_stack() as stack:
        environment = {
            **os.environ,
            "REDIS_URL": stack.redis_url,
            "RQ_REDIS_URL": stack.redis_url,
            "DATABASE_URL": stack.database_url,
        }

        def run(program: str, *arguments: str) -> str:
            done = subprocess.run(
                [BIN / program, *arguments], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                words = " ".join([program, *arguments])
                sys.exit(f"{words} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
            return done.stdout

        first = json.loads(run("jobqueue", "migrate", "--json"))["applied"]
        again = json.loads(run("jobqueue", "migrate", "--json"))["applied"]
        Path("items.csv").write_text("item\n" + "".join(f"{n}\n" for n in range(ITEM_COUNT)))
        job = json.loads(run("jobqueue", "enqueue", "noop", "--provider", "noop", "--items", "items.csv", "--json"))
        run("rq", "worker", "high", "default", "low", "--burst")
        status = json.loads(run("jobqueue", "status", str(job["job_id"]), "--json"))
    seen = {"package": jobqueue.__path__[0], "version": jobqueue.__version__, "applied": len(first)}
    print(json.dumps({**seen, "applied_again": again, "status": status["status"], "succeeded": status["succeeded"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
