"""The measuring scripts run and say something true, on loads too small to measure anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "scripts" / "bench"


def measured(script: str, *options: str) -> Any:
    """The JSON document of a script."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    argv = [sys.executable, str(BENCH / script), *options, "--json"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_quota_counts_the_work_of_literal_workers_and_of_a_rival():
    """All calls are made, ours without a 429, and nobody uses more than there is."""
    options = ("--windows", "2", "--runs", "1", "--window", "rolling", "--workers", "2", "--latency-ms", "20")
    document = measured("quota.py", "--case", "40/2s", *options, "--only", "jobqueue,limits", "--side-by-side", "2")

    ours, rival = document["lines"]
    assert (ours["contender"], rival["contender"]) == ("jobqueue", "limits")
    for line in (ours, rival):
        (run,) = line["runs"]
        assert (run["calls"], run["lost"]) == (120, 0)
        assert 0.2 < run["quota_used"] <= 1.0
    assert ours["runs"][0]["refused"] == 0
    assert ours["runs"][0]["most_arrivals"] == {"40/2s": 40}


@pytest.mark.slow
def test_quota_disturbs_the_run_as_it_was_told():
    """Clocks set wrong and Redis emptied: no 429; half the quota gone: told window by window."""
    options = ("--case", "20/2s", "--runs", "1", "--window", "rolling", "--workers", "2", "--latency-ms", "20")
    skewed = measured(
        "quota.py", *options, "--windows", "3", "--only", "jobqueue", "--clock-skew", "60", "--flush-every", "2"
    )
    (run,) = skewed["lines"][0]["runs"]
    assert run["disturbed"] >= 1
    assert (run["calls"], run["lost"], run["refused"]) == (80, 0, 0)


@pytest.mark.slow
def test_quota_tells_of_a_halved_quota_window_by_window():
    """The rows cover every arrival, and in the halved windows there is less to have."""
    options = ("--case", "10/1s", "--runs", "1", "--window", "fixed", "--workers", "2", "--latency-ms", "20")
    halved = ("--halve-after", "2", "--halve-for", "2", "--windows", "8")
    document = measured("quota.py", *options, "--only", "jobqueue", *halved)

    (run,) = document["lines"][0]["runs"]
    by_index = {row["index"]: row for row in run["rows"]}
    assert sum(row["arrivals"] for row in run["rows"]) == run["calls"] + run["refused"]
    assert by_index[-1]["available"] == 10
    assert by_index[0]["available"] < 10
    assert by_index[1]["available"] == 5


@pytest.mark.slow
def test_reserve_measures_ours_and_theirs():
    """Every subject has a rate, percentiles in order, and memory."""
    options = ("--limit", "100/minute", "--callers", "1,2", "--rounds", "1", "--operations", "100", "--pairs", "100")
    document = measured("reserve.py", *options)

    for by_name in document["calls"]["100/minute"].values():
        assert len(by_name) == 4
        for found in by_name.values():
            assert found["operations_per_s"] > 0
            assert 0 < found["p50_us"] <= found["p99_us"]
    for found in document["ratios"].values():
        assert found["ratio_p50"] == pytest.approx(found["ours_p50_us"] / found["theirs_p50_us"])
    assert all(size > 0 for by_limit in document["memory_bytes"].values() for size in by_limit.values())


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("quota.py", ("--case", "100"), "cannot be read"),
        ("quota.py", ("--only", "jobque"), "'jobque' is not one of"),
        ("quota.py", ("--runs", "0"), "at least 1"),
        ("reserve.py", ("--callers", "many"), "numbers such as"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(script, options, words):
    """Exit code 2 and the option's name."""
    done = subprocess.run([sys.executable, str(BENCH / script), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_skewed_process_has_a_wrong_wall_clock_and_a_true_monotonic_one():
    """`time.time` and `datetime.now` are off by the skew, in forked children too."""
    program = """
import datetime, json, os, time
read_end, write_end = os.pipe()
if not os.fork():
    os.write(write_end, str(time.time()).encode())
    os._exit(0)
os.wait()
print(json.dumps([time.time(), datetime.datetime.now().timestamp(), float(os.read(read_end, 99)), time.monotonic()]))
"""
    environment = os.environ | {"PYTHONPATH": str(BENCH / "skewed")}
    wall: list[float] = []
    for skew in ("0", "60"):
        shown = subprocess.check_output([sys.executable, "-c", program], env=environment | {"BENCH_CLOCK_SKEW_S": skew})
        wall.append(json.loads(shown))
    true, skewed = wall
    for index in range(3):
        assert skewed[index] - true[index] == pytest.approx(60 + skewed[3] - true[3], abs=0.5)
