"""Rules, and the five ways a client can answer (or not), through a real client."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from mcp_types import ElicitRequestParams, ElicitResult

from codex_shell_tool_mcp.server.prompt import SCHEMA
from support.clients import Client, Installation, state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PROMPT = 'prefix_rule(pattern=["touch"], decision="prompt", justification="it makes files")\n'


def answering(action: str, asked: list[str] | None = None) -> Callable[[ElicitRequestParams], Awaitable[ElicitResult]]:
    async def elicit(params: ElicitRequestParams) -> ElicitResult:
        if asked is not None:
            asked.append(params.message)
        return ElicitResult(action=action)  # type: ignore[arg-type]

    return elicit


def one(installation: Installation, script: str, action: str | None, **arguments: object) -> dict[str, Any]:
    async def work(client: Client) -> dict[str, Any]:
        return await client.shell(script, **arguments)

    found = installation.use(work, None if action is None else answering(action))
    assert isinstance(found, dict)
    return found


def test_accepted_runs_outside_the_sandbox(confined: Installation) -> None:
    confined.rules(PROMPT)
    found = one(confined, "touch made; echo $?; echo x > denied || echo held back", "accept")
    assert found["output"].startswith("0\n")
    assert found["output"].endswith("held back\n")
    assert (confined.workdir / "made").exists()
    assert not (confined.workdir / "denied").exists()
    (decision,) = found["decisions"]
    assert decision["action"] == "escalate"
    assert decision["command"].endswith("touch made")
    assert decision["rule"].endswith("default.rules:1")


def test_allowed_runs_outside_the_sandbox_and_nobody_is_asked(confined: Installation) -> None:
    confined.rules('prefix_rule(pattern=["touch"], decision="allow")\n')
    asked: list[str] = []

    async def work(client: Client) -> dict[str, Any]:
        return await client.shell("touch made")

    assert confined.use(work, answering("decline", asked))["exit_code"] == 0
    assert (confined.workdir / "made").exists()
    assert asked == []


def test_unmatched_runs_in_the_sandbox(confined: Installation) -> None:
    found = one(confined, "touch made", "accept")
    assert found["exit_code"] == 1
    assert not (confined.workdir / "made").exists()
    assert "decisions" not in found


def test_accepted_by_heuristics_stays_in_the_sandbox(confined: Installation) -> None:
    (confined.workdir / "kept").touch()
    found = one(confined, "rm -rf kept; echo $?", "accept")
    assert found["output"].endswith("1\n")
    assert (confined.workdir / "kept").exists()
    assert found["decisions"][0]["rule"] == "heuristics"


@pytest.mark.parametrize(("action", "word"), [("decline", "declined"), ("cancel", "cancelled")])
def test_refused_does_not_run_and_the_script_goes_on(installation: Installation, action: str, word: str) -> None:
    installation.rules(PROMPT)
    found = one(installation, "touch made; echo $?", action)
    assert found["output"] == f"Execution denied: User {word} execution\n1\n"
    assert not (installation.workdir / "made").exists()


def test_forbidden_with_its_reason(installation: Installation) -> None:
    installation.rules('prefix_rule(pattern=["touch"], decision="forbidden", justification="use git")\n')
    asked: list[str] = []

    async def work(client: Client) -> dict[str, Any]:
        return await client.shell("touch made; echo $?")

    found = installation.use(work, answering("accept", asked))
    assert found["output"] == "Execution denied: Execution forbidden by policy: use git\n1\n"
    assert asked == []
    assert not (installation.workdir / "made").exists()


def test_a_client_without_the_capability_is_sent_nothing(installation: Installation) -> None:
    installation.rules(PROMPT)
    with installation.raw() as server:
        server.send(server.call(1, "touch made; echo $?"))
        found = server.result()  # the very next message: no question came before it
    assert found["output"] == (
        "Execution denied: Approval is required, and this client cannot ask for it (it does not declare elicitation)\n"
        "1\n"
    )
    assert not (installation.workdir / "made").exists()


def test_the_question_as_it_is_sent(installation: Installation) -> None:
    installation.rules(PROMPT)
    with installation.raw(elicitation={}) as server:
        server.send(server.call(1, "touch 'two words' $'a\\nb'; echo $?"))
        question = server.receive()
        assert question["method"] == "elicitation/create"
        program = question["params"]["message"].partition("`")[2].partition(" ")[0]
        assert program.endswith("/bin/touch")
        assert question["params"] == {
            "mode": "form",
            "message": f"Allow agent to run `{program} 'two words' $'a\\nb'` in `{installation.workdir}`?",
            "requestedSchema": SCHEMA,
        }
        server.send({"id": question["id"], "result": {"action": "accept", "content": {"reason": "no!"}}})
        assert server.result()["output"] == "0\n"
    assert (installation.workdir / "a\nb").exists()


def test_nobody_answers_in_time(installation: Installation) -> None:
    installation.rules(PROMPT)
    installation.options += ("--approval-timeout", "0.3")
    with installation.raw(elicitation={}) as server:
        server.send(server.call(1, "touch made; echo $?"))
        question = server.receive()
        withdrawn = server.receive()
        assert withdrawn["method"] == "notifications/cancelled"
        assert withdrawn["params"]["requestId"] == question["id"]
        found = server.result()
        assert "Nobody answered the request for approval within 0.3 s" in found["output"]
        # Too late now: nothing follows from it.
        server.send({"id": question["id"], "result": {"action": "accept"}})
        server.send(server.call(2, "echo alive"))
        assert server.result()["output"] == "alive\n"
    assert not (installation.workdir / "made").exists()


def test_a_call_cancelled_while_asking_runs_nothing(installation: Installation) -> None:
    installation.rules(PROMPT)
    with installation.raw(elicitation={}) as server:
        server.send(server.call(1, "touch made; touch made2"))
        question = server.receive()
        server.send({"method": "notifications/cancelled", "params": {"requestId": 1}})
        withdrawn = server.receive()
        assert withdrawn["method"] == "notifications/cancelled"
        assert withdrawn["params"]["requestId"] == question["id"]
        server.send({"id": question["id"], "result": {"action": "accept"}})
        server.send(server.call(2, "sleep 0.3; echo alive"))
        assert server.result()["output"] == "alive\n"
    assert list(installation.workdir.iterdir()) == []


def test_a_client_that_goes_away_while_asked_runs_nothing(installation: Installation) -> None:
    installation.rules(PROMPT)
    with installation.raw(elicitation={}) as server:
        server.send(server.call(1, "touch made"))
        server.receive()
        assert server.process.stdin is not None
        server.process.stdin.close()
        server.process.wait(60)
    assert list(installation.workdir.iterdir()) == []


def test_a_client_that_cannot_ask_after_all(installation: Installation) -> None:
    """It could not be decided: that is neither yes nor no, and stops the exec."""
    installation.rules(PROMPT)
    with installation.raw(elicitation={}) as server:
        server.send(server.call(1, "touch made; echo $?"))
        question = server.receive()
        server.send({"id": question["id"], "error": {"code": -32600, "message": "no window"}})
        found = server.result()
    assert "not run: the client could not ask for approval: no window" in found["output"]
    assert found["output"].endswith("126\n")
    assert not (installation.workdir / "made").exists()


@pytest.mark.parametrize("answer", [{"action": "maybe"}, {}, {"action": "accept", "content": [1]}])
def test_an_answer_that_makes_no_sense(installation: Installation, answer: dict[str, object]) -> None:
    installation.rules(PROMPT)
    with installation.raw(elicitation={}) as server:
        server.send(server.call(1, "touch made; echo $?"))
        server.send({"id": server.receive()["id"], "result": answer})
        found = server.result()
    assert found["output"].endswith("126\n")
    assert not (installation.workdir / "made").exists()


def test_thinking_does_not_cost_the_call_its_time(installation: Installation) -> None:
    installation.rules(PROMPT)

    async def slowly(params: ElicitRequestParams) -> ElicitResult:
        await asyncio.sleep(5.5)
        return ElicitResult(action="accept")

    async def work(client: Client) -> dict[str, Any]:
        return await client.shell("touch made; echo done", timeout_ms=5000)

    found = installation.use(work, slowly)
    assert (found["timed_out"], found["output"]) == (False, "done\n")
    assert found["duration"]["secs"] >= 5


def test_the_clock_goes_on_after_the_answer(installation: Installation) -> None:
    installation.rules(PROMPT)

    async def work(client: Client) -> dict[str, Any]:
        return await client.shell("touch made; sleep 60", timeout_ms=800)

    begun = time.monotonic()
    found = installation.use(work, answering("accept"))
    assert found["timed_out"]
    assert time.monotonic() - begun < 30


def test_each_exec_asks_anew_and_questions_may_overlap(installation: Installation) -> None:
    installation.rules(PROMPT)
    barrier = asyncio.Barrier(2)
    asked: list[str] = []

    async def both_first(params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        await asyncio.wait_for(barrier.wait(), 60)
        return ElicitResult(action="accept" if " one`" in params.message else "decline")

    async def work(client: Client) -> dict[str, Any]:
        return await client.shell("touch one & touch two & wait")

    found = installation.use(work, both_first)
    assert len(asked) == 2
    assert "User declined execution" in found["output"]
    assert {path.name for path in installation.workdir.iterdir()} == {"one"}


def test_rules_hold_for_every_command_of_a_script(installation: Installation) -> None:
    installation.rules('prefix_rule(pattern=["touch"], decision="forbidden")\n')
    script = """
    true && touch a; false || touch b; (touch c); { touch d; }; touch e | cat; x=$(touch f); if touch g; then :; fi
    f() { touch h; }; f; eval 'touch i'; command touch j; env true; touch k & wait; exec touch l
    """
    found = installation.shell(script)
    assert found["output"].count("Execution denied: Execution forbidden by policy") == 12
    assert list(installation.workdir.iterdir()) == []


def test_whole_paths_only(installation: Installation) -> None:
    installation.rules('prefix_rule(pattern=["touch"], decision="forbidden")\n')
    installation.options += ("--preserve-program-paths",)
    assert installation.shell("touch made")["exit_code"] == 0


def test_a_file_of_a_forbidden_programs_name_anywhere_is_forbidden(installation: Installation) -> None:
    installation.rules('prefix_rule(pattern=["touch"], decision="forbidden")\n')
    found = installation.shell('ln -s "$(command -v touch)" other; ./other made; cp other touch; ./touch made2; ls')
    assert found["output"].count("Execution forbidden by policy") == 2
    assert "made" not in found["output"].replace("made2", "")


def test_a_programs_name_in_the_workspace_is_no_permission(confined: Installation) -> None:
    confined.rules('prefix_rule(pattern=["mytool"], decision="allow")\n')
    outside = confined.home / "outside"
    script = f"printf '#!/bin/sh\\necho x > {outside}\\n' > mytool; chmod +x mytool; ./mytool 2>/dev/null; echo $?"

    async def work(client: Client) -> dict[str, Any]:
        no_tmp = {"exclude_slash_tmp": True, "exclude_tmpdir_env_var": True}
        await client.update(state("workspace-write", client.workdir, **no_tmp))
        return await client.shell(script)

    found = confined.use(work)
    assert found["output"] != "0\n"
    assert not outside.exists()


def test_decisions_are_json_that_names_each(installation: Installation) -> None:
    installation.rules('prefix_rule(pattern=["touch"], decision="forbidden", justification="no")\n')
    found = installation.shell("touch a; ls; touch b")
    assert [(entry["action"], entry["reason"]) for entry in found["decisions"]] == [
        ("deny", "Execution forbidden by policy: no")
    ] * 2
    assert json.dumps(found["decisions"]).count("default.rules:1") == 2


def test_a_link_in_the_workspace_gives_no_trusted_name(confined: Installation) -> None:
    """The file behind it is the system's, but what it then runs is the workspace's."""
    confined.rules('prefix_rule(pattern=["git", "status"], decision="allow")\n')
    outside = confined.home / "outside"
    script = f"ln -s \"$(command -v bash)\" git; echo 'echo x > {outside}' > status; ./git status 2>/dev/null; echo $?"

    async def work(client: Client) -> dict[str, Any]:
        no_tmp = {"exclude_slash_tmp": True, "exclude_tmpdir_env_var": True}
        await client.update(state("workspace-write", client.workdir, **no_tmp))
        return await client.shell(script)

    assert confined.use(work)["output"] == "1\n"
    assert not outside.exists()
