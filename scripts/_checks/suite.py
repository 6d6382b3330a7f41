"""Run every check, one after the other, and end with a list of what passed; ``scripts/test`` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
# What somebody's shell holds must not decide how a test ends.
FOREIGN_PREFIXES = ("JOBQUEUE_", "RQ_", "PYTEST_", "COVERAGE_")
FOREIGN = frozenset({"REDIS_URL", "DATABASE_URL", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONWARNINGS", "MYPYPATH"})

STATIC = {
    "ruff check": ("ruff", "check", "."),
    "ruff format": ("ruff", "format", "--check", "."),
    "types": ("mypy",),
    "import contracts": ("lint-imports",),
    "tables in the docs": (Path(sys.executable).name, "docs/check.py"),
}
# Most tests wait for servers, not for a processor; the files of one worker share its servers.
SPREAD = ("-n", "3", "--dist", "loadfile")
# Per cent of lines and branches that the tests must exceed.
FLOORS = {
    "coverage in all": ("", 85.0),
    "coverage of engine": ("jobqueue/engine/*", 95.0),
    "coverage of store": ("jobqueue/store/*", 95.0),
    "coverage of ratelimit": ("jobqueue/ratelimit/*", 95.0),
}


@dataclass(frozen=True)
class Result:
    """What became of one check."""

    name: str
    is_passed: bool
    took_s: float
    remark: str = ""
    output: str = ""


def main() -> int:
    """Run what the arguments ask for; returns the exit code."""
    arguments = sys.argv[1:]
    if arguments in (["-h"], ["--help"]):
        print("usage: scripts/test               everything\n       scripts/test PYTEST-ARGUMENTS…  only these tests")
        return 0
    environment = _environment()
    if arguments:
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environment, check=False).returncode
    results: list[Result] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for result in pool.map(lambda name: _static(name, environment), STATIC):
            _show(result)
            results.append(result)
    for steps in (_tests, _wheel):
        found = steps(environment)
        for result in found:
            _show(result)
        results += found
    print()
    for result in results:
        word = "PASS" if result.is_passed else "FAIL"
        print(f"{word}  {result.name:<22}{result.took_s:7.1f} s  {result.remark}".rstrip())
    is_passed = all(result.is_passed for result in results)
    print(f"{'PASS' if is_passed else 'FAIL'}: {sum(r.is_passed for r in results)} of {len(results)} checks passed")
    return 0 if is_passed else 1


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in FOREIGN and not name.startswith(FOREIGN_PREFIXES)
    }
    return kept | {"PATH": os.pathsep.join([str(BIN), kept.get("PATH", os.defpath)]), "PYTHONUNBUFFERED": "1"}


def _show(result: Result) -> None:
    """Say at once what failed and why."""
    if not result.is_passed:
        print(f"\n--- {result.name} ---\n{result.output.rstrip()}\n", flush=True)


def _run(command: Sequence[str | Path], environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


def _static(name: str, environment: dict[str, str]) -> Result:
    program, *rest = STATIC[name]
    started_s = time.monotonic()
    code, output = _run([BIN / program, *rest], environment)
    lines = output.strip().splitlines()
    return Result(name, code == 0, time.monotonic() - started_s, lines[-1] if lines and code == 0 else "", output)


def _tests(environment: dict[str, str]) -> list[Result]:
    """Run the tests, their output as it comes, then hold their coverage against the floors."""
    environment = environment | {"COVERAGE_FILE": str(ROOT / ".coverage")}
    coverage = [sys.executable, "-m", "coverage"]
    _run([*coverage, "erase"], environment)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "tests.xml"
        command = [*coverage, "run", "-m", "pytest", *SPREAD, "--durations=5", f"--junit-xml={report}"]
        code = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
        remark = _counts(report)
    tests = Result("tests", code == 0, time.monotonic() - started_s, remark, f"pytest ended with code {code}: {remark}")
    # One file for each process that was measured: workers and horses too, unless they were killed.
    code, output = _run([*coverage, "combine", "--quiet"], environment)
    if code != 0:
        return [tests, Result("coverage", is_passed=False, took_s=0.0, output=output)]
    return [tests, *(_floor(name, *floor, coverage, environment) for name, floor in FLOORS.items())]


def _counts(report: Path) -> str:
    """What pytest counted, in its own words."""
    try:
        # Written by the pytest we just ran.
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))  # noqa: S314
    except (OSError, ElementTree.ParseError, StopIteration):
        return "no report was written"
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    passed = counts.pop("tests") - sum(counts.values())
    words = [f"{passed} passed", *(f"{count} {name}" for name, count in counts.items() if count)]
    return ", ".join(words)


def _floor(name: str, include: str, floor: float, coverage: list[str], environment: dict[str, str]) -> Result:
    started_s = time.monotonic()
    command = [*coverage, "report", "--precision=2", *([f"--include={include}"] if include else [])]
    code, total = _run([*command, "--format=total"], environment)
    try:
        percent = float(total.strip().splitlines()[-1])  # warnings come first
    except (ValueError, IndexError):
        return Result(name, is_passed=False, took_s=time.monotonic() - started_s, output=f"code {code}: {total}")
    is_passed = percent > floor
    output = "" if is_passed else _run(command, environment)[1]
    remark = f"{percent:.2f} %, must exceed {floor:g} %"
    return Result(name, is_passed, time.monotonic() - started_s, remark, output)


def _wheel(environment: dict[str, str]) -> list[Result]:
    started_s = time.monotonic()
    code, output = _run([sys.executable, ROOT / "scripts" / "_checks" / "wheel.py"], environment)
    lines = output.strip().splitlines()
    remark = lines[-1] if lines and code == 0 else ""
    return [Result("wheel", code == 0, time.monotonic() - started_s, remark, output)]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
