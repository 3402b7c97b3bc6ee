"""The stand-in for trusted publishing trusts one workflow and nothing else, or ``publish_check`` would show nothing."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from shell_tool_release.registry import npm_environ
from shell_tool_release.standin import EXCHANGE, Fault, Publisher, StandIn, claims_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PUBLISHER = Publisher(package="package", repository="owner/repository", workflow="release.yml", environment="npm")


class _Behind(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(f"{self.command} {self.path}")

    def do_PUT(self) -> None:
        self._answer(f"{self.command} {self.rfile.read(int(self.headers['Content-Length'])).decode()}")

    def _answer(self, text: str) -> None:
        data = json.dumps({"said": text, "authorization": self.headers.get("Authorization")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


class _Upstream:
    """A registry that has one package and says what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port

    def has(self, package: str) -> bool:
        return package == "package"


@pytest.fixture
def service() -> Iterator[StandIn]:
    behind = ThreadingHTTPServer(("127.0.0.1", 0), _Behind)
    thread = threading.Thread(target=behind.serve_forever)
    thread.start()
    upstream: Any = _Upstream(behind.server_port)
    with StandIn(upstream=upstream, publisher=PUBLISHER, claims=claims_of(PUBLISHER, "v1.2.3")) as made:
        yield made
    behind.shutdown()
    behind.server_close()
    thread.join()


def _ask(url: str, token: str = "", method: str = "GET", data: bytes | None = None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, data=data, method=method, headers={"Authorization": f"Bearer {token}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def _identity(service: StandIn, audience: str = "npm:127.0.0.1") -> str:
    environ = service.environ()
    url = f"{environ['ACTIONS_ID_TOKEN_REQUEST_URL']}&audience={audience}"
    status, document = _ask(url, environ["ACTIONS_ID_TOKEN_REQUEST_TOKEN"])
    assert status == 200
    return str(document["value"])


def _exchange(service: StandIn, identity: str, package: str = "package") -> tuple[int, dict[str, Any]]:
    return _ask(f"{service.url}{EXCHANGE[1:]}{package}", identity, "POST", b"")


def test_the_whole_way(service: StandIn) -> None:
    identity = _identity(service)
    claims = json.loads(base64.urlsafe_b64decode(identity.split(".")[1] + "=="))
    assert claims["aud"] == "npm:127.0.0.1"
    assert claims["workflow_ref"] == "owner/repository/.github/workflows/release.yml@refs/tags/v1.2.3"
    assert (claims["environment"], claims["ref"], claims["event_name"]) == ("npm", "refs/tags/v1.2.3", "push")
    status, document = _exchange(service, identity)
    assert status == 201
    status, said = _ask(f"{service.url}package", document["token"], "PUT", b"bytes")
    assert (status, said) == (200, {"said": "PUT bytes", "authorization": None})
    assert [request.kind for request in service.requests] == ["identity", "exchange", "publish"]


def test_an_identity_is_given_only_to_the_job(service: StandIn) -> None:
    url = service.environ()["ACTIONS_ID_TOKEN_REQUEST_URL"]
    assert _ask(f"{url}&audience=npm:127.0.0.1", "guess")[0] == 401
    assert _ask(url, service.environ()["ACTIONS_ID_TOKEN_REQUEST_TOKEN"])[0] == 401


@pytest.mark.parametrize(
    ("claim", "value", "reason"),
    [
        ("workflow_ref", "owner/repository/.github/workflows/shell-tool-mcp.yml@refs/tags/v1.2.3", "workflow is"),
        ("workflow_ref", "owner/repository/.github/workflows/release.yaml@refs/tags/v1.2.3", "workflow is"),
        ("workflow_ref", "", "workflow is"),
        ("repository", "Owner/repository", "repository is"),
        ("environment", "NPM", "environment is"),
        ("runner_environment", "self-hosted", "runner is"),
    ],
)
def test_another_job_gets_no_token(service: StandIn, claim: str, value: str, reason: str) -> None:
    service.claims[claim] = value
    status, document = _exchange(service, _identity(service))
    assert status == 404
    assert reason in document["message"]
    assert service.issued == set()


def test_an_identity_for_somebody_else_gets_no_token(service: StandIn) -> None:
    status, document = _exchange(service, _identity(service, "sigstore"))
    assert (status, "audience is sigstore" in document["message"]) == (404, True)


def test_an_identity_is_good_for_its_package_only_and_only_if_there_is_one(service: StandIn) -> None:
    status, document = _exchange(service, _identity(service), "another")
    assert (status, "package is another" in document["message"]) == (404, True)
    service.publisher = Publisher(
        package="new", repository="owner/repository", workflow="release.yml", environment="npm"
    )
    status, document = _exchange(service, _identity(service), "new")
    assert (status, document["message"]) == (404, "no trusted publisher: there is no such package yet")


def test_a_forged_or_old_identity_gets_no_token(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    header, _, signature = _identity(service).split(".")
    forged = (
        base64.urlsafe_b64encode(json.dumps({**service.claims, "aud": "npm:127.0.0.1"}).encode()).decode().rstrip("=")
    )
    assert _exchange(service, f"{header}.{forged}.{signature}")[0] == 401
    assert _exchange(service, "nothing")[0] == 401
    now = time.time()
    identity = _identity(service)
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    status, document = _exchange(service, identity)
    assert (status, "too old" in document["message"]) == (404, True)


@pytest.mark.parametrize("token", ["", "npm_guess"])
def test_nothing_is_published_without_an_exchanged_token(service: StandIn, token: str) -> None:
    assert _ask(f"{service.url}package", token, "PUT", b"bytes")[0] == 401
    assert _ask(f"{service.url}package", _identity(service), "PUT", b"bytes")[0] == 401


def test_faults_are_used_once_and_may_hide_that_the_request_was_taken(service: StandIn) -> None:
    service.faults["read"] += [Fault(status=503), Fault(status=404)]
    assert [_ask(f"{service.url}package")[0] for _ in range(3)] == [503, 404, 200]
    token = _exchange(service, _identity(service))[1]["token"]
    service.hide_after_publish = 1
    assert _ask(f"{service.url}package", token, "PUT", b"bytes")[0] == 200
    assert [_ask(f"{service.url}package")[0] for _ in range(2)] == [404, 200]
    service.faults["publish"].append(Fault(status=500, taken=True))
    assert _ask(f"{service.url}package", token, "PUT", b"bytes")[0] == 500


def test_npm_for_the_check_reads_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("npm_config_registry", "NPM_CONFIG__AUTH", "https_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "of the machine")
    environ = npm_environ(tmp_path / "tools", tmp_path, "http://127.0.0.1:1/")
    assert "of the machine" not in environ.values()
    assert (tmp_path / "npmrc").read_text() == "registry=http://127.0.0.1:1/\n"
    assert environ["PATH"].startswith(f"{tmp_path / 'tools'}:")
    written = {name: value for name, value in environ.items() if name in {"npm_config_userconfig", "npm_config_cache"}}
    assert all(value.startswith(str(tmp_path)) for value in written.values())
    assert npm_environ(tmp_path / "tools", tmp_path)["https_proxy"] == "of the machine"
