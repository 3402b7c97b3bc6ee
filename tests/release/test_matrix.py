"""Every shell and native program of every platform, made on this machine: what they are, and that arm64's work.

``./run matrix`` builds them all (minutes, once) and runs this. macOS programs are read, not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from release.conftest import cannot
from release.test_binaries import readelf
from shell_tool_release import emulation, macho
from shell_tool_release.binaries import check_binary, describe
from shell_tool_release.native import NativeOptions, build_native
from shell_tool_release.options import TARGETS
from shell_tool_release.shells import KINDS, ShellOptions, build_shell
from shell_tool_release.variants import Variant, load_variants
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1800)]  # a shell takes minutes when the cache is empty

ROWS = [row for row in load_variants(find_workspace().variants_file) if row.shell in KINDS]
LARGEST = {"bash": 1_500_000, "zsh": 2_300_000}

NOT_UNDER_QEMU = {
    "test_run_is_exact": "qemu hands the environment on in another order",
    "test_the_environment_is_the_same_to_the_byte": "and drops what has no equals sign, and doubles",
    "test_hard_descriptor_limit_too_low": "qemu itself needs descriptors",
    "test_the_program_finds_the_process_as_the_shell_left_it": "the kernel tells qemu's own signal handlers",
    "test_the_supervisor_is_told_the_same": "real-time signals have other numbers inside qemu",
    "test_it_dies_of_the_signal_its_program_died_of": "the same",
    "test_signals_are_forwarded_even_ignored_ones": "the same",
}
"""What qemu-user 7.2 does not do as a kernel does, by the test that meets it. On a real machine nothing is left out."""


def shell(row: Variant) -> Path:
    """The row's shell, from the cache or built."""
    options = ShellOptions.default()
    return build_shell(options.recipe(row), replace(options.context, quiet=True)).path


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_a_shell_is_what_its_row_says(row: Variant) -> None:
    path = shell(row)
    check_binary(path, target=row.target, libc=row.libc, baseline=row.baseline, forbidden=())
    assert 900_000 < path.stat().st_size < LARGEST[row.shell]
    found = describe(path)
    if row.libc == "glibc":
        assert found.needs <= (2, 17)
        assert set(found.libraries) <= {"libc.so.6", "libdl.so.2", "libm.so.6"}
    if row.libc == "macos":
        assert found.needs == (11, 0)
        assert found.libraries == ("/usr/lib/libSystem.B.dylib",)
        assert macho.read(path.read_bytes()).adhoc is (row.target == "darwin-arm64")
    elif shutil.which("readelf"):
        assert (found.libraries, found.needs, found.dynamic) == readelf(path)
    else:
        cannot("readelf is not here (Debian: apt install binutils)")


@pytest.mark.parametrize("target", TARGETS)
def test_a_native_program_is_what_it_should_be(target: str) -> None:
    built = build_native(replace(NativeOptions.default(), targets=(target,), quiet=True))
    assert [program.name for program in built] == ["codex-execve-wrapper", "codex-shell-supervisor"]
    libc, baseline = ("musl", "") if target.startswith("linux") else ("macos", "11.0")
    for program in built:
        check_binary(program.path, target=target, libc=libc, baseline=baseline, forbidden=())
        assert program.path.stat().st_size < 100_000


def emulated(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command where arm64 programs work."""
    if reason := emulation.needed():
        cannot(reason)
    environ = os.environ | {"QEMU_LD_PREFIX": str(emulation.SYSROOT)} | variables
    return subprocess.run(emulation.inside(command), env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("row", [row for row in ROWS if row.target == "linux-arm64"], ids=lambda row: row.label)
def test_an_arm64_shell_does_what_a_cross_configured_one_could_lack(row: Variant) -> None:
    script = "cat <(echo pipe); echo a{1..3}; trap -l 2>/dev/null | grep -c SIGRTMIN; printf '%d\\n' 0x10"
    quiet = ["--norc", "-c"] if row.shell == "bash" else ["-fc"]
    done = emulated([str(shell(row)), *quiet, script])
    expected = "pipe\na1 a2 a3\n4\n16\n" if row.shell == "bash" else "pipe\na1 a2 a3\n0\n16\n"
    assert done.stdout == expected, done.stderr


def test_the_patch_holds_on_arm64(tmp_path: Path) -> None:
    """Whole escalations in both shells, with arm64's shell and wrapper under this machine's server.

    The static shells: the tests give their programs an environment of their own, in which qemu finds no glibc.
    """
    conformance(tmp_path, ["tests/behaviour/test_escalation.py"])


def test_the_wrapper_conforms_on_arm64(tmp_path: Path) -> None:
    conformance(tmp_path, ["tests/native/test_wrapper.py", "tests/wire/test_clients_process.py"])


def conformance(folder: Path, tests: list[str]) -> None:
    """Run tests with arm64's shells and wrapper in place of this machine's; each failure is named.

    The supervisor is this machine's: qemu-user has no PR_SET_CHILD_SUBREAPER, without which ours does not start.
    """
    natives = build_native(replace(NativeOptions.default(), targets=("linux-arm64",), quiet=True))
    rows = [row for row in ROWS if (row.target, row.variant) == ("linux-arm64", "musl")]
    assert {row.shell for row in rows} == {"bash", "zsh"}
    shells = {f"CODEX_TEST_{row.shell.upper()}{libc}": str(shell(row)) for row in rows for libc in ("", "_MUSL")}
    left_out = "" if os.uname().machine == "aarch64" else " or ".join(NOT_UNDER_QEMU)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", f"--basetemp={folder}/t"]
    command += ["-k", f"not ({left_out})"] if left_out else []
    done = emulated(
        [*command, *tests],
        CODEX_TEST_WRAPPER=str(natives[0].path),
        **shells,
    )
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, f"{failed}\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}"
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 25


def test_what_is_left_out_is_there() -> None:
    """A name that no test has any more would leave nothing out, and hide that."""
    root = find_workspace().root
    text = "".join(
        (root / name).read_text() for name in ("tests/native/test_wrapper.py", "tests/wire/test_clients_process.py")
    )
    assert [name for name in NOT_UNDER_QEMU if f"def {name}(" not in text] == []
