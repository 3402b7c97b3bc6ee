"""Calls of the tool past the SDK's models, where both ways come to the same; all else of the protocol is the SDK's.

The SDK checks a request against two models before its handler sees it and the result against two more: a tenth of a
millisecond that the client waits for. A request that is :func:`is_plain` passes those checks whatever it says, and a
result of ours always does. Numbers, cancellation, progress, errors and what is sent to the client in the middle of a
call are the dispatcher's as ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from mcp.server.session import ServerSession
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from mcp.server.connection import Connection
    from mcp.shared.dispatcher import DispatchContext, OnNotify, OnNotifyIntercept, OnRequest
    from mcp_types import RequestId

METHOD = "tools/call"

_KEYS = {"name", "arguments", "_meta"}

_SDKS_OWN = "io.modelcontextprotocol/"
"""What ``_meta`` says under such names, the SDK reads."""


class RequestContext(Protocol):
    """What a call needs of the request it came as; the SDK's own context has it too."""

    @property
    def session(self) -> ServerSession:
        """Reaches the client."""
        ...

    @property
    def request_id(self) -> RequestId | None:
        """Its number."""
        ...


@dataclass(frozen=True, kw_only=True)
class CallContext:
    """See :class:`RequestContext`."""

    session: ServerSession
    request_id: RequestId | None


def is_plain(params: Mapping[str, Any] | None) -> bool:
    """Whether these are the parameters of a call in their usual form, in which nothing can be wrong for the SDK."""
    if type(params) is not dict or not params.keys() <= _KEYS:
        return False
    meta = params.get("_meta", {})
    return (
        type(params.get("name")) is str
        and type(params.get("arguments")) is dict
        and type(meta) is dict
        and type(meta.get("progressToken", "")) in (str, int)  # not bool, which is an int as well
        and not any(name.startswith(_SDKS_OWN) for name in meta)
    )


def result(text: str, *, is_error: bool) -> dict[str, Any]:
    """A tool's result of one text, as the SDK puts it on the wire."""
    return {"content": [{"text": text, "type": "text"}], "isError": is_error}


class Dispatcher(JSONRPCDispatcher[TransportContext]):
    """The SDK's, with calls of the tool taken out.

    Attributes:
        connection: Set before it runs.
        call: Carries out a call: its context, its parameters; returns the result as it is sent.
    """

    connection: Connection
    call: Callable[[RequestContext, Mapping[str, Any]], Awaitable[dict[str, Any]]]

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """See the base class."""
        await super().run(partial(self._request, on_request), on_notify, on_notify_intercept, task_status=task_status)

    async def _request(
        self,
        on_request: OnRequest,
        context: DispatchContext[TransportContext],
        method: str,
        params: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        connection = self.connection
        if (
            method != METHOD
            or params is None
            or not is_plain(params)
            or not connection.initialize_accepted
            or connection.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS
        ):
            return await on_request(context, method, params)
        session = ServerSession(context, connection)
        return await self.call(CallContext(session=session, request_id=context.request_id), params)
