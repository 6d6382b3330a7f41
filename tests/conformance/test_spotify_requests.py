"""Every request the Spotify adapter sends is valid by Spotify's published description, where that is at hand."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from conformance_cases import CASES, TOKEN, Case

from jobqueue.handler import Endpoint

SPEC = Path(__file__).parents[3] / "shared" / "specs" / "spotify" / "fixed-spotify-open-api.yml"
# Said by the description in words only.
LARGEST = {"/me/library": 40, "/me/library/contains": 40, "/me/following": 50, "/me/following/contains": 50}


@dataclass(frozen=True)
class Sent:
    """One request as it went over the wire."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@contextmanager
def recording(upstream: str) -> Iterator[tuple[str, list[Sent]]]:
    """A server that passes everything on to *upstream* and keeps what it saw."""
    seen: list[Sent] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            link = urlsplit(self.path)
            parsed = json.loads(body) if body else None
            seen.append(Sent(self.command, link.path, dict(parse_qsl(link.query)), dict(self.headers.items()), parsed))
            headers = {k: v for k, v in self.headers.items() if k.lower() not in {"host", "connection"}}
            answer = requests.request(self.command, upstream + self.path, data=body, headers=headers, timeout=5)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", "application/json")
            if answer.status_code != 204:
                self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PUT = do_POST = do_DELETE = pass_on

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


class Description:
    """The parts of an OpenAPI description that a request can break."""

    def __init__(self, text: str) -> None:
        yaml = pytest.importorskip("yaml", reason="the description is YAML; pip install pyyaml")
        self._jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
        self._spec = yaml.safe_load(text)

    def problems(self, sent: Sent) -> list[str]:
        """What is wrong with a request; empty when it is valid."""
        path = sent.path.removeprefix("/v1")
        template = next((one for one in self._spec["paths"] if _matches(one, path)), None)
        operation = self._spec["paths"].get(template, {}).get(sent.method.lower())
        if operation is None:
            return [f"{sent.method} {path} is not described"]
        parameters = [self._resolved(one) for one in operation.get("parameters", [])]
        known = {one["name"]: one for one in parameters if one["in"] == "query"}
        found = [f"unknown parameter {name}" for name in sent.query if name not in known]
        found += [f"missing parameter {n}" for n, one in known.items() if one.get("required") and n not in sent.query]
        for name, text in sent.query.items():
            if name in known:
                found += self._invalid(_typed(text, known[name]["schema"]), known[name]["schema"])
        for name in ("uris", "ids"):
            if len(sent.query.get(name, "").split(",")) > LARGEST.get(path, 100):
                found.append(f"too many {name}")
        return found + self._body_problems(sent, operation)

    def _body_problems(self, sent: Sent, operation: dict[str, Any]) -> list[str]:
        if sent.body is None:
            return []
        content = self._resolved(operation.get("requestBody", {})).get("content", {}).get("application/json")
        if content is None:
            return ["a body that is not described"]
        unknown = [f"unknown field {name}" for name in sent.body if name not in content["schema"]["properties"]]
        return unknown + self._invalid(sent.body, content["schema"])

    def _invalid(self, value: Any, schema: dict[str, Any]) -> list[str]:
        return [error.message for error in self._jsonschema.Draft4Validator(schema).iter_errors(value)]

    def _resolved(self, value: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in value:
            return value
        found: Any = self._spec
        for word in value["$ref"].split("/")[1:]:
            found = found[word]
        return dict(found)


def _matches(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) is not None


def _typed(text: str, schema: dict[str, Any]) -> Any:
    return int(text) if schema.get("type") == "integer" and text.lstrip("-").isdigit() else text


@pytest.fixture(scope="module")
def description() -> Description:
    """Spotify's own words."""
    if not SPEC.exists():
        pytest.skip("Spotify's description is not at hand (../shared/specs)")
    return Description(SPEC.read_text(encoding="utf-8"))


def sent_by(case: Case, start) -> list[Sent]:
    """All requests of a job and of its rollback."""
    sandbox, runner = start(case)
    with recording(sandbox.base_url.removesuffix("/v1")) as (url, seen):
        runner.endpoint = Endpoint(f"{url}/v1", "", TOKEN)
        runner.roll_back(runner.enforce(case.operation, case.rows[:12], case.options))
    return seen


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_request_of_a_job_and_its_rollback_is_valid(case: Case, start, description: Description) -> None:
    """Paths, parameters, limits and bodies are as described; nothing is sent that is not."""
    seen = sent_by(case, start)

    assert {sent.method for sent in seen} >= {"GET"}
    assert [(sent.method, sent.path, problem) for sent in seen for problem in description.problems(sent)] == []


@pytest.mark.parametrize("case", CASES[:1], ids=lambda case: case.id)
def test_the_check_would_notice(case: Case, start, description: Description) -> None:
    """A wrong limit, an unknown parameter and an unknown path are found by the check itself."""
    sent = next(one for one in sent_by(case, start) if one.method == "GET")
    assert description.problems(replace(sent, query={**sent.query, "foo": "1"}))
    assert description.problems(replace(sent, query={}))
    assert description.problems(replace(sent, path="/v1/me/nothing"))
    page = replace(sent, path="/v1/playlists/x/items", query={"limit": "51"})
    assert description.problems(page)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_request_is_signed_and_every_effect_keyed(case: Case, start) -> None:
    """Bearer token on all; an idempotency key on effects only, for a read has nothing to repeat."""
    for sent in sent_by(case, start):
        assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
        assert ("Idempotency-Key" in sent.headers) == (sent.method != "GET")
