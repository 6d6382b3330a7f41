"""What docs/rate-limit-service.md shows is what happens."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from handlers.sandbox.launch import start_sandbox
from jobqueue.ratelimit.service import RateLimitService

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "rate-limit-service.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
OUTPUT = next(text for _, text in BLOCKS if "python save.py\n" in text).partition("python save.py\n")[2]
TRACKS = 250


def masked(text):
    """Numbers depend on the machine's pace, and so does how many batches there are."""
    return re.sub(r"\d+( \d+)*", "N", text)


@pytest.fixture
def sandbox(tmp_path):
    """As the guide starts it, on a free port."""
    with start_sandbox(tmp_path / "sandbox", limit="10/3", headers="draft10", seed_library=0) as running:
        assert (
            "python -m handlers.sandbox --data /tmp/sandbox --port 8100 --limit 10/3 --headers draft10 --seed-library 0\n"
            in GUIDE
        )
        yield running


def test_the_worked_example_runs_as_printed(redis_url, sandbox, tmp_path):
    """Two of it at once share one quota without a single 429, and every batch arrives."""
    script = tmp_path / "save.py"
    script.write_text(PYTHON[0], "utf-8")
    assert len(PYTHON[0].splitlines()) <= 40
    environment = os.environ | {"REDIS_URL": redis_url, "API_URL": sandbox.base_url, "PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.Popen(
            [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [run.communicate(timeout=60) for run in runs]
    assert [(run.returncode, errors) for run, (_, errors) in zip(runs, told, strict=True)] == [(0, ""), (0, "")]
    requests = 0
    for printed, _ in told:
        assert masked(printed) == masked(OUTPUT)
        sizes = [int(size) for size in printed.partition("batches:")[2].splitlines()[0].split()]
        assert sum(sizes) == TRACKS
        assert sizes[0] == 10
        assert max(sizes) > 10
        assert "failed: 0\n" in printed
        assert f"saved: {TRACKS}\n" in printed
        requests += len(sizes) + 1
    stats = sandbox.control("stats")
    assert (stats["by_status"], stats["refused"]) == ({"200": requests}, 0)
    assert requests > 20, "it never had to wait"


def test_reserve_and_settle_answer_as_printed(redis_url):
    """The second example, line by line."""
    found = doctest.DocTestParser().get_doctest(PYTHON[1], {"redis_url": redis_url}, "guide", None, None)
    assert len(found.examples) > 10
    problems: list[str] = []
    doctest.DocTestRunner().run(found, out=problems.append)
    assert problems == []


def test_every_call_the_guide_names_exists():
    """A renamed one is noticed here."""
    from_guide = set(re.findall(r"^\| `(\w+)\(", GUIDE, re.MULTILINE)) | {"record_failure"}
    assert from_guide <= set(dir(RateLimitService))
    assert len(from_guide) == 8
