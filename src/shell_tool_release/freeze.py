"""Freezes the server and the Python wrapper into one folder that needs no Python.

API::

    freeze(workspace) -> Frozen          builds, or takes from the cache
    LEFT_OUT                             modules that are left out beside the server's own list

The project is built as a wheel and installed into an environment that holds only the runtime dependencies and
PyInstaller; what is frozen is that installation, never the checkout. Everything that goes in is part of the cache key.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.server.excluded import EXCLUDED_MODULES
from shell_tool_release import environments, licenses
from shell_tool_release.cache import Key, cache_root, entry, file_sha256
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.lock import load_lock
from shell_tool_release.toolchain import ZigCompiler, build_environ, find_zig
from shell_tool_release.workspace import find_workspace, host_platform

if TYPE_CHECKING:
    from shell_tool_release.workspace import Workspace

ENVIRONMENT = "freeze"
GROUPS = (environments.PROJECT, "freeze")

PACKAGE = "codex_shell_tool_mcp"

WRAPPER = "codex-execve-wrapper-py"
"""The Python wrapper's program."""

_BOOT_TARGETS = {"linux-x64": "x86_64-linux-gnu.2.17", "linux-arm64": "aarch64-linux-gnu.2.17"}
"""What its boot program is compiled for: any glibc, for the libpython beside it is the one that asks for a newer."""

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
    "_pydecimal",  # decimal's Python twin; the one in C is there
    "anyio._backends._trio",  # asyncio is the event loop here
    "multiprocessing",  # processes are made by the supervisor
    "pydantic.mypy",
    "pydantic.v1",  # the library's own predecessor
)
"""What nothing here runs, beside the server's own list (``server/excluded.py``).

Each is met by the freezer on its way through the imports, which a test checks with the bundle's own listing.
"""

HIDDEN: dict[str, tuple[str, ...]] = {}
"""Imports that cannot be seen in the code, by program."""

_FORMAT = 1
"""Part of the cache key; one more whenever this file makes something else of the same input."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A frozen bundle: ``server`` is the folder to ship, ``licenses`` the texts of all that is in it.

    ``listing`` is JSON: ``members``, the name and origin of each file, and ``excluded``, what was met and left out.
    """

    server: Path
    licenses: Path
    listing: Path
    reused: bool


@dataclass(frozen=True, kw_only=True)
class _Input:
    """What is frozen, with which Python."""

    wheel: Path
    python: Path
    scripts: dict[str, str]
    excluded: tuple[str, ...]
    strip: bool
    compiler: ZigCompiler


def freeze(workspace: Workspace) -> Frozen:
    """Freeze the checkout's server for this machine's platform.

    Raises:
        BuildError: A step failed; the text shows the end of what it said.
    """
    python = environments.ensure(workspace.root, ENVIRONMENT, GROUPS)
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        source = _Input(
            wheel=_build_wheel(workspace, Path(folder)),
            python=python,
            scripts=_scripts(workspace),
            excluded=(*EXCLUDED_MODULES, *LEFT_OUT),
            strip=sys.platform != "darwin" and shutil.which("strip") is not None,
            compiler=ZigCompiler(zig=find_zig(), target=_BOOT_TARGETS.get(host_platform(), "native")),
        )
        found = entry(cache_root(), _key(workspace, source), lambda place: _freeze(source, place))
    return Frozen(
        server=found.path / "server",
        licenses=found.path / "licenses",
        listing=found.path / "listing.json",
        reused=found.reused,
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
        recipe=[file_sha256(path) for path in (_spec_file(), Path(licenses.__file__))],
        requirements=[environments.requirements(workspace.root, group) for group in GROUPS],
        constraints=file_sha256(workspace.root / environments.CONSTRAINTS),
        python=sys.version,
        libpython=_libpython_digest(),
        excluded=source.excluded,
        hidden=HIDDEN,
        optimize=OPTIMIZE,
        strip=source.strip,
        boot=[file_sha256(_boot_file()), source.compiler.identity],
    )


def _spec_file() -> Path:
    return Path(__file__).with_name("server.spec")


def _boot_file() -> Path:
    return Path(__file__).with_name("wrapper_boot.c")


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
    _run(
        [
            str(source.python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--force-reinstall",
            "--no-index",
            str(source.wheel),
        ]
    )
    work = folder / "work"
    work.mkdir()
    listing = _run_pyinstaller(source, work)
    (work / "dist" / "server").rename(folder / "server")
    if sys.platform == "linux":
        _boot_wrapper(source, folder / "server", work)
    licenses.collect(listing, site_packages=_site_packages(source.python), target=folder / "licenses")
    (work / "listing.json").rename(folder / "listing.json")
    shutil.rmtree(work)
    _check(folder / "server", source)


def _run_pyinstaller(source: _Input, work: Path) -> list[licenses.Member]:
    recipe = {
        "package": PACKAGE,
        "scripts": [str(_write_script(work, name, target)) for name, target in source.scripts.items()],
        "hidden": {name.replace("-", "_"): HIDDEN.get(name, ()) for name in source.scripts},
        "excludes": source.excluded,
        "dropped_data": [".dist-info"],
        "optimize": OPTIMIZE,
        "strip": source.strip,
        "listing": str(work / "listing.json"),
    }
    (work / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    command = [str(source.python), "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "WARN"]
    command += ["--distpath", str(work / "dist"), "--workpath", str(work / "work"), str(_spec_file())]
    # The seed fixes the order of entries in base_library.zip: the bundle is the same byte for byte each time.
    environ = {"PYTHONHASHSEED": "1", "PYINSTALLER_CONFIG_DIR": str(work / "config"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    _run([*command, "--", str(work / "recipe.json")], environ)
    listing = json.loads((work / "listing.json").read_bytes())
    return [licenses.Member(name=name, source=source) for name, source in listing["members"]]


def _write_script(work: Path, name: str, target: str) -> Path:
    module, function = target.split(":")
    path = work / f"{name.replace('-', '_')}.py"
    path.write_text(f"import sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n", encoding="utf-8")
    return path


def _boot_wrapper(source: _Input, server: Path, work: Path) -> None:
    """Put a boot program of our own in place of the wrapper's: the freezer's changes the process that is to exec.

    Its file says how. On macOS the freezer's stays, with its differences (tests/NAMED_EXCEPTIONS.md).
    """
    name = sysconfig.get_config_var("INSTSONAME")
    bundle = server / "_internal"
    extensions = next(bundle.glob("python3*/lib-dynload")).relative_to(bundle)
    defines = {"LIBRARY": name, "EXTENSIONS": extensions, "MODULE": source.scripts[WRAPPER].partition(":")[0]}
    command = [*source.compiler.command(), "-std=c11", "-D_GNU_SOURCE", "-Os", "-s", "-Wall", "-Wextra", "-Werror"]
    command += ["-fno-sanitize=all", "-Wl,--build-id=none", f"-ffile-prefix-map={_boot_file().parent}=src"]
    command += [f'-D{key}="{value}"' for key, value in defines.items()]
    headers = Path(sysconfig.get_path("include"))
    # Debian's pyconfig.h includes the machine's own by a path from the folder above, as the C library's headers are.
    command += ["-isystem", str(headers), "-idirafter", str(headers.parent)]
    command += ["-o", str(server / WRAPPER), str(_boot_file()), "-ldl"]
    (server / WRAPPER).unlink()
    environ = build_environ(folder=work, cache=cache_root(), epoch=load_lock().epoch)
    _run(command, environ)


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


def main() -> None:
    """Freeze and print where the bundle is."""
    frozen = freeze(find_workspace())
    how = "from the cache" if frozen.reused else "frozen"
    sys.stdout.write(f"{frozen.server} ({how}), sha256 of all files {digest(frozen.server)}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
