"""Evaluates rules files: the only place that knows the interpreter.

A file is a Starlark program that calls ``prefix_rule``, ``host_executable`` and ``network_rule``. It can use unbounded
memory and time, and a deeply nested literal overflows the interpreter's stack, so files are evaluated in a
process of their own (:mod:`.isolation`); nothing else may call this module with text it does not trust.

How the builtins see their arguments. The binding hands values to Python through a serialiser that forgets what was a
tuple and fails on a function, and it does not say where a call stands. So the builtins are written in Starlark: they
describe each argument (strings and lists as they are, anything else by its type), take the interpreter's stack, which
holds the calling line, and keep both until the file is through; then all calls are passed on as one JSON text. Should
the interpreter stop before that, the file is evaluated again with builtins that pass each call on at once, for an
earlier call may have been bad. Only when a call turns out bad is its column wanted: then the file is evaluated
once more with builtins that fail at that very call, and the interpreter names the place.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, NoReturn

import starlark

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy.checks import (
    Argument,
    CheckedRule,
    ErrorKind,
    Other,
    RuleError,
    check_examples,
    host_executable,
    network_rule,
    prefix_rule,
)
from codex_shell_tool_mcp.execpolicy.layers import FileRules, combined
from codex_shell_tool_mcp.execpolicy.rules import NetworkRule, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

_FILE = "rules"
"""What the interpreter calls every rules file; the real name may hold characters that would garble its messages."""

_PRELUDE_FILE = "builtins"

# Nested deeper than examples can be, a list is only described by its type; this also ends lists that hold themselves.
# Reports are kept and handed over in one piece at the end: each step into Python costs more than ten calls here. They
# are kept in a dictionary, for a list that grows is copied by the interpreter's collector again and again. Of a rule
# that is in order by all that can be seen here, has no examples and is of a program nobody asked about, nothing is
# kept: that saves a third of the time of 10,000 of them.
_PRELUDE = """
def make_builtins(emit, call_stack, encode, at_once, places, wanted):
    absent = lambda: None
    words = ["allow", "prompt", "forbidden", absent]
    kept = {}
    number = [0]

    # What is short is taken apart by Python, which is ten times as fast at that; what is long (it holds source lines,
    # which may be the whole file) must not be kept for each call.
    def place():
        if not places:
            return ""
        stack = call_stack()
        if len(stack) < 1000:
            return stack
        stack = stack[:stack.find("\\n  * builtins:")]
        return stack[max(stack.rfind("\\n  * rules:"), 0):][:100]

    def report(call):
        if at_once:
            emit(encode([[number[0], call]]))
        else:
            kept[number[0]] = call
        number[0] += 1

    def described(value, depth):
        kind = type(value)
        if kind == "string":
            return value
        if kind == "list" and depth > 0:
            return [element if type(element) == "string" else described(element, depth - 1) for element in value]
        return {"type": kind}

    def argument(value):
        return None if value == absent else described(value, 3)

    def strings(value):
        return type(value) == "list" and value != [] and [one for one in value if type(one) == "string"] == value

    def unwanted(pattern):
        if type(pattern) != "list" or pattern == []:
            return False
        for element in pattern:
            if type(element) != "string" and not strings(element):
                return False
        if type(pattern[0]) == "string":
            return pattern[0] not in wanted
        return [one for one in pattern[0] if one in wanted] == []

    def blank(justification):
        return justification != absent and (type(justification) != "string" or not justification.strip())

    def prefix_rule(pattern, decision = absent, match = absent, not_match = absent, justification = absent):
        if wanted != None and match == absent and not_match == absent and decision in words:
            if unwanted(pattern) and not blank(justification):
                number[0] += 1
                return
        report(["prefix_rule", place(), [
            described(pattern, 3), argument(decision), argument(match), argument(not_match), argument(justification),
        ]])

    def host_executable(name, paths):
        report(["host_executable", place(), [argument(name), argument(paths)]])

    def network_rule(host, protocol, decision, justification = absent):
        report(["network_rule", place(), [
            argument(host), argument(protocol), argument(decision), argument(justification),
        ]])

    return prefix_rule, host_executable, network_rule, lambda: emit(encode(kept.items()))

def make_SECRET(at_once, places, wanted):
    return make_builtins(emit, call_stack, json.encode, at_once, places, wanted)
"""

_CALLED_FROM = f"\n  * {_FILE}:"
_CALLED_IN = f"\n  * {_PRELUDE_FILE}:"
"""How places begin in the interpreter's stack, the outermost first."""

_BUILTINS = ("prefix_rule", "host_executable", "network_rule")
_SET_UP = f"""
load("{_PRELUDE_FILE}", "make_SECRET")
{", ".join(_BUILTINS)}, finish_SECRET = make_SECRET(AT_ONCE, PLACES, WANTED)
"""

_REPORT = json.JSONDecoder(object_hook=lambda described: Other(described["type"]))

_MESSAGE = re.compile(r"^error: ", re.MULTILINE)
_PLACE = re.compile(rf"^ *--> {_FILE}:(\d+):(\d+)$", re.MULTILINE)

# What the interpreter says, and what to write instead; the first that fits counts.
_ADVICE = (
    ("`load` is not allowed", "put all rules into this file: a rules file cannot load another"),
    ("reserved keyword `while`", "use a for loop over a list"),
    ("reserved keyword", "rules files are Starlark, a small part of Python without this statement"),
    ("invalid input `\N{ZERO WIDTH NO-BREAK SPACE}`", "save the file as UTF-8 without a byte order mark"),
    ("invalid string escape", "write the character itself, or double the backslash"),
    ("call stack overflow", "write the rules without recursion"),
    ("Missing parameter", "give it, by name or by position"),
    ("extra named parameter", "docs/rules.md lists the parameters of each builtin"),
    ("extra positional", "docs/rules.md lists the parameters of each builtin"),
    (
        "Parse error",
        "close the brackets and quotes before it, put commas between elements, begin statements in column 1",
    ),
    ("Variable `", "there are prefix_rule, host_executable, network_rule, what Starlark offers, and your own names"),
)
_OTHER_ADVICE = "rules files are written in Starlark: see docs/rules.md"


class PolicyParser:
    """Reads rules files one after the other into one policy.

    Only the policy is carried from file to file; a file's own variables and functions end with it.
    """

    def __init__(self, *, places: bool = True, programs: Collection[str] | None = None) -> None:
        """Nothing is read yet.

        Args:
            places: Whether rules are to know the line of their call, which takes time.
            programs: Whose prefix rules are wanted; ``None`` = all. All are checked regardless.
        """
        self._places = places
        self._programs = None if programs is None else frozenset(programs)
        self._files: list[FileRules] = []
        self._host_executables: dict[str, tuple[str, ...]] = {}

    def parse(self, identifier: str, text: str, *, keeps_hosts: bool = True) -> None:
        """Evaluate one file and add what it says.

        Args:
            identifier: The file's name for messages.
            text: Its content.
            keeps_hosts: Whether the ``host_executable`` entries of this file count for the examples of later ones.

        Raises:
            PolicyError: ``identifier:line:column: what is wrong (what to write instead)``. Nothing of it is added.
        """
        known = dict(self._host_executables)
        calls = _receive(identifier, text, places=self._places, programs=self._programs)
        known.update(calls.hosts)
        for number, checked in calls.checked.items():
            if isinstance(checked, CheckedRule) and (checked.match or checked.not_match):
                try:
                    check_examples(checked, known)
                except RuleError as exc:
                    _fail(identifier, text, number, exc)
        self._files.append(
            FileRules(
                identifier=identifier,
                prefix_rules=tuple(
                    rule
                    for checked in calls.checked.values()
                    if isinstance(checked, CheckedRule)
                    for rule in checked.rules
                ),
                network_rules=tuple(checked for checked in calls.checked.values() if isinstance(checked, NetworkRule)),
                host_executables=calls.hosts,
            )
        )
        if keeps_hosts:
            self._host_executables = known

    def files(self) -> tuple[FileRules, ...]:
        """What each file said, in the order read."""
        return tuple(self._files)

    def build(self) -> Policy:
        """The policy of all files read so far."""
        return combined(self._files)


def _receive(identifier: str, text: str, *, places: bool, programs: frozenset[str] | None) -> _Calls:
    """All calls of a file, checked; some that are known to hold, and are of none of ``programs``, are left out."""
    calls = _Calls(identifier)
    try:
        _evaluate(text, calls.receive, at_once=False, places=places, programs=programs)
    except starlark.StarlarkError:
        calls = _Calls(identifier)
        try:
            _evaluate(text, calls.receive, at_once=True, places=places, programs=None)
        except starlark.StarlarkError as exc:
            if calls.error is None:
                raise _interpreter_error(identifier, str(exc)) from None
    if calls.error is not None:
        _fail(identifier, text, *calls.error)
    return calls


def _fail(identifier: str, text: str, number: int, error: RuleError) -> NoReturn:
    line, column = _place_of_call(text, number)
    raise PolicyError(f"{identifier}:{line}:{column}: {error}") from None


class _Calls:
    """Takes the calls of one file as the builtins report them and checks each, as the language wants."""

    def __init__(self, identifier: str) -> None:
        self._identifier = identifier
        self.hosts: dict[str, tuple[str, ...]] = {}
        self.checked: dict[int, CheckedRule | NetworkRule | None] = {}
        self.error: tuple[int, RuleError] | None = None

    def receive(self, report: str) -> None:
        """Some calls as JSON: of each its number, its builtin, its line and its arguments. Stops at the first bad."""
        for number, (builtin, stack, arguments) in _REPORT.decode(report):
            try:
                self.checked[number] = self._check(builtin, self._source(stack), arguments)
            except RuleError as exc:
                self.error = number, exc
                raise

    def _source(self, stack: str) -> str:
        """The last place in the file before the builtins' own."""
        at = stack.rfind(_CALLED_FROM, 0, (stack.find(_CALLED_IN) + 1 or len(stack) + 1) - 1) if stack else -1
        return (
            f"{self._identifier}:{stack[at + len(_CALLED_FROM) :].partition(',')[0]}" if at >= 0 else self._identifier
        )

    def _check(self, builtin: str, source: str, arguments: Sequence[Argument]) -> CheckedRule | NetworkRule | None:
        if builtin == "prefix_rule":
            pattern, decision, match, not_match, justification = arguments
            return prefix_rule(
                pattern=pattern,
                decision=decision,
                match=match,
                not_match=not_match,
                justification=justification,
                source=source,
            )
        if builtin == "network_rule":
            host, protocol, decision, justification = arguments
            return network_rule(
                host=host, protocol=protocol, decision=decision, justification=justification, source=source
            )
        name, paths = host_executable(name=arguments[0], paths=arguments[1])
        self.hosts[name] = paths
        return None


def _dialect(*, load: bool = False) -> starlark.Dialect:
    """The extended dialect with f-strings, as the original has it; rules files get no ``load``."""
    dialect = starlark.Dialect.extended()
    dialect.enable_f_strings = True
    dialect.enable_load = load
    return dialect


def _evaluate(
    text: str, emit: Callable[[str], None], *, at_once: bool, places: bool, programs: frozenset[str] | None
) -> None:
    """Run one file with the builtins, in a module of its own; ``emit`` gets each call at once, or all at the end."""
    # A name that one program loads into a module is there for the next one too. What the file has no business with gets
    # a name it cannot guess; and it still may not load anything itself.
    secret = os.urandom(8).hex()
    prelude = starlark.Module()
    prelude.add_callable("emit", emit)
    extensions = [starlark.LibraryExtension.CallStack, starlark.LibraryExtension.Json]
    starlark.eval(
        prelude,
        starlark.parse(_PRELUDE_FILE, _PRELUDE.replace("SECRET", secret), _dialect()),
        starlark.Globals.extended_by(extensions),
    )
    frozen = prelude.freeze()
    module = starlark.Module()
    standard = starlark.Globals.standard()
    set_up = _SET_UP.replace("SECRET", secret).replace("AT_ONCE", str(at_once)).replace("PLACES", str(places))
    starlark.eval(
        module,
        starlark.parse(_PRELUDE_FILE, set_up.replace("WANTED", _list_of(programs)), _dialect(load=True)),
        standard,
        starlark.FileLoader(lambda _name: frozen),
    )
    starlark.eval(module, starlark.parse(_FILE, text, _dialect()), standard)
    if not at_once:
        starlark.eval(module, starlark.parse(_PRELUDE_FILE, f"finish_{secret}()", _dialect()), standard)


def _list_of(programs: frozenset[str] | None) -> str:
    """``programs`` as the interpreter reads a list; those that are not UTF-8 no rule can name."""
    if programs is None:
        return "None"
    names = [name for name in programs if not any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)]
    return json.dumps(names, ensure_ascii=False)


def _place_of_call(text: str, number: int) -> tuple[str, str]:
    """Line and column of the ``number``-th call (from 0) of any builtin, found by running the file up to it."""
    seen = 0

    def call(*_args: object, **_kwargs: object) -> None:
        nonlocal seen
        if seen == number:
            raise ValueError
        seen += 1

    module = starlark.Module()
    for name in _BUILTINS:
        module.add_callable(name, call)
    try:
        starlark.eval(module, starlark.parse(_FILE, text, _dialect()), starlark.Globals.standard())
    except starlark.StarlarkError as exc:
        return _place(str(exc))
    return "1", "1"


def _place(diagnostic: str) -> tuple[str, str]:
    """Line and column an interpreter's diagnostic points at; its own pointer is the last, below the message."""
    places = _PLACE.findall(diagnostic)
    return places[-1] if places else ("1", "1")


def _interpreter_error(identifier: str, diagnostic: str) -> PolicyError:
    """The interpreter's own complaint: a traceback of indented lines, ``error: MESSAGE``, the place, an excerpt."""
    line, column = _place(diagnostic)
    begin = _MESSAGE.search(diagnostic)
    places = list(_PLACE.finditer(diagnostic))
    message = diagnostic[begin.end() if begin else 0 : places[-1].start() if places else None]
    # What else could have stood there is a list of up to fifty tokens.
    text = message.strip().partition(", expected one of")[0].replace(f"{_PRELUDE_FILE}.", "")
    advice = next((advice for part, advice in _ADVICE if part in text), _OTHER_ADVICE)
    return PolicyError(f"{identifier}:{line}:{column}: {ErrorKind.STARLARK.value}{text} ({advice})")
