"""Runs bash's own test suite, one script at a time, and compares what two shells make of it.

API::

    suite_files(tree, cache) -> SuiteFiles                 tests, four helper programs (by zig), locales
    suite_place(files, bash) -> SuitePlace                 a folder from which each script gets its own
    run_suite(SuiteOptions(...)) -> dict[str, Outcome]     by script name
    compare(one, other) -> tuple[Difference, ...]
    check_host(jobs) -> str                                this machine's variants against stock bash built by cc
    python -m shell_tool_release.bash_suite                that check
    python -m shell_tool_release.bash_suite --bash A [--against B] [--script run-array ...] [--libc musl]

Each script gets its own folder with the tests, its own TMPDIR, no terminal, a session that is ended whole at the
time limit, and, where this runs as root, an ordinary user: several tests expect permissions to hold.
The locales the suite asks for are made by ``localedef`` where the machine has it; without them some scripts say less.
Bash's own suite goes by what ``diff`` prints against the expected output; its exit status says the same here.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shell_tool_release.cache import Key, cache_root, entry
from shell_tool_release.errors import ConfigurationError, ReleaseError, run_main
from shell_tool_release.recipes.recipe import Recipe
from shell_tool_release.shells import ShellOptions, build_all
from shell_tool_release.sources import SourceOptions, SourceTree, bash_source
from shell_tool_release.toolchain import Step, SystemCompiler, ZigCompiler, build_environ, find_zig, run_step
from shell_tool_release.workspace import cpu_count, host_platform

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

EXCEPTIONS_FILE = Path(__file__).parent / "data" / "suite_exceptions.toml"
_HELPERS = ("recho", "zecho", "printenv", "xcase")
_NO_SCRIPTS = frozenset({"run-all", "run-minimal", "run-gprof"})  # run-all itself skips the other two
_TARGETS = {"linux-x64": "x86_64-linux-musl", "linux-arm64": "aarch64-linux-musl"}
_LOCALES = {  # name the C library looks for → definition, character set
    "de_DE.utf8": ("de_DE", "UTF-8"),
    "en_US.utf8": ("en_US", "UTF-8"),
    "fr_FR.iso88591": ("fr_FR", "ISO-8859-1"),
    "ja_JP.sjis": ("ja_JP", "SHIFT_JIS"),
    "ru_RU.cp1251": ("ru_RU", "CP1251"),
    "zh_HK.big5hkscs": ("zh_HK", "BIG5-HKSCS"),
    "zh_TW.big5": ("zh_TW", "BIG5"),
}
_LEFT_BEHIND = ("exec17.sub", "FN=/tmp/output-$$", "FN=$TMPDIR/output-$$")
"""The one script that leaves a file in /tmp: which line, and the one that leaves it in a folder that is removed."""
_NOBODY = 65534
_SECONDS = 120.0
_SHOWN = 60  # lines of a script's output on the command line


@dataclass(frozen=True, kw_only=True)
class SuiteFiles:
    """bash's ``tests`` folder, a folder with the helper programs, one with locales (None: this machine's own)."""

    tests: Path
    helpers: Path
    locales: Path | None


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """One run: the shell, the files, more environment (interception), which scripts (empty: all)."""

    bash: Path
    files: SuiteFiles
    environ: Mapping[str, str] = field(default_factory=dict)
    scripts: tuple[str, ...] = ()
    jobs: int = 2
    seconds: float = _SECONDS


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a script: ``output`` is diff's, with this run's own paths and process numbers taken out."""

    status: Literal["passed", "failed", "timed out"]
    output: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A script two shells disagree on."""

    script: str
    one: Outcome
    other: Outcome


def suite_files(tree: SourceTree, cache: Path) -> SuiteFiles:
    """Return the suite of a source tree with its helpers and locales built (cached)."""
    target = _TARGETS.get(host_platform())
    compiler = ZigCompiler(zig=find_zig(), target=target or "native")
    key = Key.of("suite-helpers", tree=tree.digest, compiler=compiler.identity, helpers=_HELPERS)

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as scratch:
            environ = build_environ(folder=Path(scratch), cache=cache, epoch=tree.epoch)
            Path(scratch, "config.h").write_text(
                "#define HAVE_UNISTD_H 1\n#define HAVE_STDLIB_H 1\n#define HAVE_STRING_H 1\n"
            )
            for name in _HELPERS:
                flags = ("-O2", "-DHAVE_CONFIG_H", f"-I{scratch}", f"-I{tree.path}", f"-I{tree.path}/include")
                source = str(tree.path / "support" / f"{name}.c")
                command = (*compiler.command(), *flags, "-o", str(folder / name), source)
                run_step(
                    Step(name=f"helper {name}", command=command), cwd=Path(scratch), environ=environ, log=folder / "log"
                )

    helpers = entry(cache, key, build).path
    return SuiteFiles(tests=tree.path / "tests", helpers=helpers, locales=_locales(cache))


def _locales(cache: Path) -> Path | None:
    """Folder for LOCPATH with the locales the suite uses; None where localedef or its definitions are missing."""
    localedef = shutil.which("localedef")
    if localedef is None or not Path("/usr/share/i18n/locales/en_US").is_file():
        return None
    version = subprocess.run([localedef, "--version"], capture_output=True, check=True, encoding="utf-8").stdout
    key = Key.of("suite-locales", localedef=version.splitlines()[0], locales=_LOCALES)

    def build(folder: Path) -> None:
        for name, (definition, charset) in _LOCALES.items():
            command = [localedef, "--no-archive", "--quiet", "-i", definition, "-f", charset, str(folder / name)]
            # Status 1 is "warnings were given": SHIFT_JIS is not ASCII-compatible, which is why the suite wants it.
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if not (folder / name / "LC_CTYPE").is_file():
                message = f"localedef made no locale {name}"
                raise ReleaseError(message)

    return entry(cache, key, build).path


def script_names(files: SuiteFiles) -> tuple[str, ...]:
    """All scripts of the suite, sorted."""
    names = (path.name for path in files.tests.glob("run-*"))
    return tuple(sorted(name for name in names if name not in _NO_SCRIPTS))


@dataclass(frozen=True, kw_only=True)
class ScriptFolder:
    """Where one script runs: its folder, the shell and the tests in it, and the environment it needs."""

    folder: Path
    bash: Path
    tests: Path
    environ: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SuitePlace:
    """A shell and the suite in a folder of their own, which ordinary users can read. Made by :func:`suite_place`."""

    folder: Path
    bash: Path
    localized: bool

    def with_shell(self, bash: Path) -> SuitePlace:
        """The same place with another shell."""
        return replace(self, bash=_reachable(bash, self.folder))

    def lay_out(self, name: str) -> ScriptFolder:
        """Make the folder ``name`` for one run of a script: with its own shell, whose group run-test changes."""
        home = self.folder / name
        tests, temporary = home / "tests", home / "tmp"
        shutil.copytree(self.folder / "tests", tests, copy_function=_link_or_copy)
        temporary.mkdir()
        bash = _reachable(self.bash, home)
        environ = {
            "PATH": f"{tests}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "THIS_SH": str(bash),
            "BUILD_DIR": str(self.folder),
            "BASH_TSTOUT": str(temporary / "output"),
            "TERM": "dumb",
            **({"LOCPATH": str(self.folder / "locales")} if self.localized else {}),
        }
        return ScriptFolder(folder=home, bash=bash, tests=tests, environ=environ)


def _link_or_copy(source: str, target: str) -> None:
    """740 files for each of 86 scripts. Not programs: each link made or removed changes the times of a file, and what
    is decided about a program holds only while it stays as it was."""
    if os.access(source, os.X_OK):
        shutil.copy2(source, target)
    else:
        os.link(source, target)


@contextmanager
def suite_place(files: SuiteFiles, bash: Path) -> Iterator[SuitePlace]:
    """Copy shell and suite to a temporary folder.

    Some scripts use fixed names in ``/tmp``, so a user has one such place at a time; a second one waits here.
    """
    with (
        (cache_root() / "bash-suite.lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="bash-suite-", ignore_cleanup_errors=True) as root,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = Path(root)
        place.chmod(0o755)
        shutil.copytree(files.tests, place / "tests")
        _tidy(place / "tests")
        for helper in _HELPERS:
            shutil.copy2(files.helpers / helper, place / "tests" / helper)
        if files.locales is not None:
            shutil.copytree(files.locales, place / "locales")
        yield SuitePlace(folder=place, bash=_reachable(bash, place), localized=files.locales is not None)


def _tidy(tests: Path) -> None:
    name, line, instead = _LEFT_BEHIND
    text = (tests / name).read_bytes()
    if text.count(line.encode()) != 1:
        message = f"{name} of bash's suite has no line {line} any more: look whether it still leaves a file behind"
        raise ReleaseError(message)
    (tests / name).write_bytes(text.replace(line.encode(), instead.encode()))


def _reachable(bash: Path, place: Path) -> Path:
    """A copy of a shell: where it lies, an ordinary user may not be able to reach it."""
    folder = Path(tempfile.mkdtemp(prefix="shell-", dir=place))
    folder.chmod(0o755)
    shutil.copyfile(bash, folder / "bash")
    (folder / "bash").chmod(0o755)
    return folder / "bash"


def run_suite(options: SuiteOptions) -> dict[str, Outcome]:
    """Run the scripts, several at a time; ConfigurationError for a script the suite does not have."""
    known = script_names(options.files)
    scripts = options.scripts or known
    for script in scripts:
        if script not in known:
            message = f"bash's suite has no script {script}; it has {', '.join(known)}"
            raise ConfigurationError(message)
    with suite_place(options.files, options.bash) as place, ThreadPoolExecutor(options.jobs) as pool:
        outcomes = pool.map(lambda script: _run_script(script, place, options), scripts)
        return dict(zip(scripts, outcomes, strict=True))


def _run_script(script: str, place: SuitePlace, options: SuiteOptions) -> Outcome:
    at = place.lay_out(script)
    user = _give_away(at.folder)
    with (at.folder / "log").open("w+b") as log:
        process = subprocess.Popen(
            ["/bin/sh", script],
            cwd=at.tests,
            env={**at.environ, **options.environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.DEVNULL,  # "warning: ..." for the reader of a terminal
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        code = wait_and_end(process, options.seconds)
        log.seek(0)
        output = log.read().decode("utf-8", "backslashreplace")
    shutil.rmtree(at.folder, ignore_errors=True)
    status: Literal["passed", "failed", "timed out"] = "timed out" if code is None else "failed" if code else "passed"
    return Outcome(status=status, output=_neutral(output, place, at))


def _give_away(home: Path) -> int | None:
    """Make an ordinary user the owner of the folders when this is root; returns the user to run as."""
    if os.geteuid() != 0:
        return None
    for path in [home, *home.rglob("*")]:
        if path.is_dir():
            os.chown(path, _NOBODY, _NOBODY)
    return _NOBODY


def wait_and_end(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for a session's leader, then end its whole session; its return code, or None if the time was up."""
    try:
        code: int | None = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    _end_session(process)
    return code


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the script's session; job control makes groups a kill of one would miss."""
    for _ in range(20):  # a process may fork between the look and the kill; each round finds fewer
        members = _session_members(process.pid)
        if not members:
            break
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.poll()
    process.wait()


def _session_members(session: int) -> list[int]:
    """Living processes of a session, from proc(5), or from ps(1) where there is no /proc."""
    rows = _proc_rows() if Path("/proc/self/stat").exists() else _ps_rows()
    return [int(pid) for pid, owner, state in rows if owner == str(session) and not state.startswith("Z")]


def _proc_rows() -> list[tuple[str, str, str]]:
    rows = []
    for path in Path("/proc").glob("[0-9]*"):  # a longer pattern would look at each, which may be gone
        try:
            status = (path / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        after_name = status.rpartition(")")[2].split()
        rows.append((path.name, after_name[3], after_name[0]))
    return rows


def _ps_rows() -> list[tuple[str, str, str]]:
    done = subprocess.run(["ps", "-A", "-o", "pid=,sess=,stat="], capture_output=True, check=True, encoding="utf-8")
    rows = (line.split() for line in done.stdout.splitlines())
    return [(pid, owner, state) for pid, owner, state, *_ in rows]


def _neutral(output: str, place: SuitePlace, at: ScriptFolder) -> str:
    """Take this run's folder and process numbers out, so that two runs can be compared."""
    text = output.replace(str(at.bash), "THIS_SH")
    text = text.replace(str(place.folder), "PLACE").replace(place.folder.name, "PLACE")
    return re.sub(r"\b\d{3,7}\b", "N", text)


def compare(one: Mapping[str, Outcome], other: Mapping[str, Outcome]) -> tuple[Difference, ...]:
    """Scripts whose status or output differs."""
    return tuple(
        Difference(script=script, one=one[script], other=other[script])
        for script in sorted(one)
        if one[script] != other[script]
    )


def failures(outcomes: Mapping[str, Outcome]) -> tuple[str, ...]:
    """Scripts that did not pass."""
    return tuple(sorted(script for script, outcome in outcomes.items() if outcome.status != "passed"))


def exceptions(libc: str, path: Path = EXCEPTIONS_FILE) -> dict[str, str]:
    """Named differences from stock bash built by the system's compiler: script → reason."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return dict(table.get(libc, {}))


def unexplained(found: Sequence[Difference], named: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Scripts that differ without a name, and names that no longer differ."""
    scripts = {difference.script for difference in found}
    return sorted(scripts - set(named)), sorted(set(named) - scripts)


def check_host(jobs: int) -> str:
    """Build stock bash with this machine's compiler, compare every variant of the host with it; returns a report.

    ReleaseError names the scripts that differ without a name, or have a name and do not differ.
    """
    options = ShellOptions.default()
    stock = Recipe(variant=options.variants[0], patch=None, compiler=SystemCompiler())
    reference, *shells = build_all([stock, *options.recipes], options.context)
    files = suite_files(bash_source(options.context.sources), options.context.cache)
    expected = run_suite(SuiteOptions(bash=reference.path, files=files, jobs=jobs))
    lines = [f"stock bash by cc: {len(expected)} scripts, not passed: {_listed(failures(expected))}"]
    wrong: list[str] = []
    for shell in shells:
        libc = shell.recipe.variant.libc
        named = exceptions(libc)
        found = run_suite(SuiteOptions(bash=shell.path, files=files, jobs=jobs))
        differences = compare(found, expected)
        lines.append(f"{shell.recipe.label}: not passed: {_listed(failures(found))}")
        lines += [
            f"  differs: {difference.script} ({difference.one.status}, stock {difference.other.status}): "
            f"{named.get(difference.script, 'NOT NAMED')}"
            for difference in differences
        ]
        unnamed, stale = unexplained(differences, named)
        wrong += [f"{shell.recipe.label}: {script} differs without a name" for script in unnamed]
        if files.locales is not None:  # without locales several scripts say less
            wrong += [f"{shell.recipe.label}: {script} is named but does not differ" for script in stale]
    report = "\n".join(lines)
    if wrong:
        message = f"bash's suite: {'; '.join(wrong)} (see {EXCEPTIONS_FILE})\n{report}"
        raise ReleaseError(message)
    return report


def _listed(names: Sequence[str]) -> str:
    return " ".join(names) or "none"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m shell_tool_release.bash_suite", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bash", type=Path, help="the shell to test (default: check all variants of this machine)")
    parser.add_argument("--against", type=Path, help="the shell to compare it with")
    parser.add_argument("--script", action="append", default=[], help="only these scripts of the suite")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for --bash only")
    parser.add_argument("--libc", choices=("glibc", "musl", "macos"), help="allow this libc's named differences")
    parser.add_argument("--jobs", type=int, default=2 * cpu_count(), help="scripts at a time (many of them sleep)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Check this machine's variants, or run the suite on one shell (and fail on differences without a name)."""
    arguments = _arguments(argv)
    if arguments.bash is None:
        sys.stdout.write(check_host(arguments.jobs) + "\n")
        return
    files = suite_files(bash_source(SourceOptions.default()), cache_root())
    environ = dict(pair.split("=", 1) for pair in arguments.env)
    base = SuiteOptions(bash=arguments.bash, files=files, scripts=tuple(arguments.script), jobs=arguments.jobs)
    one = run_suite(replace(base, environ=environ))
    sys.stdout.write(f"{arguments.bash}: {len(one)} scripts, not passed: {_listed(failures(one))}\n")
    if arguments.against is None:
        return
    other = run_suite(replace(base, bash=arguments.against))
    sys.stdout.write(f"{arguments.against}: {len(other)} scripts, not passed: {_listed(failures(other))}\n")
    named = exceptions(arguments.libc) if arguments.libc else {}
    found = compare(one, other)
    for difference in found:
        _show(difference, named, arguments)
    unnamed, _ = unexplained(found, named)
    if unnamed:
        message = f"{len(unnamed)} scripts differ without a named reason: {', '.join(unnamed)}"
        raise ReleaseError(message)


def _show(difference: Difference, named: Mapping[str, str], arguments: argparse.Namespace) -> None:
    reason = named.get(difference.script, "NOT NAMED")
    sys.stdout.write(f"\n{difference.script}: {difference.one.status} / {difference.other.status} ({reason})\n")
    for shell, outcome in ((arguments.bash, difference.one), (arguments.against, difference.other)):
        shown = "\n".join(outcome.output.splitlines()[:_SHOWN])
        sys.stdout.write(f"--- {shell}\n{shown}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
