"""What files say as JSON, for the way from the process that evaluates rules files to the one that uses them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.layers import FileRules
from codex_shell_tool_mcp.execpolicy.rules import NETWORK_PROTOCOLS, NetworkRule, PatternToken, PrefixRule

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_PROTOCOLS = {name: name for name in NETWORK_PROTOCOLS}


def encode_files(files: Iterable[FileRules], programs: Collection[str] | None = None) -> bytes:
    """``files`` as one line of JSON, without the line end; of prefix rules only those of ``programs``, if given."""
    raw = [
        [
            file.identifier,
            [
                [rule.program, rule.rest, int(rule.decision), rule.justification, rule.source]
                for rule in file.prefix_rules
                if programs is None or rule.program in programs
            ],
            [
                [rule.host, rule.protocol, int(rule.decision), rule.justification, rule.source]
                for rule in file.network_rules
            ],
            dict(file.host_executables),
        ]
        for file in files
    ]
    return json.dumps(raw, separators=(",", ":")).encode("ascii")


def decode_files(data: bytes) -> tuple[FileRules, ...]:
    """What :func:`encode_files` wrote.

    Raises:
        ValueError: ``data`` is not such a line.
    """
    try:
        return tuple(
            FileRules(
                identifier=_text(identifier),
                prefix_rules=tuple(map(_prefix_rule, prefix)),
                network_rules=tuple(map(_network_rule, network)),
                host_executables={_text(name): _texts(paths) for name, paths in hosts.items()},
            )
            for identifier, prefix, network, hosts in json.loads(data)
        )
    except (AttributeError, KeyError, TypeError) as exc:
        raise ValueError("not encoded rules") from exc


def _prefix_rule(raw: Any) -> PrefixRule:
    program, rest, decision, justification, source = raw
    return PrefixRule(
        program=_text(program),
        rest=tuple(map(_token, rest)),
        decision=Decision(decision),
        justification=_optional_text(justification),
        source=_optional_text(source),
    )


def _network_rule(raw: Any) -> NetworkRule:
    host, protocol, decision, justification, source = raw
    return NetworkRule(
        host=_text(host),
        protocol=_PROTOCOLS[protocol],
        decision=Decision(decision),
        justification=_optional_text(justification),
        source=_optional_text(source),
    )


def _token(raw: Any) -> PatternToken:
    return raw if isinstance(raw, str) else _texts(raw)


def _texts(raw: Iterable[Any]) -> tuple[str, ...]:
    return tuple(map(_text, raw))


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise TypeError(raw)
    return raw


def _optional_text(raw: Any) -> str | None:
    return None if raw is None else _text(raw)
