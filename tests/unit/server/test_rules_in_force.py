"""The rules of a call: how recent they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import anyio

from codex_shell_tool_mcp.execpolicy.live import LiveRules
from codex_shell_tool_mcp.server.rules_in_force import CallRules, RulesInForce

if TYPE_CHECKING:
    from pathlib import Path


def test_afresh_counts_what_was_changed_since_the_last_look(tmp_path: Path) -> None:
    """No time passes here, so that each look is the last one for those who save looks."""
    folder = tmp_path / "rules"
    folder.mkdir()
    file = folder / "default.rules"
    live = LiveRules(tmp_path, clock=lambda: 0.0, sleep=lambda _: None)
    rules = CallRules(rules=RulesInForce(live), cwd=None, session=cast("Any", None))

    async def looks() -> list[bool]:
        file.write_text('prefix_rule(["ls"], "allow")\n')
        found = [(await rules.afresh()).has_rules_for(["uname"])]
        file.write_text('prefix_rule(["uname"], "forbidden")\n')
        found.append((await rules.current()).has_rules_for(["uname"]))
        found.append((await rules.afresh()).has_rules_for(["uname"]))
        return found

    assert anyio.run(looks) == [False, False, True]
