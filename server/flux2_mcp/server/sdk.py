"""All uses of the SDK's private parts, each with its reason. Checked with mcp 2.3.0, the version used in development.

The package accepts every 2.x from 2.3 on (`pyproject.toml`). A release that changes a private part breaks only this
module, and the tests that start a server detect it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.tools import Tool, ToolManager
from mcp.shared.message import SessionMessage
from pydantic import BaseModel


class LazyTools(ToolManager):
    """A `ToolManager` that makes each tool at its first use; the SDK's own takes only finished tools.

    `ToolManager` stores and reads its tools in `_tools`.

    Args:
        makers: The function that makes each tool, by the tool's name. No tool is added later.
    """

    def __init__(self, makers: dict[str, Callable[[], Tool]]) -> None:
        super().__init__()
        self._makers = makers

    def get_tool(self, name: str) -> Tool | None:
        """Return the tool of this name, or None."""
        if name not in self._tools and name in self._makers:
            self._tools[name] = self._makers[name]()
        return self._tools.get(name)

    def list_tools(self) -> list[Tool]:
        """Return all tools, in the order of `makers`."""
        return [tool for name in self._makers if (tool := self.get_tool(name))]


def use_tools(server: MCPServer[Any], tools: ToolManager) -> None:
    """Give a server these tools. `MCPServer` makes its own `_tool_manager` and accepts no other."""
    server._tool_manager = tools


def add_handler(
    server: MCPServer[Any],
    method: str,
    params: type[BaseModel],
    handler: Callable[[ServerRequestContext[Any], Any], Awaitable[HandlerResult]],
) -> None:
    """Add a handler that gets the whole context of a request; the public decorators pass less of it."""
    server._lowlevel_server.add_request_handler(method, params, handler)


async def run_over(
    server: MCPServer[Any],
    received: MemoryObjectReceiveStream[SessionMessage | Exception],
    sent: MemoryObjectSendStream[SessionMessage],
) -> None:
    """Serve one host over two streams, until the input ends. `MCPServer.run` accepts only the SDK's own transports."""
    lowlevel = server._lowlevel_server
    await lowlevel.run(received, sent, lowlevel.create_initialization_options())


async def end_sessions(server: MCPServer[Any]) -> None:
    """End the sessions of a server over HTTP. At its own shutdown, the session manager only cancels them.

    Then each session with a call under way waits a second before it gives up its answer. Only `_server_instances` has
    the sessions.
    """
    for session in list(server.session_manager._server_instances.values()):
        await session.terminate()
