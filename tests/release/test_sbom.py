"""The bill of materials: valid CycloneDX, the same bytes each time, and with every part and program of the package."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from shell_tool_release import manifest, sbom
from shell_tool_release.licenses import Component, read_components
from shell_tool_release.workspace import host_platform

if TYPE_CHECKING:
    from pathlib import Path

    from shell_tool_release.npm import Package
    from shell_tool_release.workspace import Workspace

SUBJECT = sbom.Subject(name="package", version="1.2.3-alpha.1", kind="npm", license="Apache-2.0 AND GPL-3.0-or-later")
PARTS = {
    "linux-x64": [
        Component(name="GNU bash", version="5.3.15", license="GPL-3.0-or-later", note="source: there"),
        Component(name="Some_Library", version="2.0+local", license="BSD, see its text"),
    ],
    "linux-arm64": [Component(name="GNU bash", version="5.3.15", license="GPL-3.0-or-later", note="source: there")],
}


def _bill(**changed: Any) -> dict[str, Any]:
    entries = [manifest.described("vendor/bash", b"x", 0o755), manifest.described("README.md", b"y", 0o644)]
    arguments = {"components": PARTS, "entries": entries, "distributions": frozenset({"some-library"}), **changed}
    found: dict[str, Any] = json.loads(sbom.document(SUBJECT, **arguments))
    return found


def _errors(document: bytes) -> Any:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode())


def test_the_validator_finds_what_is_wrong() -> None:
    wrong = _bill()
    wrong["components"][0]["type"] = "no such type"
    assert _errors(json.dumps(wrong).encode()) is not None


def test_it_is_valid() -> None:
    assert _errors(json.dumps(_bill()).encode()) is None


def test_a_part_of_two_platforms_is_one() -> None:
    bash = [part for part in _bill()["components"] if part["name"] == "GNU bash"]
    assert len(bash) == 1
    assert [found["value"] for found in bash[0]["properties"]] == ["linux-arm64", "linux-x64"]
    assert bash[0]["purl"] == "pkg:generic/gnu-bash@5.3.15"
    assert bash[0]["licenses"] == [{"expression": "GPL-3.0-or-later"}]
    assert bash[0]["description"] == "source: there"


def test_what_an_index_has_is_named_as_such() -> None:
    library = next(part for part in _bill()["components"] if part["name"] == "Some_Library")
    assert library["purl"] == "pkg:pypi/some-library@2.0%2Blocal"
    assert library["licenses"] == [{"license": {"name": "BSD, see its text"}}]


def test_programs_have_hashes() -> None:
    files = [part for part in _bill()["components"] if part["type"] == "file"]
    assert [(part["name"], part["hashes"][0]["content"][:6]) for part in files] == [("vendor/bash", "2d7116")]


def test_the_same_bytes_for_the_same_package_and_others_for_another() -> None:
    assert _bill() == _bill(components=dict(reversed(PARTS.items())))
    assert _bill()["serialNumber"] != _bill(entries=[])["serialNumber"]


@pytest.mark.timeout(900)  # freezing takes half a minute, minutes where six others do it too
def test_the_real_packages_bill(packed: tuple[Workspace, Package]) -> None:
    place, package = packed
    with tarfile.open(package.path) as archive:
        stream = archive.extractfile(f"package/sbom/{sbom.NAME}")
        assert stream is not None
        data = stream.read()
        executable = {member.name.removeprefix("package/") for member in archive if member.mode == 0o755}
    assert _errors(data) is None
    document = json.loads(data)
    listed = {part["name"] for part in document["components"] if part["type"] == "library"}
    assert listed == {part.name for part in read_components(place.vendor / host_platform() / "licenses")}
    assert {part["name"] for part in document["components"] if part["type"] == "file"} == executable
    purls = {part["purl"] for part in document["components"] if "purl" in part}
    assert any(purl.startswith("pkg:pypi/mcp@") for purl in purls)
    assert any(purl.startswith("pkg:generic/gnu-bash@") for purl in purls)


def test_pinned_names(tmp_path: Path) -> None:
    (tmp_path / "constraints").write_text("# text\nSome.Name==1\nother_one==2.0\n")
    assert sbom.pinned(tmp_path / "constraints") == {"some-name", "other-one"}
