"""The HTTP/1.1 face: keep-alive, a thread per connection, one write per answer."""

from __future__ import annotations

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from handlers.sandbox.control import Control
from handlers.sandbox.pipeline import Arrival, Outgoing, Pipeline

MAX_BODY_BYTES = 4 << 20
_CONTROL = "/_control/"


class SandboxServer(ThreadingHTTPServer):
    """Serves one pipeline and its control API on 127.0.0.1.

    Args:
        port: TCP port; 0 takes a free one.
        pipeline: What answers.
    """

    request_queue_size = 128
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, pipeline: Pipeline) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.pipeline = pipeline
        self.control = Control(pipeline)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about clients that went away: tests kill them by the dozen."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: SandboxServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Buffered, so that headers and body leave in one packet.
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the ledger does."""

    def _serve(self) -> None:
        body = self._read_body()
        if body is None:
            return
        path, _, query = self.path.partition("?")
        if path.startswith(_CONTROL):
            self._serve_control(path.removeprefix(_CONTROL), query, body)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(self.server.pipeline.handle(Arrival(self.command, path, query, headers, body)))

    def _serve_control(self, path: str, query: str, body: bytes) -> None:
        try:
            decoded = json.loads(body) if body else {}
        except ValueError:
            status, reply = 400, {"error": "body is no JSON"}
        else:
            status, reply = self.server.control.handle(self.command, path, dict(parse_qsl(query)), decoded)
        self._send(Outgoing(status, json.dumps(reply).encode()))

    def _read_body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit():
            self.send_error(411)
        elif int(length) > MAX_BODY_BYTES:
            self.send_error(413)
        else:
            return self.rfile.read(int(length))
        self.close_connection = True
        return None

    def _send(self, outgoing: Outgoing) -> None:
        if outgoing.cut == "drop":
            self._hang_up()
            return
        headers = {
            "Date": self.date_time_string(),
            "Content-Type": "application/json; charset=utf-8",
            **outgoing.headers,
        }
        self.send_response_only(outgoing.status)
        for name, value in headers.items():
            self.send_header(name, value)
        if outgoing.status != 204:
            # Cut half-way, an answer promises one byte more than there is, so that even an empty one is seen to be cut.
            self.send_header("Content-Length", str(len(outgoing.body) + (outgoing.cut == "midway")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(outgoing.body[: len(outgoing.body) // 2] if outgoing.cut else outgoing.body)
        self.wfile.flush()
        if outgoing.cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _serve
