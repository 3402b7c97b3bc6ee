"""One file over HTTP: retries, resume, progress, checksum before use.

API::

    fetch(url, sha256, folder) -> Path      a verified file in ``folder``, downloaded only if it is not there

A file appears under its own name only after its hash was checked. What has the wrong hash is kept beside it as
``<name>.bad`` and named in the error.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import requests
from tqdm import tqdm

from shell_tool_release.cache import file_sha256
from shell_tool_release.errors import ChecksumError, SourceError

if TYPE_CHECKING:
    from pathlib import Path

ATTEMPTS = 4
CONNECT_SECONDS = 4.0  # an unreachable host must not hold up the next place
READ_SECONDS = 30.0
LARGEST = 256 * 1024 * 1024  # bytes; far above any source archive, so that an endless answer ends
_CHUNK = 64 * 1024
_PASSING = frozenset({429, 500, 502, 503, 504})


class _PassingError(Exception):
    """Worth another attempt."""


@dataclass(frozen=True, kw_only=True)
class _Transfer:
    url: str
    part: Path
    name: str


def kept_aside(path: Path) -> Path:
    """Move a refused file to ``<name>.bad`` and return where it is now."""
    aside = path.with_name(path.name.removesuffix(".part") + ".bad")
    path.replace(aside)
    return aside


def check(path: Path, sha256: str, origin: str) -> None:
    """Return if ``path`` has this hash; else keep it aside and raise ChecksumError."""
    found = file_sha256(path)
    if found != sha256:
        aside = kept_aside(path)
        message = f"{origin}: SHA-256 is {found}, locked is {sha256}; refused, kept as {aside}"
        raise ChecksumError(message)


def fetch(url: str, sha256: str, folder: Path, *, pause: float = 0.5) -> Path:
    """Return ``folder``'s verified copy of ``url``; SourceError says why there is none.

    ``pause`` is the wait in seconds before the second attempt; it doubles each time.
    """
    name = url.rsplit("/", 1)[1]
    final = folder / f"{sha256[:16]}-{name}"
    if final.is_file() and file_sha256(final) == sha256:
        return final
    folder.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url=url, part=final.with_name(final.name + ".part"), name=name)
    resumed = _download(transfer, pause)
    if resumed and file_sha256(transfer.part) != sha256:
        transfer.part.unlink()  # the old half may belong to another file; only a whole download is evidence
        _download(transfer, pause)
    check(transfer.part, sha256, url)
    transfer.part.replace(final)
    return final


def _download(transfer: _Transfer, pause: float) -> bool:
    """Fill ``transfer.part``; returns whether an earlier run's half was continued."""
    resumed = transfer.part.exists() and transfer.part.stat().st_size > 0
    with requests.Session() as session:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _once(session, transfer)
            except requests.exceptions.ConnectionError as error:
                # A name that does not resolve or a closed port will not heal in seconds.
                message = f"{transfer.url}: {_short(error)}"
                raise SourceError(message) from error
            except (_PassingError, requests.exceptions.RequestException) as error:
                if attempt == ATTEMPTS:
                    message = f"{transfer.url}: {error} (after {ATTEMPTS} attempts)"
                    raise SourceError(message) from error
                time.sleep(pause * 2 ** (attempt - 1))
            else:
                break
    return resumed


def _once(session: requests.Session, transfer: _Transfer) -> None:
    have = transfer.part.stat().st_size if transfer.part.exists() else 0
    # "identity": a Range counts the bytes of the encoding, and the hash is the archive's own.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    with session.get(transfer.url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            transfer.part.unlink()
            message = "the server could not continue the download"
            raise _PassingError(message)
        if response.status_code in _PASSING:
            message = f"the server answered {response.status_code}"
            raise _PassingError(message)
        if not response.ok:
            message = f"{transfer.url}: the server answered {response.status_code} {response.reason}"
            raise SourceError(message)
        continued = response.status_code == requests.codes.partial_content and _continues(response, have)
        _store(response, transfer, have if continued else 0)


def _continues(response: requests.Response, have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _store(response: requests.Response, transfer: _Transfer, have: int) -> None:
    length = response.headers.get("Content-Length")
    total = have + int(length) if length and length.isdigit() else None
    bar = tqdm(
        total=total, initial=have, unit="B", unit_scale=True, desc=transfer.name, disable=not sys.stderr.isatty()
    )
    written = have
    with transfer.part.open("ab" if have else "wb") as stream, bar:
        try:
            for chunk in response.iter_content(_CHUNK):
                written += len(chunk)
                if written > LARGEST:
                    message = f"{transfer.url}: more than {LARGEST} bytes; refused"
                    raise SourceError(message)
                stream.write(chunk)
                bar.update(len(chunk))
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError) as error:
            message = f"the connection ended after {written} bytes"
            raise _PassingError(message) from error
    if total is not None and written != total:
        message = f"{written} of {total} bytes arrived"
        raise _PassingError(message)


def _short(error: Exception) -> str:
    """The system's reason, not urllib3's nested one."""
    text = str(error)
    for sign, meaning in (
        ("NameResolutionError", "the host name does not resolve"),
        ("Connection refused", "connection refused"),
        ("ConnectTimeout", f"no connection within {CONNECT_SECONDS:g} s"),
        ("Network is unreachable", "the network is unreachable"),
    ):
        if sign in text or sign in type(error).__name__:
            return meaning
    return text
