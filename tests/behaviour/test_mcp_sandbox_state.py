"""Sandbox states: order, refusals, and that what holds is what was sent last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mcp_types import INVALID_PARAMS

from support.clients import UPDATE, Client, Installation, state

if TYPE_CHECKING:
    from pathlib import Path

WRITE = "{ echo x > made; } 2>/dev/null && echo written || echo held back"


def update(number: int, params: object) -> dict[str, object]:
    return {"id": number, "method": UPDATE, "params": params}


def test_read_only_unless_told_otherwise(confined: Installation) -> None:
    confined.options = ()
    found = confined.shell(f"{WRITE}; cat /etc/passwd > /dev/null && echo read")
    assert found["output"] == "held back\nread\n"
    assert found["sandbox"]["policy"] == "read-only"
    assert found["sandbox"]["writable"] == []


@pytest.mark.parametrize("kind", ["read-only", "workspace-write", "danger-full-access"])
def test_the_option_sets_what_holds_before_any_state(confined: Installation, kind: str) -> None:
    confined.options = ("--sandbox", kind)
    outside = confined.home / "outside"
    found = confined.shell(f"{WRITE}; echo x > {outside} || true")
    assert found["output"].splitlines()[0] == ("held back" if kind == "read-only" else "written")
    # The test's folders may lie below the temporary directory, which workspaces may write.
    if kind == "read-only":
        assert not outside.exists()


def test_an_update_is_seen_by_the_call_right_behind_it(confined: Installation) -> None:
    """Both in one write, many times over: messages are handled at once, and this pair must keep its order."""
    open_state = state("danger-full-access")
    closed = state("read-only", confined.workdir)
    with confined.raw() as server:
        for turn in range(10):
            wanted, word = (open_state, "written") if turn % 2 else (closed, "held back")
            server.send(update(2 * turn + 1, wanted), server.call(2 * turn + 2, f"{WRITE}; rm -f made"))
            answers = {answer["id"]: answer for answer in (server.receive(), server.receive())}
            assert answers[2 * turn + 1]["result"] == {}
            text = answers[2 * turn + 2]["result"]["content"][0]["text"]
            assert f'"output":"{word}' in text, turn


def test_pipelined_from_the_very_start(confined: Installation) -> None:
    with confined.raw(shake_hands=False) as server:
        client = {"name": "x", "version": "1"}
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        server.send(
            {"id": 0, "method": "initialize", "params": hello},
            {"method": "notifications/initialized"},
            update(1, state("danger-full-access")),
            server.call(2, WRITE),
        )
        answers = [server.receive() for _ in range(3)]
    assert '"output":"written' in answers[2]["result"]["content"][0]["text"]


def test_a_notification_of_that_name_is_ignored(confined: Installation) -> None:
    with confined.raw() as server:
        server.send({"method": UPDATE, "params": state("danger-full-access")}, server.call(1, WRITE))
        assert server.result()["output"] == "held back\n"


BAD_STATES: list[tuple[dict[str, object] | None, str]] = [
    (None, "missing"),
    ({"future": 1}, "sandboxPolicy: missing"),
    ({"sandboxPolicy": {"type": "read-only"}}, "sandboxCwd: missing"),
    ({"sandboxPolicy": {"type": "wide-open"}, "sandboxCwd": "/"}, "sandboxPolicy.type: expected one of"),
    (state("workspace-write", writable_roots=["relative"]), "expected absolute paths"),
]


def test_a_bad_state_is_refused_and_the_one_before_stays(confined: Installation) -> None:
    confined.options = ("--sandbox", "danger-full-access")
    with confined.raw() as server:
        server.send(update(0, state("read-only", server.workdir)))
        assert server.receive()["result"] == {}
        for params, text in BAD_STATES:
            request = update(1, params)
            if params is None:
                del request["params"]
            server.send(request, server.call(2, WRITE))
            error = server.receive()["error"]
            assert error["code"] == INVALID_PARAMS
            assert text in error["message"]
            assert error.get("data") == params
            assert server.result()["output"] == "held back\n"


def test_what_cannot_be_enforced_is_refused_and_nothing_runs(installation: Installation) -> None:
    restricted = {"type": "restricted", "readable_roots": ["/usr"]}

    async def work(client: Client) -> Any:
        await client.update(state("read-only", access=restricted))
        refused = await client.call(WRITE)
        await client.update(state("danger-full-access"))
        assert (await client.shell("echo alive"))["output"] == "alive\n"
        return refused

    refused = installation.use(work)
    assert refused.is_error
    assert "limits what may be read, which this server cannot enforce yet" in refused.content[0].text
    assert list(installation.workdir.iterdir()) == []


def test_writable_roots(confined: Installation, tmp_path: Path) -> None:
    extra, outside = tmp_path / "extra", tmp_path / "outside"
    extra.mkdir()
    outside.mkdir()
    policy = {"writable_roots": [str(extra), str(tmp_path / "missing")]}
    no_tmp = {"exclude_slash_tmp": True, "exclude_tmpdir_env_var": True}

    async def work(client: Client) -> dict[str, Any]:
        await client.update(state("workspace-write", client.workdir, **policy, **no_tmp))
        return await client.shell(
            f"echo x > made && echo work; echo x > {extra}/made && echo extra; echo x > {outside}/made || echo held"
        )

    found = confined.use(work)
    lines = [line for line in found["output"].splitlines() if line in {"work", "extra", "held"}]
    assert lines == ["work", "extra", "held"]
    assert found["sandbox"]["writable"] == [str(extra), str(tmp_path / "missing"), str(confined.workdir)]


MARKER = "echo ${CODEX_SANDBOX_NETWORK_DISABLED-unset}"

MARKERS: list[tuple[dict[str, object], str]] = [
    (state("danger-full-access"), "unset"),
    (state("external-sandbox"), "1"),
    (state("external-sandbox", network_access="enabled"), "unset"),
    (state("read-only"), "1"),
    (state("read-only", network_access=True), "unset"),
    (state("workspace-write"), "1"),
    (state("workspace-write", network_access=True), "unset"),
]


def test_the_network_marker(confined: Installation) -> None:
    async def work(client: Client) -> list[str]:
        outputs = []
        for params, _ in MARKERS:
            await client.update(params)
            outputs.append((await client.shell(MARKER))["output"].strip())
        return outputs

    assert confined.use(work) == [marker for _, marker in MARKERS]


def test_the_network_is_held_back(confined: Installation) -> None:
    async def work(client: Client) -> list[str]:
        outputs = []
        for network in (False, True):
            await client.update(state("workspace-write", client.workdir, network_access=network))
            found = await client.shell("(exec 3<>/dev/udp/127.0.0.1/9) 2>/dev/null && echo open || echo held back")
            outputs.append(found["output"])
        return outputs

    assert confined.use(work) == ["held back\n", "open\n"]


def test_both_generations_of_clients(confined: Installation) -> None:
    async def work(client: Client) -> list[str]:
        outputs = []
        old: dict[str, object] = {"useLinuxSandboxBwrap": False, "codexLinuxSandboxExe": "/no/such/helper"}
        new: dict[str, object] = {"useLegacyLandlock": True, "codexLinuxSandboxExe": None, "somethingNewer": {}}
        for more in (old, new):
            await client.update({**state("read-only", client.workdir), **more})
            outputs.append((await client.shell(WRITE))["output"])
        return outputs

    assert confined.use(work) == ["held back\n"] * 2
