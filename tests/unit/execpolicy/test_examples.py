"""The rule sets in ``examples/rules`` load and decide what their README says; ``docs/rules.md`` shows what is."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy import check, files, loader
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.heuristics import unmatched_decision
from codex_shell_tool_mcp.execpolicy.isolation import Limits, evaluate_files
from codex_shell_tool_mcp.execpolicy.lint import lint
from codex_shell_tool_mcp.execpolicy.lint import main as lint_main
from codex_shell_tool_mcp.execpolicy.loader import default_layers, load_layers, read_rules
from codex_shell_tool_mcp.execpolicy.parser import PolicyParser
from codex_shell_tool_mcp.execpolicy.rules import Policy, evaluate_exec

EXAMPLES = Path(__file__).parents[3] / "examples" / "rules"

UNMATCHED = """
git status|git commit -m push|git diff --stat|git remote -v|git config user.name x|git rebase main|git push-all
make test|make -j4|make installcheck|cmake --build build|uv tree|rustup show|npm config get x
npm test|npm run build|pip list|python3 -m pytest|python3 script.py|cargo build|cargo test|make
ls -l|rm -r build|rm -rf-x|systemctl status x|cat sudo|mkdir at
"""
PROMPT = """
git push|git push origin main --force|git fetch --all|git pull|git clone x|git remote add x y|git remote set-url x y
npm install|npm i x|npm ci|npx x|pip install x|pip3 install -r r.txt|python3 -m pip install x|cargo install x
make install|make release|cmake --install build|uv run pytest|rustup update|uvx ruff
npm publish|cargo publish --dry-run|twine upload dist/x|systemctl restart x|systemctl stop x
"""
FORBIDDEN = """
git push --force|git push -f origin main|git push --delete origin x|git push --mirror|git config --global a b
npm unpublish x|npm token create|cargo yank x|sudo ls|sudo rm -rf x|su|reboot|mkfs.ext4 /dev/sda|crontab -e|at now
rm -rf /|rm -fr .git|npm config set a b|pip config set a b|cargo login
"""
CASES = [
    (command, decision)
    for decision, table in ((None, UNMATCHED), (Decision.PROMPT, PROMPT), (Decision.FORBIDDEN, FORBIDDEN))
    for line in table.split("\n")
    for command in line.split("|")
    if command
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The examples as a user has them after copying the folder."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(EXAMPLES, home / "rules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "SYSTEM_FOLDER", home / "no system layer")
        return load_layers(default_layers(home))


@pytest.mark.parametrize(("command", "decision"), CASES)
@pytest.mark.parametrize("folder", ["/usr/bin", "/srv/fake"])
def test_decisions(policy: Policy, command: str, decision: Decision | None, folder: str) -> None:
    argv = shlex.split(command)
    found = evaluate_exec(
        policy,
        program=f"{folder}/{argv[0]}",
        resolved=f"{folder}/{argv[0]}",
        argv=argv,
        preserve_program_paths=False,
        name_may_allow=False,
        heuristics=unmatched_decision,
    )
    assert (found.decision if found.by_rule else None) == decision


def test_nothing_is_allowed_outside_the_sandbox(policy: Policy) -> None:
    assert policy.allowed_prefixes() == []


def test_lint_has_nothing_to_say() -> None:
    files = [read_rules(path, follow_links=True) for path in sorted(EXAMPLES.glob("*.rules"))]
    assert lint(evaluate_files(files)) == []


@pytest.mark.parametrize("name", ["git", "npm", "pip", "cargo", "make", "machine"])
def test_each_file_stands_alone(name: str) -> None:
    (said,) = evaluate_files([read_rules(EXAMPLES / f"{name}.rules", follow_links=True)])
    assert len(said.prefix_rules) >= 3


def test_every_rule_says_why_and_every_file_is_listed(policy: Policy) -> None:
    assert all(rule.justification for rule in policy.prefix_rules)
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = sorted(EXAMPLES.glob("*.rules"))
    assert files
    assert all(f"`{file.name}`" in readme for file in files)
    assert {str(rule.source).rpartition(":")[0].rpartition("/")[2] for rule in policy.prefix_rules} == {
        file.name for file in files
    }


# docs/rules.md --------------------------------------------------------------------------------------------------------

DOCUMENT = (EXAMPLES.parents[1] / "docs" / "rules.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_document_has_a_snippet_of_each_builtin_and_all_hold() -> None:
    for builtin in ("prefix_rule", "host_executable", "network_rule"):
        assert any(snippet.startswith(f"{builtin}(") for snippet in SNIPPETS)
    for snippet in SNIPPETS:
        PolicyParser().parse("docs/rules.md", snippet)


def test_the_document_shows_what_check_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.rules").write_text(SNIPPETS[0])
    shown = re.search(r"```console\n\$ codex-exec-mcp-server execpolicy check (.*)\n(.*)\n```", DOCUMENT)
    assert shown
    arguments = [word.replace("~/.codex/rules", str(tmp_path)) for word in shown[1].split()]
    assert check.main(arguments) == 0
    assert capsys.readouterr().out == shown[2] + "\n"


TUTORIAL = (EXAMPLES.parents[1] / "docs" / "rules-tutorial.md").read_text(encoding="utf-8")
STEPS = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)


def test_the_tutorials_steps_hold_one_after_the_other() -> None:
    parser = PolicyParser()
    assert len(STEPS) > 5
    for number, step in enumerate(STEPS):
        parser.parse(f"step {number}", step)


def test_the_tutorial_shows_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shown command is run on the steps above it."""
    path = tmp_path / "my.rules"
    shown = list(
        re.finditer(r"```console\n\$ codex-exec-mcp-server execpolicy (check|lint) (.*)\n((?:.*\n)*?)```", TUTORIAL)
    )
    assert len(shown) >= 4
    for session in shown:
        path.write_text("\n".join(re.findall(r"```python\n(.*?)```", TUTORIAL[: session.start()], re.DOTALL)))
        arguments = shlex.split(session[2].replace("my.rules", str(path)))
        if session[1] == "check":
            check.main(arguments)
        else:
            lint_main(arguments, tmp_path)
        printed = capsys.readouterr().out.replace(str(path), "my.rules")
        wanted = session[3]
        assert printed.startswith(wanted.removesuffix("...\n")) if wanted.endswith("...\n") else printed == wanted


def test_the_document_shows_an_error_as_it_is(tmp_path: Path) -> None:
    shown = re.search(r"```text\n/home/me/.codex/rules/my.rules(.*)\n```", DOCUMENT)
    assert shown
    with pytest.raises(PolicyError) as caught:
        PolicyParser().parse("", '\n\nprefix_rule(["git"], decision = "ask")')
    assert str(caught.value) == shown[1]


def test_the_document_states_the_limits() -> None:
    limits = Limits()
    assert f"{limits.memory >> 20} MiB of memory" in DOCUMENT
    assert f"{limits.processor_time} seconds of processor time" in DOCUMENT
    assert f"{limits.wall_time:g} seconds in all" in DOCUMENT
    assert f"{files.MAX_FILE_BYTES >> 20} MiB" in DOCUMENT
