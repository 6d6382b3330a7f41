"""Which processes to run: a Procfile's lines as values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.local.binaries import free_port
from jobqueue.settings import child_environment

_LINE = re.compile(r"([A-Za-z0-9_-]+)\s*:\s*(\S.*)")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)(?::-([^}]*))?\})")


@dataclass(frozen=True)
class ProcessSpec:
    """A process to run.

    Args:
        name: What its log lines are marked with.
        argv: The program and its arguments; no secrets, because any local user may list them.
        env: Its whole environment.
        restart: Start it again when it ends unasked.
        cwd: Where it runs.
    """

    name: str
    argv: tuple[str, ...]
    # May hold secrets.
    env: Mapping[str, str] = field(repr=False)
    restart: bool = True
    cwd: Path = Path()


def parse_procfile(path: Path, env: Mapping[str, str] | None = None) -> list[ProcessSpec]:
    """Read ``name: [VARIABLE=value …] program argument…`` lines.

    ``$NAME``, ``${NAME}`` and ``${NAME:-default}`` are expanded after the line is split, so a value never becomes two
    arguments; ``$$`` is a dollar sign. The default of a name ending in ``PORT`` is a wish: if that port is taken, a
    free one is chosen and put in the process's environment under that name.

    Args:
        path: The Procfile; its processes run in its folder.
        env: The environment to expand from and to run in; the present one if None.

    Raises:
        InvalidInputError: A line cannot be read, a name comes twice, or a variable is not set.
        ConfigurationError: The file cannot be read.
    """
    base = dict(env if env is not None else child_environment())
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot read {path}: {error}.") from None
    specs: dict[str, ProcessSpec] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise _invalid(path, number, f"{text!r} is not 'name: command'")
        name = match[1]
        if name in specs:
            raise _invalid(path, number, f"the name {name!r} comes twice")
        specs[name] = _spec(name, match[2], base, path, number)
    if not specs:
        raise InvalidInputError(f"{path} names no process.", remedy="Write lines like 'worker: rq worker high'.")
    return list(specs.values())


def _spec(name: str, command: str, base: Mapping[str, str], path: Path, number: int) -> ProcessSpec:
    env = dict(base)

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        variable, default = match[2] or match[3], match[4]
        if variable not in env:
            if default is None:
                raise _invalid(path, number, f"the variable {variable} is not set")
            is_port = variable.endswith("PORT") and default.isdecimal()
            env[variable] = str(free_port(int(default))) if is_port else default
        return env[variable]

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise _invalid(path, number, f"{error} in {command!r}") from None
    while words and (assignment := _ASSIGNMENT.fullmatch(words[0])):
        env[assignment[1]] = _VARIABLE.sub(value, assignment[2])
        words.pop(0)
    argv = tuple(_VARIABLE.sub(value, word) for word in words)
    if not argv:
        raise _invalid(path, number, f"{name!r} has no command")
    return ProcessSpec(name=name, argv=argv, env=env, cwd=path.resolve().parent)


def _invalid(path: Path, number: int, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{path}, line {number}: {problem}.", field="Procfile", line=number)
