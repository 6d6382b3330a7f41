"""Items that kill their process, among innocent ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.model.job import JobRequest
from jobqueue.settings import Settings

pytestmark = pytest.mark.timeout(170)

PACKAGE = Path(__file__).parent / "killer_package"
BIN = Path(sys.executable).parent
ITEMS = 60
KILLERS = (7, 41)


def start(name: Sequence[str | Path], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process that writes into *log*."""
    with log.open("ab") as out:
        return subprocess.Popen(name, env=environment, stdout=out, stderr=out, start_new_session=True)


def test_killers_are_quarantined_and_their_neighbours_finish(redis_url: str, database_url: str, tmp_path: Path) -> None:
    """Two items SIGKILL whoever sends them: exactly these two become dead letters, all others succeed once."""
    environment = os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")]),
    }
    sys.path.insert(0, str(PACKAGE))
    processes = [start([BIN / "rq", "worker", "high", "default", "low"], environment, tmp_path / "w.log") for _ in "ab"]
    processes.append(start([BIN / "jobqueue", "scheduler"], environment, tmp_path / "s.log"))
    try:
        with JobQueue(Settings.from_environ(environment)) as queue:
            queue.set_provider("killer", base_url="http://127.0.0.1")
            request = JobRequest(type="killer", provider="killer", operation="touch")
            rows = Rows([f"kill-{n}" if n in KILLERS else f"item-{n}" for n in range(ITEMS)])
            job_id = queue.enqueue_job(request, rows).job_id
            until_s = time.monotonic() + 150
            while not (progress := queue.get_job_status(job_id)).job.status.is_terminal:
                assert time.monotonic() < until_s, f"{progress.as_dict()} {(tmp_path / 'w.log').read_text()[-2000:]}"
                time.sleep(0.1)
            letters = queue.dead_letters(job_id=job_id)
    finally:
        sys.path.remove(str(PACKAGE))
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(timeout=40)

    assert progress.succeeded == ITEMS - len(KILLERS)
    assert sorted(letter["key"] for letter in letters) == sorted(f"kill-{n}" for n in KILLERS)
    assert {letter["fingerprint"].partition(":")[0] for letter in letters} == {"poison"}
