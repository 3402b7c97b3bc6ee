"""The command line: options, sub-commands, one line for each error."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from codex_shell_tool_mcp import cli
from codex_shell_tool_mcp.cli import Options
from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.execpolicy import heuristics
from codex_shell_tool_mcp.execpolicy.isolation import EVALUATE_ARGUMENT
from codex_shell_tool_mcp.sandbox.spec import DEFAULT_POLICIES
from codex_shell_tool_mcp.shells import catalog
from codex_shell_tool_mcp.version import VERSION
from support import sources


def test_defaults() -> None:
    assert cli.parse([]) == Options()
    assert Options().sandbox == "read-only"


def test_every_option() -> None:
    arguments = ["--execve", "/e", "--bash", "b", "--supervisor", "/s", "--preserve-program-paths"]
    arguments += ["--sandbox", "workspace-write", "--approval-timeout", "2.5", "--max-output-bytes", "4096"]
    assert cli.parse(arguments) == Options(
        execve=Path("/e"),
        bash=Path("b"),
        supervisor=Path("/s"),
        preserve_program_paths=True,
        sandbox="workspace-write",
        approval_timeout=2.5,
        max_output_bytes=4096,
    )


def test_rules_and_what_is_unmatched() -> None:
    found = cli.parse(["--rules", "a", "--rules=/b", "--unmatched", "deny"])
    assert (found.rules, found.unmatched) == ((Path("a"), Path("/b")), "deny")
    assert cli.UNMATCHED == heuristics.UNMATCHED


@pytest.mark.parametrize(
    ("arguments", "shell"),
    [
        ([], "bash"),
        (["--shell", "zsh"], "zsh"),
        (["--zsh", "z"], "zsh"),
        (["--zsh", "z", "--bash", "b"], "bash"),
        (["--zsh", "z", "--bash", "b", "--shell", "zsh"], "zsh"),
        (["--zsh", "z", "--shell", "bash"], "bash"),
    ],
)
def test_which_shell(arguments: list[str], shell: str) -> None:
    assert cli.parse(arguments).shell == shell
    assert cli.parse(["--zsh", "z"]).zsh == Path("z")
    assert cli.SHELLS == catalog.SHELLS


def test_no_approval_timeout() -> None:
    assert cli.parse(["--approval-timeout", "0"]).approval_timeout is None


def test_the_sandboxes_are_those_there_are() -> None:
    assert set(cli.SANDBOXES) == set(DEFAULT_POLICIES)


def test_the_evaluators_argument_is_the_one_it_is_started_with() -> None:
    assert cli.EVALUATE_RULES == EVALUATE_ARGUMENT


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sandbox", "open"],
        ["--unknown"],
        ["stray"],
        ["--exec", "/e"],
        ["--approval-timeout", "-1"],
        ["--approval-timeout", "soon"],
        ["--approval-timeout", "nan"],
        ["--max-output-bytes", "0"],
        ["--max-output-bytes", "-1"],
        ["--max-output-bytes", "1M"],
        ["--max-output-bytes", "67108865"],
        ["--bash"],
        ["--unmatched", "allow"],
        ["--rules"],
    ],
)
def test_what_it_does_not_know(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: codex-exec-mcp-server")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"codex-exec-mcp-server {VERSION}\n"


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads(Path(__file__).parents[3].joinpath("pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_help_names_every_option_and_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    words = (
        "--execve",
        "--bash",
        "--zsh",
        "--shell",
        "--supervisor",
        "--preserve-program-paths",
        "--sandbox",
        "--max-output-bytes",
    )
    for word in (*words, "--rules", "--unmatched", "execpolicy check", "default: 1048576"):
        assert word in text


@pytest.mark.parametrize("arguments", [["execpolicy"], ["execpolicy", "explain"]])
def test_sub_commands_it_does_not_know(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith(
        "codex-exec-mcp-server: error: execpolicy: expected check, lint or allow, got "
    )


def test_an_error_is_one_line_and_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OddError(ShellToolError):
        exit_code = 42

    def fail(options: Options) -> int:
        raise OddError("first\nsecond")

    monkeypatch.setattr(cli, "_serve", fail)
    assert cli.main([]) == 42
    assert capsys.readouterr().err == "codex-exec-mcp-server: error: first second\n"


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({}, logging.WARNING),
        ({"CODEX_LOG": ""}, logging.WARNING),
        ({"RUST_LOG": "debug"}, logging.DEBUG),
        ({"RUST_LOG": "trace"}, logging.DEBUG),
        ({"RUST_LOG": "codex_core=trace,Info"}, logging.INFO),
        ({"RUST_LOG": "codex_core=trace"}, logging.WARNING),
        ({"RUST_LOG": "debug", "CODEX_LOG": "error"}, logging.ERROR),
        ({"CODEX_LOG": "off"}, logging.CRITICAL + 1),
        ({"CODEX_LOG": "loud"}, logging.WARNING),
    ],
)
def test_log_levels(environ: dict[str, str], level: int) -> None:
    assert cli.log_level(environ) == level


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codex_shell_tool_mcp", *arguments],
        env=sources.environment(**environ),
        input="",
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_broken_rules_file_refuses_to_start(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "bad.rules").write_text('prefix_rule(pattern=["ls"], decision="allow")\nprefix_rule(\n')
    ran = run(CODEX_HOME=str(tmp_path))
    assert ran.returncode == 3
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"codex-exec-mcp-server: error: {tmp_path.resolve()}/rules/bad.rules:")
    assert len(ran.stderr.splitlines()) == 1


def test_an_unreadable_rules_folder_refuses_to_start(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("a file")
    ran = run(CODEX_HOME=str(tmp_path))
    assert ran.returncode == 3
    assert "rules cannot be listed" in ran.stderr


def test_a_missing_shell_refuses_to_start(tmp_path: Path) -> None:
    ran = run(
        "--bash", str(tmp_path / "gone"), "--execve", "/bin/sh", "--supervisor", "/bin/sh", CODEX_HOME=str(tmp_path)
    )
    assert ran.returncode == 4
    assert ran.stderr == f"codex-exec-mcp-server: error: no usable shell: --bash is {tmp_path}/gone: no such file\n"


def test_a_wrapper_that_is_not_executable_refuses_to_start(tmp_path: Path) -> None:
    (tmp_path / "wrapper").touch(0o644)
    ran = run("--execve", str(tmp_path / "wrapper"), CODEX_HOME=str(tmp_path))
    assert ran.returncode == 4
    assert f"--execve is {tmp_path}/wrapper: not executable" in ran.stderr


def test_an_odd_codex_home_refuses_to_start(tmp_path: Path) -> None:
    ran = run(CODEX_HOME=str(tmp_path / "gone"))
    assert ran.returncode == 2
    assert "CODEX_HOME names" in ran.stderr


def test_a_rules_check_needs_neither_the_server_nor_the_sdk(tmp_path: Path) -> None:
    rules = tmp_path / "my.rules"
    rules.write_text('prefix_rule(pattern=["ls"], decision="forbidden")\n')
    code = (
        "import sys\nfrom codex_shell_tool_mcp import cli\n"
        "status = cli.main(sys.argv[1:])\n"
        "assert not {'mcp', 'pydantic', 'asyncio', 'subprocess', 'threading', 'tomllib'} & set(sys.modules)\n"
        "sys.exit(status)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "execpolicy", "check", "--rules", str(rules), "ls", "-l"],
        env=sources.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert '"decision":"forbidden"' in ran.stdout.replace(" ", "")


def test_the_evaluator_is_reached_by_its_first_argument() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "codex_shell_tool_mcp", EVALUATE_ARGUMENT],
        env=sources.environment(),
        input='{"limits": {"memory": 536870912, "processor_time": 5, "wall_time": 20.0}, "files": []}',
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("rules ")


def test_the_command_line_itself_is_light() -> None:
    heavy = ("asyncio", "pydantic", "mcp", "argparse", "logging")
    code = f"import sys, codex_shell_tool_mcp.cli\nprint([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], env=sources.environment(), capture_output=True, check=True)
    assert ran.stdout == b"[]\n"


@pytest.mark.parametrize("words", [("check", "--rules", "my.rules", "ls"), ("lint", "--rules", "my.rules")])
@pytest.mark.parametrize(
    ("where", "says"),
    [
        (">&-", "standard output is closed"),
        ("> /dev/full", "the answer cannot be written: No space left on device"),
        ("| true", "the answer cannot be written: Broken pipe"),
    ],
)
def test_an_answer_that_cannot_be_written_is_an_error_in_our_words(
    words: tuple[str, ...], where: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "my.rules").write_text('prefix_rule(["env"])')
    command = shlex.join([sys.executable, "-m", "codex_shell_tool_mcp", "execpolicy", *words])
    # The reader ends at once; Python takes longer to start.
    ran = subprocess.run(
        ["sh", "-c", f"{command} {where}"],
        cwd=tmp_path,
        env=sources.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lint"], ""),
        (["check", "--rules", "MY", "--resolve-host-executables", "./ls"], '{"matchedRules":[]}\n'),
        (["check", "--rules", "MY", "--resolve-host-executables", "--explain", "./ls"], "working directory is gone"),
        (["check", "--rules", "MY", "--resolve-host-executables", "--explain", "ls"], "decision: forbidden"),
    ],
)
def test_in_a_directory_that_is_gone(words: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "my.rules").write_text('prefix_rule(["ls"], "forbidden")')
    code = (
        "import os, sys\n"
        "from codex_shell_tool_mcp import cli\n"
        "from codex_shell_tool_mcp.execpolicy import explain, lint\n"
        "os.mkdir('x'); os.chdir('x'); os.rmdir('../x')\n"
        "sys.exit(cli.main(['execpolicy', *sys.argv[1:]]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *(word.replace("MY", str(tmp_path / "my.rules")) for word in words)],
        cwd=tmp_path,
        env=sources.environment(CODEX_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert says in ran.stdout
