"""Build the wheel, install it where no checkout is, and use it: version, files, migrations, a job on a worker."""

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
USE_IT = Path(__file__).with_name("installed.py")
ITEM_COUNT = 250


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
        said = _run([python.with_name("jobqueue"), "version"], elsewhere).strip()
        seen = json.loads(_run([python, "-I", USE_IT], elsewhere).splitlines()[-1])
        package = Path(seen.pop("package"))
        if not package.is_relative_to(place / "venv"):
            return _fail(f"jobqueue was imported from {package}, not from the wheel")
        files = _data_files(place / "source", package.parent)
        if files["shipped"] != files["wanted"]:
            return _fail(f"data files differ from the source's: {sorted(files['shipped'] ^ files['wanted'])}")
        return _judge(seen, said, f"{len(files['shipped'])} data files, {wheel.stat().st_size // 1024} kB")


def _judge(seen: dict[str, Any], said: str, what: str) -> int:
    migrations = len(list((ROOT / "migrations").glob("*.sql")))
    expected = {"applied": migrations, "applied_again": [], "status": "succeeded", "succeeded": ITEM_COUNT}
    if seen != expected | {"version": said.removeprefix("jobqueue ")}:
        return _fail(f"the installed wheel ({said}) did {seen} instead of {expected}")
    print(f"{said}, {what}, {migrations} migrations applied, {ITEM_COUNT} items done by its worker")
    return 0


def _data_files(source: Path, site_packages: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"wanted": set(), "shipped": set()}
    for here, there in DATA.items():
        for kind, folder in (("wanted", source / here), ("shipped", site_packages / there)):
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
