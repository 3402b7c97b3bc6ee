"""Decisions through the MCP-side policy, with fakes of the client's five ways to answer."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_REQUEST, ClientCapabilities, ElicitationCapability, ElicitResult
from pydantic import ValidationError

from codex_shell_tool_mcp import cli
from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation.policy import (
    Deny,
    Escalate,
    EscalateAction,
    ExecRequest,
    Run,
    Standing,
    StandingPolicy,
)
from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.rules import Policy, PrefixRule
from codex_shell_tool_mcp.server import approvals, prompt
from codex_shell_tool_mcp.server.prompt import SCHEMA
from support import fake_time

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

Answer = Callable[[], Awaitable[ElicitResult]]


@dataclass
class FakeSession:
    """Stands for the SDK's session: what it was asked, and how it answers."""

    answer: Answer
    client_capabilities: ClientCapabilities | None = None
    asked: list[tuple[str, dict[str, Any], object]] = field(default_factory=list)

    async def elicit_form(self, text: str, schema: dict[str, Any], related: object) -> ElicitResult:
        self.asked.append((text, schema, related))
        return await self.answer()


@dataclass
class FakeContext:
    session: FakeSession
    request_id: int = 7


FORMS = ClientCapabilities.model_validate({"elicitation": {}})


def says(action: str, content: dict[str, Any] | None = None) -> Answer:
    async def answer() -> ElicitResult:
        return ElicitResult.model_validate({"action": action, "content": content})

    return answer


async def never() -> ElicitResult:
    await asyncio.Event().wait()
    raise AssertionError


def rules(*rows: tuple[str, Decision, str | None]) -> Policy:
    return Policy(
        prefix_rules=tuple(
            PrefixRule(program=name, decision=decision, justification=why, source=f"my.rules:{line}")
            for line, (name, decision, why) in enumerate(rows, start=1)
        )
    )


RULES = rules(("git", Decision.ALLOW, None), ("make", Decision.PROMPT, None), ("dd", Decision.FORBIDDEN, None))


def request(*argv: str, program: str | None = None, writable: bool = False) -> ExecRequest:
    path = program or f"/usr/bin/{argv[0]}"
    return ExecRequest(file=path, program=path, resolved=path, argv=argv, cwd="/w", writable_by_sandbox=writable)


def factory(session: FakeSession, **options: Any) -> approvals.McpEscalationPolicyFactory:
    context = cast("ServerRequestContext[Any, Any]", FakeContext(session))
    return approvals.McpEscalationPolicyFactory(context=context, **options)


def decide(
    asked: ExecRequest, answer: Answer = never, *, policy: Policy = RULES, can: bool = True, **options: Any
) -> tuple[EscalateAction, FakeSession]:
    session = FakeSession(answer, FORMS if can else None)

    async def run() -> EscalateAction:
        made = factory(session, **options).create_policy(policy, Stopwatch(None))
        return await asyncio.wait_for(made.determine_action(asked), 60)

    return asyncio.run(run()), session


def test_allowed_by_a_rule_escalates() -> None:
    assert decide(request("git", "status"))[0] == Escalate(rule="my.rules:1")


def test_unmatched_runs_and_nobody_is_asked() -> None:
    action, session = decide(request("ls"))
    assert action == Run()
    assert session.asked == []


def test_forbidden() -> None:
    assert decide(request("dd"))[0] == Deny(reason="Execution forbidden by policy", rule="my.rules:3")


def test_forbidden_tells_the_justification() -> None:
    policy = rules(("dd", Decision.FORBIDDEN, "it wipes disks"))
    assert decide(request("dd"), policy=policy)[0] == Deny(
        reason="Execution forbidden by policy: it wipes disks", rule="my.rules:1"
    )


def test_accepted_by_rule_escalates() -> None:
    action, session = decide(request("make", "all"), says("accept"))
    assert action == Escalate(rule="my.rules:2")
    assert session.asked == [("Allow agent to run `/usr/bin/make all` in `/w`?", SCHEMA, 7)]


def test_accepted_by_heuristics_stays_in_the_sandbox() -> None:
    action, session = decide(request("rm", "-rf", "x"), says("accept"))
    assert action == Run(rule="heuristics")
    assert len(session.asked) == 1


@pytest.mark.parametrize(("answer", "word"), [("decline", "declined"), ("cancel", "cancelled")])
@pytest.mark.parametrize("argv", [("make",), ("rm", "-rf", "x")])
def test_refused(answer: str, word: str, argv: tuple[str, ...]) -> None:
    action, _ = decide(request(*argv), says(answer))
    assert isinstance(action, Deny)
    assert action.reason == f"User {word} execution"


def test_only_the_action_counts() -> None:
    assert isinstance(decide(request("make"), says("accept", {"reason": "no, deny"}))[0], Escalate)


def test_a_client_without_the_capability_is_not_asked() -> None:
    action, session = decide(request("make"), can=False)
    assert action == Deny(reason=approvals.NO_CAPABILITY, rule="my.rules:2")
    assert session.asked == []


def test_nobody_answers() -> None:
    action, _ = decide(request("make"), never, approval_timeout=0.05)
    assert action == Deny(reason="Nobody answered the request for approval within 0.05 s", rule="my.rules:2")


def test_a_client_that_cannot_ask_after_all_is_an_error_not_a_denial() -> None:
    async def fails() -> ElicitResult:
        raise MCPError(INVALID_REQUEST, "no window")

    with pytest.raises(ShellToolError, match="the client could not ask for approval: no window"):
        decide(request("make"), fails)


def test_an_answer_that_makes_no_sense_is_an_error() -> None:
    with pytest.raises(ShellToolError, match="makes no sense"):
        decide(request("make"), says("maybe"))
    with pytest.raises(ValidationError):
        ElicitResult.model_validate({"action": "maybe"})


def test_a_name_the_script_could_have_made_up_does_not_allow() -> None:
    action, _ = decide(request("git", "status", program="/w/git", writable=True))
    assert action == Run()
    denied, _ = decide(request("dd", program="/w/dd", writable=True))
    assert isinstance(denied, Deny)


def test_whole_paths_on_request() -> None:
    assert decide(request("git"), preserve_program_paths=True)[0] == Run()
    policy = rules(("/usr/bin/git", Decision.ALLOW, None))
    assert isinstance(decide(request("git"), policy=policy, preserve_program_paths=True)[0], Escalate)


def test_the_clock_stands_still_while_someone_thinks() -> None:
    async def run() -> tuple[float, float]:
        now = [0.0]
        stopwatch = Stopwatch(10.0, clock=lambda: now[0])

        async def slow() -> ElicitResult:
            now[0] += 100.0
            return await says("accept")()

        made = factory(FakeSession(slow, FORMS)).create_policy(RULES, stopwatch)
        now[0] += 1.0
        await made.determine_action(request("make"))
        now[0] += 2.0
        return stopwatch.elapsed(), now[0]

    assert asyncio.run(run()) == (3.0, 103.0)


def test_the_clock_runs_on_when_the_question_is_dropped() -> None:
    async def run() -> bool:
        stopwatch = Stopwatch(5, fake_time.loop().time)
        made = factory(FakeSession(never, FORMS)).create_policy(RULES, stopwatch)
        deciding = asyncio.create_task(made.determine_action(request("make")))
        await asyncio.sleep(10)
        assert stopwatch.remaining() == 5
        deciding.cancel()
        await asyncio.gather(deciding, return_exceptions=True)
        await asyncio.wait_for(stopwatch.expired(), 6)
        return deciding.cancelled()

    assert fake_time.run(run())


def test_nobody_is_asked_once_the_call_was_answered() -> None:
    async def run() -> list[EscalateAction]:
        session = FakeSession(never, FORMS)
        made = factory(session).create_policy(RULES, Stopwatch(None))
        waiting = asyncio.create_task(made.determine_action(request("make")))
        while not session.asked:
            await asyncio.sleep(0)
        made.answered()
        actions = [await asyncio.wait_for(waiting, 60), await made.determine_action(request("make", "all"))]
        assert len(session.asked) == 1
        return actions

    assert asyncio.run(run()) == [Deny(reason=approvals.NO_REQUEST, rule="my.rules:2")] * 2


@pytest.mark.parametrize(
    ("declared", "shows"),
    [
        (None, False),
        ({}, False),
        ({"elicitation": {}}, True),
        ({"elicitation": {"form": {}}}, True),
        ({"elicitation": {"form": {}, "url": {}}}, True),
        ({"elicitation": {"url": {}}}, False),
    ],
)
def test_what_declares_forms(declared: dict[str, Any] | None, shows: bool) -> None:
    capabilities = None if declared is None else ClientCapabilities.model_validate(declared)
    assert approvals.shows_forms(capabilities) is shows
    assert ElicitationCapability.model_validate({}).form is None  # what makes the first true row a special case


def test_the_command_line_has_the_same_default() -> None:
    assert cli.DEFAULT_APPROVAL_TIMEOUT == approvals.DEFAULT_APPROVAL_TIMEOUT


class FakeRules:
    """Stands for the rules of a call: always the same."""

    async def current(self) -> Policy:
        return RULES

    async def afresh(self) -> Policy:
        return RULES

    def at_once(self) -> Policy | None:
        return RULES


@pytest.mark.parametrize("beside", [True, False])
def test_long_work_is_done_beside_the_event_loop_also_after_the_answer(
    beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_loop: list[bool] = []

    def noted(work: Callable[..., Any]) -> Callable[..., Any]:
        def working(*arguments: Any) -> Any:
            on_loop.append(threading.current_thread() is threading.main_thread())
            return work(*arguments)

        return working

    monkeypatch.setattr(approvals, "message", noted(prompt.message))
    long = request("sh", "-c", "true;" * (1000 if beside else 10))
    action, session = decide(
        long, says("accept"), rules=cast("Any", FakeRules()), heuristics=noted(lambda _: Decision.PROMPT)
    )
    assert action == Run(rule="heuristics")
    assert len(session.asked) == 1
    assert on_loop == [not beside] * 3  # the decision, the question's text, the decision by what is in force by then


@pytest.mark.parametrize(
    ("argv", "immediate"),
    [
        (("git", "status"), True),
        (("make",), False),
        (("sh", "-c", "true;" * 100), True),
        (("sh", "-c", "true;" * 1000), False),
        (("git", *["status"] * 2000), False),
    ],
)
def test_what_takes_no_waiting_is_decided_at_once_and_alike(argv: tuple[str, ...], immediate: bool) -> None:
    """A question, a long script and very many words are left to the way that can wait."""
    session = FakeSession(says("accept"), FORMS)
    made = factory(session).create_policy(
        rules(("git", Decision.ALLOW, None), ("make", Decision.PROMPT, None)), Stopwatch(None)
    )
    asked = request(*argv)
    at_once = made.decide_at_once(asked)
    assert (at_once is not None) is immediate
    assert not session.asked
    awaited = asyncio.run(asyncio.wait_for(made.determine_action(asked), 60))
    assert at_once in {None, awaited}
    assert bool(session.asked) is (argv == ("make",))


def standing(
    asked: ExecRequest, policy: Policy = RULES, *, level: int = logging.WARNING, **options: Any
) -> Standing | None:
    logging.getLogger(approvals.__name__).setLevel(level)
    try:
        made = factory(FakeSession(never), **options).create_policy(policy, Stopwatch(None))
        assert isinstance(made, StandingPolicy)
        return made.standing(asked) if made.tells_how_far else None
    finally:
        logging.getLogger(approvals.__name__).setLevel(logging.NOTSET)


def test_how_far_it_looked() -> None:
    deep = Policy(
        prefix_rules=(
            PrefixRule(program="tool", rest=("a", ("b", "c")), decision=Decision.FORBIDDEN),
            PrefixRule(program="/usr/bin/tool", rest=("z",)),
        )
    )
    for asked, action, depth in (
        (request("cat"), Run(), 1),
        (request("tool", "x"), Run(), 3),
        (request("tool", "z"), Escalate(rule="rule for /usr/bin/tool z"), 3),
    ):
        found = standing(asked, deep)
        assert found is not None
        assert (found.action, found.depth, found.basis) == (action, depth, deep)
    assert standing(request("tool", "a", "b"), deep) is None, "denied"
    found = standing(request("git", "push", "--force"))
    assert found is not None
    assert (found.action, found.depth) == (Escalate(rule="my.rules:1"), 1)


def test_what_may_be_dangerous_with_other_words_does_not_stand() -> None:
    for name in ("rm", "bash", "find", "sudo", "env", "sh", "su"):
        assert standing(request(name)) is None
    link = replace(request("true"), resolved="/usr/bin/rm")
    assert standing(link) is None


def test_what_else_does_not_stand() -> None:
    assert standing(request("make")) is None, "asked about"
    assert standing(request("cat"), heuristics=lambda _: Decision.ALLOW) is None, "nobody knows how far those look"
    assert standing(request("cat", "x" * 2000)) is None, "judged beside the loop"
    assert standing(request("cat"), level=logging.INFO) is None, "each is to be logged"
    assert standing(request("git", writable=True)) is None, "what its name leads to may change"
    assert standing(request("cat", writable=True)) is not None, "no rule speaks of it"


@given(
    words=st.lists(st.sampled_from(["a", "b", "c", "-rf", "--force", "rm", "-c", "rm -rf /", "push"]), max_size=5),
    other=st.lists(st.sampled_from(["a", "b", "c", "-rf", "--force", "rm", "-c", "rm -rf /", "push"]), max_size=5),
    program=st.sampled_from(["tool", "other", "git", "rm", "bash", "xargs", "cat"]),
    prefixes=st.lists(
        st.tuples(
            st.sampled_from(["tool", "/usr/bin/tool", "other", "git", "cat"]),
            st.lists(st.sampled_from(["a", "b", "push"]), max_size=3),
            st.sampled_from(list(Decision)),
        ),
        max_size=4,
    ),
)
def test_what_stands_is_what_would_be_decided(
    words: list[str], other: list[str], program: str, prefixes: list[tuple[str, list[str], Decision]]
) -> None:
    """Any other request that is the same as far as was looked gets the same decision."""
    policy = Policy(
        prefix_rules=tuple(PrefixRule(program=name, rest=tuple(rest), decision=what) for name, rest, what in prefixes)
    )
    found = standing(request(program, *words), policy)
    if found is None:
        return
    seen = words[: found.depth - 1]
    like = request(program, *seen, *(other if len(seen) == found.depth - 1 else ()))
    made = factory(FakeSession(never)).create_policy(policy, Stopwatch(None))
    assert made.decide_at_once(like) == found.action
