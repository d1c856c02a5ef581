"""The least server that the SDK makes: four tools that do nothing, one of them for ever. What others compare ours with."""

from __future__ import annotations

import anyio
from mcp.server.mcpserver import MCPServer

server = MCPServer("minimal")


@server.tool()
def generate(prompt: str, count: int = 1) -> str:
    """Make images."""
    return f"{count} of {prompt}"


@server.tool()
async def check_task(task_id: str) -> str:
    """How a task stands."""
    await anyio.sleep_forever()
    return task_id


@server.tool()
def check_pricing() -> str:
    """Prices."""
    return "none"


@server.tool()
def list_variants() -> str:
    """The variants."""
    return "none"


if __name__ == "__main__":
    server.run("stdio")
