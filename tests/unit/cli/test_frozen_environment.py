"""What a frozen program must not pass on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codex_shell_tool_mcp import frozen_environment
from codex_shell_tool_mcp.frozen_environment import clean
from support import sources

HOME = {b"_PYI_APPLICATION_HOME_DIR": b"/opt/pkg/_internal"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({b"PATH": b"/bin"}, {b"PATH": b"/bin"}),
        ({b"_PYI_ARCHIVE_FILE": b"x", b"_PYI_PARENT_PROCESS_LEVEL": b"1", b"A": b"1"}, {b"A": b"1"}),
        ({b"PYINSTALLER_RESET_ENVIRONMENT": b"1", b"_MEIPASS2": b"/x"}, {}),
        ({b"LD_LIBRARY_PATH": b"/opt/pkg/_internal"}, {}),
        ({b"LD_LIBRARY_PATH": b"/opt/pkg/_internal/:/opt/pkg/_internal/lib"}, {}),
        ({b"LD_LIBRARY_PATH": b"/opt/pkg/_internal:/mine"}, {b"LD_LIBRARY_PATH": b"/mine"}),
        ({b"LD_LIBRARY_PATH": b"/opt/pkg/_internal-not"}, {b"LD_LIBRARY_PATH": b"/opt/pkg/_internal-not"}),
        (
            {b"LD_LIBRARY_PATH": b"/opt/pkg/_internal:/mine", b"LD_LIBRARY_PATH_ORIG": b"/mine"},
            {b"LD_LIBRARY_PATH": b"/mine"},
        ),
        ({b"LD_LIBRARY_PATH": b"/opt/pkg/_internal", b"LD_LIBRARY_PATH_ORIG": b""}, {b"LD_LIBRARY_PATH": b""}),
        # Somebody's own variable of that name: the boot program did not write it, for there was nothing to save.
        ({b"LD_LIBRARY_PATH": b"/opt/pkg/_internal", b"LD_LIBRARY_PATH_ORIG": b"/o"}, {b"LD_LIBRARY_PATH_ORIG": b"/o"}),
        (
            {b"LD_LIBRARY_PATH": b"/x", b"LD_LIBRARY_PATH_ORIG": b"/y"},
            {b"LD_LIBRARY_PATH": b"/x", b"LD_LIBRARY_PATH_ORIG": b"/y"},
        ),
        (
            {b"DYLD_LIBRARY_PATH": b"/opt/pkg/_internal:/mine", b"DYLD_LIBRARY_PATH_ORIG": b"/mine"},
            {b"DYLD_LIBRARY_PATH": b"/mine"},
        ),
        ({b"DYLD_FRAMEWORK_PATH": b"/opt/pkg/_internal"}, {}),
        ({b"DYLD_INSERT_LIBRARIES": b"/users.dylib"}, {b"DYLD_INSERT_LIBRARIES": b"/users.dylib"}),
        ({b"X": b"\xff\xfe", b"\xe4": b""}, {b"X": b"\xff\xfe", b"\xe4": b""}),
    ],
)
def test_frozen(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> None:
    assert clean({**HOME, **before}, True) == after


def test_not_frozen_nothing_is_changed() -> None:
    environment = {**HOME, b"LD_LIBRARY_PATH": b"/x", b"LD_LIBRARY_PATH_ORIG": b"/y"}
    found = clean(environment, False)
    assert found == environment
    assert found is not environment


def test_a_library_path_of_ones_own_is_kept_when_the_bundle_is_unknown() -> None:
    assert clean({b"LD_LIBRARY_PATH": b"/x"}, True) == {b"LD_LIBRARY_PATH": b"/x"}


def test_the_bundle_is_known_without_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_MEIPASS", "/opt/pkg/_internal", raising=False)
    environment = {b"LD_LIBRARY_PATH": b"/opt/pkg/_internal:/mine"}
    assert clean(environment, True) == {b"LD_LIBRARY_PATH": b"/mine"}
    assert clean({b"LD_LIBRARY_PATH": b"/opt/pkg/_internal"}, True) == {}


def test_a_frozen_process_is_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PYI_APPLICATION_HOME_DIR", "/opt/pkg")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/pkg:/mine")
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/mine")
    monkeypatch.setenv("KEPT", "1")
    frozen_environment.scrub(True)
    assert os.environ["LD_LIBRARY_PATH"] == "/mine"
    assert os.environ["KEPT"] == "1"
    assert not {"_PYI_APPLICATION_HOME_DIR", "LD_LIBRARY_PATH_ORIG"} & set(os.environ)


def test_this_is_not_frozen() -> None:
    assert not frozen_environment.is_frozen()


def test_what_python_adds_is_not_passed_on() -> None:
    """CPython sets LC_CTYPE when it coerces the C locale."""
    code = (
        "import os, sys\n"
        "from codex_shell_tool_mcp.frozen_environment import started_with\n"
        "sys.stdout.buffer.write(repr((sorted(started_with()), os.environ.get('LC_CTYPE'))).encode())\n"
    )
    folder = sources.environment()["PYTHONPATH"]
    environment = {b"LC_ALL": b"", b"LANG": b"C", b"ODD": b"\xff", b"PYTHONPATH": os.fsencode(folder)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    names, coerced = eval(ran.stdout)
    assert coerced is not None, "this Python does not coerce the locale: the test shows nothing"
    assert names == sorted(environment)


def test_where_the_kernel_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert frozen_environment.started_with() == dict(os.environb)
