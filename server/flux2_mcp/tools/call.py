"""What the tools share: the service behind a call, who calls, progress to the host, the answer's two forms."""

from __future__ import annotations

from typing import TypeAlias

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, TextContent

from flux2_mcp.results import Result
from flux2_mcp.service import Service
from flux2_mcp.waiting import OnProgress, Progress

Call: TypeAlias = Context[Service]

WAIT_SECONDS = 45.0
"""How long a call waits by default: every host bears as much."""
# Hosts that were measured to bear more (November 2026), by a part of the name they give: well below the limit of each.
# Claude Code sends calls over 120 s to the background, Codex ends them at 300 s, Gemini CLI at 600 s, Copilot CLI not by 150 s.
HOST_WAIT_SECONDS = {"claude-code": 110.0, "codex": 240.0, "gemini": 240.0, "copilot": 120.0}


def service(call: Call) -> Service:
    """The service of this server."""
    return call.request_context.lifespan_context


def client_name(call: Call) -> str | None:
    """What the host calls itself, cut short: it is the network's text."""
    params = call.session.client_params
    return None if params is None else params.client_info.name[:64]


def wait_seconds(call: Call, asked: float | None) -> float:
    """How long to wait: what the call says, else the settings, else what this host bears."""
    name = (client_name(call) or "").lower()
    by_host = next((seconds for part, seconds in HOST_WAIT_SECONDS.items() if part in name), WAIT_SECONDS)
    settings = service(call).settings
    return next(value for value in (asked, settings.wait_seconds, by_host) if value is not None)


def on_progress(call: Call) -> OnProgress:
    """Progress for the host: seconds since the call began, strictly increasing, and no invented percent."""
    last = 0.0

    async def report(progress: Progress) -> None:
        nonlocal last
        if progress.elapsed <= last:
            return
        last = progress.elapsed
        done = sum(1 for state in progress.states if not state.unfinished)
        rest = "" if progress.remaining is None else f", about {max(1, round(progress.remaining))} s left"
        message = f"{done} of {len(progress.states)} done after {progress.elapsed:.0f} s{rest}"
        await call.report_progress(progress.elapsed, message=message)

    return report


def answer(result: Result, text: str) -> CallToolResult:
    """Words for a reader, the same as JSON text, and as structured content."""
    data = result.model_dump(mode="json")
    content = [TextContent(type="text", text=text), TextContent(type="text", text=result.model_dump_json())]
    return CallToolResult(content=[*content], structured_content=data)
