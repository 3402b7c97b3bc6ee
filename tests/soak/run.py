"""Many execs through one real server, its memory and descriptors and its supervisor's sampled all along.

``python -m soak.run [--execs N] [--every N]``; CODEX_TEST_SERVER names a frozen server to be tried in place of this
checkout's. Half of the execs are made by one call, whose supervisor is watched as well; the other half by calls of a
hundred execs. Of ten execs eight are run in the sandbox, one is escalated and one denied, and the script counts that
each came out so. Passes when nothing grows: see :data:`TOLERANCES`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release.errors import BuildError, run_main
from soak.flat import Trend, trend
from support.clients import UPDATE, Installation, Raw, state
from support.marked import supervisors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOLERANCES = {"server": 512.0, "supervisor": 64.0}
"""KiB of resident memory by which the last quarter's median may exceed the first's. Between the two lie 22,500 execs of
50,000, so that a leak of 25 bytes an exec is seen. Descriptors: none."""

PER_CALL = 100
"""Execs of each of the short calls."""

LEAST_SAMPLES = 16
"""Of each half; fewer do not make quarters after the warm-up."""

RULES = """
prefix_rule(pattern = ["grep"], decision = "allow")
prefix_rule(pattern = ["false"], decision = "forbidden")
"""

# The escalated program proves where it ran: outside, nothing has set the flag that a sandbox sets.
SCRIPT = r"""
ran=0 escalated=0 denied=0
for ((i = 1; i <= %(execs)d; i++)); do
    case $((i %% 10)) in
    3) /bin/grep -q 'NoNewPrivs:.0' /proc/self/status && escalated=$((escalated + 1)) ;;
    7) /bin/false 2>/dev/null; [ $? = 1 ] && denied=$((denied + 1)) ;;
    *) /bin/true && ran=$((ran + 1)) ;;
    esac
    ((i %% %(every)d)) || echo $i >%(progress)s
done
echo "$ran $escalated $denied"
"""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at a process: execs so far, KiB of resident memory now and at its most, open descriptors."""

    execs: int
    resident: int
    peak: int
    descriptors: int


@dataclass(kw_only=True)
class Watch:
    """The samples of one process."""

    name: str
    samples: list[Sample] = field(default_factory=list)

    def look(self, pid: int, execs: int) -> None:
        """Take a sample; nothing if the process is gone."""
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            # The least of a few looks: what an exec has open at the moment is not what stays.
            counts = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for _ in range(3)]
        except OSError:
            return
        values = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.split()}
        if "VmRSS" in values:
            self.samples.append(
                Sample(
                    execs=execs,
                    resident=int(values["VmRSS"]),
                    peak=int(values["VmHWM"]),
                    descriptors=min(counts),
                )
            )

    def trends(self, tolerance: float) -> list[Trend]:
        """How its figures went."""
        execs = [one.execs for one in self.samples]
        resident = [float(one.resident) for one in self.samples]
        descriptors = [float(one.descriptors) for one in self.samples]
        return [
            trend(f"{self.name}, KiB resident", execs, resident, tolerance=tolerance),
            trend(f"{self.name}, descriptors", execs, descriptors, tolerance=0, least=True),
        ]


def expected(execs: int) -> str:
    """What the script counts."""
    tens, rest = divmod(execs, 10)
    escalated, denied = tens + (rest >= 3), tens + (rest >= 7)
    return f"{execs - escalated - denied} {escalated} {denied}\n"


def _call(raw: Raw, number: int, execs: int, every: int, progress: Path) -> None:
    script = SCRIPT % {"execs": execs, "every": every, "progress": progress}
    raw.send(raw.call(number, script, timeout_ms=3_600_000))
    output = raw.result()["output"]
    if output != expected(execs):
        raise BuildError(f"a call of {execs} execs counted {output!r}, not {expected(execs)!r}")


def _while_calling(call: Callable[[], None], look: Callable[[], None]) -> None:
    """Look every now and then while a call goes on."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        look()
        thread.join(0.02)
    if failed:
        raise failed[0]


def long_call(raw: Raw, execs: int, every: int, server: Watch, supervisor: Watch) -> None:
    """One call of many execs, its supervisor watched as well."""
    progress, seen = raw.workdir / "progress", 0

    def look() -> None:
        nonlocal seen
        count = int(progress.read_text() or 0) if progress.exists() else 0
        if count > seen:
            seen = count
            server.look(raw.process.pid, count)
            for pid in supervisors(raw.process.pid):
                supervisor.look(pid, count)

    _while_calling(lambda: _call(raw, 1, execs, every, progress), look)


def short_calls(raw: Raw, execs: int, every: int, server: Watch) -> None:
    """The same number of execs in calls of a hundred."""
    for done in range(0, execs, PER_CALL):
        _call(raw, 2 + done, min(PER_CALL, execs - done), 1_000_000, raw.workdir / "progress")
        if (done + PER_CALL) % every == 0:
            server.look(raw.process.pid, done + PER_CALL)


def soak(folder: Path, execs: int, every: int) -> list[Trend]:
    """Run it all; how every figure went. Prints the samples."""
    installation = Installation(home=folder / "home", workdir=folder / "work")
    installation.home.mkdir()
    installation.workdir.mkdir()
    installation.rules(RULES)
    one, many = Watch(name="server, one call"), Watch(name="server, short calls")
    supervisor = Watch(name="supervisor")
    with installation.raw() as raw:
        # Not the option, which makes all of /tmp writable: rules that scripts can write may grant nothing.
        only_workdir = state(
            "workspace-write", installation.workdir, exclude_tmpdir_env_var=True, exclude_slash_tmp=True
        )
        raw.send({"id": 1, "method": UPDATE, "params": only_workdir})
        raw.receive()
        begun = time.monotonic()
        long_call(raw, execs // 2, every, one, supervisor)
        between = time.monotonic()
        short_calls(raw, execs - execs // 2, max(every, PER_CALL), many)
        ended = time.monotonic()
    for watch in (one, supervisor, many):
        print(f"\n{watch.name}\n{'execs':>8} {'VmRSS':>8} {'VmHWM':>8} {'fds':>5}")
        for sample in watch.samples:
            print(f"{sample.execs:8} {sample.resident:8} {sample.peak:8} {sample.descriptors:5}")
    half = execs // 2
    print(
        f"\n{execs} execs: {1000 * (between - begun) / half:.2f} ms each in one call,"
        f" {1000 * (ended - between) / (execs - half):.2f} ms each in calls of {PER_CALL}"
    )
    return [
        *one.trends(TOLERANCES["server"]),
        *supervisor.trends(TOLERANCES["supervisor"]),
        *many.trends(TOLERANCES["server"]),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m soak.run", description=__doc__.splitlines()[0])
    parser.add_argument("--execs", type=int, default=100_000, help="how many in all (default: %(default)s)")
    parser.add_argument(
        "--every", type=int, help="execs between two samples (default: 1,000, or fewer of a short soak)"
    )
    options = parser.parse_args(arguments)
    every = options.every or max(PER_CALL, min(1000, options.execs // 40))
    if options.execs < 2 * LEAST_SAMPLES * every:
        parser.error(f"at least {2 * LEAST_SAMPLES * every} execs are needed for two times {LEAST_SAMPLES} samples")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        trends = soak(Path(folder), options.execs, every)
    print(f"\n{'':32} {'first ¼':>10} {'last ¼':>10} {'per 1,000':>12} {'allowed':>10}")
    print("\n".join(map(str, trends)))
    grown = [one.name for one in trends if not one.flat]
    if grown:
        raise BuildError(f"over {options.execs} execs these grew: {'; '.join(grown)}")


if __name__ == "__main__":
    sys.exit(run_main(main))
