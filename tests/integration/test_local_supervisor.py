"""The supervisor: what it runs, what it says, and that nothing of it outlives it."""

from __future__ import annotations

import io
import os
import queue
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import psutil
import pytest

from jobqueue.errors import ConfigurationError, InvalidInputError, NotFoundError
from jobqueue.local import ProcessSpec, Supervisor, line_writer, parse_procfile
from jobqueue.local.process import KeptProcess, session_members
from jobqueue.settings import child_environment

LIMIT_S = 30.0
# Like an RQ worker: the horse leaves the worker's process group, and outlives a worker that is killed.
WORKER = r"""
import os, signal, time
horse = os.fork()
if horse == 0:
    {leave}
    # In one write: print may use several, and those of two processes mix.
    os.write(1, b"horse %d\n" % os.getpid())
    while True: time.sleep(60)
def end(*_):
    os.kill(horse, signal.SIGKILL)
    os.waitpid(horse, 0)
    os.write(1, b"bye\n")
    os._exit(7)
signal.signal(signal.SIGTERM, end)
os.write(1, b"worker %d\n" % os.getpid())
while True: time.sleep(60)
"""
# This one dies of SIGTERM and leaves its horse behind.
CARELESS_WORKER = WORKER.replace("signal.SIGTERM, end", "signal.SIGTERM, signal.SIG_DFL")
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
SUPERVISE = """
import sys
from jobqueue.local import *
from jobqueue.settings import child_environment
specs = [ProcessSpec(name="0", argv=(sys.executable, "-c", sys.argv[1]), env=child_environment())]
sys.exit(Supervisor(specs, on_line=lambda name, line: print(name, line, flush=True), grace_s=5).run())
"""


def spec(name: str, code: str, *, restart: bool = False) -> ProcessSpec:
    """Return a process that runs Python *code*."""
    return ProcessSpec(name=name, argv=(sys.executable, "-c", code), env=child_environment(), restart=restart)


class Lines:
    """Collects lines and waits for one."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._arrived: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def __call__(self, name: str, line: str) -> None:
        self._arrived.put((name, line))

    def wait_for(self, name: str, start: str) -> str:
        """Return the rest of the next line of *name* that begins with *start*."""
        while True:
            self.seen.append(self._arrived.get(timeout=LIMIT_S))
            if self.seen[-1][0] == name and self.seen[-1][1].startswith(start):
                return self.seen[-1][1].removeprefix(start).strip()


@pytest.fixture
def lines() -> Lines:
    """Collects what the supervisor says."""
    return Lines()


def read_until(stream: TextIO | None, marks: list[str]) -> list[int]:
    """Return the numbers that follow *marks*, each of which must come in the stream."""
    assert stream is not None
    found: dict[str, int] = {}
    while len(found) < len(marks):
        line = stream.readline()
        assert line, f"ended before {set(marks) - set(found)}"
        for mark in marks:
            if mark in line:
                found[mark] = int(line.rpartition(mark)[2])
    return [found[mark] for mark in marks]


@pytest.mark.parametrize("leave", ["os.setpgrp()", "os.setsid()"])
def test_kill_9_of_the_supervisor_leaves_no_worker_and_no_horse(leave):
    """After a kill -9 of the supervisor its workers and their horses end, in whatever group or session those hide."""
    if leave == "os.setsid()" and sys.platform != "linux":
        pytest.skip("only Linux has subreapers")
    code = CARELESS_WORKER.format(leave=leave)
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE, code], stdout=subprocess.PIPE, text=True)
    pids = read_until(supervisor.stdout, ["worker ", "horse "])
    family = {psutil.Process(pid) for pid in pids} | set(psutil.Process(supervisor.pid).children(recursive=True))
    assert len(family) == 3
    supervisor.kill()
    _, alive = psutil.wait_procs(family, timeout=LIMIT_S)
    assert alive == []
    supervisor.communicate()


def test_kill_9_of_the_supervisor_ends_who_ignores_sigterm():
    """A process that ignores SIGTERM does not survive the supervisor either."""
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE, STUBBORN], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    while "ready" not in supervisor.stdout.readline():
        pass
    family = psutil.Process(supervisor.pid).children(recursive=True)
    assert len(family) == 2
    supervisor.kill()
    assert psutil.wait_procs(family, timeout=LIMIT_S)[1] == []
    supervisor.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
@pytest.mark.parametrize("code", [WORKER, CARELESS_WORKER])
def test_kill_9_of_a_keeper_ends_its_program_and_horse(lines, code):
    """A keeper that is killed takes its program with it, the supervisor sees to the horse and starts all anew."""
    with Supervisor([spec("w", code.format(leave="os.setpgrp()"), restart=True)], on_line=lines) as supervisor:
        horse = psutil.Process(int(lines.wait_for("w", "horse ")))
        worker = psutil.Process(supervisor.pids()["w"])
        keeper = worker.parent()
        assert keeper is not None
        keeper.kill()
        assert psutil.wait_procs([horse, worker], timeout=LIMIT_S)[1] == []
        assert int(lines.wait_for("w", "horse ")) != horse.pid


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_kill_9_of_supervisor_and_keeper_asks_the_program_to_end():
    """With both its guardians killed at once, a worker still gets its SIGTERM, from the kernel, and ends its horse."""
    code = WORKER.format(leave="os.setpgrp()")
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE, code], stdout=subprocess.PIPE, text=True)
    worker, horse = (psutil.Process(pid) for pid in read_until(supervisor.stdout, ["worker ", "horse "]))
    keeper = worker.parent()
    assert keeper is not None
    # Stopped, the supervisor cannot clean up before it is killed too.
    supervisor.send_signal(signal.SIGSTOP)
    keeper.kill()
    supervisor.kill()
    assert psutil.wait_procs([worker, horse], timeout=LIMIT_S)[1] == []
    supervisor.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
def test_signal_stops_all_in_order(number, code):
    """On a signal each process gets SIGTERM, may end its own way, and the supervisor tells which signal it was."""
    worker = WORKER.format(leave="os.setpgrp()")
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE, worker], stdout=subprocess.PIPE, text=True)
    pids = read_until(supervisor.stdout, ["worker ", "horse "])
    supervisor.send_signal(number)
    output, _ = supervisor.communicate(timeout=LIMIT_S)
    assert supervisor.returncode == code
    assert "0 bye" in output
    assert "ended with code 7" in output
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_second_signal_kills():
    """A second Ctrl-C does not wait for a process that will not end."""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE.replace("grace_s=5", "grace_s=600"), STUBBORN],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdout is not None
    while "ready" not in supervisor.stdout.readline():
        pass
    stubborn = psutil.Process(supervisor.pid).children(recursive=True)[-1]
    # Both may arrive while the first is handled: the kernel merges equal pending signals, so two different ones.
    supervisor.send_signal(signal.SIGINT)
    supervisor.send_signal(signal.SIGTERM)
    output, _ = supervisor.communicate(timeout=LIMIT_S)
    assert supervisor.returncode in (130, 0)
    assert "ended by SIGKILL" in output
    assert not stubborn.is_running()


def test_stop_kills_who_ignores_sigterm(lines):
    """A process that ignores SIGTERM is killed when its time is up."""
    supervisor = Supervisor([spec("s", STUBBORN)], on_line=lines, grace_s=0.2)
    supervisor.start()
    lines.wait_for("s", "ready")
    supervisor.stop()
    assert lines.wait_for("s", "ended ") == "by SIGKILL"


def test_orderly_end_of_a_worker_takes_its_orphans_along(lines):
    """What a process leaves running when it ends by itself is killed, so a restart never meets its own past."""
    code = r"""
import os, time
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    os.write(1, b"orphan %d\n" % os.getpid())
    os.write(tell, b"x")
    time.sleep(600)
os.read(ready, 1)
"""
    with Supervisor([spec("p", code)], on_line=lines):
        orphan = int(lines.wait_for("p", "orphan"))
        assert lines.wait_for("p", "ended ") == "with code 0"
        assert not psutil.pid_exists(orphan)


def test_killed_process_is_started_again(lines):
    """A process killed with its horse is started again, with a new horse."""
    with Supervisor([spec("w", WORKER.format(leave="os.setpgrp()"), restart=True)], on_line=lines) as supervisor:
        first_horse, first = int(lines.wait_for("w", "horse ")), supervisor.pids()["w"]
        supervisor.kill_one("w")
        assert not psutil.pid_exists(first)
        assert not psutil.pid_exists(first_horse)
        assert lines.wait_for("w", "ended ") == "by SIGKILL"
        lines.wait_for("w", "starting again in 0.5 s")
        lines.wait_for("w", "horse ")
        assert supervisor.pids()["w"] != first


def test_pauses_between_restarts_grow(lines):
    """A process that dies at once is started again after longer and longer pauses."""
    with Supervisor([spec("p", "raise SystemExit(3)", restart=True)], on_line=lines):
        pauses = [lines.wait_for("p", "starting again in") for _ in range(3)]
    assert pauses == ["0.5 s", "1 s", "2 s"]
    assert ("p", "ended with code 3") in lines.seen


def test_one_process_is_stopped_and_started(lines):
    """One process can be stopped, which is no reason to start it again, and started while the others run."""
    code = "import time; print('up', flush=True); time.sleep(600)"
    with Supervisor([spec("a", code, restart=True), spec("b", code, restart=True)], on_line=lines) as supervisor:
        before = supervisor.pids()
        supervisor.stop_one("a")
        assert supervisor.pids() == {"b": before["b"]}
        supervisor.start_one("a")
        supervisor.start_one("b")
        assert supervisor.pids().keys() == {"a", "b"}
        assert supervisor.pids()["b"] == before["b"]
        with pytest.raises(NotFoundError, match=r"'c'.*There are a, b"):
            supervisor.stop_one("c")
    assert supervisor.pids() == {}
    assert not [pid for pid in before.values() if psutil.pid_exists(pid)]


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((0, 3), 1)])
def test_run_ends_with_its_processes(lines, codes, expected):
    """When every process has ended by itself, run returns whether all went well."""
    specs = [spec(f"p{number}", f"raise SystemExit({code})") for number, code in enumerate(codes)]
    assert Supervisor(specs, on_line=lines).run() == expected


def test_program_that_is_not_there_fails_the_start(lines):
    """A missing program is named, and what was started before it is stopped."""
    specs = [
        spec("good", "import time; time.sleep(600)"),
        ProcessSpec(name="bad", argv=("no-such-program",), env={"PATH": "/bin"}),
    ]
    supervisor = Supervisor(specs, on_line=lines)
    with pytest.raises(ConfigurationError, match="no-such-program: No such file"):
        supervisor.start()
    assert supervisor.pids() == {}


def test_secrets_do_not_show_in_lines(lines):
    """A password that a process prints does not reach the screen."""
    with Supervisor([spec("p", "print('redis://:hunter2@host')")], on_line=lines, secrets=["hunter2"]):
        assert lines.wait_for("p", "redis:") == "//:***@host"


def test_lost_terminal_does_not_block_the_processes():
    """When lines can no longer be written, processes that print go on."""

    def lost(name: str, line: str) -> None:
        raise BrokenPipeError

    supervisor = Supervisor([spec("p", "print('x' * 300_000)")], on_line=lost)
    assert supervisor.run() == 0


def test_exit_code_and_signal_are_the_programs():
    """A keeper ends like its program: same code, same signal."""
    for code, expected in (("raise SystemExit(9)", 9), ("import os; os.abort()", -signal.SIGABRT)):
        process = KeptProcess(
            [sys.executable, "-c", code], env=child_environment(), cwd=Path("/"), output=subprocess.DEVNULL
        )
        assert process.wait(LIMIT_S) == expected


def test_program_starts_with_default_signals(lines):
    """The keeper ignores Ctrl-C and hang-ups, its program does not inherit that."""
    code = "from signal import *; print([getsignal(n).name for n in (SIGHUP, SIGTERM)], pthread_sigmask(SIG_BLOCK, []))"
    with Supervisor([spec("p", code)], on_line=lines):
        assert lines.wait_for("p", "[") == "'SIG_DFL', 'SIG_DFL'] set()"


def test_session_members_are_found_after_their_leader_died():
    """What is left of a session is found by its number, as the clean-up after a killed keeper needs."""
    code = "import os, time\nif os.fork() == 0:\n    os.setpgrp(); time.sleep(600)\nos._exit(0)"
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    leader.wait()
    members = list(session_members(leader.pid))
    assert len(members) == 1
    os.kill(members[0], signal.SIGKILL)


def test_procfile_is_read(tmp_path):
    """Names, comments, assignments and variables are read; a value with spaces stays one argument."""
    file = tmp_path / "Procfile"
    file.write_text(
        "# comment\n\nworker1: rq worker high default low\n"
        "web: MODE=fast GREETING='a b' serve --url $REDIS_URL --name ${NAME} ${OTHER:-none} '$$5' \"x y\"\n"
    )
    first, second = parse_procfile(file, {"REDIS_URL": "redis://h", "NAME": "with space"})
    assert (first.name, first.argv, first.restart, first.cwd) == (
        "worker1",
        ("rq", "worker", "high", "default", "low"),
        True,
        tmp_path,
    )
    assert second.argv == ("serve", "--url", "redis://h", "--name", "with space", "none", "$5", "x y")
    assert (second.env["MODE"], second.env["GREETING"]) == ("fast", "a b")
    assert "redis://h" not in repr(first)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("worker rq", "line 1: 'worker rq' is not 'name: command'"),
        ("# x\na: b\na: c", "line 3: the name 'a' comes twice"),
        ("a: b $NOPE", "line 1: the variable NOPE is not set"),
        ("a: b 'c", "line 1: No closing quotation"),
        ("a: X=1", "line 1: 'a' has no command"),
        ("", "names no process"),
    ],
)
def test_bad_procfile_names_the_line(tmp_path, text, problem):
    """A Procfile that cannot be read is refused with line and reason."""
    (tmp_path / "Procfile").write_text(text)
    with pytest.raises(InvalidInputError, match=problem):
        parse_procfile(tmp_path / "Procfile", {})


def test_missing_procfile_is_named(tmp_path):
    """A Procfile that is not there is named."""
    with pytest.raises(ConfigurationError, match=r"Cannot read .*Procfile"):
        parse_procfile(tmp_path / "Procfile", {})


def test_taken_port_of_a_procfile_is_replaced(tmp_path):
    """A default port is used if free, else another, put in the process's environment; one that is set stays."""
    file = tmp_path / "Procfile"
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        port = str(taker.getsockname()[1])
        file.write_text(f"web: serve ${{WEB_PORT:-{port}}}")
        assert parse_procfile(file, {"WEB_PORT": port})[0].argv == ("serve", port)
        taker.listen()
        [moved] = parse_procfile(file, {})
    assert moved.argv[1] != port
    assert moved.env["WEB_PORT"] == moved.argv[1]
    [kept] = parse_procfile(file, {})
    assert kept.argv[1] == port


def test_our_procfile_holds_no_secret_on_a_command_line():
    """The project's own Procfile reads, names its four processes, and passes addresses by the environment."""
    specs = parse_procfile(Path(__file__).parents[2] / "Procfile", {})
    assert [one.name for one in specs] == ["worker1", "worker2", "scheduler", "dashboard"]
    assert specs[0].argv == specs[1].argv == ("rq", "worker", "high", "default", "low")
    assert not [word for one in specs for word in one.argv if "://" in word]


def test_line_writer_aligns_and_colours():
    """Lines carry their process's name, aligned; colours are for terminals."""
    plain, coloured = io.StringIO(), io.StringIO()
    line_writer(["a", "long"], plain)("a", "x")
    line_writer(["a", "long"], coloured, is_coloured=True)("a", "x")
    assert plain.getvalue() == "a    | x\n"
    assert coloured.getvalue() == "\x1b[36ma    |\x1b[0m x\n"
