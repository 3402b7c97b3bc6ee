"""Stands in, on loopback, for the two services of trusted publishing that no local registry has.

GitHub's identity endpoint (``GET /identity``) gives a job's signed claims; npm's token exchange takes them, compares
them with the package's trusted publisher and gives a token that publishes this one package. All else goes on to a
registry behind, which takes a package only with such a token. What a registry can do wrong is done on demand.

API::

    StandIn(upstream, publisher, claims)    context manager; ``url``, ``environ()``, ``requests``, ``issued``
    StandIn.faults                          what goes wrong next, by kind of request
    Publisher                               what npm's settings page of a package holds
    claims_of(publisher, tag) -> dict       what GitHub says of the job that publisher trusts

Claims as in GitHub's reference of OpenID Connect and npm's of trusted publishing; the requests as npm makes them
(``lib/utils/oidc.js``). The signature is a keyed hash: npm only carries it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import secrets
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shell_tool_release.registry import Registry

Kind = Literal["identity", "exchange", "publish", "read"]
Answer = tuple[int, "dict[str, str]", bytes]
EXCHANGE = "/-/npm/v1/oidc/token/exchange/package/"
TOKEN_SECONDS = 300
"""How long an identity is good for; GitHub's are for some minutes too."""


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """A trusted publisher; all of it is compared to the letter. ``workflow`` is the file's name without a folder."""

    package: str
    repository: str
    workflow: str
    environment: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One answer that goes wrong; ``taken``: the registry behind gets the request all the same."""

    status: int = 500
    taken: bool = False
    seconds: float = 0.0
    text: str = "on demand"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came in; ``token`` is what followed ``Bearer``."""

    kind: Kind
    method: str
    path: str
    token: str
    audience: str
    status: int


def claims_of(publisher: Publisher, tag: str) -> dict[str, str]:
    """Return what GitHub says of the job that ``publisher`` trusts, in a run for ``tag``.

    The repository is private: for a public one npm also wants a certificate of the public transparency log.
    """
    return {
        "iss": "a stand-in",
        "sub": f"repo:{publisher.repository}:environment:{publisher.environment}",
        "repository": publisher.repository,
        "repository_visibility": "private",
        "workflow_ref": f"{publisher.repository}/.github/workflows/{publisher.workflow}@refs/tags/{tag}",
        "environment": publisher.environment,
        "ref": f"refs/tags/{tag}",
        "event_name": "push",
        "runner_environment": "github-hosted",
    }


@dataclass
class StandIn:
    """The service; ``faults`` may be added to at any time, each is used once."""

    upstream: Registry
    publisher: Publisher
    claims: dict[str, str]
    requests: list[Request] = field(default_factory=list)
    issued: set[str] = field(default_factory=set)
    faults: defaultdict[Kind, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    hide_after_publish: int = 0
    """So many reads after the next publish do not show the package."""

    def __post_init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._request_token = secrets.token_urlsafe(32)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The registry as npm is to see it."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def environ(self) -> dict[str, str]:
        """What GitHub sets for a job with ``id-token: write``."""
        return {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}identity?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self._request_token,
        }

    def identity(self, token: str, audience: str) -> tuple[int, dict[str, str]]:
        """Answer the job's question for its identity."""
        if not hmac.compare_digest(token, self._request_token) or not audience:
            return 401, {"message": "not this job's request token, or no audience"}
        now = int(time.time())
        claims = {**self.claims, "aud": audience, "iat": now, "exp": now + TOKEN_SECONDS}
        return 200, {"value": self._sign(claims)}

    def exchange(self, token: str, package: str) -> tuple[int, dict[str, str]]:
        """Answer npm's question for a token: only to the job that the trusted publisher names."""
        claims = self._verified(token)
        if claims is None:
            return 401, {"message": "the identity is not signed by the issuer"}
        reason = self._distrust(claims, package)
        if not reason and not self.upstream.has(package):
            reason = "there is no such package yet"
        if reason:
            return 404, {"message": f"no trusted publisher: {reason}"}
        issued = "npm_" + secrets.token_urlsafe(24)
        self.issued.add(issued)
        return 201, {"token": issued}

    def _distrust(self, claims: Mapping[str, Any], package: str) -> str:
        place, _, _ = str(claims.get("workflow_ref", "")).partition("@")
        said = {
            "package": package,
            "audience": claims.get("aud"),
            "repository": claims.get("repository"),
            "workflow": place,
            "environment": claims.get("environment"),
            "runner": claims.get("runner_environment"),
        }
        publisher = self.publisher
        wanted = {
            "package": publisher.package,
            "audience": "npm:127.0.0.1",
            "repository": publisher.repository,
            "workflow": f"{publisher.repository}/.github/workflows/{publisher.workflow}",
            "environment": publisher.environment,
            "runner": "github-hosted",
        }
        wrong = [f"{name} is {said[name]}, not {wanted[name]}" for name in wanted if said[name] != wanted[name]]
        if int(claims.get("exp", 0)) < time.time():
            wrong.append("the identity is too old")
        return "; ".join(wrong)

    def _sign(self, claims: Mapping[str, Any]) -> str:
        parts = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return f"{parts}.{_encoded(hmac.digest(self._key, parts.encode(), hashlib.sha256))}"

    def _verified(self, token: str) -> dict[str, Any] | None:
        parts, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature, _encoded(hmac.digest(self._key, parts.encode(), hashlib.sha256))):
            return None
        payload = parts.partition(".")[2]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims if isinstance(claims, dict) else None


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, service: StandIn) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service = service

    def handle_error(self, *_: object) -> None:
        """Nothing on the terminal: npm ends connections as it likes, and a failed answer is npm's error to tell."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("identity" if urlsplit(self.path).path == "/identity" else "read")

    def do_POST(self) -> None:
        self._answer("exchange" if self.path.startswith(EXCHANGE) else "read")

    def do_PUT(self) -> None:
        self._answer("publish")

    def _answer(self, kind: Kind) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        fault = self.server.service.faults[kind].pop(0) if self.server.service.faults[kind] else None
        answer = self._real(kind, body) if fault is None or fault.taken else None
        if fault is not None:
            time.sleep(fault.seconds)
            answer = fault.status, {}, json.dumps({"error": fault.text}).encode()
        assert answer is not None
        self._note(kind, answer[0])
        self._send(*answer)

    def _real(self, kind: Kind, body: bytes) -> Answer:
        if kind == "identity":
            status, document = self.server.service.identity(self._token(), self._audience())
        elif kind == "exchange":
            status, document = self.server.service.exchange(self._token(), unquote(self.path.removeprefix(EXCHANGE)))
        elif kind == "publish" and self._token() not in self.server.service.issued:
            status, document = 401, {"error": "no token of the exchange"}
        else:
            answer = self._forward(body)
            if kind == "publish" and answer[0] < 300 and self.server.service.hide_after_publish:
                self.server.service.faults["read"] += [Fault(status=404)] * self.server.service.hide_after_publish
                self.server.service.hide_after_publish = 0
            return answer
        return status, {}, json.dumps(document).encode()

    def _forward(self, body: bytes) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.service.upstream.port, timeout=60)
        skipped = {"authorization", "connection", "accept-encoding"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
        try:
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            data = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() in {"content-type", "etag"}}
            return answer.status, kept, data
        finally:
            connection.close()

    def _send(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        try:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # npm gave up waiting

    def _note(self, kind: Kind, status: int) -> None:
        self.server.service.requests.append(
            Request(
                kind=kind,
                method=self.command,
                path=urlsplit(self.path).path,
                token=self._token(),
                audience=self._audience(),
                status=status,
            )
        )

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _audience(self) -> str:
        return parse_qs(urlsplit(self.path).query).get("audience", [""])[0]

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal; ``requests`` has it."""
