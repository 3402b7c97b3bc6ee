"""The pipeline: each session is a step of :mod:`shell_tool_release` in an environment that the sessions share.

``./run`` runs this with a nox of its own; any other nox works as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "src"))

from shell_tool_release import environments, options  # noqa: E402  (the line above is its path)

nox.needs_version = ">=2025.11"
nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "none"

WORK = "work"
"""The environment of all sessions: the compiler alone is 400 MB, and a release has seven of them."""


def python(session: nox.Session, *groups: str, arguments: tuple[str, ...]) -> None:
    """Run the shared environment's Python, which holds at least ``groups``, with ``arguments``."""
    program = environments.ensure(ROOT, WORK, (environments.PROJECT, *groups))
    session.run(str(program), *arguments, env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}, external=True)


def step(session: nox.Session, module: str, *arguments: str) -> None:
    """Run one step of the release."""
    python(session, "release", arguments=("-m", f"shell_tool_release.{module}", *arguments))


@nox.session
def patch(session: nox.Session) -> None:
    """Fetch the shells' locked sources and apply our patches to them, exactly."""
    step(session, "sources")
    step(session, "zsh_source")


@nox.session(requires=["patch"])
def shells(session: nox.Session) -> None:
    """Build every shell variant of this platform with zig; -- --target all for every platform's, --keep-going."""
    step(session, "shells", *options.split(session.posargs)[0])


@nox.session
def native(session: nox.Session) -> None:
    """Build the exec wrapper and the supervisor, static; -- --target all for every platform's, --keep-going."""
    step(session, "native", *options.split(session.posargs)[0])


@nox.session
def freeze(session: nox.Session) -> None:
    """Freeze the server and the Python wrapper into one folder that needs no Python; -- --target T as above."""
    step(session, "freeze", *options.split(session.posargs)[0])


@nox.session(requires=["shells", "native", "freeze"])
def vendor(session: nox.Session) -> None:
    """Put everything built together in vendor/, laid out as it ships; -- --target T for another platform."""
    step(session, "vendor", *options.split(session.posargs)[0])


@nox.session(requires=["vendor"])
def pack(session: nox.Session) -> None:
    """Write the npm package to dist/npm/ and print what its parts weigh."""
    step(session, "npm")


@nox.session(requires=["pack"])
def smoke(session: nox.Session) -> None:
    """Install the package with npm and do a real job through npx with each shell, or those of -- --shell S."""
    step(session, "smoke", *options.split(session.posargs)[1])


@nox.session
def wheels(session: nox.Session) -> None:
    """Build the source archive and the wheel of every platform in dist/python/; -- --target T for one."""
    step(session, "wheels", *session.posargs)


@nox.session(requires=["wheels"])
def try_wheel(session: nox.Session) -> None:
    """Run this machine's wheel by uvx, pipx run, pip and python -m, each doing a real job (needs a package index)."""
    python(session, "release", "wheels", arguments=("-m", "shell_tool_release.wheel_trial"))


@nox.session
def cibuildwheel(session: nox.Session) -> None:
    """Build this machine's wheel from dist/python's source archive by cibuildwheel (Docker on Linux), and compare."""
    python(session, "release", "wheels", arguments=("-m", "shell_tool_release.ci_wheel"))


@nox.session
def evidence(session: nox.Session) -> None:
    """Write manifests, bills of materials and SHA256SUMS of what is in dist/ to dist/evidence/."""
    step(session, "evidence", *session.posargs)


@nox.session
def reproducible(session: nox.Session) -> None:
    """Build everything twice under different circumstances and compare; -- --write puts the hashes into the docs."""
    step(session, "reproducible", *session.posargs)


@nox.session
def published(session: nox.Session) -> None:
    """Compare the files of a release with what npm and the Python index hand out; -- FOLDER holds the files."""
    python(session, "release", "wheels", arguments=("-m", "shell_tool_release.published", *session.posargs))


@nox.session
def refresh(session: nox.Session) -> None:
    """Lock what is new upstream and say what changed; -- --dry-run changes nothing, -- --lock upgrades nothing."""
    python(session, "release", "wheels", arguments=("-m", "shell_tool_release.refresh", *session.posargs))


@nox.session(requires=["smoke"])
def release(session: nox.Session) -> None:
    """All of the above: from the clone to a package that was tried (the README's first command)."""
    if unknown := options.split(session.posargs)[1]:
        session.error(f"not an option of a release: {' '.join(unknown)}")
    session.log("The package is in dist/npm/.")


@nox.session
def version(session: nox.Session) -> None:
    """Say what RELEASE_TAG (or the project, without) would release, and whether that would be published."""
    session.run(
        sys.executable, "-m", "shell_tool_release.versions", env={"PYTHONPATH": f"{ROOT / 'src'}"}, external=True
    )


@nox.session(requires=["vendor"])
def handover(session: nox.Session) -> None:
    """Bundle what was built here into dist/platforms/, for the machine that packs all platforms."""
    step(session, "handover", "bundle")


@nox.session
def assemble(session: nox.Session) -> None:
    """Pack the bundles in dist/platforms/ into one package, building nothing; -- --all fails without a platform."""
    step(session, "handover", "gather", *session.posargs)
    step(session, "npm")


@nox.session
def try_package(session: nox.Session) -> None:
    """Do what smoke does with the package that is in dist/npm/ already, wherever it was made."""
    step(session, "smoke", *session.posargs)


@nox.session
def offer(session: nox.Session) -> None:
    """Put the finished package, its hashes and the scripts that publish it where the workflow takes them from."""
    step(session, "handover", "offer")


@nox.session(requires=["pack"])
def publish_check(session: nox.Session) -> None:
    """Publish the package to a registry on loopback as the release workflow does, install and call it from there."""
    python(session, "release", environments.PROJECT, "publish", arguments=("-m", "shell_tool_release.publish_check"))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests (the README's second command); arguments after -- go to pytest."""
    groups = ("run", "release", "test", "wheels")
    # Built here, once, because a build takes longer than a single test may.
    for module in ("support.built", "shell_tool_release.freeze"):
        python(session, *groups, arguments=("-m", module))
    # The other sessions' tests may take twice as long (pyproject.toml).
    limit = ("-o", "faulthandler_timeout=1000")
    python(session, *groups, arguments=("-m", "pytest", "-n", "2", *limit, *session.posargs))


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take minutes each: the README's manual steps to build bash."""
    python(session, "run", "release", "test", arguments=("-m", "pytest", "-m", "slow", *session.posargs))


@nox.session(requires=["workflows"])
def lint(session: nox.Session) -> None:
    """Check style, formatting and types, and the workflows."""
    groups = ("run", "release", "test", "lint")
    for arguments in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)):
        python(session, *groups, arguments=("-m", *arguments))


@nox.session(requires=["pack"])
def installs(session: nox.Session) -> None:
    """Install the package with npm 10, 11, 12 and pnpm in every way people do, also offline, and call the tool."""
    python(session, "release", environments.PROJECT, "publish", arguments=("-m", "shell_tool_release.installs"))


@nox.session
def docs(session: nox.Session) -> None:
    """Build, check and start every platform's programs, and write the table in docs/releasing.md."""
    step(session, "programs", *session.posargs)


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflows and the shell scripts with zizmor, actionlint, their schema and shellcheck."""
    python(session, "release", "workflows", arguments=("-m", "shell_tool_release.workflows"))


@nox.session
def matrix(session: nox.Session) -> None:
    """Build every platform's programs on this machine and look at each; arm64's, its server too, run under qemu."""
    groups = ("run", "release", "test")
    for module in ("shells", "native", "freeze"):
        python(session, *groups, arguments=("-m", f"shell_tool_release.{module}", "--target", "all", "--keep-going"))
    python(session, *groups, arguments=("-m", "pytest", "-m", "matrix", *session.posargs))


@nox.session
def suite(session: nox.Session) -> None:
    """Compare bash's own test suite without interception, with every exec run, and with every exec escalated."""
    groups = ("run", "release", "test")
    python(session, *groups, arguments=("-m", "support.built"))
    python(session, *groups, arguments=("-m", "pytest", "-m", "suite", *session.posargs))


@nox.session
def suite_zsh(session: nox.Session) -> None:
    """Compare zsh's own test suite stock, patched, with every exec run, and with every exec escalated."""
    groups = ("run", "release", "test")
    python(session, *groups, arguments=("-m", "support.built"))
    python(session, *groups, arguments=("-m", "pytest", "-m", "suite_zsh", *session.posargs))


@nox.session
def stock(session: nox.Session) -> None:
    """Compare bash's own test suite under our builds and a stock one by this machine's compiler."""
    step(session, "bash_suite", *session.posargs)


@nox.session(requires=["pack"])
def bench(session: nox.Session) -> None:
    """Measure the package side by side with the npm build of the original; the table goes into bench/README.md."""
    python(session, "release", arguments=("-m", "bench", "--write", *session.posargs))


@nox.session(requires=["pack"])
def roots(session: nox.Session) -> None:
    """Try the package in Debian 11, 12, 13 and without glibc, as root and as a user (needs root and debootstrap)."""
    groups = ("run", "release", "test", "publish")
    python(
        session, *groups, arguments=("-m", "pytest", "-m", "roots", "tests/roots", *options.split(session.posargs)[1])
    )


@nox.session
def fresh(session: nox.Session) -> None:
    """Run the README's first command as a new user in minimal Debian systems (needs root and debootstrap)."""
    step(session, "fresh", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz both codecs and whole calls for ten minutes, all at once; -- --minutes M for another time."""
    groups = ("run", "release", "test", "fuzz")
    python(session, *groups, arguments=("-m", "support.built"))
    python(session, *groups, arguments=("-m", "fuzz.run", *session.posargs))


@nox.session
def soak(session: nox.Session) -> None:
    """Run 100,000 execs through one server and see that nothing grows; -- --execs N for another number."""
    groups = ("run", "release", "test")
    python(session, *groups, arguments=("-m", "support.built"))
    python(session, *groups, arguments=("-m", "soak.run", *session.posargs))
