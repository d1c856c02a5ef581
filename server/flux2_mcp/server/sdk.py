"""What of the SDK is used without being its public face, each with why. Looked at in mcp 2.3.0, which is what is developed with.

The package takes any 2.x from 2.3 on (`pyproject.toml`). A release that changes one of these breaks this module alone; the tests
that start a server notice.
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
    """Tools by name that are made when they are first wanted, in place of `ToolManager`, which takes them made.

    `_tools` is where `ToolManager` keeps them, and reads them from.

    Args:
        makers: Makes each tool, by its name; no other is added later.
    """

    def __init__(self, makers: dict[str, Callable[[], Tool]]) -> None:
        super().__init__()
        self._makers = makers

    def get_tool(self, name: str) -> Tool | None:
        """The tool of this name; None where there is none."""
        if name not in self._tools and name in self._makers:
            self._tools[name] = self._makers[name]()
        return self._tools.get(name)

    def list_tools(self) -> list[Tool]:
        """All of them, in their makers' order."""
        return [tool for name in self._makers if (tool := self.get_tool(name))]


def use_tools(server: MCPServer[Any], tools: ToolManager) -> None:
    """Let a server have these tools. `MCPServer` makes its `_tool_manager` itself and takes none."""
    server._tool_manager = tools


def add_handler(
    server: MCPServer[Any],
    method: str,
    params: type[BaseModel],
    handler: Callable[[ServerRequestContext[Any], Any], Awaitable[HandlerResult]],
) -> None:
    """Let a server answer a method by a handler that gets the request's whole context; the public decorators give less of it."""
    server._lowlevel_server.add_request_handler(method, params, handler)


async def run_over(
    server: MCPServer[Any],
    received: MemoryObjectReceiveStream[SessionMessage | Exception],
    sent: MemoryObjectSendStream[SessionMessage],
) -> None:
    """Serve one host over two streams of messages, to the end of what comes in; `MCPServer.run` knows only its own transports."""
    lowlevel = server._lowlevel_server
    await lowlevel.run(received, sent, lowlevel.create_initialization_options())


async def end_sessions(server: MCPServer[Any]) -> None:
    """End the sessions of a server over HTTP. At its own stop the manager only cancels them.

    Each with a call under way then takes a second to give up its answer. The sessions stand in `_server_instances` alone.
    """
    for session in list(server.session_manager._server_instances.values()):
        await session.terminate()
