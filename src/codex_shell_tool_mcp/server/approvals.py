"""Decides execs by the rules, and asks the person behind the MCP client where they say ``prompt``."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation.channel import MANY, beside_the_loop
from codex_shell_tool_mcp.escalation.policy import Deny, Escalate, EscalateAction, Run, Standing
from codex_shell_tool_mcp.execpolicy import amend
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.heuristics import is_never_dangerous, unmatched_decision, why_dangerous
from codex_shell_tool_mcp.execpolicy.rules import PrefixRuleMatch, evaluate_exec, exec_names
from codex_shell_tool_mcp.server.prompt import ALWAYS, SCHEMA, message, schema_with_rule, visible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from mcp_types import ClientCapabilities

    from codex_shell_tool_mcp.escalation.policy import ExecRequest
    from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
    from codex_shell_tool_mcp.execpolicy.rules import Heuristics, Policy, RuleMatch
    from codex_shell_tool_mcp.server.rules_in_force import CallRules
    from codex_shell_tool_mcp.server.shortcut import RequestContext

_T = TypeVar("_T")

_LOG = logging.getLogger(__name__)

DEFAULT_APPROVAL_TIMEOUT = 600.0
"""Seconds a person has to answer: a client that shows nothing to anybody would hang the call for ever."""

NO_REQUEST = (
    "Approval is required, and nobody can be asked for it: the call has its result already, and this is a background "
    "process of it"
)
"""Reason of a denial when the call's request is over."""

SHORT = 1024
"""Characters of a word of a command that is judged on the event loop: some milliseconds at worst."""

NO_CAPABILITY = "Approval is required, and this client cannot ask for it (it does not declare elicitation)"
"""Reason of a denial when nobody can be asked."""

OFFERED_WORDS = 12
"""Words of a command for which a rule is offered: a longer one will hardly come again just so."""

OFFERED_CHARACTERS = 300
"""Characters of it: all of them have to be read."""

_REASONS = {"decline": "User declined execution", "cancel": "User cancelled execution"}


@dataclass(frozen=True, kw_only=True)
class McpEscalationPolicyFactory:
    """Makes the policy of one tool call; holds what only exists because the call came by MCP.

    Attributes:
        context: The request the call came as; questions are related to it.
        preserve_program_paths: Rules match whole paths only, never basenames.
        approval_timeout: Seconds a question may stay unanswered; ``None`` = for ever.
        heuristics: Decides what no rule matches.
        rules: Gives the rules as they are now, before each exec; ``None``: those the call began with count.
    """

    context: RequestContext
    rules: CallRules | None = None
    heuristics: Heuristics = unmatched_decision
    preserve_program_paths: bool = False
    approval_timeout: float | None = DEFAULT_APPROVAL_TIMEOUT

    def create_policy(self, policy: Policy, stopwatch: Stopwatch) -> McpEscalationPolicy:
        """See :class:`EscalationPolicyFactory`."""
        return McpEscalationPolicy(factory=self, policy=policy, stopwatch=stopwatch)

    @property
    def can_ask(self) -> bool:
        """Whether the client declared that it shows forms."""
        return shows_forms(self.context.session.client_capabilities)


def shows_forms(capabilities: ClientCapabilities | None) -> bool:
    """Whether elicitation by form was declared: an empty declaration means forms, one of links alone does not."""
    declared = None if capabilities is None else capabilities.elicitation
    return declared is not None and (declared.form is not None or declared.url is None)


@dataclass(kw_only=True)
class McpEscalationPolicy:
    """Decides the execs of one call. Nothing is remembered: each exec is decided, and asked about, anew."""

    factory: McpEscalationPolicyFactory
    policy: Policy
    stopwatch: Stopwatch
    _answered: bool = False
    _questions: set[asyncio.Timeout] = field(default_factory=set)

    def answered(self) -> None:
        """See :class:`~codex_shell_tool_mcp.escalation.policy.AskingPolicy`."""
        self._answered = True
        for question in self._questions:
            if not question.expired():  # else it is over, though its task has not gone on yet
                question.reschedule(0.0)  # now

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """Decide one exec.

        Raises:
            ShellToolError: The client could not put the question.
        """
        rules = self.factory.rules
        policy = self.policy if rules is None else await rules.current()
        deciding = await _beside_if_long(request, lambda: self._deciding(policy, request))
        action = _without_asking(deciding)
        if action is None:
            action = await self._after_asking(request, deciding)
        return _logged(request, action, deciding)

    def decide_at_once(self, request: ExecRequest) -> EscalateAction | None:
        """Decide one exec, unless somebody has to be asked, the rules have to be read anew, or it takes long."""
        if not _is_short(request):
            return None
        rules = self.factory.rules
        policy = self.policy if rules is None else rules.at_once()
        if policy is None:
            return None
        deciding = self._deciding(policy, request)
        action = _without_asking(deciding)
        return None if action is None else _logged(request, action, deciding)

    @property
    def tells_how_far(self) -> bool:
        """See :class:`~codex_shell_tool_mcp.escalation.policy.StandingPolicy`; not where each exec is to be logged."""
        return not _LOG.isEnabledFor(logging.INFO)

    def standing(self, request: ExecRequest) -> Standing | None:
        """See :class:`~codex_shell_tool_mcp.escalation.policy.StandingPolicy`: for what the rules alone decide.

        A name that the sandboxed side can write may come to mean something else, so where rules speak of the program,
        nothing is said of it.
        """
        asked = time.monotonic()  # before the look at the rules
        rules = self.factory.rules
        policy = self.policy if rules is None else rules.at_once()
        if policy is None or not _is_short(request):
            return None
        paths, names = exec_names(
            request.program, request.resolved, preserve_program_paths=self.factory.preserve_program_paths
        )
        if request.writable_by_sandbox and policy.has_rules_for(names):
            return None
        deciding = self._deciding(policy, request)
        if not isinstance(deciding, PrefixRuleMatch) and not (
            self.factory.heuristics is unmatched_decision and all(map(is_never_dangerous, paths))
        ):
            return None
        action = _without_asking(deciding)
        if not isinstance(action, Run | Escalate):
            return None
        return Standing(action=action, depth=policy.words_looked_at(names), basis=policy, asked=asked)

    def _deciding(self, policy: Policy, request: ExecRequest) -> RuleMatch:
        evaluation = evaluate_exec(
            policy,
            program=request.program,
            resolved=request.resolved,
            argv=request.argv,
            preserve_program_paths=self.factory.preserve_program_paths,
            # A name is only worth trusting where the script could not have put a file of that name.
            name_may_allow=not request.writable_by_sandbox,
            heuristics=self.factory.heuristics,
        )
        return evaluation.deciding()

    async def _after_asking(self, request: ExecRequest, deciding: RuleMatch) -> EscalateAction:
        """What comes of the answer; what the rules forbid by then stays forbidden."""
        rules = self.factory.rules
        prefix = None if rules is None else rule_to_offer(request, deciding)
        refusal, always = await self._ask(request, prefix)
        action = _once_asked(deciding, refusal)
        if rules is None or refusal is not None:
            return action
        written = prefix is not None and always and await rules.allow(prefix)
        policy = await rules.afresh()
        later = _without_asking(await _beside_if_long(request, lambda: self._deciding(policy, request)))
        return later if isinstance(later, Deny) or (written and later is not None) else action

    async def _ask(self, request: ExecRequest, prefix: Sequence[str] | None) -> tuple[str | None, bool]:
        """Put the question, with the choice to write a rule for ``prefix``.

        Returns:
            ``None`` if it was accepted, else why not; and whether the rule is wanted.
        """
        if self._answered:
            return NO_REQUEST, False
        if not self.factory.can_ask:
            return NO_CAPABILITY, False
        context = self.factory.context
        text = await _beside_if_long(
            request, lambda: message(request.program, request.argv, request.cwd, request.resolved)
        )
        with self.stopwatch.paused():
            try:
                async with self._question():
                    answer = await context.session.elicit_form(
                        text,
                        SCHEMA if prefix is None else schema_with_rule(prefix),
                        context.request_id,
                    )
            except TimeoutError:
                if self._answered:
                    return NO_REQUEST, False
                return f"Nobody answered the request for approval within {self.factory.approval_timeout:g} s", False
            except MCPError as error:
                raise ShellToolError(f"the client could not ask for approval: {error.message}") from error
            except ValidationError as error:
                raise ShellToolError("the client's answer to the request for approval makes no sense") from error
        always = answer.action == "accept" and (answer.content or {}).get(ALWAYS) is True
        return _REASONS.get(answer.action), always

    @asynccontextmanager
    async def _question(self) -> AsyncIterator[None]:
        """The time within which a question must be answered, cut short by the call's own answer.

        Raises:
            TimeoutError: It is over.
        """
        async with asyncio.timeout(self.factory.approval_timeout) as limit:
            self._questions.add(limit)
            try:
                yield
            finally:
                self._questions.discard(limit)


def rule_to_offer(request: ExecRequest, deciding: RuleMatch) -> tuple[str, ...] | None:
    """The narrowest prefix that would spare the question, if writing it can be offered.

    Not if a rule wants the question, which an ``allow`` could not undo; not for what is dangerous, or could have been
    put there by the script, or runs more than it says.
    """
    prefix = (request.program, *request.argv[1:])
    if isinstance(deciding, PrefixRuleMatch) or request.writable_by_sandbox or not request.program.startswith("/"):
        return None
    if len(prefix) > OFFERED_WORDS or sum(map(len, prefix)) > OFFERED_CHARACTERS:
        return None
    if any(0xD800 <= ord(character) <= 0xDFFF for word in prefix for character in word):
        return None
    dangerous = why_dangerous(prefix) is not None
    return None if dangerous or amend.is_banned(prefix) or amend.objections(prefix) else prefix


def _is_short(request: ExecRequest) -> bool:
    """Whether it is decided in no time. A word may be a shell's script, which the heuristics take apart."""
    return len(request.argv) <= MANY and max(map(len, request.argv), default=0) <= SHORT


async def _beside_if_long(request: ExecRequest, work: Callable[[], _T]) -> _T:
    """What ``work`` makes of the request; where that may take long, the event loop goes on meanwhile."""
    return work() if _is_short(request) else await beside_the_loop(work)


def _without_asking(deciding: RuleMatch) -> EscalateAction | None:
    match deciding.decision:
        case Decision.ALLOW:
            return _permitted(deciding)
        case Decision.FORBIDDEN:
            return Deny(reason=_forbidden(deciding), rule=_name(deciding))
        case Decision.PROMPT:
            return None


def _once_asked(deciding: RuleMatch, refusal: str | None) -> EscalateAction:
    if refusal is not None:
        return Deny(reason=refusal, rule=_name(deciding))
    return _permitted(deciding) if isinstance(deciding, PrefixRuleMatch) else Run(rule=_name(deciding))


def _permitted(deciding: RuleMatch) -> EscalateAction:
    return Escalate(rule=_name(deciding)) if isinstance(deciding, PrefixRuleMatch) else Run()


def _logged(request: ExecRequest, action: EscalateAction, deciding: RuleMatch) -> EscalateAction:
    if _LOG.isEnabledFor(logging.INFO):  # finding out what is visible takes its time
        _LOG.info("%s: %s by %s", visible(request.program), type(action).__name__, _name(deciding))
    return action


def _forbidden(deciding: RuleMatch) -> str:
    text = "Execution forbidden by policy"
    if not isinstance(deciding, PrefixRuleMatch):
        return f"{text}: no rule matches it, and what no rule matches is denied here"
    return f"{text}: {deciding.justification}" if deciding.justification else text


def _name(deciding: RuleMatch) -> str:
    """What decided, for records: the rule's place, or the heuristics."""
    if not isinstance(deciding, PrefixRuleMatch):
        return "heuristics"
    return deciding.source or f"rule for {' '.join(deciding.matched_prefix)}"
