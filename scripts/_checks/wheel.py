"""Build the wheel, install it where no checkout is, and use it: version, files, migrations, a job on a literal worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_SHIPPED = shutil.ignore_patterns(
    ".*", "*.egg-info", "__pycache__", "build", "dist", "htmlcov", "tests", "docs", "scripts"
)
# Folders whose files are data, and where a wheel has them.
DATA = {
    "migrations": "jobqueue/migrations",
    "jobqueue/store": "jobqueue/store",
    "jobqueue/ratelimit": "jobqueue/ratelimit",
}
WITH_SERVERS = """
import json, os, subprocess, sys
from pathlib import Path
from jobqueue.local import ephemeral_stack

bin = Path(sys.executable).parent
with ephemeral_stack() as stack:
    env = {**os.environ, "REDIS_URL": stack.redis_url, "RQ_REDIS_URL": stack.redis_url, "DATABASE_URL": stack.database_url}
    def run(*command):
        done = subprocess.run([bin / command[0], *command[1:]], env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with code {done.returncode}:\\n{done.stdout}{done.stderr}")
        return done.stdout
    first = json.loads(run("jobqueue", "migrate", "--json"))["applied"]
    again = json.loads(run("jobqueue", "migrate", "--json"))["applied"]
    Path("items.csv").write_text("item\\n" + "".join(f"{n}\\n" for n in range(250)))
    job = json.loads(run("jobqueue", "enqueue", "noop", "--provider", "noop", "--items", "items.csv", "--json"))
    run("rq", "worker", "high", "default", "low", "--burst")
    status = json.loads(run("jobqueue", "status", str(job["job_id"]), "--json"))
print(json.dumps({"first": first, "again": again, "status": status["status"], "succeeded": status["succeeded"]}))
"""


def main() -> int:
    """Check the wheel; returns the exit code, and says on the last line what was checked."""
    with tempfile.TemporaryDirectory(prefix="jobqueue-wheel-") as name:
        place = Path(name)
        # A copy: setuptools puts what lies in an old build/ into a new wheel.
        shutil.copytree(ROOT, place / "source", ignore=NOT_SHIPPED)
        _run([sys.executable, "-m", "build", "--wheel", "--outdir", place / "dist", place / "source"], place)
        (wheel,) = (place / "dist").glob("*.whl")
        _run([sys.executable, "-m", "venv", place / "venv"], place)
        python = place / "venv" / "bin" / "python"
        _run([python, "-m", "pip", "install", "--no-input", f"{wheel}[local]"], place)
        elsewhere = place / "elsewhere"
        elsewhere.mkdir()
        version = _run([python.with_name("jobqueue"), "version"], elsewhere).strip()
        package = Path(_run([python, "-c", "import jobqueue; print(jobqueue.__path__[0])"], elsewhere).strip())
        if not package.is_relative_to(place / "venv"):
            return _fail(f"jobqueue was imported from {package}, not from the wheel")
        files = _data_files(package.parent)
        if files["shipped"] != files["wanted"]:
            return _fail(f"data files differ from the checkout's: {sorted(files['shipped'] ^ files['wanted'])}")
        did = json.loads(_run([python, "-c", WITH_SERVERS], elsewhere).splitlines()[-1])
        return _judge(did, f"{version}, {len(files['shipped'])} data files, {wheel.stat().st_size // 1024} kB")


def _judge(did: dict[str, Any], what: str) -> int:
    migrations = len(list((ROOT / "migrations").glob("*.sql")))
    expected = {"again": [], "status": "succeeded", "succeeded": 250}
    if len(did["first"]) != migrations or {name: did[name] for name in expected} != expected:
        return _fail(f"with {migrations} migrations in the checkout, the installed wheel did: {did}")
    print(f"{what}, {migrations} migrations applied, 250 items done by its worker")
    return 0


def _data_files(site_packages: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"wanted": set(), "shipped": set()}
    for here, there in DATA.items():
        for kind, folder in (("wanted", ROOT / here), ("shipped", site_packages / there)):
            files = [file for file in folder.rglob("*") if file.suffix in (".sql", ".lua")]
            found[kind] |= {f"{there}/{file.relative_to(folder)}" for file in files}
    return found


def _run(command: Sequence[str | Path], cwd: Path) -> str:
    """Run *command* with no checkout on any path and return its output; end with all of it when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        words = " ".join(str(word) for word in command)
        sys.exit(f"{words[:300]}\nended with code {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _fail(problem: str) -> int:
    print(f"Error: {problem}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
