"""Licence texts of what is shipped, taken from where the parts came from; nothing is typed by hand.

API::

    collect(members, site_packages=, target=)     texts of all parts of a frozen program, into a folder
    write_component(target, component, texts)     one part's texts
    read_components(folder) -> list[Component]    what such a folder holds
    notices({folder: components}) -> str          the package's THIRD_PARTY_NOTICES.md

A part without a text is an error: it could not be shipped.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shell_tool_release.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_OURS = "codex-shell-tool-mcp"
_TEXT = re.compile(r"(licen[cs]e|copying|notice|copyright)", re.IGNORECASE)
_INDEX = "component.json"

COMPILED_IN = "compiled-in.txt"
"""The text that lists what is part of a distribution's library, where the distribution says so."""

_COMPILED_IN = "What is compiled into it, with its licence, as its own bill of materials says:"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One thing in a bundle: its name there and the file it came from (empty for what the freezer made itself)."""

    name: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Component:
    """One part under one licence.

    Attributes:
        name: As its authors call it.
        version: Theirs.
        license: SPDX expression where the part states one, else its own words.
        note: Where its source is, or what was done to it; may be empty.
        files: Names of the licence texts beside the index.
    """

    name: str
    version: str
    license: str
    note: str = ""
    files: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Its folder's name."""
        return re.sub(r"[^A-Za-z0-9._+-]", "-", self.name)


def write_component(target: Path, component: Component, texts: Mapping[str, bytes]) -> None:
    """Write the index and ``texts`` (name → bytes) of one part below ``target``; BuildError without any text."""
    if not texts:
        message = f"no licence text found for {component.name} {component.version}, which would be shipped"
        raise BuildError(message)
    folder = target / component.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    index = asdict(component) | {"files": sorted(texts)}
    (folder / _INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_components(folder: Path) -> list[Component]:
    """All parts below ``folder``, by name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*/{_INDEX}"))]
    parts = [Component(**{**document, "files": tuple(document["files"])}) for document in found]
    return sorted(parts, key=lambda part: part.name.lower())


def collect(
    members: Iterable[Member], *, site_packages: Path, target: Path, portable: tuple[Path, Path] | None = None
) -> None:
    """Write the licence texts of everything ``members`` came from below ``target``.

    ``portable`` are the folder of the Python that was frozen and that of its texts, if it is not this one; nothing of
    the freezer's is then in what is shipped.

    Raises:
        BuildError: A part has no text.
    """
    owners = _owners(site_packages)
    listed = [member for member in members if portable is None or not Path(member.source).is_relative_to(portable[0])]
    used = {owners[path] for member in listed if (path := _installed_path(member)) in owners}
    used |= {"pyinstaller"} if portable is None else set()
    for name in sorted(used - {_OURS}):
        _write_distribution(target, next(iter(distributions(name=name, path=[str(site_packages)]))))
    if portable is None:
        _write_python(target)
    else:
        shutil.copytree(portable[1], target, dirs_exist_ok=True)
    libraries = {Path(member.source) for member in listed if _is_foreign(Path(member.source), site_packages)}
    for library in sorted(libraries):
        _write_library(target, library)


def _owners(site_packages: Path) -> dict[str, str]:
    """File below ``site_packages`` → name of the distribution that installed it."""
    found: dict[str, str] = {}
    for distribution in distributions(path=[str(site_packages)]):
        name = distribution.metadata["Name"].lower()  # read once: each look parses the file anew
        found |= {file.as_posix(): name for file in distribution.files or ()}
    return found


def _installed_path(member: Member) -> str:
    """Where a member was before it was frozen: a bundle is laid out like ``site-packages``, but compiled."""
    return f"{member.name.removesuffix('.pyc')}.py" if member.name.endswith(".pyc") else member.name


def _write_distribution(target: Path, distribution: Distribution) -> None:
    metadata = distribution.metadata
    files = [file for file in distribution.files or () if ".dist-info" in file.parts[0]]
    named = [file for file in files if _TEXT.search(file.name)]
    texts = {_flat(file.parts): Path(str(distribution.locate_file(file))).read_bytes() for file in named}
    bills = [file for file in files if "sboms" in file.parts and file.suffix == ".json"]
    documents = [json.loads(Path(str(distribution.locate_file(file))).read_bytes()) for file in bills]
    if rows := sorted({row for document in documents for row in _compiled_in(document)}):
        texts[COMPILED_IN] = "\n".join([_COMPILED_IN, "", *rows, ""]).encode()
    stated = [field for name in ("License-Expression", "License") for field in metadata.get_all(name) or ()]
    component = Component(
        name=metadata["Name"],
        version=metadata["Version"],
        license=stated[0] if stated else _classified(metadata.get_all("Classifier")),
        note="the loader of the frozen programs" if metadata["Name"].lower() == "pyinstaller" else "",
    )
    write_component(target, component, texts)


def _compiled_in(bill: Mapping[str, Any]) -> Iterator[str]:
    """Name, version and licence of each component of a CycloneDX bill (the form of PEP 770)."""
    for part in bill.get("components", ()):
        stated = part.get("licenses") or [{}]
        words = [one.get("expression") or one.get("license", {}).get("id", "no licence stated") for one in stated]
        yield f"{part['name']} {part.get('version', 'without version')}: {', '.join(words)}"


def _flat(parts: Sequence[str]) -> str:
    """A text's name without the folders that only say that it is one."""
    return "-".join(part for part in parts if part != "licenses" and not part.endswith(".dist-info"))


def _classified(classifiers: Iterable[str] | None) -> str:
    stated = [text.rpartition(" :: ")[2] for text in classifiers or () if text.startswith("License ::")]
    return ", ".join(stated) or "see its text"


def _write_python(target: Path) -> None:
    """CPython's own text; distributions put it in different places."""
    version = ".".join(map(str, sys.version_info[:3]))
    short = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    standard = Path(sysconfig.get_path("stdlib"))
    places = (
        standard / "LICENSE.txt",
        standard.parent / "LICENSE.txt",
        Path("/usr/share/doc") / short / "copyright",
        Path("/usr/share/doc") / f"lib{short}-stdlib" / "copyright",
        Path("/usr/share/licenses/python3-libs/LICENSE"),
        Path("/usr/share/licenses") / f"{short}-libs" / "LICENSE",
    )
    place = next((place for place in places if place.is_file()), None)
    texts = {} if place is None else {"LICENSE.txt": place.read_bytes()}
    component = Component(name="CPython", version=version, license="PSF-2.0", note="interpreter and standard library")
    write_component(target, component, texts)


def _is_foreign(path: Path, site_packages: Path) -> bool:
    """Whether ``path`` is a library of this machine, not of Python and not of an installed distribution."""
    python = {Path(sys.base_prefix).resolve(), Path(sysconfig.get_path("stdlib")).resolve()}
    if path.is_relative_to(site_packages) or not (path.suffix == ".dylib" or ".so" in path.name):
        return False
    if path.name.startswith("libpython"):
        return False
    below_python = any(path.resolve().is_relative_to(place) for place in python if place != Path("/usr"))
    return not below_python and "lib-dynload" not in path.parts


def _write_library(target: Path, library: Path) -> None:
    """A shared library of this machine: the text its package manager keeps for it."""
    for finder in (_from_dpkg, _from_rpm, _from_homebrew):
        found = finder(library.resolve())
        if found is not None:
            component, texts = found
            write_component(target, component, texts)
            return
    message = f"no licence text found for the library {library}, which would be shipped; it belongs to no known package"
    raise BuildError(message)


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _from_dpkg(library: Path) -> tuple[Component, dict[str, bytes]] | None:
    # With merged /usr the database may know the file by its old place.
    names = [str(library), str(library).removeprefix("/usr")]
    owner = next((said for name in names if (said := _output("dpkg-query", "--search", name))), "")
    package = owner.partition(": ")[0]
    text = Path("/usr/share/doc") / package.partition(":")[0] / "copyright"
    if not package or not text.is_file():
        return None
    version = _output("dpkg-query", "--show", "--showformat", "${Version}", package)
    component = Component(
        name=package.partition(":")[0], version=version, license="see its text", note=f"library {library.name}"
    )
    return component, {"copyright": text.read_bytes()}


def _from_rpm(library: Path) -> tuple[Component, dict[str, bytes]] | None:
    said = _output("rpm", "--query", "--file", "--queryformat", "%{NAME}\t%{VERSION}\t%{LICENSE}\n", str(library))
    if said.count("\t") != 2:
        return None
    name, version, license_words = said.split("\t")
    files = [Path(line) for line in _output("rpm", "--query", "--licensefiles", "--file", str(library)).splitlines()]
    texts = {path.name: path.read_bytes() for path in files if path.is_file()}
    return Component(name=name, version=version, license=license_words, note=f"library {library.name}"), texts


def _from_homebrew(library: Path) -> tuple[Component, dict[str, bytes]] | None:
    """``…/Cellar/<formula>/<version>/`` holds the formula's texts."""
    parts = library.parts
    if "Cellar" not in parts[:-3]:
        return None
    at = parts.index("Cellar")
    root = Path(*parts[: at + 3])
    texts = {
        path.name: path.read_bytes() for path in sorted(root.iterdir()) if path.is_file() and _TEXT.search(path.name)
    }
    component = Component(
        name=parts[at + 1], version=parts[at + 2], license="see its text", note=f"library {library.name}"
    )
    return component, texts


def notices(components: Mapping[str, Sequence[Component]]) -> str:
    """Return the overview; ``components`` are the parts by the folder in the package that holds their texts."""
    lines = [
        "# Third-party notices",
        "",
        "What this package holds besides our own code (Apache-2.0, see LICENSE), part by part.",
    ]
    for folder, parts in components.items():
        lines += ["", f"## {folder}", "", "| part | version | licence | texts | |", "|---|---|---|---|---|"]
        lines += [_row(part) for part in parts]
    return "\n".join(lines) + "\n"


def _row(part: Component) -> str:
    texts = ", ".join(f"`{part.folder}/{name}`" for name in part.files)
    words = " ".join(part.license.split())
    return f"| {part.name} | {part.version} | {words[:80]} | {texts} | {part.note} |"
