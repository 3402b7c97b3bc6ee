"""The command line: arguments to frozen options, and the one place errors end.

Only light modules are imported here; each command brings its own, for a server is started with every session.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from codex_shell_tool_mcp import frozen_environment
from codex_shell_tool_mcp.errors import ShellToolError, UsageError, on_one_line
from codex_shell_tool_mcp.escalation.params import DEFAULT_MAX_OUTPUT_BYTES
from codex_shell_tool_mcp.version import VERSION

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

PROGRAM = "codex-exec-mcp-server"

EVALUATE_RULES = "--evaluate-rules-file"
"""First argument by which a frozen server becomes the rules evaluator; see ``execpolicy/isolation.py``."""

ShellName = Literal["bash", "zsh"]
SHELLS: tuple[ShellName, ...] = get_args(ShellName)
"""Values of ``--shell``. A test holds them equal to those of ``shells/catalog.py``."""

SANDBOXES = ("read-only", "workspace-write", "danger-full-access")
"""Values of ``--sandbox``; their meaning is in ``sandbox/spec.py``."""

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
"""Highest value of ``--max-output-bytes``: a result is one message, and in memory several times while it is made."""
UNMATCHED = ("run", "prompt", "deny")
"""Values of ``--unmatched``; their meaning is in ``execpolicy/heuristics.py``. A test holds the two equal."""

DEFAULT_APPROVAL_TIMEOUT = 600.0
"""Seconds; see ``server/approvals.py``, which is too heavy to import here. A test holds the two equal."""

_LOG_VARIABLES = ("CODEX_LOG", "RUST_LOG")
# Numbers of the module logging, which `execpolicy check` has no time to import.
_LEVELS = {
    "trace": 10,
    "debug": 10,
    "info": 20,
    "warn": 30,
    "warning": 30,
    "error": 40,
    "off": 51,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asked for.

    Attributes:
        execve: The wrapper, if named.
        shell: What runs the scripts.
        bash: The patched bash, if named.
        zsh: The patched zsh, if named.
        supervisor: The supervisor, if named.
        preserve_program_paths: Rules match whole paths only.
        sandbox: Policy while the client has sent none.
        approval_timeout: Seconds a question may stay unanswered; ``None`` = for ever.
        max_output_bytes: How much of a call's output is kept: its first and its last part.
        rules: Rules files beside those in the folders.
        unmatched: What a program gets that no rule matches.
    """

    execve: Path | None = None
    shell: ShellName = "bash"
    bash: Path | None = None
    zsh: Path | None = None
    supervisor: Path | None = None
    preserve_program_paths: bool = False
    sandbox: str = SANDBOXES[0]
    approval_timeout: float | None = DEFAULT_APPROVAL_TIMEOUT
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    rules: tuple[Path, ...] = ()
    unmatched: str = UNMATCHED[0]


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 10**9:
        raise ValueError
    return value


_seconds.__name__ = "number of seconds"  # argparse puts it into its message


def _output_bytes(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_OUTPUT_BYTES:
        raise ValueError
    return value


_output_bytes.__name__ = f"number of bytes from 1 to {MAX_OUTPUT_BYTES}"


def parser() -> argparse.ArgumentParser:
    """The server's own options; sub-commands parse theirs."""
    import argparse  # noqa: PLC0415 - see the module's docstring

    made = argparse.ArgumentParser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="MCP server on stdio with one tool, shell: each exec of a script is decided by rules.",
        epilog=f"Without a server: {PROGRAM} execpolicy check --help tries rules, execpolicy lint --help looks for "
        "mistakes in them, execpolicy allow --help writes one; verify --help compares an installed package with its "
        "manifest.",
    )
    _add_program_options(made)
    _add_rules_options(made)
    made.add_argument(
        "--sandbox",
        choices=SANDBOXES,
        default=SANDBOXES[0],
        help="what holds for scripts until the client sends a sandbox state (default: %(default)s)",
    )
    made.add_argument(
        "--approval-timeout",
        type=_seconds,
        metavar="SECONDS",
        default=DEFAULT_APPROVAL_TIMEOUT,
        help="how long a request for approval may stay unanswered, 0 for ever (default: %(default)g)",
    )
    made.add_argument(
        "--max-output-bytes",
        type=_output_bytes,
        metavar="BYTES",
        default=DEFAULT_MAX_OUTPUT_BYTES,
        help="how much of a call's output is kept, its first and its last part (default: %(default)d)",
    )
    made.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    return made


def _add_program_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--execve", type=Path, metavar="PATH", help="the exec wrapper (default: the one shipped)")
    made.add_argument(
        "--bash", type=Path, metavar="PATH", help="the patched bash (default: CODEX_BASH_PATH, else the one shipped)"
    )
    made.add_argument(
        "--zsh", type=Path, metavar="PATH", help="the patched zsh (default: CODEX_ZSH_PATH, else the one shipped)"
    )
    made.add_argument(
        "--shell",
        choices=SHELLS,
        help="what runs the scripts (default: bash; zsh where --zsh is given and --bash is not)",
    )
    made.add_argument("--supervisor", type=Path, metavar="PATH", help="the supervisor (default: the one shipped)")


def _add_rules_options(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--preserve-program-paths", action="store_true", help="match rules on a program's whole path, not its name"
    )
    made.add_argument(
        "--rules",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a rules file to be read after those in the folders; may be repeated",
    )
    made.add_argument(
        "--unmatched",
        choices=UNMATCHED,
        default=UNMATCHED[0],
        help="what a program gets that no rule matches: run in the sandbox, the dangerous ones after a question; "
        "always a question; or nothing (default: %(default)s)",
    )


def parse(arguments: Sequence[str]) -> Options:
    """Read the server's command line. Ends the process for ``--help``, ``--version`` and what it does not know."""
    found = parser().parse_args(arguments)
    return Options(
        execve=found.execve,
        shell=found.shell or ("zsh" if found.zsh and not found.bash else SHELLS[0]),
        bash=found.bash,
        zsh=found.zsh,
        supervisor=found.supervisor,
        preserve_program_paths=found.preserve_program_paths,
        sandbox=found.sandbox,
        approval_timeout=found.approval_timeout or None,
        max_output_bytes=found.max_output_bytes,
        rules=tuple(found.rules),
        unmatched=found.unmatched,
    )


def log_level(environ: Mapping[str, str]) -> int:
    """The level ``CODEX_LOG`` or ``RUST_LOG`` asks for: the first directive that names no module; else warnings."""
    value = next((environ[name] for name in _LOG_VARIABLES if environ.get(name)), "")
    words = [word.strip().lower() for word in value.split(",")]
    return next((_LEVELS[word] for word in words if word in _LEVELS), _LEVELS["warning"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Where it was ignored when we started, the kernel reaps our children: then their numbers are anybody's.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        return _dispatch(arguments)
    except ShellToolError as error:
        text = str(error).replace("\n", " ")
        print(f"{PROGRAM}: error: {on_one_line(text)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _dispatch(arguments: Sequence[str]) -> int:
    first = arguments[0] if arguments else ""
    if first == EVALUATE_RULES:
        from codex_shell_tool_mcp.execpolicy import parser_child  # noqa: PLC0415 - see the module's docstring

        parser_child.main()
        return 0
    if first == "execpolicy":
        return _answered(arguments[1:])
    if first == "verify":
        from codex_shell_tool_mcp import verify  # noqa: PLC0415 - see the module's docstring

        return verify.main(arguments[1:], frozen=frozen_environment.is_frozen())
    return _serve(parse(arguments))


def _answered(arguments: Sequence[str]) -> int:
    """Run ``execpolicy``, whose output may have nowhere to go."""
    if sys.stdout is None:  # Python's way to say that the descriptor was closed
        raise ShellToolError("standard output is closed, so the answer has nowhere to go; leave it open")
    try:
        status = _execpolicy(arguments)
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # else Python would try again at its end, and complain in its own words
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ShellToolError(f"the answer cannot be written: {error.strerror}; let it go somewhere else") from error
    return status


def _execpolicy(arguments: Sequence[str]) -> int:
    word, *rest = arguments or ("nothing",)
    if word == "check":
        return _check(rest)
    if word not in {"lint", "allow"}:
        raise UsageError(f"execpolicy: expected check, lint or allow, got {word}; see --help")
    from codex_shell_tool_mcp.execpolicy import amend, lint, loader  # noqa: PLC0415

    run = lint.main if word == "lint" else amend.main
    return run(rest, loader.find_codex_home(os.environ))


def _check(arguments: Sequence[str]) -> int:
    if not frozen_environment.is_frozen():
        from codex_shell_tool_mcp.execpolicy import check  # noqa: PLC0415 - see the module's docstring

        return check.main(arguments)
    gc.disable()  # it is over before a collection could pay
    from codex_shell_tool_mcp.execpolicy import check  # noqa: PLC0415

    status = check.main(arguments)
    sys.stdout.flush()  # what goes to stderr is flushed at each line's end
    os._exit(status)  # there is nothing to wind up, and Python would take 10 ms for it


def _serve(options: Options) -> int:
    frozen = frozen_environment.is_frozen()
    environment = frozen_environment.clean(frozen_environment.started_with(), frozen)
    frozen_environment.scrub(frozen)
    import logging  # noqa: PLC0415 - see the module's docstring

    logging.basicConfig(
        stream=sys.stderr, level=log_level(os.environ), format=f"{PROGRAM}: %(levelname)s: %(name)s: %(message)s"
    )
    # The rules come first: their evaluator is forked while this process still is small and has one thread.
    from codex_shell_tool_mcp.execpolicy.live import LiveRules  # noqa: PLC0415
    from codex_shell_tool_mcp.execpolicy.loader import find_codex_home  # noqa: PLC0415
    from codex_shell_tool_mcp.sandbox.spec import DEFAULT_POLICIES  # noqa: PLC0415
    from codex_shell_tool_mcp.server.stdio import serve_stdio  # noqa: PLC0415
    from codex_shell_tool_mcp.shells.locate import find_programs  # noqa: PLC0415

    rules = LiveRules(
        find_codex_home(os.environ), tuple(path.absolute() for path in options.rules), cwd=_working_directory()
    )
    rules.refresh(rules.cwd)
    programs = find_programs(
        shell=options.shell,
        bash=options.bash,
        zsh=options.zsh,
        execve=options.execve,
        supervisor=options.supervisor,
        environ=environment,
        frozen=frozen,
    )
    serve_stdio(
        programs=programs,
        rules=rules,
        unmatched=options.unmatched,
        default_sandbox=DEFAULT_POLICIES[options.sandbox],
        environment=environment,
        preserve_program_paths=options.preserve_program_paths,
        approval_timeout=options.approval_timeout,
        max_output_bytes=options.max_output_bytes,
    )
    return 0


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it is gone: then there is no project
        return None
