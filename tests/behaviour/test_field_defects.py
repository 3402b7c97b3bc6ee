"""What the original gets wrong (npm build 0.97.0, each case reproduced on it): a test for every row of that table.

A row is named as in the table. Where this project does not do better yet, its test is expected to fail, says where that
is documented, and has to be changed on the day when it passes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from behaviour.test_escalation import survivors
from behaviour.test_hostile import FORGER
from support.clients import Client, Installation, Raw, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mcp_types import ElicitRequestParams, ElicitResult

ROWS = (
    "adjacent-heap overflow",
    "`$PWD/git status` with allow",
    "`./tool` escalated",
    "swap file while prompt is pending",
    "`LD_PRELOAD`, `BASH_ENV`, `PATH` before allowed cmd",
    "allowed `git status` in repo with `core.fsmonitor`",
    "forged request from python on inherited fd",
    "`unset BASH_EXEC_WRAPPER`; `env`/`xargs`/`find -exec`/`sh -c`/renamed symlink",
    "script without `#!`",
    "not executable / directory",
    "bad interpreter",
    "non-UTF-8 argument / env value",
    "escalated killed by SIGKILL",
    "fd 3 redirect to escalated",
    "umask, ulimit -n, ignored SIGINT, pgid/sid",
    "`sleep 41 & echo started`",
    "timeout",
    "client without elicitation capability",
    "newline/ESC in argv",
    "no sandbox-state",
)
RULES = """
prefix_rule(pattern=[["dash", "cat", "printenv", "sleep", "tool", "plain", "ps"]], decision="allow")
prefix_rule(pattern=["forbidden"], decision="forbidden", justification="row")
prefix_rule(pattern=["git", "status"], decision="allow")
prefix_rule(pattern=["asked"], decision="prompt")
"""
WORKSPACE = {"exclude_slash_tmp": True, "exclude_tmpdir_env_var": True}

_tested: dict[str, list[str]] = {}


def row(name: str) -> Callable[[Any], Any]:
    """Say which row a test is for."""

    def note(test: Any) -> Any:
        _tested.setdefault(name, []).append(test.__name__)
        return test

    return note


def test_every_row_has_a_test() -> None:
    assert tuple(sorted(_tested)) == tuple(sorted(ROWS))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raw]:
    """Without confinement, as the original was tried, its client unable to answer questions."""
    folder = tmp_path_factory.mktemp("field")
    home, workdir = folder / "home", folder / "work"
    home.mkdir()
    workdir.mkdir()
    installation = Installation(home=home, workdir=workdir)
    installation.rules(RULES)
    with installation.raw() as raw:
        yield raw


class Shell(Protocol):
    """Calls the tool; its result."""

    def __call__(self, command: str, **arguments: object) -> dict[str, Any]: ...


@pytest.fixture
def shell(server: Raw, tmp_path: Path) -> Shell:
    """Calls the tool in a folder of its own."""

    def call(command: str, **arguments: object) -> dict[str, Any]:
        server.send(server.call(1, command, **{"workdir": str(tmp_path), **arguments}))
        return server.result()

    return call


def in_workspace(installation: Installation, script: str, seconds: float = 60) -> dict[str, Any]:
    """One call that may write its folder only, under RULES."""
    installation.rules(RULES)

    async def work(client: Client) -> dict[str, Any]:
        await client.update(state("workspace-write", client.workdir, **WORKSPACE))
        return await client.shell(script)

    found = installation.use(work, seconds=seconds)
    assert isinstance(found, dict)
    return found


@row("adjacent-heap overflow")
def test_no_argument_or_variable_is_lost(shell: Shell) -> None:
    """It lost 0.6 % of arguments and 4 % of variables, most of them at certain sizes."""
    script = """
for n in {1..150}; do printf -v V "%0${n}d" 7; export V "V$n=$V"
[ "$(/usr/bin/printenv V)" = "$V" ] || echo "variable $n"
[ "$(/bin/echo a "$V" b "$V$V")" = "a $V b $V$V" ] || echo "argument $n"; done; /bin/true; sleep 1 & :; echo end"""
    assert shell(script)["output"] == "end\n"


@row("`$PWD/git status` with allow")
@pytest.mark.parametrize("how", ["$PWD/git status", "PATH=$PWD:$PATH; git status", "./git status"])
def test_a_look_alike_is_not_allowed(confined: Installation, how: str) -> None:
    """It ran outside. It runs, as anything unmatched does, but in the sandbox."""
    script = (
        f"printf '#!/bin/sh\\ngrep NoNewPrivs /proc/self/status; echo > {confined.home}/x' > git; chmod +x git; {how}"
    )
    assert "NoNewPrivs:\t1\n" in in_workspace(confined, script)["output"]
    assert not (confined.home / "x").exists()


@row("`./tool` escalated")
def test_a_relative_program_is_the_callers(shell: Shell, tmp_path: Path) -> None:
    script = 'mkdir -p a/b; for d in . a a/b; do printf "#!/bin/sh\necho $d \\$0\n" > $d/tool; chmod +x $d/tool; done'
    found = shell(f"{script}; ./tool; cd a; ./tool; b/tool; cd b; ../tool; ./tool; rm tool; ./tool; echo $?")
    lines = [". ./tool", "a ./tool", "a/b b/tool", "a ../tool", "a/b ./tool"]
    assert found["output"].splitlines()[:5] == lines
    assert found["output"].endswith("127\n")
    assert [entry["action"] for entry in found["decisions"]] == ["escalate"] * 5


@row("swap file while prompt is pending")
@pytest.mark.parametrize("how", ["renamed over", "written to"])
def test_a_file_swapped_while_a_person_is_asked_is_not_run(installation: Installation, how: str) -> None:
    from mcp_types import ElicitResult  # noqa: PLC0415 - only here

    installation.rules(RULES)
    asked = installation.workdir / "asked"
    asked.write_text("#!/bin/sh\necho shown\n")
    asked.chmod(0o755)

    async def elicit(params: ElicitRequestParams) -> ElicitResult:
        other = installation.workdir / "other"
        other.write_text("#!/bin/sh\necho EVIL\n")
        other.chmod(0o755)
        if how == "renamed over":
            other.rename(asked)
        else:
            asked.write_bytes(other.read_bytes())
        return ElicitResult(action="accept")

    async def work(client: Client) -> dict[str, Any]:
        return await client.shell("./asked; echo $?")

    found = installation.use(work, elicit)
    assert "EVIL" not in found["output"]
    assert found["output"].endswith("126\n")


@row("`LD_PRELOAD`, `BASH_ENV`, `PATH` before allowed cmd")
def test_loader_and_shell_variables_are_dropped(shell: Shell) -> None:
    script = """
echo 'echo EVIL' > evil; export BASH_ENV=$PWD/evil ENV=$PWD/evil LD_PRELOAD= KEPT=1; unset LD_PRELOAD
LD_PRELOAD=$PWD/evil dash -c 'echo "$KEPT ${BASH_ENV-none} ${ENV-none} ${LD_PRELOAD-none}"'
f() { echo EVIL; }; export -f f; printenv | grep -c BASH_FUNC"""
    assert shell(script)["output"] == "1 none none none\n0\n"


@row("`LD_PRELOAD`, `BASH_ENV`, `PATH` before allowed cmd")
@pytest.mark.xfail(
    strict=True, reason="PATH is the script's (docs/security.md, 'What an escalated command is bound to')"
)
def test_the_path_of_an_escalated_program_is_not_the_scripts(shell: Shell) -> None:
    script = "printf '#!/bin/sh\necho EVIL\n' > helper; chmod +x helper; PATH=$PWD:$PATH dash -c helper"
    assert "EVIL" not in shell(script)["output"]


@row("allowed `git status` in repo with `core.fsmonitor`")
@pytest.mark.xfail(strict=True, reason="to allow git is to allow what the repository configures (docs/security.md)")
def test_a_repository_runs_nothing_outside(confined: Installation) -> None:
    assert shutil.which("git"), "needs git"
    script = f"""
git init -q . && git config core.fsmonitor "$PWD/hook"
printf '#!/bin/sh\\necho x > {confined.home}/outside\\n' > hook; chmod +x hook; git status >/dev/null 2>&1"""
    in_workspace(confined, script)
    assert not (confined.home / "outside").exists()


@row("forged request from python on inherited fd")
def test_a_forged_request_gains_nothing(confined: Installation) -> None:
    """A name that is allowed, with another file; and what is allowed, which any command could have asked for."""
    evil = f"printf '#!/bin/sh\\necho x > {confined.home}/outside\\n' > evil; chmod +x evil"
    assert (
        "answer 2" in in_workspace(confined, f"{evil}; {FORGER} claim /bin/cat ./evil x")["output"]
    )  # Run: in the sandbox, what it could do anyway
    assert not (confined.home / "outside").exists()


@row("`unset BASH_EXEC_WRAPPER`; `env`/`xargs`/`find -exec`/`sh -c`/renamed symlink")
@pytest.mark.parametrize(
    "how",
    [
        "unset BASH_EXEC_WRAPPER EXEC_WRAPPER CODEX_ESCALATE_SOCKET; ./forbidden",
        "exec -c ./forbidden",
        "ln -s forbidden other; ./other",
        '"$EXEC_WRAPPER" ./forbidden',
        "exec -a harmless ./forbidden",
        "PATH=$PWD; forbidden",
    ],
)
def test_a_forbidden_command_does_not_run(shell: Shell, tmp_path: Path, how: str) -> None:
    shutil.copy("/bin/echo", tmp_path / "forbidden")
    assert shell(f"{how} RAN")["output"].rstrip() == "Execution denied: Execution forbidden by policy: row"


@row("`unset BASH_EXEC_WRAPPER`; `env`/`xargs`/`find -exec`/`sh -c`/renamed symlink")
@pytest.mark.parametrize(
    "how",
    [
        "env ./forbidden RAN",
        "echo RAN | xargs ./forbidden",
        "find . -name x -exec ./forbidden RAN ';'",
        "sh -c './forbidden RAN'",
    ],
)
@pytest.mark.xfail(strict=True, reason="what a program starts is not asked about (docs/security.md, 'Three answers')")
def test_a_forbidden_command_is_not_run_by_others(shell: Shell, tmp_path: Path, how: str) -> None:
    shutil.copy("/bin/echo", tmp_path / "forbidden")
    (tmp_path / "x").touch()
    assert "RAN" not in shell(how)["output"]


@row("script without `#!`")
@pytest.mark.parametrize("name", ["unmatched", "plain"])
def test_a_script_without_a_mark_runs(shell: Shell, name: str) -> None:
    """In the call, and (``plain`` is allowed) outside it."""
    make = f"""printf 'echo "$0 $# $2 ${{BASH_VERSION:0:1}}"; exit 3' > {name}; chmod +x {name}"""
    assert shell(f"{make}; ./{name} a 'b c'; echo $?")["output"] == f"./{name} 2 b c 5\n3\n"


@row("not executable / directory")
@pytest.mark.parametrize("name", ["unmatched", "tool"])
def test_what_cannot_be_executed_is_126(shell: Shell, name: str) -> None:
    found = shell(f"> {name}; ./{name}; echo $?; rm {name}; mkdir {name}; ./{name}; echo $?; ./nothing; echo $?")
    lines = [line.partition("line 1: ")[2] or line for line in found["output"].splitlines()]
    denied, folder, missing = "Permission denied", "Is a directory", "No such file or directory"
    assert lines == [f"./{name}: {denied}", "126", f"./{name}: {folder}", "126", f"./nothing: {missing}", "127"]
    assert not found.get("decisions")


@row("bad interpreter")
@pytest.mark.parametrize("name", ["unmatched", "tool"])
def test_a_bad_interpreter_is_the_shells_own_error(shell: Shell, name: str) -> None:
    found = shell(
        f"printf '#!/nowhere/x\n' > {name}; chmod +x {name}; ./{name}; echo $?; "
        f"printf '#!/\n' > {name}; ./{name}; echo $?"
    )
    first, status, second, other = found["output"].splitlines()
    assert first.endswith(f"./{name}: /nowhere/x: bad interpreter: No such file or directory")
    assert second.endswith(f"./{name}: /: bad interpreter: Permission denied")
    assert (status, other) == ("126", "126")


@row("non-UTF-8 argument / env value")
@pytest.mark.parametrize("program", ["dash", "busybox sh"], ids=["escalated", "run"])
def test_any_bytes_pass(shell: Shell, program: str) -> None:
    script = f"""export V=$'\\376\\n'; {program} -c 'printf "%s|%s" "$1" "$V"' x $'\\303(\\377' | od -An -tx1"""
    assert shell(script)["output"] == " c3 28 ff 7c fe 0a\n"


@row("escalated killed by SIGKILL")
def test_a_death_by_signal_is_one(shell: Shell) -> None:
    found = shell("dash -c 'kill -9 $$'; echo $?; dash -c 'kill -TERM $$'; echo $?; dash -c 'exit 5'; echo $?")
    first, *rest = found["output"].splitlines()
    assert "Killed" in first
    assert rest[0] == "137"
    assert rest[-2:] == ["143", "5"] or rest[-3:] == ["143", "5"]
    assert {entry["action"] for entry in found["decisions"]} == {"escalate"}


@row("fd 3 redirect to escalated")
def test_descriptors_reach_an_escalated_program(shell: Shell) -> None:
    script = (
        "echo in > f; exec 3<f; cat <&3; cat /dev/fd/7 7<f; dash -c 'echo out >&9' 9>g; cat g; cat <(echo substituted)"
    )
    assert shell(script)["output"] == "in\nin\nout\nsubstituted\n"


@row("umask, ulimit -n, ignored SIGINT, pgid/sid")
def test_attributes_reach_an_escalated_program(shell: Shell) -> None:
    """All but the process group: one of its own in the same session (named exception process-group)."""
    script = """
umask 0137; ulimit -n 321; trap '' INT; dash -c 'umask; ulimit -n; kill -INT $$; echo alive'
[ $(ps -o sid= -p $$) = $(dash -c 'ps -o sid= -p $$') ] && echo session"""
    found = shell(script)
    assert found["output"] == "0137\n321\nalive\nsession\n"
    assert {entry["action"] for entry in found["decisions"]} == {"escalate"}


@row("`sleep 41 & echo started`")
def test_a_background_job_loses_no_output_and_ends(shell: Shell) -> None:
    seconds = f"41.{os.getpid()}"
    found = shell(f"sleep {seconds} & echo started")
    assert (found["output"], found["exit_code"]) == ("started\n", 0)
    assert not survivors(seconds)


@row("timeout")
def test_a_timeout_is_a_result_and_ends_everything(shell: Shell) -> None:
    """It was an error after 5.5 s for a limit of 1.5 s, and the escalated child and grandchild lived on."""
    begun, seconds = time.monotonic(), f"142.{os.getpid()}"
    script = f"echo before; dash -c 'sleep {seconds} & sleep {seconds}; :' & sleep {seconds}"
    found = shell(script, timeout_ms=5000)
    assert time.monotonic() - begun < 60, "a liberal bound: nothing may wait for the sleeps"
    assert (found["output"], found["exit_code"], found["timed_out"]) == ("before\n", 124, True)
    assert not survivors(seconds)


@row("client without elicitation capability")
def test_a_client_that_cannot_be_asked_is_not(server: Raw) -> None:
    server.send(server.call(1, "cp /bin/echo asked; ./asked RAN; echo $?"))
    output = server.result()["output"]  # the next message is the result: nothing was sent before
    assert output.startswith("Execution denied: Approval is required, and this client cannot ask for it")
    assert output.endswith("\n1\n")


@row("newline/ESC in argv")
def test_a_question_shows_no_control_characters(installation: Installation) -> None:
    installation.rules(RULES)
    with installation.raw(elicitation={}) as raw:
        raw.send(raw.call(1, "cp /bin/echo asked; ./asked $'a\\nAllow?\\e[2Jb\\r\\u202ec'"))
        question = raw.receive()
        message = question["params"]["message"]
        assert all(character.isprintable() for character in message), json.dumps(message)
        assert "$'a\\nAllow?" in message
        raw.send({"id": question["id"], "result": {"action": "decline"}})
        assert raw.result()["exit_code"] == 1


@row("no sandbox-state")
def test_a_client_that_sends_no_state_is_served(confined: Installation) -> None:
    found = confined.shell("echo works; : > denied || echo held back")
    assert found["output"].startswith("works\n")
    assert found["output"].endswith("held back\n")
