"""The viewer: a small page of ours that acts as the host of the gallery, and one path that passes on its calls.

The calls go to the server's own tools and resources, through the SDK's client in this process. There is no second way
to call a tool, so the rules for an agent (caps, journal, one payment for one request) also apply to every button.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

from mcp.client.client import Client
from mcp.client.extension import advertise
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flux2_mcp import __version__
from flux2_mcp.domain.manifest.entries import MANIFEST
from flux2_mcp.errors import Flux2Error
from flux2_mcp.server import gallery
from flux2_mcp.server.app import build
from flux2_mcp.server.viewer.guard import ViewerGuard
from flux2_mcp.settings import Settings
from flux2_mcp.system import http_server
from flux2_mcp.system.loopback import HOST

NAME: Final = "flux2-mcp-gallery"
MAX_BODY_BYTES: Final = 64 * 1024
"""The maximum size of a call: the longest prompt, and room for the other arguments."""
SHARED_POLICY: Final = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"


class _Params(BaseModel):
    name: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    uri: str = ""


class _ToolCall(BaseModel):
    """A call of the gallery to its host that the server answers (MCP Apps 2026-01-26)."""

    method: Literal["tools/call", "resources/read"]
    params: _Params


MAX_CONNECTIONS: Final = 64
"""The maximum number of simultaneous connections: a browser opens six, and some in advance."""
GRACE_SECONDS = 0.2
"""The time for calls under way to end when the gallery closes."""


@asynccontextmanager
async def opened(settings: Settings, *, port: int, limit: int) -> AsyncIterator[ViewerGuard]:
    """Serve the viewer on 127.0.0.1 inside this context.

    Args:
        settings: As parsed from the environment.
        port: The port to listen on; 0: any free one.
        limit: The maximum number of tasks on the page.

    Raises:
        Flux2Error: The port is not free.
    """
    try:
        listener = http_server.listen(port)
    except OSError as exc:
        raise Flux2Error(
            f"The gallery can't listen on port {port} of {HOST}.",
            next_step="Choose another --port, or leave it out for any free one.",
        ) from exc
    apps = advertise(EXTENSION_ID, {"mimeTypes": [APP_MIME_TYPE]})
    who = Implementation(name=NAME, version=__version__)
    with listener:
        async with Client(build(settings), client_info=who, extensions=[apps]) as client:
            guard = ViewerGuard(_application(client, limit, _manifest(settings)), listener.getsockname()[1])
            async with http_server.served(guard, listener, grace_seconds=GRACE_SECONDS, most=MAX_CONNECTIONS):
                yield guard


def _manifest(settings: Settings) -> dict[str, str]:
    """Return the argument that names the manifest of the folder that the gallery was started in; none if there is none."""
    there = settings.workspace is not None and (Path(settings.workspace) / MANIFEST).is_file()
    return {"manifest": MANIFEST} if there else {}


def _application(client: Client, limit: int, manifest: Mapping[str, str]) -> Starlette:
    page = resources.files(__package__).joinpath("host.html").read_text(encoding="utf-8")
    host = page.replace("LIMIT", str(limit)).replace("MANIFEST", json.dumps(manifest))
    host_policy = f"{_policy(host)}; connect-src 'self'; frame-src 'self'; frame-ancestors 'none'"
    shown = gallery.html()
    # The gallery has its own browser sandbox, as in every host: it can reach only what the outer page passes on.
    shown_policy = f"{_policy(shown)}; frame-ancestors 'self'; sandbox allow-scripts"
    return Starlette(
        routes=[
            Route("/", partial(_page, host, host_policy)),
            Route("/gallery", partial(_page, shown, shown_policy)),
            Route("/rpc", partial(_rpc, client), methods=["POST"]),
        ]
    )


def _policy(html: str) -> str:
    """Return a Content-Security-Policy that allows only the page's own scripts and styles, by their hashes."""
    kinds = {"script-src": "script", "style-src": "style"}
    return "; ".join([SHARED_POLICY, *(f"{kind} {' '.join(_hashes(html, tag))}" for kind, tag in kinds.items())])


def _hashes(html: str, tag: str) -> list[str]:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found]


async def _page(html: str, policy: str, _: Request) -> Response:
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


async def _rpc(client: Client, request: Request) -> Response:
    """Answer one call of the gallery: JSON-RPC method and params in, `result` or `error` out."""
    if request.headers.get("content-type") != "application/json":
        return PlainTextResponse("Only application/json.\n", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return PlainTextResponse(f"At most {MAX_BODY_BYTES} bytes.\n", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    try:
        call = _ToolCall.model_validate_json(body)
    except ValidationError:
        return PlainTextResponse("Only tools/call and resources/read.\n", HTTPStatus.BAD_REQUEST)
    try:
        if call.method == "tools/call":
            result: BaseModel = await client.call_tool(call.params.name, call.params.arguments)
        else:
            result = await client.read_resource(call.params.uri)
    except MCPError as exc:
        return JSONResponse({"error": {"code": exc.code, "message": exc.message}})
    return JSONResponse({"result": result.model_dump(mode="json", by_alias=True, exclude_none=True)})
