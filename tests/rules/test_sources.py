"""House rules about every file: what must not stand in one, how long functions are, what is said only once."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from shell_tool_release import variants

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LIMIT = 60
SOFT_LIMIT = 40

LONG_FOR_A_REASON: dict[str, str] = {}
"""Functions of 41 to 60 lines: ``file:name`` → why they are one."""


@cache
def _files() -> tuple[Path, ...]:
    """Every file that is or would be committed."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(command, capture_output=True, check=False)
    if said.returncode:  # a source archive: the folders that hold the project
        folders = ["src", "tests", "bench", "packaging", "patches", "docs", "examples", ".github", ".ci"]
        return tuple(path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    names = [ROOT / name.decode() for name in said.stdout.split(b"\0") if name]
    return tuple(path for path in names if path.is_file())


def _texts() -> Iterator[tuple[Path, str]]:
    for path in _files():
        data = path.read_bytes()
        if b"\0" not in data:
            yield path, data.decode("utf-8", "replace")


def _registry_hosts() -> set[str]:
    """Hosts of package registries: the public ones, and those this machine is set up with."""
    # In pieces, or this file would hold what it forbids.
    hosts = {"pypi" + ".org", "files." + "pythonhosted.org", "registry." + "npmjs.org", "deb." + "debian.org"}
    commands = (
        ["npm", "config", "get", "registry"],
        ["apt-get", "update", "--print-uris"],
        ["python3", "-m", "pip", "config", "list"],
    )
    for command in commands:
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
            hosts |= {host for host in re.findall(r"://([^/:@\s'\"]+)", said) if "." in host}
    return hosts


def test_no_registry_host_in_a_file() -> None:
    """Which index serves a package is the machine's business."""
    hosts = _registry_hosts()
    assert [f"{path}: {host}" for path, text in _texts() for host in hosts if host in text] == []


def test_no_path_of_a_machine_in_a_file() -> None:
    # In pieces, for the same reason.
    odd = [
        re.escape("/" + "work/") + r"(main|shared)\b",
        "/" + r"tmp/w/\w",
        "/" + r"root/\.",
    ]
    pattern = re.compile("|".join([*odd, re.escape(f"{ROOT}/")]))
    assert [f"{path}: {found[0]}" for path, text in _texts() if (found := pattern.search(text))] == []


def test_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
    found = [
        f"{path}: {hit[0]}"
        for path, text in _texts()
        if path.suffix in {".py", ".c", ".h", ".md", ".toml", ".yml", ".sh"} and (hit := words.search(text))
    ]
    assert found == []


def test_no_build_output_and_nothing_large() -> None:
    assert [path for path in _files() if path.stat().st_size > 300_000] == []
    assert [path for path in _files() if path.suffix in {".so", ".o", ".a", ".pyc", ".tgz", ".whl"}] == []


def _python_functions() -> Iterator[tuple[str, int]]:
    for path in _files():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                name = f"{path.relative_to(ROOT).as_posix()}:{node.name}"
                yield name, node.end_lineno - node.lineno + 1 - _docstring_lines(node)


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """A long contract is no long function."""
    first = node.body[0]
    if ast.get_docstring(node) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


def _c_functions() -> Iterator[tuple[str, int]]:
    """From the brace at a line's start to the closing one: the style all of ours is written in."""
    for path in _files():
        if path.suffix != ".c" or "src/native" not in path.as_posix():
            continue
        start = 0
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, start=1):
            if re.match(r"^[a-z].*\)\s*\{?$|^\{", line) and (line.endswith("{") or line == "{"):
                start = number
            elif line == "}" and start:
                yield f"{path.relative_to(ROOT).as_posix()}:{start}", number - start + 1
                start = 0


def test_no_function_is_too_long() -> None:
    assert [f"{name}: {lines} lines" for name, lines in _python_functions() if lines > LIMIT] == []


def test_no_c_function_is_too_long() -> None:
    functions = list(_c_functions())
    assert len(functions) > 30, "the scanner does not see the functions any more"
    assert [f"{name}: {lines} lines" for name, lines in functions if lines > LIMIT] == []


def test_longer_functions_have_a_reason() -> None:
    longer = {name for name, lines in _python_functions() if lines > SOFT_LIMIT and name.startswith("src/")}
    assert longer == set(LONG_FOR_A_REASON)


def test_most_functions_are_short() -> None:
    lengths = sorted(lines for name, lines in _python_functions() if name.startswith("src/"))
    assert lengths[len(lengths) * 9 // 10] <= 20
    assert lengths[len(lengths) // 2] <= 11


def test_every_dependency_has_its_reason_beside_it() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    document = tomllib.loads(text)
    groups = [document["project"]["dependencies"], *document["dependency-groups"].values()]
    for requirement in [requirement for group in groups for requirement in group]:
        lines = [line for line in text.splitlines() if line.strip().startswith(f'"{requirement}"')]
        assert lines, requirement
        for line in lines:
            assert re.search(r"#\s*\w+(\s+\S+){2,}", line), f"{requirement} has no reason"


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    from codex_shell_tool_mcp.version import VERSION  # noqa: PLC0415

    assert version == VERSION
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_platforms_are_named_once() -> None:
    """The table has them; the code's closed type and the launcher, which cannot read it, have the same."""
    table = variants.load_variants(ROOT / "src" / "codex_shell_tool_mcp" / "shells" / "variants.toml")
    targets = {row.target for row in table}
    assert set(get_args(variants.Target)) == targets
    launcher = (ROOT / "packaging" / "npm" / "bin" / "codex-shell-tool-mcp").read_text()
    assert set(re.findall(r"platform=([\w-]+)", launcher)) == targets


@pytest.mark.parametrize("name", ["codex-shell-tool-mcp"])
def test_the_packages_name_is_the_same_everywhere(name: str) -> None:
    package = json.loads((ROOT / "packaging" / "npm" / "package.json").read_text())
    assert package["name"] == name
    assert list(package["bin"]) == [name]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] == name


def test_no_python_package_shadows_packaging() -> None:
    """With an ``__init__.py`` the folder would hide the library of that name from whoever runs in the checkout."""
    assert not list((ROOT / "packaging").rglob("__init__.py"))
