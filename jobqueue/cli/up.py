"""``jobqueue up``: servers, schema, workers, scheduler and dashboard together, until Ctrl-C."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from jobqueue.cli.command import examples, json_option
from jobqueue.cli.output import emit, note, say
from jobqueue.delivery.queue import JobQueue
from jobqueue.local import LocalStack, ProcessSpec, Supervisor, line_writer, parse_procfile
from jobqueue.local.binaries import free_port
from jobqueue.settings import ADDRESSES, Settings, child_environment

_DASHBOARD_PORT = 9181
_RQ_DEFAULTS = {
    "RQ_CONFIG": "jobqueue.delivery.rq_config",
    "RQ_JOB_CLASS": "jobqueue.delivery.forgery.SliceJob",
}


@click.command(epilog=examples("jobqueue up", "REDIS_URL=redis://… DATABASE_URL=postgresql://… jobqueue up"))
@click.option(
    "--procfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What to run; default: ./Procfile if there is one, else two workers, a scheduler and a dashboard.",
)
@json_option
def up(procfile: Path | None, is_json: bool) -> int:
    """Run servers, workers, scheduler and dashboard until Ctrl-C.

    Redis and Postgres are started unless REDIS_URL and DATABASE_URL name them; their data stays in .jobqueue/. With
    --json the one document tells where everything is, and the processes' lines go to standard error.
    """
    tell = note if is_json else say
    with _servers(tell) as settings:
        with JobQueue(settings) as queue:
            for name in queue.migrate():
                tell(f"applied {name}")
        specs = _installed(_specs(procfile, settings), tell)
        ports = [spec.env["DASHBOARD_PORT"] for spec in specs if "DASHBOARD_PORT" in spec.env and _is_dashboard(spec)]
        dashboard = f"http://127.0.0.1:{ports[0]}" if ports else None
        if is_json:
            processes = {spec.name: list(spec.argv) for spec in specs}
            emit(
                {
                    "source": settings.source,
                    "processes": processes,
                    "dashboard": dashboard,
                    "directory": str(Path.cwd()),
                }
            )
        else:
            _explain(settings, dashboard)
        writer = line_writer([spec.name for spec in specs], sys.stderr if is_json else None)
        return Supervisor(specs, on_line=writer, secrets=_secrets(settings)).run()


@contextmanager
def _servers(tell: Callable[[str], None]) -> Iterator[Settings]:
    """The settings to use, with servers of our own where the environment names none."""
    given = child_environment()
    missing = [name for name in ADDRESSES if not given.get(name, "").strip()]
    if not missing:
        yield Settings.from_environ()
        return
    tell(f"starting servers, because {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set")
    with LocalStack(Path.cwd()):
        yield Settings.from_environ()


def _specs(procfile: Path | None, settings: Settings) -> list[ProcessSpec]:
    """What to run and in which environment; a horse of a worker that preloads starts in milliseconds."""
    environment = _RQ_DEFAULTS | settings.child_environment()
    path = procfile or Path("Procfile")
    if procfile is not None or path.is_file():
        return parse_procfile(path, environment)
    port = str(free_port(_DASHBOARD_PORT))
    commands: Mapping[str, tuple[str, ...]] = {
        "worker1": ("rq", "worker", "high", "default", "low"),
        "worker2": ("rq", "worker", "high", "default", "low"),
        "scheduler": ("jobqueue", "scheduler"),
        "dashboard": ("rq-dashboard", "--bind", "127.0.0.1", "--port", port),
    }
    shared = environment | {"DASHBOARD_PORT": port}
    return [ProcessSpec(name=name, argv=argv, env=shared, cwd=Path.cwd()) for name, argv in commands.items()]


def _installed(specs: list[ProcessSpec], tell: Callable[[str], None]) -> list[ProcessSpec]:
    """*specs* without a dashboard that is not installed: it is an extra, the rest is not."""
    kept = []
    for spec in specs:
        if _is_dashboard(spec) and shutil.which(spec.argv[0], path=spec.env.get("PATH")) is None:
            tell(f"{spec.name} is left out: rq-dashboard is not installed (pip install 'jobqueue[dashboard]')")
        else:
            kept.append(spec)
    return kept


def _is_dashboard(spec: ProcessSpec) -> bool:
    return Path(spec.argv[0]).name == "rq-dashboard"


def _explain(settings: Settings, dashboard: str | None) -> None:
    say("from another shell, in this directory: jobqueue list, jobqueue enqueue --help, …")
    if settings.source != "environment":
        say('  other programs find the servers after: eval "$(jobqueue env)"')
    if dashboard:
        say(f"  dashboard: {dashboard}")
    say("  Ctrl-C stops everything")


def _secrets(settings: Settings) -> list[str]:
    """What no log line may show."""
    found = [settings.redis_url, settings.database_url]
    for url in (settings.redis_url, settings.database_url):
        password = urlsplit(url).password if "://" in url else None
        if password:
            found += [password, unquote(password)]
    return found
