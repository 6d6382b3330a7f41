"""What the tests of the command line stand on: the program, real workers, and a handler that can refuse items."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from jobqueue.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent

PICKY_HANDLER = '''
import os
from pathlib import Path

from jobqueue.handler import BaseHandler
from jobqueue.model.item import SUCCEEDED, ItemOutcome


class PickyJobHandler(BaseHandler):
    """Refuses items whose key begins with bad, until the file PICKY_PARDON exists."""

    job_type = "picky"

    def apply(self, call):
        is_pardoned = Path(os.environ["PICKY_PARDON"]).exists()
        return [
            SUCCEEDED if is_pardoned or not item.key.startswith("bad")
            else ItemOutcome.failed("refused", f"item {item.key!r} is \\x1b[31mrefused")
            for item in call.items
        ]
'''


@dataclass(frozen=True)
class Answer:
    """What one run of the program gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document it must be."""
        assert self.err == ""
        return json.loads(self.out)


class Program:
    """The program, run in this process or as one of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], environment: dict[str, str]) -> None:
        self._capsys = capsys
        self.environment = environment

    def __call__(self, *arguments: object) -> Answer:
        """Run ``jobqueue`` with *arguments* in this process."""
        self._capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    def json(self, *arguments: object, code: int = 0) -> Any:
        """The document of ``jobqueue … --json``, which must end with *code*."""
        answer = self(*arguments, "--json")
        assert answer.code == code, answer
        return answer.document

    @contextmanager
    def started(self, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """``jobqueue`` as a process, killed in the end if it still runs."""
        argv = [sys.executable, "-m", "jobqueue.cli.main", *(str(argument) for argument in arguments)]
        settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.environment}
        with subprocess.Popen(argv, text=True, **(settings | options)) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def work(self) -> None:
        """Do whatever is due with the literal worker, until nothing is."""
        argv = [sys.executable, "-m", "rq.cli", "worker", "--burst", "high", "default", "low"]
        subprocess.run(argv, env=self.environment, check=True, capture_output=True, timeout=60)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A worker that stays until the end of the block."""
        argv = [sys.executable, "-m", "rq.cli", "worker", "high", "default", "low"]
        output = subprocess.PIPE
        with subprocess.Popen(
            argv, env=self.environment, stdout=output, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                assert process.stdout is not None
                wait_for_line(process.stdout, "Listening on high, default, low")
                yield
            finally:
                process.terminate()
                process.communicate(timeout=30)


def wait_for_line(stream: IO[str] | None, text: str) -> str:
    """Read *stream* until a line holds *text*, and return that line."""
    assert stream is not None
    seen = []
    for line in stream:
        if text in line:
            return line
        seen.append(line)
    raise AssertionError(f"{text!r} never came:\n{''.join(seen)}")


def install_picky_handler(directory: Path) -> None:
    """Make *directory*, once on the path, an installed package that brings the job type ``picky``."""
    info = directory / "picky_handlers-1.0.dist-info"
    info.mkdir(parents=True)
    (directory / "picky_handlers.py").write_text(PICKY_HANDLER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: picky-handlers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jobqueue.handlers]\npicky = picky_handlers:PickyJobHandler\n")


def environment(redis_url: str, database_url: str, extra_path: Path) -> dict[str, str]:
    """The environment of a process that uses these servers."""
    paths = [str(extra_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "REDIS_URL": redis_url,
        "RQ_REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PICKY_PARDON": str(extra_path / "pardon"),
    }


def write_items(path: Path, values: Sequence[object], *, header: str = "item") -> Path:
    """A CSV file of one column."""
    path.write_text("\n".join([header, *map(str, values)]) + "\n")
    return path
