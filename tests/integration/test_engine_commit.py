"""An answer to COMMIT that never comes: what was recorded is recorded exactly once (P6)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

import pytest
from store_world import checkpoint, claim_all, contents, expire_leases, new_job, one, scratch_database

from jobqueue.engine.draft import Draft
from jobqueue.engine.flight import Flight
from jobqueue.engine.recorder import Recorder
from jobqueue.errors import ServerUnavailableError
from jobqueue.local import LocalStack
from jobqueue.model.item import SUCCEEDED, Item
from jobqueue.store import checkpoints
from jobqueue.store.checkpoints import Recorded
from jobqueue.store.database import Database


class Proxy:
    """Between a client and Postgres; once told to, the next statement's request or its answer gets lost.

    Attributes:
        cut: ``request`` cuts before the statement reaches the server, ``answer`` after the server has answered it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        login = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))
        self.cut = ""
        self.cuts = 0
        self.is_closed = False
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_closed:
                client.close()
                continue
            self.connections += 1
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            for source, target, what in ((client, server, "request"), (server, client, "answer")):
                thread = threading.Thread(target=self._pump, args=(source, target, what), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, what: str) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self.cut == what:
                    self.cut = ""
                    self.cuts += 1
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for end in self._sockets:
            end.close()


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_commit") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    opened = Proxy(url)
    yield opened
    opened.close()


def commit_through(
    proxy: Proxy,
    database: Database,
    cut: str,
    *,
    then: Callable[[int], None] = lambda job_id: None,
    wait_s: float = 5.0,
) -> tuple[int, Recorded]:
    """Record six outcomes and the next intent through *proxy*, which cuts; the job and what the recorder was told."""
    job_id = new_job(database, 10)
    claim = claim_all(database, job_id)[0]
    epoch = one(database, "SELECT epoch FROM limiter_epochs WHERE provider = 'noop'")
    with Database(proxy.url) as through:
        assert not through.connection.closed
        draft = Draft(job_id)
        done = Flight(0, 1, [Item(n, f"item-{n}") for n in range(6)], "key-1")
        following = Flight(0, 2, [Item(n, f"item-{n}") for n in range(6, 8)], "key-2")
        draft.outcomes(done, [(item, SUCCEEDED) for item in done.items])
        draft.open(following, cost_units=1, requests=1, deadline_s=12.0, cursor=8)
        then(job_id)
        proxy.cut = cut
        recorder = Recorder(through, job_id, scope="noop", provider="noop")
        recorded = recorder.commit(
            draft, fences={0: claim.fence}, numbers={0: 2}, epoch=epoch, until_s=time.monotonic() + wait_s
        )
    return job_id, recorded


@pytest.mark.parametrize("cut", ["answer", "request"])
def test_a_record_whose_connection_is_cut_is_written_exactly_once(proxy: Proxy, database: Database, cut: str) -> None:
    """Cut before the server saw it or after it committed: a new connection finds out, and nothing is doubled or lost."""
    job_id, recorded = commit_through(proxy, database, cut)

    assert (proxy.cuts, proxy.connections) == (1, 2)
    assert (recorded.held, recorded.is_epoch_current, recorded.state) == (frozenset({0}), True, "running")
    found = contents(database, job_id)
    assert [o["seq"] for o in found["item_outcomes"]] == [0, 1, 2, 3, 4, 5]
    assert [b["no"] for b in found["batches"]] == [2]
    part = checkpoint(database, job_id)
    assert (part["succeeded"], part["cursor"], part["batch_no"]) == (6, 8, 2)


@pytest.mark.parametrize("cut", ["answer", "request"])
def test_a_cut_record_of_a_part_that_was_taken_over_is_told_as_lost(proxy: Proxy, database: Database, cut: str) -> None:
    """The successor claimed before the record: nothing is written, now or at the second try."""

    def take_over(job_id: int) -> None:
        expire_leases(database, job_id)
        claim_all(database, job_id, "successor")

    job_id, recorded = commit_through(proxy, database, cut, then=take_over)
    assert recorded.held == frozenset()
    assert contents(database, job_id)["item_outcomes"] == []


def test_a_record_that_landed_without_its_intents_says_so(proxy: Proxy, database: Database) -> None:
    """The epoch had moved on: outcomes count once, and the next batch must not be sent."""

    def rebuild(job_id: int) -> None:
        database.rows("begin_epoch", {"provider": "noop", "run_id": "another"})

    job_id, recorded = commit_through(proxy, database, "answer", then=rebuild)
    assert (recorded.held, recorded.is_epoch_current) == (frozenset({0}), False)
    assert checkpoint(database, job_id)["succeeded"] == 6
    assert not checkpoints.batch_exists(database, job_id, 0, 2)


def test_a_recorder_gives_up_when_the_lease_is_over(proxy: Proxy, database: Database) -> None:
    """With Postgres away it tries until then and raises; nothing of the record is there."""

    def go_away(job_id: int) -> None:
        proxy.is_closed = True

    before = one(database, "SELECT count(*) FROM item_outcomes")
    with pytest.raises(ServerUnavailableError):
        commit_through(proxy, database, "request", then=go_away, wait_s=0.3)
    assert one(database, "SELECT count(*) FROM item_outcomes") == before
