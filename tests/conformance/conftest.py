"""A fresh sandbox and runner for each test; no Redis and no Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conformance_cases import ARTISTS, LIBRARY, PLAYLIST_ITEMS, TOKEN, Case
from conformance_runner import Runner

from handlers.providers.http import close_session
from handlers.providers.spotify_library import FORMS
from handlers.sandbox.launch import SandboxProcess, start_sandbox
from jobqueue.handler import Endpoint, Provider

Started = tuple[SandboxProcess, Runner]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start a sandbox for a case, or for a provider with the sandbox's options."""
    with ExitStack() as stack:

        def begin(case: Case | Provider, **options: Any) -> Started:
            wanted = {
                "limit": "100000/60",
                "latency_ms": 0,
                "seed_library": LIBRARY,
                "seed_artists": ARTISTS,
                "seed_playlist_items": PLAYLIST_ITEMS,
                **(case.sandbox if isinstance(case, Case) else {}),
                **options,
            }
            sandbox = stack.enter_context(start_sandbox(tmp_path / "sandbox", **wanted))
            provider = case.provider if isinstance(case, Case) else case
            return sandbox, Runner(provider, Endpoint(sandbox.base_url, sandbox.token_url, TOKEN))

        yield begin
        close_session()
        FORMS.forget()
