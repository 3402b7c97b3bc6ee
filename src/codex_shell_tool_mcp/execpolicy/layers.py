"""From what single files say to the one policy in force: who may grant, and who may only tighten. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.rules import NetworkRule, Policy, PrefixRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


@dataclass(frozen=True, kw_only=True)
class FileRules:
    """What one file said.

    Attributes:
        identifier: Its path.
        prefix_rules: In the order of the calls.
        network_rules: In the order of the calls.
        host_executables: As the file leaves them.
    """

    identifier: str
    prefix_rules: tuple[PrefixRule, ...] = ()
    network_rules: tuple[NetworkRule, ...] = ()
    host_executables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def combined(files: Iterable[FileRules], may_grant: Callable[[str], bool] = lambda _: True) -> Policy:
    """The policy of ``files`` in their order; a later ``host_executable`` of a name replaces an earlier one.

    Args:
        files: What they say.
        may_grant: Whether the file of this identifier may loosen anything. Of one that may not, what allows (programs
            or hosts) and what says which path may stand for a name is left out.
    """
    prefix_rules: list[PrefixRule] = []
    network_rules: list[NetworkRule] = []
    host_executables: dict[str, tuple[str, ...]] = {}
    for file in files:
        if may_grant(file.identifier):
            prefix_rules += file.prefix_rules
            network_rules += file.network_rules
            host_executables.update(file.host_executables)
        else:
            prefix_rules += (rule for rule in file.prefix_rules if rule.decision is not Decision.ALLOW)
            network_rules += (rule for rule in file.network_rules if rule.decision is not Decision.ALLOW)
    return Policy(
        prefix_rules=tuple(prefix_rules), network_rules=tuple(network_rules), host_executables=host_executables
    )


def left_out(file: FileRules) -> str | None:
    """What :func:`combined` leaves out of a file that may not grant, in words; ``None`` if nothing."""
    decisions = [rule.decision for rule in file.prefix_rules] + [rule.decision for rule in file.network_rules]
    allows = decisions.count(Decision.ALLOW)
    hosts = len(file.host_executables)
    parts = [
        *([f"{allows} allow rule{'s' * (allows != 1)}"] if allows else []),
        *([f"{hosts} host_executable entr{'ies' if hosts != 1 else 'y'}"] if hosts else []),
    ]
    return " and ".join(parts) or None
