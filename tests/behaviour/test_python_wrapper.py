"""The frozen Python wrapper in the native one's place: real scripts behave as in the unpatched shell."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.escalation.params import ExecParams, ExecResult
from codex_shell_tool_mcp.escalation.policy import Deny, Escalate, EscalateAction, ExecRequest, Run
from codex_shell_tool_mcp.escalation.server import run_escalate_server
from codex_shell_tool_mcp.execpolicy.rules import Policy
from codex_shell_tool_mcp.sandbox.spec import DangerFullAccess, SandboxState
from codex_shell_tool_mcp.shells.catalog import ShellProgram
from support.built import built

if TYPE_CHECKING:
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch

pytestmark = [
    pytest.mark.timeout(900),  # the first to run may have to freeze
    pytest.mark.skipif(
        sys.platform != "linux", reason="on macOS the freezer's boot program starts it, with differences"
    ),
]

SNIPPETS = """\
/bin/echo out; /bin/echo err >&2
/bin/sh -c 'exit 7'
/bin/sh -c 'kill -9 $$'
/bin/sh -c 'kill -PIPE $$'
echo in | /bin/cat | tr a-z A-Z
/bin/cat <(echo substituted)
echo kept > f; exec 3<f; /bin/cat <&3; /bin/cat /dev/fd/9 9<f
exec -a name /bin/sh -c 'echo $0'
exec -a '' /bin/sh -c 'echo "<$0>"'
exec -l /bin/sh -c 'echo $0'
trap '' INT PIPE XFSZ USR1; grep SigIgn /proc/self/status
grep -E 'Sig(Blk|Ign|Cgt)|Umask' /proc/self/status
umask 027; ulimit -n 77; ulimit -S -c 0; nice -n 3 /bin/sh -c 'umask; ulimit -n; ulimit -S -c; nice'
yes | head -n 1; echo ${PIPESTATUS[@]}
./missing
./file; ./folder; ./interpreter
./plain a b; shopt -s execfail; exec ./folder; echo survived
env -i A=1 B=2 env
export ODD=$'a\\xff\\n'; env | grep -a -A1 ODD
/bin/echo $'\\xff\\xfe' ''
export LC_ALL=C; env | grep -a '^LC_'; unset LC_ALL; env | grep -a '^LC_'
mkdir -p d; cd d; rmdir ../d; /bin/echo gone
exec 0<&- 2>&-; /bin/echo closed
for n in {10..60}; do eval "exec $n>&1"; done; /bin/echo many >&55; exec {0..60}>&-
/bin/sh -c 'kill -STOP $$; echo on' & until read -r _ _ s _ < /proc/$!/stat; [ $s = T ]; do :; done; kill -CONT $!; wait
sleep 1000 & kill -TERM $!; wait $!
set -m; /bin/sh -c 'exit 5'; sleep 0.01 & wait $!
/bin/echo 1 | while read n; do /bin/echo got $n; done
coproc cat; echo through >&${COPROC[1]}; read -u ${COPROC[0]} line; /bin/echo $line""".splitlines()


@dataclass
class Always:
    """Decides everything alike."""

    action: EscalateAction

    def create_policy(self, policy: Policy, stopwatch: Stopwatch) -> Always:
        """As an EscalationPolicyFactory."""
        return self

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As an EscalationPolicy."""
        return self.action


def prepared(folder: Path) -> Path:
    """A working directory with what the snippets use."""
    folder.mkdir()
    (folder / "file").write_text("not executable\n")
    (folder / "folder").mkdir()
    for name, text in (("interpreter", "#!/no/such\n"), ("plain", 'echo "$0 $*"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def script(path: Path, snippet: str) -> str:
    """The snippet in a subshell, from a file of a fixed name; then how it ended."""
    path.write_text(f"({snippet})\necho status $?\n")
    return f". {path}"


ENVIRONMENT = {b"PATH": os.environb[b"PATH"], b"LANG": b"C.UTF-8"}


def through(snippet: str, folder: Path, policy: Always) -> ExecResult:
    """The result in the patched shell, asked through the Python wrapper."""
    return asyncio.run(
        run_escalate_server(
            ExecParams(
                command=script(folder.parent / "script", snippet),
                workdir=prepared(folder),
                login=False,
                env=ENVIRONMENT,
            ),
            SandboxState(policy=DangerFullAccess(), cwd=folder),
            ShellProgram(path=built().bash, variant="gnu"),
            built().frozen_wrapper,
            Policy(),
            policy,
            60,
            supervisor=built().supervisor,
        )
    )


def stock(snippet: str, folder: Path) -> str:
    """What it prints in the unpatched shell."""
    done = subprocess.run(
        ["bash", "-c", script(folder.parent / "script", snippet)],
        executable=built().bash_stock,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=prepared(folder),
        env=ENVIRONMENT,
        start_new_session=True,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_run_is_as_in_stock(snippet: str, tmp_path: Path) -> None:
    found = through(snippet, tmp_path / "ours", Always(Run()))
    assert normal(found.output) == normal(stock(snippet, tmp_path / "stock"))


UNLIKE = ("./plain", "env -i", "SigIgn")
"""Not escalated here: a script without ``#!`` has another shell outside, the rest says where it runs."""


@pytest.mark.parametrize("snippet", [one for one in SNIPPETS if not any(word in one for word in UNLIKE)])
def test_escalate_is_as_in_stock(snippet: str, tmp_path: Path) -> None:
    found = through(snippet, tmp_path / "ours", Always(Escalate()))
    assert normal(found.output) == normal(stock(snippet, tmp_path / "stock"))


def normal(text: str) -> str:
    """Without process numbers ("script: line 1:  4711 Killed") and the name of the folder."""
    return re.sub(r"(: line \d+:) +\d+ ", r"\1 PID ", text.replace("/stock/", "/ours/"))


def test_deny(tmp_path: Path) -> None:
    found = through("/bin/echo ran", tmp_path / "ours", Always(Deny(reason="no")))
    assert found.output == "Execution denied: no\nstatus 1\n"
