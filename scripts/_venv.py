"""Make ``.venv`` and install jobqueue into it, unless that is done already; standard library only.

``_venv.sh`` runs it: ``python _venv.py local,dashboard``. Says nothing when there is nothing to do; when pip fails,
shows all that pip wrote.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "jobqueue-installed.json"
STATE = ROOT / ".jobqueue"
LOG = STATE / "install.log"
# What the extra `test` brings along.
INCLUDED = {"test": {"test", "local", "dashboard"}}


def main() -> int:
    """Install the extras named on the command line; returns the exit code."""
    extras = set(sys.argv[1].split(","))
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "install.lock").open("w") as lock:
        # Two scripts at once in one checkout: the second waits and finds the work done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = _installed()
        wanted = {"digest": _digest(), "venv": str(VENV)}
        is_current = {name: done.get(name) for name in wanted} == wanted
        had = {str(extra) for extra in done.get("extras", ())} if is_current else set()
        if extras <= had:
            return 0
        STAMP.unlink(missing_ok=True)
        return _install(wanted, extras | had, is_moved=bool(done) and done.get("venv") != str(VENV))


def _install(wanted: dict[str, str], extras: set[str], *, is_moved: bool) -> int:
    started_s = time.monotonic()
    names = ",".join(sorted(extras))
    print(f"installing jobqueue[{names}] into {VENV} …", flush=True)
    # The programs in a venv name their Python by its full path, so one that moved is of no use.
    if is_moved or not _is_usable():
        venv.create(VENV, clear=VENV.exists(), symlinks=True, with_pip=True)
    command = [str(PYTHON), "-m", "pip", "install", "--no-input", "--editable", f"{ROOT}[{names}]"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    with LOG.open("wb") as log:
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        ).returncode
    if code != 0:
        sys.stderr.write(LOG.read_text(errors="replace"))
        sys.stderr.write(f"\nError: pip ended with code {code}; what it wrote is above and in {LOG}.\n")
        return 1
    included = set().union(*(INCLUDED.get(extra, {extra}) for extra in extras))
    unfinished = STAMP.with_suffix(".new")
    unfinished.write_text(json.dumps({**wanted, "extras": sorted(included)}))
    unfinished.replace(STAMP)
    print(f"installed in {time.monotonic() - started_s:.0f} s", flush=True)
    return 0


def _installed() -> dict[str, Any]:
    """What the last finished installation was made from; empty when there is none."""
    try:
        found = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest() -> str:
    return hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in ("setup.cfg", "pyproject.toml"))).hexdigest()


def _is_usable() -> bool:
    """Whether the virtual environment is whole; an interrupted creation leaves half of one."""
    try:
        return subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"Error: cannot make {VENV}: {error}")
