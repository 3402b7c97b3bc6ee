"""The seam between the escalation server and whoever decides.

The escalation server knows nothing of MCP: it asks an :class:`EscalationPolicy`, made for each call by an
:class:`EscalationPolicyFactory`. ``server/approvals.py`` holds the one that elicits through MCP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
    from codex_shell_tool_mcp.execpolicy.rules import Policy


@dataclass(frozen=True, kw_only=True)
class ExecRequest:
    """One intercepted ``execve(2)``, as the policy sees it.

    All texts are decoded as UTF-8 with ``surrogateescape``, so no byte is lost and none that is not UTF-8 can equal a
    rule's token.

    Attributes:
        file: The path as the shell passed it; may be relative to ``cwd``.
        program: Absolute path of the file the shell named, lexically normalised, links kept. What a user is shown.
        resolved: Path of the very file that was opened, links followed, read from its descriptor; ``None`` if it could
            not be opened.
        argv: The program's argument vector, its ``argv[0]`` included; may be empty.
        cwd: Absolute working directory, or ``None`` when it has no name any more.
        writable_by_sandbox: Whether the sandboxed side could have had a hand in what ``program`` leads to: the file, a
            folder or a link on the way lies below a writable root.
    """

    file: str
    program: str
    resolved: str | None
    argv: tuple[str, ...]
    cwd: str | None
    writable_by_sandbox: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """Exec it where it is: in the sandbox."""

    rule: str | None = None


@dataclass(frozen=True, kw_only=True)
class Escalate:
    """Run it outside the sandbox with the caller's descriptors."""

    rule: str | None = None


@dataclass(frozen=True, kw_only=True)
class Deny:
    """Do not run it; ``reason`` (may be empty) is shown to the script on stderr."""

    reason: str = ""
    rule: str | None = None


EscalateAction = Run | Escalate | Deny
"""The three answers. ``rule`` names the rule or heuristic that decided, for the call's record."""


class EscalationPolicy(Protocol):
    """Decides the execs of one call."""

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """Decide one exec.

        Raises:
            ShellToolError: It could not be decided; the exec does not happen and the text goes to the script's stderr.
        """
        ...


@runtime_checkable
class ImmediateEscalationPolicy(EscalationPolicy, Protocol):
    """An :class:`EscalationPolicy` that decides most execs without waiting for anybody.

    Offering this is a matter of speed: an exec decided at once costs the server a tenth of a task's time.
    """

    def decide_at_once(self, request: ExecRequest) -> EscalateAction | None:
        """What :meth:`determine_action` would say, or ``None`` if that takes waiting.

        Raises:
            ShellToolError: As there.
        """
        ...


@runtime_checkable
class AskingPolicy(Protocol):
    """An :class:`EscalationPolicy` that asks a person by way of the call."""

    def answered(self) -> None:
        """The call has its result, and processes of it go on: nobody can be asked any more, nor will answer."""
        ...


class EscalationPolicyFactory(Protocol):
    """Makes the :class:`EscalationPolicy` of one call."""

    def create_policy(self, policy: Policy, stopwatch: Stopwatch) -> EscalationPolicy:
        """Bind the user's rules and the call's clock (to stop it while a person is asked)."""
        ...
