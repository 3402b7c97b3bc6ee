"""Always allow: the choice in the question, the rule that is written, and that it counts at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from codex_shell_tool_mcp.server.prompt import SCHEMA

if TYPE_CHECKING:
    from support.clients import Installation, Raw


@pytest.fixture
def asking(confined: Installation) -> Installation:
    confined.options += ("--unmatched", "prompt")
    return confined


def choice(question: dict[str, Any]) -> str | None:
    """What the form says of the rule it offers, if it does."""
    assert question["method"] == "elicitation/create"
    schema = question["params"]["requestedSchema"]
    offered = schema["properties"].get("always")
    if offered is None:
        assert schema == SCHEMA
        return None
    assert (offered["type"], offered["default"]) == ("boolean", False)
    return str(offered["description"])


def answer(server: Raw, question: dict[str, Any], always: object = True, action: str = "accept") -> None:
    server.send({"id": question["id"], "result": {"action": action, "content": {"always": always}}})


def rules(installation: Installation) -> str:
    path = installation.home / "rules" / "default.rules"
    return path.read_text() if path.exists() else ""


def test_the_rule_is_written_counts_at_once_and_later(asking: Installation) -> None:
    script = "uname -s; uname -s; cat /dev/null; exit $?"
    with asking.raw(elicitation={}) as server:
        server.send(server.call(1, script))
        question = server.receive()
        program = question["params"]["message"].partition("`")[2].partition(" ")[0]
        assert choice(question) == (
            f"Write a rule: from now on every command that begins with `{program} -s` runs outside the sandbox, "
            "and nobody is asked"
        )
        answer(server, question)
        question = server.receive()  # the next one asked about is cat: uname was not again
        assert "/cat /dev/null`" in question["params"]["message"]
        answer(server, question, always=False)
        found = server.result()
        server.send(server.call(2, "uname -s; uname; echo $?"))
        assert "/uname`" in server.receive()["params"]["message"]
    assert [entry["action"] for entry in found["decisions"]] == ["escalate", "escalate", "run"]
    assert found["decisions"][0]["rule"].endswith("/rules/default.rules:1")
    assert json.dumps([program, "-s"]) in rules(asking)
    assert rules(asking).count("prefix_rule") == 1


@pytest.mark.parametrize(("always", "action"), [(False, "accept"), ("yes", "accept"), (True, "decline")])
def test_no_rule_without_a_plain_yes(asking: Installation, always: object, action: str) -> None:
    with asking.raw(elicitation={}) as server:
        server.send(server.call(1, "uname -s >/dev/null; exit 3"))
        answer(server, server.receive(), always, action)
        found = server.receive()
        assert found["id"] == 1
    assert rules(asking) == ""


@pytest.mark.parametrize(
    "command",
    [
        "env uname",  # runs anything
        "rm -f gone",  # dangerous
        "python3 -c pass",  # an interpreter
        "touch x",  # writes where it is told
        "uname $'\\xff'",  # no rule can name it
        "uname 1 2 3 4 5 6 7 8 9 10 11 12",  # too long to come again
    ],
)
def test_no_rule_is_offered_for(asking: Installation, command: str) -> None:
    with asking.raw(elicitation={}) as server:
        server.send(server.call(1, f"{command}; exit 3"))
        assert choice(server.receive()) is None


def test_no_rule_is_offered_where_a_rule_asks(asking: Installation) -> None:
    asking.rules('prefix_rule(["uname"], "prompt")\n')
    with asking.raw(elicitation={}) as server:
        server.send(server.call(1, "uname -s; exit 3"))
        question = server.receive()
        assert choice(question) is None
        answer(server, question)  # a client that answers what was not asked
        assert server.result()["decisions"][0]["action"] == "escalate"
    assert rules(asking) == 'prefix_rule(["uname"], "prompt")\n'


def test_a_rule_that_cannot_be_written_is_said_and_the_command_runs_once(asking: Installation) -> None:
    (asking.home / "rules").mkdir()
    (asking.home / "rules" / "default.rules").symlink_to("elsewhere")
    with asking.raw(elicitation={}) as server:
        server.send(server.call(1, "uname -s"))
        answer(server, server.receive())
        said = server.receive()
        assert said["method"] == "notifications/message"
        assert said["params"]["data"].startswith(f"no rule was written: {asking.home}/rules/default.rules: ")
        assert [entry["action"] for entry in server.result()["decisions"]] == ["run"]


def test_what_is_forbidden_while_somebody_thinks_is_denied(asking: Installation) -> None:
    with asking.raw(elicitation={}) as server:
        server.send(server.call(1, "uname -s; echo $?"))
        question = server.receive()
        asking.rules('prefix_rule(["uname"], "forbidden", justification = "too late")\n')
        answer(server, question, always=False)
        assert "forbidden by policy: too late\n1\n" in server.result()["output"]
