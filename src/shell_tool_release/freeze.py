"""Freezes the server and the Python wrapper into one folder that needs no Python.

API::

    freeze(workspace, target=None) -> Frozen    builds, or takes from the cache; this machine's platform by default
    freezable(target) -> bool                   whether that can be done on this machine
    LEFT_OUT                                    modules that are left out beside the server's own list

The project is built as a wheel; what is frozen is that wheel with the runtime dependencies, never the checkout.
Everything that goes in is part of the cache key.

On Linux the Python is ours (:mod:`shell_tool_release.portable_python`), the dependencies are wheels for manylinux2014,
and both programs get boot programs of our own, so the bundle runs on every glibc since 2.17 and depends on nothing of
the machine that made it. The freezer serves to find what is needed. A bundle for another Linux platform is this
machine's with each library and boot program replaced by that platform's: compiled Python is the same on both.
On macOS the machine's own Python is frozen, with the freezer's boot program for the server.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.server.excluded import EXCLUDED_MODULES
from shell_tool_release import boot, elf, environments, licenses
from shell_tool_release import options as choice
from shell_tool_release.cache import Entry, Key, cache_root, entry, file_sha256
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.portable_python import GLIBC, TRIPLES, build_python
from shell_tool_release.toolchain import find_zig
from shell_tool_release.workspace import find_workspace, host_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shell_tool_release.portable_python import PortablePython
    from shell_tool_release.workspace import Workspace

ENVIRONMENT = "freeze"
GROUPS = (environments.PROJECT, "freeze")

PACKAGE = "codex_shell_tool_mcp"

SERVER = "codex-exec-mcp-server"
WRAPPER = "codex-execve-wrapper-py"
"""The two programs: the server, and the wrapper in Python."""

OPTIMIZE = 2
"""As ``python -OO``: no assertions, no docstrings. Assertions here state what cannot happen and guard no input."""

LEFT_OUT: tuple[str, ...] = (
    "_bz2",  # archives: nothing is unpacked at run time
    "_lzma",
    "_codecs_cn",  # character sets of East Asia: everything here is UTF-8 or bytes
    "_codecs_hk",
    "_codecs_iso2022",
    "_codecs_jp",
    "_codecs_kr",
    "_codecs_tw",
    "_multibytecodec",
    "_uuid",  # the system's way to make one; nothing here does
    "_pydatetime",  # Python twins of modules that are there in C
    "_pydecimal",
    "anyio._backends._trio",  # asyncio is the event loop here
    "asyncio.windows_events",
    "concurrent.futures.process",  # a pool of processes; threads are used
    "pydantic.mypy",
    "pydantic.v1",  # the library's own predecessor
    "statistics",  # random's own tests
    "tarfile",  # archives again: shutil packs none here
)
"""What nothing here runs, beside the server's own list (``server/excluded.py``).

Each is met by the freezer on its way through the imports, which a test checks with the bundle's own listing.
"""

PORTABLE_LEFT_OUT: tuple[str, ...] = (
    "ctypes",  # prctl(2) is asked for by the boot program, which needs no library for it
)
"""What is left out beside that where the boot program is ours."""

_CHARACTER_SETS = re.compile(r"encodings/(big5|cp\d|euc_|gb|hp_|hz|iso|johab|koi|kz|mac_|ptcp|shift|tis_)")
"""Everything here is UTF-8 or bytes: the boot program asks for that, whatever the locale says."""

_FROZEN_AS = {
    "_frozen_importlib": "importlib._bootstrap",
    "_frozen_importlib_external": "importlib._bootstrap_external",
}
"""Modules in libpython under another name than that of their file."""

HIDDEN: dict[str, tuple[str, ...]] = {}
"""Imports that cannot be seen in the code, by program."""

_FORMAT = 3
"""Part of the cache key; one more whenever this file makes something else of the same input."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A frozen bundle: ``server`` is the folder to ship, ``licenses`` the texts of all that is in it.

    ``listing`` is JSON: ``members``, the name and origin of each file, and ``excluded``, what was met and left out.
    ``python`` is the version of the Python in it.
    """

    server: Path
    licenses: Path
    listing: Path
    python: str
    reused: bool


@dataclass(frozen=True, kw_only=True)
class _Interpreter:
    """The Python that freezes and is frozen; ``portable`` is ``None`` for the machine's own (macOS)."""

    program: Path
    site_packages: Path
    version: str
    digest: str
    portable: PortablePython | None


@dataclass(frozen=True, kw_only=True)
class _Input:
    """What is frozen, with which Python."""

    wheel: Path
    python: _Interpreter
    scripts: dict[str, str]
    excluded: tuple[str, ...]


def freeze(workspace: Workspace, target: str | None = None) -> Frozen:
    """Freeze the checkout's server for ``target`` (default: this machine's platform).

    Raises:
        BuildError: A step failed; the text shows the end of what it said.
    """
    host, wanted = host_platform(), target or host_platform()
    if not freezable(wanted):
        raise BuildError(f"the server for {wanted} is frozen on such a machine, not on {host}")
    python = _machine_python(workspace) if host not in TRIPLES else _portable_python(workspace, host)
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        source = _Input(
            wheel=_build_wheel(workspace, Path(folder)),
            python=python,
            scripts=_scripts(workspace),
            excluded=(*EXCLUDED_MODULES, *LEFT_OUT, *(PORTABLE_LEFT_OUT if python.portable else ())),
        )
        key = _key(workspace, source)
        found = entry(cache_root(), key, lambda place: _freeze(source, place))
        if wanted != host:
            found = _for_another(workspace, wanted, found, key, source)
    return Frozen(
        server=found.path / "server",
        licenses=found.path / "licenses",
        listing=found.path / "listing.json",
        python=python.version,
        reused=found.reused,
    )


def freezable(target: str) -> bool:
    """Whether this machine can freeze a server for ``target``."""
    return target == host_platform() or (target in TRIPLES and host_platform() in TRIPLES)


def _machine_python(workspace: Workspace) -> _Interpreter:
    program = environments.ensure(workspace.root, ENVIRONMENT, GROUPS)
    return _Interpreter(
        program=program,
        site_packages=_site_packages(program),
        version=sys.version.split()[0],
        digest=f"{sys.version} {_libpython_digest()}",
        portable=None,
    )


def _portable_python(workspace: Workspace, target: str) -> _Interpreter:
    python = build_python(target)
    # The freezer only runs on this machine; another platform's packages are only looked at.
    groups = GROUPS if target == host_platform() else GROUPS[:1]
    wheels = environments.Wheels(machine=TRIPLES[target].partition("-")[0], python=python.short)
    return _Interpreter(
        program=python.program,
        site_packages=environments.ensure_wheels(workspace.root, f"{ENVIRONMENT}-{target}", groups, wheels),
        version=python.version,
        digest=python.digest,
        portable=python,
    )


def _scripts(workspace: Workspace) -> dict[str, str]:
    """The programs: name → ``module:function``, as ``pyproject.toml`` has them for the wheel.

    The one with the project's own name is the server again, for tools that run packages by name; npm has a launcher.
    """
    project = tomllib.loads((workspace.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: target for name, target in project["scripts"].items() if name != project["name"]}


def _build_wheel(workspace: Workspace, folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(workspace.root)]
    _run(command, {"CODEX_SHELL_TOOL_MCP_WHEEL": "none", "SOURCE_DATE_EPOCH": "1580601600"})
    return next(folder.glob("*.whl"))


def _key(workspace: Workspace, source: _Input) -> Key:
    return Key.of(
        "server",
        format=_FORMAT,
        wheel=file_sha256(source.wheel),
        recipe=[file_sha256(path) for path in (_spec_file(), *(Path(str(m.__file__)) for m in (boot, elf, licenses)))],
        requirements=[environments.requirements(workspace.root, group) for group in GROUPS],
        constraints=file_sha256(workspace.root / environments.CONSTRAINTS),
        python=source.python.digest,
        excluded=source.excluded,
        hidden=HIDDEN,
        optimize=OPTIMIZE,
        boot=[file_sha256(path) for path in boot.SOURCES],
        zig=find_zig().version,
    )


def _spec_file() -> Path:
    return Path(__file__).with_name("server.spec")


def _libpython_digest() -> str:
    """The interpreter's own bytes: a rebuilt Python of the same version is another input."""
    name, folder = sysconfig.get_config_var("INSTSONAME"), sysconfig.get_config_var("LIBDIR")
    candidates = [
        Path(str(folder)) / str(name),
        Path(str(folder)) / str(sysconfig.get_config_var("MULTIARCH")) / str(name),
    ]
    found = next((path for path in candidates if path.exists()), Path(sys.executable).resolve())
    return file_sha256(found)


def _freeze(source: _Input, folder: Path) -> None:
    """Fill ``folder`` with ``server`` and ``licenses``."""
    work = folder / "work"
    work.mkdir()
    listing = _run_pyinstaller(source, work)
    (work / "dist" / "server").rename(folder / "server")
    portable = source.python.portable
    if portable is not None:
        needless = _needless(folder / "server" / "_internal", portable)
        for name in needless:
            (folder / "server" / "_internal" / name).unlink()
        listing = [member for member in listing if member.name not in needless]
        _finish(folder / "server", work, source, portable)
    licenses.collect(
        listing,
        site_packages=source.python.site_packages,
        target=folder / "licenses",
        portable=None if portable is None else (portable.prefix, portable.licenses),
    )
    document = json.loads((work / "listing.json").read_bytes())
    document["members"] = [[member.name, member.source] for member in listing]
    (folder / "listing.json").write_text(json.dumps(document), encoding="utf-8")
    shutil.rmtree(work)
    _check(folder / "server", source)


_HOST_LIBRARIES = ("libgcc_s.so.1",)
"""Libraries of this machine that the freezer collects although every system with a glibc has its own, by the same rule
that lets the wheels need them (PEP 599)."""


def _needless(bundle: Path, portable: PortablePython) -> frozenset[str]:
    """Files in the bundle that nothing reads: this machine's libraries, character sets, and modules in libpython."""
    command = [str(portable.program), "-I", "-c", "import _imp; print(*_imp._frozen_module_names())"]
    names = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    frozen = {f"{_FROZEN_AS.get(name, name).replace('.', '/')}.pyc" for name in names}
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    return frozenset(name for name in files if name in frozen or name in _HOST_LIBRARIES or _CHARACTER_SETS.match(name))


def _finish(server: Path, work: Path, source: _Input, portable: PortablePython) -> None:
    """What is made for the platform itself: stripped libraries, checked, and the boot programs."""
    for path in elf.files(server / "_internal"):
        elf.strip(path)
        elf.check(path, portable.target, GLIBC)
    for name, entry_point in source.scripts.items():
        module, _, function = entry_point.partition(":")
        program = boot.WRAPPER if name == WRAPPER else boot.SERVER
        (server / name).unlink()
        boot.compile_program(program, server / name, portable, {"MODULE": module, "FUNCTION": function}, work)


def _for_another(workspace: Workspace, target: str, here: Entry, key: Key, source: _Input) -> Entry:
    """The bundle for another Linux platform: this machine's with that platform's libraries and boot programs."""
    other = _portable_python(workspace, target)
    portable = other.portable
    assert portable is not None

    def build(folder: Path) -> None:
        for part in ("server", "licenses"):
            shutil.copytree(here.path / part, folder / part)
        shutil.copyfile(here.path / "listing.json", folder / "listing.json")
        bundle, work = folder / "server" / "_internal", folder / "work"
        work.mkdir()
        for path in elf.files(bundle):
            path.unlink()
            counterpart = _counterpart(path.relative_to(bundle), other)
            shutil.copyfile(counterpart, path.with_name(counterpart.name))
        # Python looks for its build's variables by the platform's name; no value in them is used by what is shipped.
        data = bundle / f"_sysconfigdata__linux_{TRIPLES[host_platform()]}.pyc"
        data.rename(data.with_name(f"_sysconfigdata__linux_{TRIPLES[target]}.pyc"))
        _finish(folder / "server", work, source, portable)
        shutil.rmtree(work)

    inputs = {"native": key.digest, "python": other.digest, "zig": find_zig().version, "target": target, "adapted": 2}
    return entry(cache_root(), Key.of("server", format=_FORMAT, **inputs), build)


def _counterpart(name: Path, other: _Interpreter) -> Path:
    """The file of another platform's packages that is what ``name`` is in this machine's bundle."""
    portable = other.portable
    assert portable is not None
    if name.name == portable.library.name:
        return portable.library
    stem = name.name.partition(".")[0]
    found = sorted((other.site_packages / name.parent).glob(f"{stem}.*.so"))
    if len(found) != 1:
        raise BuildError(
            f"{name} in this machine's bundle has {len(found)} counterparts for {portable.target}, not one"
        )
    return found[0]


def _run_pyinstaller(source: _Input, work: Path) -> list[licenses.Member]:
    recipe = {
        "package": PACKAGE,
        "scripts": [str(_write_script(work, name, target)) for name, target in source.scripts.items()],
        "hidden": {name.replace("-", "_"): HIDDEN.get(name, ()) for name in source.scripts},
        "excludes": source.excluded,
        "dropped_data": [".dist-info"],
        "optimize": OPTIMIZE,
        "listing": str(work / "listing.json"),
    }
    (work / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    with zipfile.ZipFile(source.wheel) as wheel:
        wheel.extractall(work / "wheel")
    command = [str(source.python.program), "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "WARN"]
    command += ["--distpath", str(work / "dist"), "--workpath", str(work / "work"), str(_spec_file())]
    environ = {
        # The seed fixes the order of entries in base_library.zip: the bundle is the same byte for byte each time.
        "PYTHONHASHSEED": "1",
        "PYTHONPATH": f"{work / 'wheel'}{os.pathsep}{source.python.site_packages}",
        "PYTHONDONTWRITEBYTECODE": "1",  # the Python is in the cache, where nothing may change
        "PYINSTALLER_CONFIG_DIR": str(work / "config"),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    _run([*command, "--", str(work / "recipe.json")], environ)
    listing = json.loads((work / "listing.json").read_bytes())
    return [licenses.Member(name=name, source=source) for name, source in listing["members"]]


def _write_script(work: Path, name: str, target: str) -> Path:
    module, function = target.split(":")
    path = work / f"{name.replace('-', '_')}.py"
    path.write_text(f"import sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n", encoding="utf-8")
    return path


def _site_packages(python: Path) -> Path:
    done = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(done.stdout.strip())


def _check(server: Path, source: _Input) -> None:
    """What npm would silently lose, or could not start, must not be there."""
    links = [path for path in server.rglob("*") if path.is_symlink()]
    if links:
        raise BuildError(
            f"the frozen server holds symbolic links, which npm drops: {links[0]} and {len(links) - 1} more"
        )
    for name in source.scripts:
        done = subprocess.run([server / name, "--version"], capture_output=True, check=False, timeout=60)
        # The wrapper has no options by contract (docs/protocol.md): its usage line and 126 show that it starts.
        if done.returncode not in {0, 126}:
            raise BuildError(f"the frozen {name} does not start:\n{done.stderr.decode(errors='replace')}")


def _run(command: list[str], extra: dict[str, str] | None = None) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | (extra or {})
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        said = done.stdout.decode(errors="replace").splitlines()[-30:]
        raise BuildError("\n".join([f"{' '.join(command[:4])} … ended with status {done.returncode}:", *said]))


def digest(folder: Path) -> str:
    """One SHA-256 over the names, modes and bytes of all files below ``folder``."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        mode = "x" if path.stat().st_mode & 0o100 else "-"
        total.update(f"{path.relative_to(folder).as_posix()}\0{mode}\0{file_sha256(path)}\n".encode())
    return total.hexdigest()


def main(argv: Sequence[str] | None = None) -> None:
    """Freeze for this machine's platform, or for those asked for, and print where the bundles are."""
    arguments = choice.parser("freeze", __doc__).parse_args(argv)
    workspace = find_workspace()
    for target in choice.targets(arguments):
        if not freezable(target):
            sys.stdout.write(f"{target}: its server is frozen on a machine of its own kind\n")
            continue
        frozen = freeze(workspace, target)
        how = "from the cache" if frozen.reused else "frozen"
        sys.stdout.write(f"{frozen.server} ({how}), sha256 of all files {digest(frozen.server)}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
