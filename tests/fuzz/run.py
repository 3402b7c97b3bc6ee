"""Runs the fuzz targets at the same time, each for as long, and says what they found: the nox session ``fuzz``.

``python -m fuzz.run [--minutes M] [--only c|python|server|hypothesis]... [--corpus FOLDER]``

- ``c``: ``src/native/frames.c`` under libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer (``frames_target.c``);
- ``python``: ``escalation/wire.py`` under atheris, each input through the C codec as well (``wire_target.py``);
- ``server``: whole calls with a hostile script in them, over sanitised natives (``server_target.py``);
- ``hypothesis``: the properties of the ordinary tests, with many more examples.

An input that something was found for is left in the corpus folder, beside each target's log; the exit status then is
not 0.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz import building
from fuzz.inputs import DICTIONARY, write_seeds
from shell_tool_release.errors import BuildError, PrerequisiteError, run_main
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGETS = ("c", "python", "server", "hypothesis")

MOST_BYTES = 8192
"""Longest input: the limits beyond it (64 KiB of reason, 6 MiB of strings) have tests of their own."""

EXAMPLES_A_MINUTE = 6000
"""What hypothesis does of the cheapest property in about a minute; it knows no time limit."""

SLACK = 600
"""Seconds more than its time after which a target is taken for hung: builds, and a first start, come out of these."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One target: its command, its environment, and its log."""

    name: str
    command: tuple[str, ...]
    environ: dict[str, str]
    log: Path


def _libfuzzer(folder: Path, name: str, minutes: float) -> tuple[str, ...]:
    """Options of libFuzzer: its time, limits for one input, and where things are."""
    corpus, seeds = folder / name, folder / "seeds"
    corpus.mkdir(parents=True, exist_ok=True)
    write_seeds(seeds)
    (folder / "dictionary").write_text(DICTIONARY)
    return (
        f"-max_total_time={max(1, int(60 * minutes))}",
        f"-max_len={MOST_BYTES}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        f"-dict={folder / 'dictionary'}",
        f"-artifact_prefix={folder}/{name}-",
        "-print_final_stats=1",
        str(corpus),
        str(seeds),
    )


def job(target: str, minutes: float, folder: Path) -> Job:
    """How a target is run; builds what it needs."""
    environ: dict[str, str] = {}
    match target:
        case "c":
            command = (str(building.frames_fuzzer()), *_libfuzzer(folder, target, minutes), "-use_value_profile=1")
        case "python":
            options = _libfuzzer(folder, target, minutes)
            command = (sys.executable, "-m", "fuzz.wire_target", str(building.library()), *options)
        case "server":
            natives = building.sanitised_natives()
            environ["CODEX_TEST_SUPERVISOR"] = str(natives["codex-shell-supervisor"])
            environ["CODEX_TEST_WRAPPER"] = str(natives["codex-execve-wrapper"])
            command = (sys.executable, "-m", "fuzz.server_target", "--minutes", f"{minutes:g}")
        case _:
            root = find_workspace().root
            environ["CODEX_FUZZ_EXAMPLES"] = str(max(100, int(EXAMPLES_A_MINUTE * minutes)))
            places = [str(root / "tests" / place) for place in ("fuzz", "wire/test_wire.py")]
            options = ("--hypothesis-profile", "fuzz", "--timeout", str(int(60 * minutes) + SLACK))
            command = (
                sys.executable,
                "-m",
                "pytest",
                "-q",
                *options,
                "-k",
                "property or garbage or come_back",
                *places,
            )
    return Job(name=target, command=command, environ=environ, log=folder / f"{target}.log")


def _start(one: Job) -> subprocess.Popen[bytes]:
    with one.log.open("wb") as log:
        return subprocess.Popen(
            one.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **one.environ},
            cwd=find_workspace().root,
        )


def run(jobs: Sequence[Job], seconds: float) -> list[str]:
    """Run all at the same time; the names of those that found something, whose logs' ends are printed."""
    running = [(one, _start(one)) for one in jobs]
    found = []
    for one, process in running:
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = -1
        lines = one.log.read_text(errors="replace").splitlines()
        print(f"{one.name}: {'nothing found' if status == 0 else f'FOUND SOMETHING (status {status})'}; {one.log}")
        print("\n".join(f"    {line}" for line in lines[-(8 if status == 0 else 60) :]), flush=True)
        found += [one.name] if status else []
    return found


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long each target runs (default: %(default)g)")
    parser.add_argument("--only", action="append", choices=TARGETS, help="leave the other targets out; can be repeated")
    parser.add_argument("--corpus", type=Path, help="where inputs and logs are kept (default: build/fuzz)")
    options = parser.parse_args()
    targets = tuple(options.only or TARGETS)
    missing = building.lacks(targets)
    if missing:
        raise PrerequisiteError("fuzzing lacks here:\n" + "\n".join(f"  - {one}" for one in missing))
    folder = (options.corpus or find_workspace().build / "fuzz").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [job(target, options.minutes, folder) for target in targets]
    found = run(jobs, 60 * options.minutes + SLACK)
    if found:
        raise BuildError(f"fuzzing found something: {', '.join(found)}; logs and inputs are in {folder}")


if __name__ == "__main__":
    sys.exit(run_main(main))
