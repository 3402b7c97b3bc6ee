"""Layers and changing rules through a real server: what a script meets, and what the client is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.clients import Raw, state

if TYPE_CHECKING:
    from pathlib import Path

    from support.clients import Installation

FORBID = 'prefix_rule(["touch"], "forbidden", justification="{}")\n'


def said(server: Raw, number: int, command: str) -> tuple[dict[str, Any], list[str]]:
    """A call's result, and the log messages that came before it."""
    server.send(server.call(number, command))
    told: list[str] = []
    while "id" not in (message := server.receive()):
        assert message["method"] == "notifications/message"
        assert (message["params"]["level"], message["params"]["logger"]) == ("warning", "rules")
        told.append(message["params"]["data"])
    assert message["id"] == number
    result = message["result"]
    if result["isError"]:
        return {"error": result["content"][0]["text"]}, told
    return json.loads(result["content"][0]["text"]), told


def test_rules_are_read_anew_between_two_execs_of_one_script(installation: Installation) -> None:
    folder = installation.home / "rules"
    folder.mkdir()
    # That a file is gone is noticed by the exec after it, which is `touch three`: nobody is asked about a `read`.
    script = f"""
    touch one && echo one
    echo '{FORBID.format("now")}' > {folder}/a.rules
    sleep 0.1
    touch two || echo denied
    rm {folder}/a.rules; read -rt 0.1 <> <(:); touch three || echo still
    sleep 1.5
    touch four && echo four
    """
    with installation.raw() as server:
        found, told = said(server, 1, script)
    assert "one\n" in found["output"]
    assert "forbidden by policy: now\ndenied\n" in found["output"]
    assert found["output"].endswith("still\nfour\n")
    assert told == []
    assert {path.name for path in installation.workdir.iterdir()} == {"one", "four"}


def test_a_loop_that_is_answered_without_the_server_is_stopped_by_a_new_rule(installation: Installation) -> None:
    folder = installation.home / "rules"
    folder.mkdir()
    script = f"""
    for i in {{1..200}}; do /bin/true || echo early; done
    echo 'prefix_rule(["true"], "forbidden", justification="now")' > {folder}/a.rules
    sleep 0.1
    for i in {{1..20}}; do /bin/true || echo denied; done
    rm {folder}/a.rules; sleep 0.1; sleep 1.5
    for i in {{1..200}}; do /bin/true || echo late; done; echo end
    """
    with installation.raw() as server:
        found, _ = said(server, 1, script)
    output = found["output"]
    assert (output.count("denied\n"), output.count("early"), output.count("late")) == (20, 0, 0)
    assert output.endswith("end\n")
    assert {entry["action"] for entry in found["decisions"]} == {"deny"}
    assert len(found["decisions"]) == 20


def test_a_loop_meets_the_words_and_the_files_that_rules_forbid(installation: Installation) -> None:
    """However often like requests were answered before."""
    tool, link = installation.workdir / "tool", installation.workdir / "link"
    installation.rules(f'prefix_rule(["{tool}", "no"], "forbidden")\nprefix_rule(["forbidden-tool"], "forbidden")\n')
    script = f"""
    printf '#!/bin/sh\n' > tool; chmod 755 tool; cp tool forbidden-tool; ln -s tool link
    for i in {{1..30}}; do {tool} yes no && {tool} && {link} no2 || echo wrong; done
    {tool} no || echo one
    {link} no || echo two
    ln -sf forbidden-tool link; {link} || echo three
    cp forbidden-tool tool; {tool} && echo four
    """
    with installation.raw() as server:
        found, _ = said(server, 1, script)
    words = [line for line in found["output"].splitlines() if "forbidden by policy" not in line]
    assert words == ["one", "two", "three", "four"]
    assert link.is_symlink()


def test_a_bad_file_keeps_the_last_good_set_and_the_client_is_warned_once(installation: Installation) -> None:
    installation.rules(FORBID.format("first"))
    bad = installation.home / "rules" / "bad.rules"
    with installation.raw() as server:
        assert server.shake_hands({})["result"]["capabilities"]["logging"] == {}
        bad.write_text("\n prefix_rule(")
        found, told = said(server, 1, "touch a; touch b; touch c")
        assert found["output"].count("forbidden by policy: first") == 3
        (warning,) = told
        assert warning.startswith(f"{bad}:2:")
        assert warning.endswith("; the rules of before stay in force until it is put right")
        assert said(server, 2, "touch a")[1] == []
        bad.write_text("prefix_rule([])")
        assert len(said(server, 3, "touch a")[1]) == 1
        bad.unlink()
        installation.rules(FORBID.format("second"))
        found, told = said(server, 4, "touch a")
    assert ("forbidden by policy: second" in found["output"], told) == (True, [])
    assert bad.name in installation.log.read_text()


def test_what_was_changed_before_a_call_counts_in_it(installation: Installation) -> None:
    with installation.raw() as server:
        for number in range(1, 9):  # quicker one after the other than the files are looked at within a script
            installation.rules(FORBID.format("n" * number))
            assert said(server, number, "touch a")[0]["output"].endswith(f": {'n' * number}\n")


def test_a_client_that_wants_less_is_told_less(installation: Installation) -> None:
    installation.rules("")
    with installation.raw() as server:
        server.send({"id": 9, "method": "logging/setLevel", "params": {"level": "error"}})
        assert server.receive() == {"jsonrpc": "2.0", "id": 9, "result": {}}
        installation.rules("prefix_rule(")
        assert said(server, 1, "true")[1] == []


@pytest.fixture
def project(installation: Installation) -> Path:
    root = installation.home.parent / "project"
    (root / ".git").mkdir(parents=True)
    (root / ".codex" / "rules").mkdir(parents=True)
    (root / ".codex/rules/p.rules").write_text(FORBID.format("project") + 'prefix_rule(["mkdir"])\n')
    return root


def trust(installation: Installation, project: Path) -> None:
    (installation.home / "config.toml").write_text(f'[projects."{project}"]\ntrust_level = "trusted"\n')


def test_the_project_is_that_of_the_sandbox_state_and_never_of_the_call(
    installation: Installation, project: Path
) -> None:
    installation.workdir = project
    with installation.raw() as server:
        assert said(server, 1, "touch a && echo made")[0]["output"] == "made\n"
        server.send({"id": 2, "method": "codex/sandbox-state/update", "params": state("danger-full-access", project)})
        server.receive()
        found, told = said(server, 3, "touch b; mkdir c; echo $?")
    assert "forbidden by policy: project" in found["output"]
    assert [entry["action"] for entry in found["decisions"]] == ["deny"]
    (note,) = told
    assert "1 allow rule in it do not count: the project" in note
    assert f'[projects."{project}"]' in note


def test_a_trusted_project_may_allow_where_scripts_cannot_write_it(confined: Installation, project: Path) -> None:
    trust(confined, project)
    with confined.raw() as server:
        server.send({"id": 2, "method": "codex/sandbox-state/update", "params": state("read-only", project)})
        server.receive()
        found, told = said(server, 3, "mkdir c; echo $?")
        assert (found["output"], told) == ("0\n", [])
        update = state("workspace-write", project, exclude_slash_tmp=True, exclude_tmpdir_env_var=True)
        server.send({"id": 4, "method": "codex/sandbox-state/update", "params": update})
        server.receive()
        found, told = said(server, 5, "mkdir d; echo $?")
        assert found["output"].endswith("1\n")
        assert "decisions" not in found
        assert "do not count: scripts can write it" in told[0]


def test_rules_a_script_wrote_do_not_let_it_out(confined: Installation) -> None:
    """Its sandbox is opened to the user's folder by one call; no later one is decided by what it left there."""
    confined.rules("")
    outside = confined.home.parent / "outside"
    write = f"echo 'prefix_rule([\"touch\"])' > {confined.home}/rules/mine.rules; sleep 0.1; touch {outside}; echo $?"
    with confined.raw() as server:
        update = state("workspace-write", confined.home, exclude_slash_tmp=True, exclude_tmpdir_env_var=True)
        server.send({"id": 2, "method": "codex/sandbox-state/update", "params": update})
        server.receive()
        assert said(server, 3, write)[0]["output"].endswith("1\n")
        assert (confined.home / "rules" / "mine.rules").exists()
        server.send({"id": 4, "method": "codex/sandbox-state/update", "params": state("read-only", "/")})
        server.receive()
        assert said(server, 5, f"touch {outside}; echo $?")[0]["output"].endswith("1\n")
    assert not outside.exists()


def test_a_project_that_does_not_hold_is_refused_and_the_next_one_served(
    installation: Installation, project: Path
) -> None:
    bad = project / ".codex/rules/p.rules"
    bad.write_text("\nprefix_rule([])")
    with installation.raw() as server:
        server.send({"id": 2, "method": "codex/sandbox-state/update", "params": state("danger-full-access", project)})
        server.receive()
        assert said(server, 3, "true")[0]["error"].startswith(f"{bad}:2:1: invalid pattern element: ")
        bad.write_text(FORBID.format("mended"))
        assert "mended" in said(server, 4, "touch a")[0]["output"]


def start(installation: Installation, cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*installation.command(), *options],
        env=installation.environment(),
        cwd=cwd,
        input="",
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_bad_project_refuses_to_start_and_names_the_place(installation: Installation, project: Path) -> None:
    (project / ".codex/rules/p.rules").write_text("\nprefix_rule([])")
    ran = start(installation, project)
    assert ran.returncode == 3
    assert (
        f"error: {project}/.codex/rules/p.rules:2:1: invalid pattern element: pattern cannot be empty (" in ran.stderr
    )
    assert start(installation, project.parent).returncode == 0


def test_files_named_on_the_command_line(installation: Installation, tmp_path: Path) -> None:
    named = tmp_path / "named.rules"
    named.write_text(FORBID.format("named"))
    installation.options += ("--rules", os.path.relpath(named, "/"))
    assert "forbidden by policy: named" in installation.shell("touch a")["output"]
    named.unlink()
    ran = start(installation, tmp_path)
    assert ran.returncode == 3
    assert "named.rules: cannot be read: No such file or directory" in ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="umask and groups as on Linux")
def test_a_rules_file_that_everybody_can_write_refuses_to_start(installation: Installation) -> None:
    installation.rules("")
    (installation.home / "rules" / "default.rules").chmod(0o666)
    ran = start(installation, installation.home)
    assert ran.returncode == 3
    assert "default.rules: refused, for every user of this machine can write it" in ran.stderr


def test_a_loop_that_is_escalated_without_the_server_is_recorded_and_stopped_by_a_new_rule(
    installation: Installation,
) -> None:
    rules = installation.home / "rules" / "default.rules"
    installation.rules('prefix_rule(["true"], "allow")\n')
    script = f"""
    for i in {{1..40}}; do /bin/true $i || echo early; done
    echo 'prefix_rule(["true"], "forbidden")' > {rules}; sleep 0.1
    for i in {{1..5}}; do /bin/true late || echo denied; done
    """
    with installation.raw() as server:
        found, _ = said(server, 1, script)
    assert (found["output"].count("denied\n"), found["output"].count("early")) == (5, 0)
    assert [entry["action"] for entry in found["decisions"]] == ["escalate"] * 40 + ["deny"] * 5
    assert [entry["command"].split()[-1] for entry in found["decisions"][:40]] == [str(n) for n in range(1, 41)]
