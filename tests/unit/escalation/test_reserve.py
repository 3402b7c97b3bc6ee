"""Supervisors that wait: how many, and what becomes of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from codex_shell_tool_mcp.escalation.reserve import MOST, Reserve

if TYPE_CHECKING:
    from collections.abc import Callable

    from codex_shell_tool_mcp.escalation.supervision import Supervision


class Stub:
    """A supervisor; ``ended`` says whether anybody has seen to its end."""

    def __init__(self) -> None:
        self.ended = False
        self.when_gone: Callable[[], None] | None = None

    async def end(self) -> None:
        await asyncio.sleep(0)
        self.ended = True


def given(reserve: Reserve) -> Stub:
    stub = Stub()
    reserve.give(cast("Supervision", stub))
    return stub


def test_what_is_given_is_taken_once() -> None:
    async def use() -> None:
        reserve = Reserve()
        assert reserve.take() is None
        stub = given(reserve)
        assert reserve.take() is cast("Supervision", stub)
        assert reserve.take() is None
        assert stub.when_gone is None  # it is a call's matter now
        await reserve.close()
        assert not stub.ended

    asyncio.run(use())


def test_no_more_than_so_many_wait() -> None:
    async def use() -> None:
        reserve = Reserve()
        stubs = [given(reserve) for _ in range(MOST + 2)]
        await asyncio.sleep(0.01)
        assert [stub.ended for stub in stubs] == [False] * MOST + [True] * 2
        await reserve.close()
        assert all(stub.ended for stub in stubs)

    asyncio.run(use())


def test_one_that_is_gone_is_given_to_nobody() -> None:
    async def use() -> None:
        reserve = Reserve()
        first, second = given(reserve), given(reserve)
        assert second.when_gone is not None
        second.when_gone()
        assert reserve.take() is cast("Supervision", first)
        assert reserve.take() is None
        await reserve.close()
        assert second.ended
        assert not first.ended

    asyncio.run(use())


def test_nothing_waits_any_more_once_it_is_closed() -> None:
    async def use() -> None:
        reserve = Reserve()
        early = given(reserve)
        await reserve.close()
        assert early.ended
        late = given(reserve)
        assert reserve.take() is None
        await reserve.close()
        assert late.ended

    asyncio.run(use())
