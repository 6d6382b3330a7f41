"""Run one program, and let nothing of it outlive its starter.

A script of its own, started by `jobqueue.local.process` as ``python -I -S keeper.py``; standard library only.

    starter ──pipe──▶ keeper ──▶ program ──▶ whatever it forks (an RQ worker's horse, a Postgres backend)

The keeper is the program's parent and, on Linux, a *subreaper*: descendants that lose their parent become the keeper's
children, whatever process group or session they moved to, so none can hide. It ends the program, and then every
descendant, when

- the pipe closes, which the kernel sees to when the starter dies, kill -9 included;
- its parent is no longer the starter (a fork of the starter may hold the pipe open);
- it gets SIGTERM (orderly, with a deadline) or SIGUSR1 (at once);
- the program itself ends.

The program in turn gets its stop signal from the kernel when the keeper is killed (PR_SET_PDEATHSIG). The keeper ends
as the program did: same exit code, same signal.

Source:
    prctl(2), PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG. macOS has neither: there the program's session is swept,
    which covers everything that did not call setsid itself.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IS_LINUX = sys.platform == "linux"
CHECK_PARENT_EVERY_S = 1.0
SWEEP_LIMIT_S = 10.0


class Order:
    """What the starter wants, from the command line; see `jobqueue.local.process.KeptProcess`."""

    def __init__(self, words: list[str]) -> None:
        self.alive_fd, self.status_fd, self.starter_pid, self.stop_signal = (int(word) for word in words[:4])
        self.grace_s, self.orphan_grace_s = float(words[4]), float(words[5])
        self.uid, self.gid = int(words[6]), int(words[7])
        self.argv = words[8:]


def _prctl(option: int, value: int) -> None:
    if IS_LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _become_program(order: Order, keeper_pid: int) -> None:
    """In the forked child: own session, other user if asked, die with the keeper, exec. Never returns."""
    try:
        os.setsid()
        if order.uid >= 0:
            os.setgroups([])
            os.setgid(order.gid)
            os.setuid(order.uid)
        # After the change of user: that clears the death signal.
        _prctl(PR_SET_PDEATHSIG, order.stop_signal)
        if os.getppid() != keeper_pid:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        # Ignored signals stay ignored over exec; Python itself ignores SIGPIPE and SIGXFSZ.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execvp(order.argv[0], order.argv)  # noqa: S606 — no shell is the point
    except OSError as error:
        os.write(order.status_fd, f"{order.argv[0]}: {error.strerror}".encode())
    finally:
        os._exit(127)


def _descendants_linux(of: int) -> list[int]:
    """Return the ids of all processes below *of*, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                # The name, in parentheses, may hold spaces and parentheses of its own.
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry))
    found, todo = [], [of]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _session_members(session: int) -> list[int]:
    """Return the ids of all processes of *session*, from ps."""
    with os.popen("ps -axo pid=") as listing:  # noqa: S605 — a constant command; macOS has no /proc
        candidates = [int(word) for word in listing.read().split()]
    members = []
    for pid in candidates:
        try:
            if os.getsid(pid) == session:
                members.append(pid)
        except OSError:
            continue
    return members


def _sweep(program_pid: int) -> int | None:
    """Kill whatever is left of the program until nothing is, and return its wait status if it ended only now."""
    program_status = None
    until = time.monotonic() + SWEEP_LIMIT_S
    while time.monotonic() < until:
        for pid in _descendants_linux(os.getpid()) if IS_LINUX else _session_members(program_pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == program_pid:
            program_status = status
        elif pid == 0:
            time.sleep(0.005)
    return program_status


def _reap(program_pid: int) -> int | None:
    """Collect every child that has ended and return the program's wait status, or None while it runs."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == program_pid:
            return status
        if pid == 0:
            return None


def _watch(order: Order, program_pid: int, wake_fd: int, seen: set[int]) -> int | None:
    """Wait until the program has ended (return its wait status) or must be killed (return None)."""
    deadline = None
    is_orphaned = False
    while True:
        pause_s = CHECK_PARENT_EVERY_S if deadline is None else deadline - time.monotonic()
        sources = [wake_fd] if is_orphaned else [wake_fd, order.alive_fd]
        ready = select.select(sources, [], [], min(max(pause_s, 0), CHECK_PARENT_EVERY_S))[0]
        if wake_fd in ready:
            os.read(wake_fd, 512)
        status = _reap(program_pid)
        if status is not None:
            return status
        if signal.SIGUSR1 in seen or (deadline is not None and time.monotonic() >= deadline):
            return None
        if not is_orphaned and (order.alive_fd in ready or os.getppid() != order.starter_pid):
            is_orphaned = True
            seen.add(signal.SIGTERM)
            order.grace_s = order.orphan_grace_s
        if signal.SIGTERM in seen:
            limit = time.monotonic() + order.grace_s
            if deadline is None:
                os.kill(program_pid, order.stop_signal)
            deadline = limit if deadline is None else min(limit, deadline)


def _end_like(status: int) -> None:
    """End this process the way the program ended. Never returns."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def main() -> None:
    """Start the program, watch it, end it, end like it."""
    order = Order(sys.argv[1:])
    for descriptor in (order.alive_fd, order.status_fd):
        os.set_inheritable(descriptor, False)
    seen: set[int] = set()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, lambda number, _: seen.add(number))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)

    keeper_pid = os.getpid()
    program_pid = os.fork()
    if program_pid == 0:
        _become_program(order, keeper_pid)
    os.write(order.status_fd, f"{program_pid}\n".encode())
    os.close(order.status_fd)

    status = _watch(order, program_pid, wake_read, seen)
    swept_status = _sweep(program_pid)
    _end_like(status if status is not None else swept_status if swept_status is not None else signal.SIGKILL)


if __name__ == "__main__":
    main()
