"""The bill of materials of a package: CycloneDX 1.6, in JSON.

API::

    document(Subject(...), components, entries, pinned) -> bytes      the same bytes for the same package

The document is forty lines, so it is written here: a library would bring seven packages into the release, and stamp
each document with the time and a random number. ``tests/release/test_sbom.py`` holds it to the schema of that library.

Source: CycloneDX 1.6 JSON reference; package URLs: ECMA-427.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from shell_tool_release.licenses import Component
    from shell_tool_release.manifest import Entry

NAME = "codex-shell-tool-mcp.cdx.json"
"""Its file name; ``.cdx.json`` is what tools look for."""

_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is described: a package of ``kind`` (the type in a package URL: ``npm`` or ``pypi``)."""

    name: str
    version: str
    kind: str
    license: str

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:{self.kind}/{self.name}@{quote(self.version)}"


def pinned(constraints: Path) -> frozenset[str]:
    """Names, normalised, of all distributions in a constraints file: these parts come from a Python index."""
    return frozenset(_normal(found[1]) for found in _PIN.finditer(constraints.read_text(encoding="utf-8")))


def document(
    subject: Subject,
    components: Mapping[str, Sequence[Component]],
    entries: Iterable[Entry],
    distributions: frozenset[str],
) -> bytes:
    """Return the bill of a package.

    Args:
        subject: The package.
        components: Its parts by the platform they are in.
        entries: The package's files; the executable ones are listed.
        distributions: See :func:`pinned`.
    """
    parts = [_part(component, platforms, distributions) for component, platforms in _by_component(components)]
    programs = [_program(entry) for entry in entries if entry.mode == "0755"]
    listed = sorted([*parts, *programs], key=lambda part: part["bom-ref"])
    content: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _subject(subject)},
        "components": listed,
        "dependencies": [{"ref": subject.purl, "dependsOn": sorted(part["bom-ref"] for part in parts)}],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    # Random by the specification's advice; ours names the content, so that the same package has the same bill.
    content["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}"
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _subject(subject: Subject) -> dict[str, Any]:
    described = {"type": "application", "bom-ref": subject.purl, "purl": subject.purl}
    return {**described, "name": subject.name, "version": subject.version, "licenses": _licenses(subject.license)}


def _by_component(components: Mapping[str, Sequence[Component]]) -> list[tuple[Component, list[str]]]:
    """Each part once, with the platforms it is in."""
    found: dict[tuple[str, str, str], tuple[Component, list[str]]] = {}
    for platform, parts in components.items():
        for part in parts:
            found.setdefault((part.name, part.version, part.license), (part, []))[1].append(platform)
    return list(found.values())


def _part(component: Component, platforms: list[str], distributions: frozenset[str]) -> dict[str, Any]:
    name = _normal(component.name)
    kind = "pypi" if name in distributions else "generic"
    purl = f"pkg:{kind}/{quote(name)}@{quote(component.version)}"
    properties = [{"name": "codex-shell-tool-mcp:platform", "value": platform} for platform in sorted(platforms)]
    described = {"type": "library", "bom-ref": purl, "purl": purl, "name": component.name}
    note = {"description": component.note} if component.note else {}
    licenses = _licenses(component.license)
    return {**described, **note, "version": component.version, "licenses": licenses, "properties": properties}


def _program(entry: Entry) -> dict[str, Any]:
    hashes = [{"alg": "SHA-256", "content": entry.sha256}]
    return {"type": "file", "bom-ref": f"file:{entry.path}", "name": entry.path, "hashes": hashes}


def _licenses(words: str) -> list[dict[str, Any]]:
    """An SPDX expression where it is one, else what the part says of itself."""
    try:
        return [{"expression": canonicalize_license_expression(words)}]
    except InvalidLicenseExpression:
        return [{"license": {"name": " ".join(words.split())[:200] or "see its text"}}]


def _normal(name: str) -> str:
    """A name as package URLs and indexes have it."""
    return re.sub(r"[-_. ]+", "-", name).lower()
