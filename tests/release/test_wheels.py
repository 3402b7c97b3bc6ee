"""Wheels and the source archive: exactly what belongs in them, the same bytes each time, and a server that works."""

from __future__ import annotations

import email
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from release.conftest import cannot
from shell_tool_release import ci_wheel, smoke, wheels
from shell_tool_release.archives import unpack
from shell_tool_release.differ import first_difference
from shell_tool_release.errors import BuildError
from shell_tool_release.shells import ShellOptions
from shell_tool_release.sources import SourceOptions, bash_source, tree_digest
from shell_tool_release.variants import load_variants
from shell_tool_release.workspace import Workspace, host_platform
from shell_tool_release.zsh_source import zsh_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from shell_tool_release.variants import Shell

pytestmark = pytest.mark.timeout(600)  # the programs are there, but seven other tests may be looking for processors

TARGET = wheels.known(host_platform())
PACKAGE = wheels.PACKAGE


def _clone(workspace: Workspace, target: Path, *, umask: int = 0o022, time: int | None = None) -> Workspace:
    """The files a clone would have, and nothing else; as ``umask`` and ``time`` make them."""
    command = ["git", "-C", str(workspace.root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(command, capture_output=True, check=False)
    if said.returncode:
        cannot("this is no git checkout (a source archive)")
    for name in filter(None, said.stdout.decode().split("\0")):
        source, copy = workspace.root / name, target / name
        if not source.is_file():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod((0o777 if os.access(source, os.X_OK) else 0o666) & ~umask)
        if time is not None:
            os.utime(copy, (time, time))
    return Workspace(root=target)


@pytest.fixture(scope="module")
def made(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Path, Path]:
    """A clone, the source archive and the wheel that were made in it."""
    place = _clone(workspace, tmp_path_factory.mktemp("clone"))
    sdist, wheel = wheels.build_python(place, (TARGET,))
    return place, sdist, wheel


@pytest.fixture(scope="module")
def installed(made: tuple[Workspace, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what it depends on; the checkout is out of its reach."""
    folder = tmp_path_factory.mktemp("venv")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(made[2])], check=True)
    site = next((folder / "lib").glob("python3*/site-packages"))
    dependencies = {str(Path(path)) for path in sys.path if (Path(path) / "mcp").is_dir()}
    assert dependencies
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return folder


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CODEX_"))}


def test_the_wheels_tag_is_what_its_programs_need(made: tuple[Workspace, Path, Path]) -> None:
    wheel = made[2]
    assert wheel.name.endswith(f"-py3-none-{wheels.TAGS[TARGET]}.whl")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Root-Is-Purelib"] == "false"
    assert set(metadata.get_all("Tag", [])) == {f"py3-none-{tag}" for tag in wheels.TAGS[TARGET].split(".")}


def test_there_is_a_tag_for_every_platform_and_it_is_the_tables_baseline(workspace: Workspace) -> None:
    for row in load_variants(workspace.variants_file):
        tag = wheels.TAGS[row.target]
        if row.libc == "musl":
            assert "musllinux_1_1_" in tag
        else:
            system = "manylinux" if row.libc == "glibc" else "macosx"
            assert f"{system}_{row.baseline.replace('.', '_')}_" in tag


def test_the_wheel_holds_exactly_this(made: tuple[Workspace, Path, Path]) -> None:
    place, _, wheel = made
    found = wheels.contents(wheel)
    source = place.root / "src"
    files = [path.relative_to(source) for path in (source / PACKAGE).rglob("*") if path.is_file()]
    modules = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    options = ShellOptions.default(place)
    vendor = f"{PACKAGE}/vendor"
    programs = {f"{vendor}/{row.package_path}" for row in options.variants}
    programs |= {f"{vendor}/{TARGET}/bin/{name}" for name in ("codex-execve-wrapper", "codex-shell-supervisor")}
    texts = {f"{vendor}/MANIFEST.json", f"{vendor}/THIRD_PARTY_NOTICES.md", f"{vendor}/{TARGET}/build.json"}
    texts |= {f"{vendor}/patches/{path.name}" for path in (place.root / "patches").iterdir()}
    licenses = {name for name in found if name.startswith(f"{vendor}/{TARGET}/licenses/")}
    info = f"{wheel.name.split('-py3-')[0]}.dist-info"
    names = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE", "licenses/NOTICE")
    metadata = {f"{info}/{name}" for name in (*names, "sboms/codex-shell-tool-mcp.cdx.json")}
    assert set(found) == modules | programs | texts | licenses | metadata
    assert {name for name, (_, mode, _) in found.items() if mode == 0o755} == programs
    assert {mode for _, mode, _ in found.values()} == {0o755, 0o644}
    assert any(name.endswith("/GNU-bash/COPYING") for name in licenses)


def test_its_bill_of_materials_is_valid(made: tuple[Workspace, Path, Path]) -> None:
    with zipfile.ZipFile(made[2]) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith(".cdx.json")))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    names = {part["name"] for part in json.loads(data)["components"]}
    assert {"GNU bash", "musl", f"vendor/{TARGET}/bin/codex-execve-wrapper"} <= names


def test_a_wheel_that_is_not_what_its_manifest_says_is_refused(
    made: tuple[Workspace, Path, Path], tmp_path: Path
) -> None:
    wheels.check_wheel(made[2])
    wrong = tmp_path / made[2].name
    for change in ("content", "missing", "more"):
        with zipfile.ZipFile(made[2]) as archive, zipfile.ZipFile(wrong, "w") as copy:
            for info in archive.infolist():
                data = archive.read(info)
                if info.filename == f"{PACKAGE}/cli.py":
                    data += b"#" if change == "content" else b""
                    if change == "missing":
                        continue
                copy.writestr(info, data)
            if change == "more":
                copy.writestr("other.py", "")
        with pytest.raises(BuildError, match=r"other\.py" if change == "more" else r"cli\.py"):
            wheels.check_wheel(wrong)


def test_the_source_archive_holds_the_clone_and_bashs_source(made: tuple[Workspace, Path, Path]) -> None:
    place, sdist, _ = made
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive if member.isfile()}
    built = {"build", "dist", ".nox"}
    files = {path.relative_to(place.root) for path in place.root.rglob("*") if path.is_file()}
    clone = {path.as_posix() for path in files if path.parts[0] not in built and "__pycache__" not in path.parts}
    sources = ShellOptions.default(place).context.sources
    carried = {
        f"third_party/bash-{sources.lock.version}.{sources.lock.level}.tar.gz",
        f"third_party/zsh-{sources.zsh.version}.tar.gz",
    }
    assert set(members) == clone - {"docs/releasing.md"} | {"PKG-INFO"} | carried
    assert {member.mode for member in members.values()} == {0o755, 0o644}
    assert {(member.uid, member.gid, member.uname) for member in members.values()} == {(0, 0, "")}
    assert members["run"].mode == 0o755


def test_the_source_it_carries_is_the_locked_one(
    made: tuple[Workspace, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both shells' sources come from it where no other place is asked."""
    unpack(made[1], tmp_path / "source")
    unpacked = Workspace(root=tmp_path / "source")
    monkeypatch.setattr("shell_tool_release.places.find_workspace", lambda: unpacked)
    options = replace(SourceOptions.default(), cache=tmp_path / "cache", places=("carried",))
    assert tree_digest(bash_source(options).path) == options.lock.tree(options.lock.level)
    assert tree_digest(zsh_source(options).path) == options.zsh.tree


def test_the_source_offer_names_what_is_there(made: tuple[Workspace, Path, Path]) -> None:
    with zipfile.ZipFile(made[2]) as archive:
        offer = archive.read(f"{PACKAGE}/vendor/{TARGET}/licenses/GNU-bash/SOURCE.md").decode()
    with tarfile.open(made[1]) as archive:
        names = {member.name.partition("/")[2] for member in archive}
    assert made[1].name in offer
    named = re.search(r"`(third_party/\S+)`", offer)
    assert named is not None
    assert named[1] in names


def test_the_same_bytes_from_another_clone(
    made: tuple[Workspace, Path, Path], workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder, umask, time of files, time zone, locale and SOURCE_DATE_EPOCH."""
    place = _clone(workspace, tmp_path / "a longer name" / "clone", umask=0o077, time=1)
    for name, value in {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "1", "PYTHONHASHSEED": "7"}.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o077)
    try:
        again = wheels.build_python(place, (TARGET,))
    finally:
        os.umask(before)
    assert [path.name for path in again] == [path.name for path in made[1:]]
    assert [path.read_bytes() == other.read_bytes() for path, other in zip(again, made[1:], strict=True)] == [
        True,
        True,
    ]


def test_twine_finds_nothing(made: tuple[Workspace, Path, Path]) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, made[1:])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("how", [["-m", PACKAGE], ["bin/codex-shell-tool-mcp"], ["bin/codex-exec-mcp-server"]])
def test_it_starts_by_every_name(how: list[str], installed: Path, made: tuple[Workspace, Path, Path]) -> None:
    program = [str(installed / "bin" / "python"), "-I", *how] if how[0] == "-m" else [str(installed / how[0])]
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True, env=_environ())
    assert done.stdout == f"codex-exec-mcp-server {made[0].version}\n"


def test_the_installed_wheel_verifies_itself(installed: Path) -> None:
    verify = [str(installed / "bin" / "codex-exec-mcp-server"), "verify"]
    done = subprocess.run(verify, capture_output=True, text=True, check=False, env=_environ())
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    site = next((installed / "lib").glob("python3*/site-packages"))
    shell = next((site / PACKAGE / "vendor").glob(f"{TARGET}/bash/*/bash"))
    shell.chmod(0o644)
    try:
        done = subprocess.run([*verify, str(site)], capture_output=True, text=True, check=False, env=_environ())
    finally:
        shell.chmod(0o755)
    assert done.returncode == 1
    assert f"{shell.relative_to(site / PACKAGE).as_posix()} has mode 0644" in done.stdout


@pytest.mark.parametrize("shell", smoke.SHELLS)
def test_the_installed_wheel_does_its_job(installed: Path, tmp_path: Path, workspace: Workspace, shell: Shell) -> None:
    """The same job as the npm package's smoke test, by the programs in the wheel."""
    said: list[str] = []
    place = smoke.prepare(tmp_path / "trial")
    place.installed.mkdir(exist_ok=True)
    results = smoke.do_job(place, [str(installed / "bin" / "codex-shell-tool-mcp")], said.append, "the wheel", shell)
    assert len(results) == len(smoke.job(shell))
    assert str(workspace.root) not in said[0]


def test_the_source_archive_makes_the_same_wheel(made: tuple[Workspace, Path, Path], tmp_path: Path) -> None:
    """Without a checkout, and with the shells' sources that it carries."""
    unpack(made[1], tmp_path / "source")
    again = wheels._build(Workspace(root=tmp_path / "source"), tmp_path, "--wheel", TARGET)
    assert again.name == made[2].name
    assert first_difference(again, made[2]) is None


COMPILER = re.compile(
    r"(?:[\w.-]+-linux-gnu-)?(?:cc|c[89]9|c[89]9-gcc|gcc|g\+\+|c\+\+|cpp|tcc|clang|clang\+\+)(?:-[\d.]+)?"
)


def _without_compiler(folder: Path) -> str:
    """A PATH of everything this machine has but C compilers."""
    folder.mkdir()
    for place in ("/usr/bin", "/bin", "/usr/sbin"):
        for program in Path(place).iterdir():
            if not COMPILER.fullmatch(program.name) and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    assert shutil.which("make", path=str(folder))
    for name in ("cc", "gcc", "c99", "clang", "tcc"):
        assert shutil.which(name, path=str(folder)) is None
    return str(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pip_installs_the_source_archive_where_there_is_no_c_compiler(
    made: tuple[Workspace, Path, Path], tmp_path: Path
) -> None:
    """From nothing: pip fetches the compiler, every program is built, and what is installed does its job."""
    venv.EnvBuilder(with_pip=True, symlinks=True).create(tmp_path / "venv")
    environ = {**_environ(), "PATH": _without_compiler(tmp_path / "bin"), "CODEX_BUILD_CACHE": str(tmp_path / "cache")}
    pip = [str(tmp_path / "venv" / "bin" / "pip"), "install", "--quiet", "--no-cache-dir", str(made[1])]
    done = subprocess.run(pip, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    command = str(tmp_path / "venv" / "bin" / "codex-shell-tool-mcp")
    done = subprocess.run([command, "verify"], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, "all as they were made" in done.stdout) == (0, True), done.stdout
    place = smoke.prepare(tmp_path / "trial")
    place.installed.mkdir(exist_ok=True)
    for shell in smoke.SHELLS:
        results = smoke.do_job(place, [command], lambda _: None, "the source archive", shell)
        assert len(results) == len(smoke.job(shell))


def _changed(wheel: Path, folder: Path, end: str, change: Callable[[bytes], bytes | None]) -> Path:
    """A copy of ``wheel`` in which the file that ends with ``end`` is changed; left out where the change is None."""
    copy = folder / wheel.name
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(copy, "w") as written:
        for info in archive.infolist():
            data = archive.read(info)
            new = change(data) if info.filename.endswith(end) else data
            if new is not None:
                written.writestr(info, new)
    return copy


def test_what_cibuildwheel_makes_is_compared_with_what_is_offered(
    made: tuple[Workspace, Path, Path], tmp_path: Path
) -> None:
    """Another version of the backend may have made it; another program, file or name is an error."""
    wheel = made[2]
    ci_wheel.check(wheel, wheel, exact=True)
    ci_wheel.check(wheel, _changed(wheel, tmp_path, ".dist-info/WHEEL", lambda data: data + b"x"), exact=True)
    other = _changed(wheel, tmp_path, "/build.json", lambda data: data + b" ")
    with pytest.raises(BuildError, match=rf"is not the offered one: {PACKAGE}/vendor/{TARGET}/build\.json differ"):
        ci_wheel.check(wheel, other, exact=True)
    ci_wheel.check(wheel, other, exact=False)
    with pytest.raises(BuildError, match="is not what its manifest says"):
        ci_wheel.check(other, wheel, exact=False)
    with pytest.raises(BuildError, match="NOTICE differ"):
        ci_wheel.check(wheel, _changed(wheel, tmp_path, "/NOTICE", lambda _: None), exact=False)
    renamed = tmp_path / wheel.name.replace("py3-none", "cp311-none")
    shutil.copyfile(wheel, renamed)
    with pytest.raises(BuildError, match="cibuildwheel made"):
        ci_wheel.check(wheel, renamed, exact=False)


def test_cibuildwheel_builds_the_source_archive(tmp_path: Path) -> None:
    words = ci_wheel.command(tmp_path / "x.tar.gz", tmp_path / "out")
    assert words[1:] == ["-m", "cibuildwheel", "--output-dir", str(tmp_path / "out"), str(tmp_path / "x.tar.gz")]
    with pytest.raises(BuildError, match=r"holds 0 files \*\.tar\.gz, not one; run: \./run wheels"):
        ci_wheel.only(tmp_path, "*.tar.gz")


def test_freezing_takes_a_wheel_without_programs(made: tuple[Workspace, Path, Path], tmp_path: Path) -> None:
    wheel = wheels._build(made[0], tmp_path, "--wheel", wheels.NO_PROGRAMS)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not any("/vendor/" in name for name in wheels.contents(wheel))


def test_an_unknown_platform_is_refused(made: tuple[Workspace, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="CODEX_SHELL_TOOL_MCP_WHEEL=beos-ppc: known are linux-x64"):
        wheels._build(made[0], tmp_path, "--wheel", "beos-ppc")


def test_what_building_it_takes_is_named(made: tuple[Workspace, Path, Path], tmp_path: Path) -> None:
    """pip asks the source archive; the compiler is among the answers, so that a machine needs none."""
    root = tmp_path / "source"
    unpack(made[1], root)
    code = "from hatchling.build import get_requires_for_build_wheel as ask; print('\\n'.join(ask()))"
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    pinned = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]["release"]
    compiler = next(line for line in pinned if line.startswith("ziglang"))
    assert compiler in said.split()


def test_cibuildwheels_settings_name_one_build_a_platform(workspace: Workspace, tmp_path: Path) -> None:
    """It needs containers to build; what it would build, and that its settings are valid, it says without."""
    if importlib.util.find_spec("cibuildwheel") is None:
        cannot("cibuildwheel is in the group wheels, which ./run tests installs")
    found = []
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("macos", "x86_64"), ("macos", "arm64")):
        command = [sys.executable, "-m", "cibuildwheel", "--platform", system, "--archs", machine]
        command += ["--print-build-identifiers", str(workspace.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        found += done.stdout.split()
    assert found == [
        "cp311-manylinux_x86_64",
        "cp311-manylinux_aarch64",
        "cp311-macosx_x86_64",
        "cp311-macosx_arm64",
    ]
