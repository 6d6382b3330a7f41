"""Connections that know whether a request has begun to leave, and can be cut at a deadline."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

ACTIVE = threading.local()
"""This thread's session, and its exchange while one is under way."""


class Exchange:
    """What one exchange has done so far; written by its connection, read by its deadline."""

    def __init__(self) -> None:
        self.was_sent = False
        self.is_expired = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def begin(self, sock: Any) -> None:
        """The request's first byte is about to be handed to *sock*.

        Raises:
            TimeoutError: The deadline has passed, so nothing is sent.
        """
        with self._lock:
            if self.is_expired:
                raise TimeoutError("the deadline passed before anything was sent")
            self.was_sent = True
            self._socket = sock

    def expire(self) -> None:
        """End the exchange: whoever waits on its socket gets the end of the stream."""
        with self._lock:
            self.is_expired = True
            if self._socket is not None:
                self._shut(self._socket)

    def end(self) -> None:
        """The socket goes back to the pool and is no longer this exchange's to close."""
        with self._lock:
            self._socket = None

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        # An OSError: the other side has closed it. Not SSLSocket.shutdown, which takes the TLS layer away under the
        # thread that reads through it.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Noted(http.client.HTTPConnection):
    """A connection that notes when a request starts to leave; a proxy's CONNECT is not the request."""

    _is_connecting = False

    def connect(self) -> None:
        self._is_connecting = True
        try:
            super().connect()
        finally:
            self._is_connecting = False

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        exchange = getattr(ACTIVE, "exchange", None)
        if exchange is not None and not self._is_connecting:
            exchange.begin(self.sock)
        super().send(data)


class _Connection(_Noted, HTTPConnection):
    pass


class _SecureConnection(_Noted, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _socket_options() -> list[tuple[int, int, int]]:
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    wanted_s = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return options + [
        (socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in wanted_s.items() if hasattr(socket, name)
    ]


class Adapter(HTTPAdapter):
    """Pools of noted connections, kept alive, without retries."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """See `HTTPAdapter.init_poolmanager`."""
        super().init_poolmanager(*args, socket_options=_socket_options(), **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """See `HTTPAdapter.proxy_manager_for`."""
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager
