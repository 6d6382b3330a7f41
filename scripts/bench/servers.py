"""A Redis of its own for whatever is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobqueue.local.valkey import Valkey


@contextmanager
def own_valkey() -> Iterator[Valkey]:
    """An empty Valkey on loopback, with the append-only file every stack of this project has."""
    with tempfile.TemporaryDirectory(prefix="jobqueue-bench-") as name:
        valkey = Valkey(Path(name))
        valkey.start()
        try:
            yield valkey
        finally:
            valkey.stop()
