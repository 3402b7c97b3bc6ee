"""``--unmatched``: what a program gets that no rule matches, through a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_types import ElicitRequestParams, ElicitResult

if TYPE_CHECKING:
    from support.clients import Client, Installation


def run(installation: Installation, script: str, answer: str | None = None) -> tuple[dict[str, Any], list[str]]:
    asked: list[str] = []

    async def elicit(params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=answer)  # type: ignore[arg-type]

    async def work(client: Client) -> dict[str, Any]:
        return await client.shell(script)

    return installation.use(work, None if answer is None else elicit), asked


def test_denied(installation: Installation) -> None:
    installation.rules('prefix_rule(["mkdir"])\n')
    installation.options += ("--unmatched", "deny")
    found, _ = run(installation, "touch made; mkdir there; echo $?")
    assert found["output"] == (
        "Execution denied: Execution forbidden by policy: "
        "no rule matches it, and what no rule matches is denied here\n0\n"
    )
    assert {path.name for path in installation.workdir.iterdir()} == {"there"}
    assert [entry["action"] for entry in found["decisions"]] == ["deny", "escalate"]


def test_asked_about_and_then_run_in_the_sandbox(confined: Installation) -> None:
    confined.options += ("--unmatched", "prompt")
    found, asked = run(confined, "touch made; echo $?", "accept")
    assert found["output"].endswith("1\n")
    assert len(asked) == 1
    assert not (confined.workdir / "made").exists()
    assert found["decisions"][0]["action"] == "run"


def test_asked_about_and_declined(installation: Installation) -> None:
    installation.options += ("--unmatched", "prompt")
    found, asked = run(installation, "touch made; echo $?", "decline")
    assert found["output"] == "Execution denied: User declined execution\n1\n"
    assert len(asked) == 1


def test_dangerous_ones_are_asked_about_by_default(installation: Installation) -> None:
    (installation.workdir / "kept").touch()
    found, asked = run(installation, "rm kept -fr; env rm -f kept; ls", "decline")
    assert found["output"].endswith("kept\n")
    assert len(asked) == 2
