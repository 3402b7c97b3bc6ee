"""The seam between the escalation server and whoever decides.

The escalation server knows nothing of MCP: it asks an :class:`EscalationPolicy`, made for each call by an
:class:`EscalationPolicyFactory`. ``server/approvals.py`` holds the one that elicits through MCP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

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


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A decision, and how far the policy looked for it: it is the same for every request that is the same so far.

    Attributes:
        action: The decision.
        depth: How many words of the argument vector were looked at, the first included; what that is never counts.
        basis: What it rests on. A decision that rests on something else says that this one is over.
        asked: When, in seconds of the monotonic clock: how long it may stand counts from there.
    """

    action: Run | Escalate
    depth: int
    basis: object
    asked: float


@runtime_checkable
class StandingPolicy(ImmediateEscalationPolicy, Protocol):
    """An :class:`ImmediateEscalationPolicy` that can tell how far it looks.

    Again a matter of speed: what it tells, the supervisor answers without the server.
    """

    @property
    def tells_how_far(self) -> bool:
        """Whether :meth:`standing` will ever tell, in this call."""
        ...

    def standing(self, request: ExecRequest) -> Standing | None:
        """How the request is decided now, and how far that looks; ``None`` if nothing can be said of others.

        Of the request itself the program's names count, whether they lie where the sandboxed side can write, and so
        many words; nothing else may.
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


_IMMEDIATE: dict[type, bool] = {}
_STANDING: dict[type, bool] = {}
"""What is known of the classes of policies: finding it out takes 50 µs, and is asked for every call."""


def immediate(policy: EscalationPolicy) -> ImmediateEscalationPolicy | None:
    """``policy``, if it is an :class:`ImmediateEscalationPolicy`."""
    kind = type(policy)
    if kind not in _IMMEDIATE:
        _IMMEDIATE[kind] = isinstance(policy, ImmediateEscalationPolicy)
    return cast("ImmediateEscalationPolicy", policy) if _IMMEDIATE[kind] else None


def standing(policy: EscalationPolicy) -> StandingPolicy | None:
    """``policy``, if it is a :class:`StandingPolicy` that will tell how far it looks."""
    kind = type(policy)
    if kind not in _STANDING:
        _STANDING[kind] = isinstance(policy, StandingPolicy)
    told = cast("StandingPolicy", policy) if _STANDING[kind] else None
    return told if told is not None and told.tells_how_far else None
