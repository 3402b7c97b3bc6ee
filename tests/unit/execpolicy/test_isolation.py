"""Files that would take the interpreter down end as bad files, and this process lives; by fork and by a fresh start."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy import isolation, parser_child
from codex_shell_tool_mcp.execpolicy.isolation import EVALUATE_ARGUMENT, Limits, RulesText, evaluate
from codex_shell_tool_mcp.execpolicy.rules import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = str(Path(isolation.__file__).parents[2])

WAYS = [
    pytest.param(False, id="started"),
    pytest.param(True, id="forked", marks=pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux alone")),
]


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Policy]:
    """``evaluate`` of texts, by one way of making the child. Forking is safe: the tests' other threads only wait."""
    monkeypatch.setattr(isolation, "_may_fork", lambda: request.param)

    def of(*texts: str, limits: Limits | None = None) -> Policy:
        files = [RulesText(identifier=f"/rules/{number}.rules", text=text) for number, text in enumerate(texts)]
        return evaluate(files, limits)

    return of


def test_the_policy_comes_back_whole(run: Callable[..., Policy]) -> None:
    policy = run(
        'prefix_rule([["a", "é"], ["b", "c\\n\\U0001F600"]], "prompt", justification = "why")\n'
        'network_rule("h", "socks5_udp", "deny", "no")\nhost_executable("a", ["/bin/a"])',
        'prefix_rule(["x"])',
    )
    first, second, third = policy.prefix_rules
    assert (first.program, first.rest, first.decision.word) == ("a", (("b", "c\n\N{GRINNING FACE}"),), "prompt")
    assert (second.program, second.justification, second.source) == ("é", "why", "/rules/0.rules:1")
    assert (third.program, third.rest, third.justification, third.source) == ("x", (), None, "/rules/1.rules:1")
    (network,) = policy.network_rules
    assert (network.host, network.protocol, network.decision.word, network.justification, network.source) == (
        ("h", "socks5_udp", "forbidden", "no", "/rules/0.rules:2")
    )
    assert policy.host_executables == {"a": ("/bin/a",)}
    assert policy.matches(["a", "b"], resolve_host_executables=False)


def test_a_file_name_that_is_not_utf8_is_kept(run: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = evaluate([RulesText(identifier="/\udcff.rules", text='prefix_rule(["a"])')])
    assert policy.prefix_rules[0].source == "/\udcff.rules:1"


def test_a_bad_rule_is_reported_as_the_parser_does(run: Callable[..., Policy]) -> None:
    with pytest.raises(PolicyError, match=r"^/rules/1\.rules:2:1: invalid decision: x \("):
        run('prefix_rule(["a"])', '\nprefix_rule(["a"], "x")')


def test_modules_are_fresh_for_each_file(run: Callable[..., Policy]) -> None:
    with pytest.raises(PolicyError, match=r"^/rules/1\.rules:1:\d+: .*Variable `x` not found"):
        run('x = ["a"]', "prefix_rule(x)")


HOSTILE = {
    "a huge list": "x = [0] * (1 << 28)",
    "a growing list": "x = [0]\ndef f():\n    for _ in range(64):\n        x.extend(x)\nf()",
    "a huge string": 'x = "a" * (1 << 29)\ny = x + x',
    "a doubling string": 'x = "a"\nfor _ in range(60):\n    x = x + x',
    "a deep literal": "x = " + "[" * 100_000 + "]" * 100_000,
    "a deep dictionary": "x = " + "{1: " * 100_000 + "1" + "}" * 100_000,
    "a long sum": "x = " + "1 + " * 200_000 + "1",
    "many signs": "x = " + "-" * 300_000 + "1",
    "a long attribute": "x" + ".y" * 200_000,
    "an endless loop": "for x in range(1 << 30):\n    for y in range(1 << 30):\n        pass",
    "an endless comprehension": "x = [1 for x in range(1 << 30) for y in range(1 << 30) if False]",
    "rules without end": 'for x in range(1 << 30):\n    prefix_rule(["a" * 1000])',
    "a list of a range": "x = list(range(1 << 30))",
    "a sorted range": "x = sorted(range(1 << 28), reverse = True)",
    "a growing dictionary": "x = {n: [n] for n in range(1 << 28)}",
    "a huge replacement": 'x = ("a" * (1 << 14)).replace("a", "a" * (1 << 20))',
    "a huge join": 'x = ("a" * (1 << 15)).join(["b"] * (1 << 15))',
    "alternatives without end": "prefix_rule([[str(n) for n in range(1 << 26)]])",
    "examples without end": 'prefix_rule(["a"], match = ["a %d" % n for n in range(1 << 26)])',
    "a deep list as an argument": "x = []\nfor _ in range(100000):\n    x = [x]\nprefix_rule([str(x)])",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_bad_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUST_BACKTRACE", "1")  # with which a panic for want of memory never ended
    good = RulesText(identifier="/rules/good.rules", text='prefix_rule(["a"])')
    hostile = RulesText(identifier="/rules/hostile.rules", text=HOSTILE[name])
    limits = Limits(memory=128 * 1024 * 1024, processor_time=1, wall_time=100)
    by_itself = r"^/rules/hostile\.rules: too large or endless: the interpreter (?!was ended)"
    with pytest.raises(PolicyError, match=by_itself):
        evaluate([good, hostile, good], limits)
    assert evaluate([good]).prefix_rules


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"{name}(1)"
            for name in (
                "open",
                "exec",
                "eval",
                "compile",
                "input",
                "globals",
                "locals",
                "vars",
                "__import__",
                "system",
            )
        ),
        *(f"{name}.system('touch /')" for name in ("os", "sys", "subprocess", "ctypes", "builtins", "starlark")),
        *(f"emit_{name}" for name in ("", "SECRET")),
        "prefix_rule.__globals__",
        "prefix_rule.__class__.__mro__",
        '"".__class__',
        'getattr(prefix_rule, "__code__")',
        'load("builtins", "make_SECRET")',
        'load("/etc/passwd", "x")',
        "from os import fork",
        "import os",
    ],
)
def test_a_file_reaches_nothing_but_the_builtins(text: str, run: Callable[..., Policy]) -> None:
    """No name, no attribute and no module leads from a rules file to Python, to files or to processes."""
    with pytest.raises(PolicyError, match=r"^/rules/0\.rules:1:\d+: starlark error: "):
        run(text)


def test_recursion_is_an_error_of_the_language(run: Callable[..., Policy]) -> None:
    with pytest.raises(PolicyError, match=r"^/rules/0\.rules:1:10: .*call stack overflow"):
        run("def f(): f()\nf()")


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit address space")
def test_memory_is_limited(run: Callable[..., Policy]) -> None:
    text = 'x = [0] * (1 << 24)\nprefix_rule(["a"])'
    assert run(text).prefix_rules
    with pytest.raises(PolicyError, match=r"^/rules/0\.rules: .* (died of SIGABRT|ended with status 1)"):
        run(text, limits=Limits(memory=64 * 1024 * 1024))


def test_processor_time_is_limited(run: Callable[..., Policy]) -> None:
    with pytest.raises(PolicyError, match=r"^/rules/1\.rules: .* used 1 s of processor time"):
        run("", HOSTILE["an endless loop"], limits=Limits(processor_time=1))


def _children() -> set[int]:
    """Processes that this one would have to wait for, ended ones too."""
    if sys.platform == "linux":
        listed = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    else:
        listed = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, check=False, text=True).stdout
    return set(map(int, listed.split()))


def test_wall_time_is_limited_and_the_child_ended(run: Callable[..., Policy]) -> None:
    began, before = time.monotonic(), _children()
    with pytest.raises(PolicyError, match=r"^/rules/1\.rules: .* was ended after 2 s"):
        run("", HOSTILE["an endless loop"], limits=Limits(wall_time=2, processor_time=60))
    assert time.monotonic() - began < 30
    assert _children() <= before


@pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux alone")
def test_a_policy_too_large_to_hand_over_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_may_fork", lambda: True)
    monkeypatch.setattr(parser_child, "MAX_ANSWER_BYTES", 1000)
    small = RulesText(identifier="/small.rules", text='prefix_rule(["a"])')
    large = RulesText(identifier="/large.rules", text='prefix_rule(["a" * 1000])')
    assert evaluate([small]).prefix_rules
    with pytest.raises(PolicyError, match=r"^/large\.rules: too large: the rules up to here take \d+ bytes"):
        evaluate([small, large])


def test_no_files_need_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_run_forked", pytest.fail)
    monkeypatch.setattr(isolation, "_run_started", pytest.fail)
    assert evaluate([]) == Policy()


def test_an_evaluator_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_may_fork", lambda: False)
    files = [RulesText(identifier="/a.rules", text="")]
    monkeypatch.setattr(isolation, "_evaluator_command", lambda: ["/nonexistent/python"])
    with pytest.raises(PolicyError, match=r"^/a\.rules: the process .* cannot be started: No such file"):
        evaluate(files)
    monkeypatch.setattr(isolation, "_evaluator_command", lambda: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(PolicyError, match=r"^/a\.rules: rules files cannot be evaluated: .* ended with status 3"):
        evaluate(files)


def test_a_frozen_server_is_started_as_the_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert isolation._evaluator_command() == [sys.executable, EVALUATE_ARGUMENT]
    assert EVALUATE_ARGUMENT == "--evaluate-rules-file"


def test_a_process_with_threads_is_not_forked() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        assert not isolation._may_fork()
    finally:
        release.set()
        thread.join()


def python(script: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys\nsys.path.insert(0, {SOURCES!r})\n{textwrap.dedent(script)}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux alone")
def test_a_server_at_its_start_forks_and_never_meets_the_interpreter() -> None:
    done = python(
        """
        from codex_shell_tool_mcp.execpolicy import isolation
        assert isolation._may_fork()
        isolation._run_started = None
        policy = isolation.evaluate([isolation.RulesText(identifier="a", text='prefix_rule(["a"])')])
        assert "starlark" not in sys.modules and "mcp" not in sys.modules
        print(policy.prefix_rules[0].source)
        """
    )
    assert (done.stdout, done.stderr) == ("a:1\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux alone")
@pytest.mark.parametrize("closed", ["0", "1, 2", "0, 1, 2"])
def test_forking_with_standard_descriptors_closed(closed: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    python(
        f"""
        import os
        from codex_shell_tool_mcp.execpolicy import isolation
        for number in ({closed},):
            os.close(number)
        policy = isolation.evaluate([isolation.RulesText(identifier="a", text='prefix_rule(["a"])')])
        with open({str(answer)!r}, "w") as file:
            file.write(policy.prefix_rules[0].program)
        """
    )
    assert answer.read_text() == "a"


def test_the_evaluator_imports_no_more_than_it_needs() -> None:
    done = python(
        """
        import codex_shell_tool_mcp.execpolicy.parser_child
        print(sorted({"mcp", "pydantic", "asyncio", "anyio", "logging"} & set(sys.modules)))
        """
    )
    assert done.stdout == "[]\n"


def test_nothing_of_the_evaluator_reaches_the_standard_streams(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PolicyError):
        evaluate([RulesText(identifier="a", text=HOSTILE["a huge list"])], Limits(memory=64 * 1024 * 1024))
    assert capfd.readouterr() == ("", "")


def test_a_message_that_a_file_makes_long_is_cut(run: Callable[..., Policy]) -> None:
    for text in ('fail("a" * 10000000)', 'prefix_rule(["a"], "b" * 10000000)'):
        with pytest.raises(PolicyError, match=r"^/rules/0\.rules:1:1: .* \[\d+ characters left out\] .*\)$") as caught:
            run(text)
        assert len(str(caught.value)) < 2_100
