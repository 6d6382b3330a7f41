"""One exchange: bounded in time and bytes, and honest about what was sent. Real sockets, scripted answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from handlers.providers.http import Request, close_session, send
from jobqueue.errors import HandlerError, OutcomeUnknown, ProviderUnavailable

TOKEN = "canary-4f1e0c7d"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Script = Callable[["ScriptedServer", socket.socket], None]


class ScriptedServer:
    """Each connection is handled by the next script; `requests` keeps the head of everything that arrived."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heads: list[bytes] = []
        self.released = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for script in self._scripts:
            with suppress(OSError):
                connection, _ = self._listener.accept()
                with connection:
                    script(self, connection)

    def read(self, connection: socket.socket) -> None:
        """Take one request without a body off the wire."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            got = connection.recv(65536)
            if not got:
                return
            head += got
        self.heads.append(head)

    def close(self) -> None:
        self.released.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes a thread in accept
        self._listener.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


@contextmanager
def serving(*scripts: Script) -> Iterator[ScriptedServer]:
    """A server for as many connections as there are scripts."""
    server = ScriptedServer(scripts)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    close_session()
    yield
    close_session()


def request_to(server: ScriptedServer, **changed: object) -> Request:
    """A DELETE with a token and a key."""
    one = Request("DELETE", f"http://127.0.0.1:{server.port}/thing", 5.0, token=TOKEN, idempotency_key="k-1")
    return replace(one, **changed)  # type: ignore[arg-type]


def failure(request: Request) -> HandlerError:
    """The error of an exchange; nothing of it shows the token."""
    with pytest.raises(HandlerError) as caught:
        send(request)
    assert TOKEN not in f"{caught.value!s}{caught.value!r}{request!r}"
    assert caught.value.__context__ is None
    return caught.value


def test_an_answer_comes_back_whatever_its_status() -> None:
    """Status, lower-case headers and the whole body; the request carried token and key."""

    def script(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(b"HTTP/1.1 418 Teapot\r\nX-Kind: pot\r\nContent-Length: 3\r\n\r\nyes")

    with serving(script) as server:
        answer = send(request_to(server))

    assert (answer.status, answer.headers["x-kind"], answer.body) == (418, "pot", b"yes")
    assert not answer.is_success
    head = server.heads[0].decode().lower()
    assert f"authorization: bearer {TOKEN}" in head
    assert "idempotency-key: k-1" in head


def test_a_connection_is_used_again() -> None:
    """Two exchanges, one connection."""

    def script(server: ScriptedServer, connection: socket.socket) -> None:
        for _ in range(2):
            server.read(connection)
            connection.sendall(OK)

    with serving(script) as server:
        send(request_to(server))
        send(request_to(server))

    assert len(server.heads) == 2


def test_a_kept_connection_closed_before_it_is_used_again_is_replaced() -> None:
    """A close that is seen before sending costs nothing."""
    closed = threading.Event()

    def first(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(OK)
        connection.close()
        closed.set()

    def second(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(OK)

    with serving(first, second) as server:
        send(request_to(server))
        closed.wait(5)
        assert send(request_to(server)).status == 200


def test_a_kept_connection_closed_upon_the_next_request_counts_as_sent() -> None:
    """The server may have read it: unknown, and no hidden retry on a new connection."""

    def first(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(OK)
        server.read(connection)

    def never(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(OK)

    with serving(first, never) as server:
        send(request_to(server))
        error = failure(request_to(server))
        assert isinstance(error, OutcomeUnknown)
        assert len(server.heads) == 2


def test_refused_connections_and_unknown_hosts_were_not_sent() -> None:
    """Nobody there: ProviderUnavailable, was_sent False."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        for target in (url, "http://nobody.invalid/", "http://[::bad/"):
            error = failure(Request("DELETE", target, 5.0, token=TOKEN))
            assert isinstance(error, ProviderUnavailable)
            assert not error.was_sent
            assert "not sent" in str(error)


def test_a_login_in_the_address_is_not_shown() -> None:
    """A base URL may carry a password."""
    with pytest.raises(ProviderUnavailable) as caught:
        send(Request("DELETE", f"http://me:{TOKEN}@nobody.invalid/x?y={TOKEN}", 5.0))
    assert "http://nobody.invalid/x" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_connection_that_is_not_accepted_in_time_was_not_sent() -> None:
    """A full backlog: the connect times out and nothing has left."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)

        error = failure(Request("DELETE", f"http://127.0.0.1:{listener.getsockname()[1]}/", 0.3))

        for filler in fillers:
            filler.close()
    assert isinstance(error, ProviderUnavailable)
    assert not error.was_sent


@pytest.mark.parametrize("part", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"])
def test_an_answer_that_drips_is_cut_at_the_total_deadline(part: bytes) -> None:
    """Each read comes in time, all of them together do not: headers as well as body."""

    def script(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(part)
        with suppress(OSError):
            while not server.released.wait(0.05):
                connection.sendall(b"x")

    with serving(script) as server:
        started_s = time.monotonic()
        error = failure(request_to(server, deadline_s=0.5))
        took_s = time.monotonic() - started_s

    assert isinstance(error, OutcomeUnknown)
    assert "0.5 s" in str(error)
    assert 0.4 < took_s < 3


def test_a_read_without_an_answer_has_no_unknown_outcome() -> None:
    """Repeating a read is harmless: an outage, whether sent or not."""

    def script(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)

    with serving(script) as server:
        error = failure(request_to(server, method="GET", is_effect=False))

    assert isinstance(error, ProviderUnavailable)


def test_a_body_over_the_cap_is_not_read() -> None:
    """The rest of it stays with the server."""

    def script(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 200_000)
            server.released.wait(5)

    with serving(script) as server:
        error = failure(request_to(server, max_bytes=1000))

    assert "1,000 bytes" in str(error)


def test_a_redirect_is_an_answer_and_not_followed() -> None:
    """Credentials never travel to where a server points."""

    def script(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        there = f"http://localhost:{server.port}/elsewhere"
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n".encode())

    with serving(script, script) as server:
        assert send(request_to(server)).status == 302
        assert len(server.heads) == 1


def test_a_netrc_password_does_not_replace_the_token(tmp_path, monkeypatch) -> None:
    """`requests` would put it over the Authorization header."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))

    def script(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(OK)

    with serving(script) as server:
        send(request_to(server))

    assert f"Bearer {TOKEN}".encode() in server.heads[0]


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch) -> None:
    """Only loopback goes around it."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    def script(server: ScriptedServer, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(OK)

    with serving(script) as server:
        assert send(request_to(server)).status == 200
    elsewhere = failure(Request("DELETE", "http://example.invalid/", 5.0))
    assert isinstance(elsewhere, ProviderUnavailable)
    assert not elsewhere.was_sent
