"""The Starlette application: routes, authentication, and limits of bodies. The handlers are in `api` and `login`."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from msgspec import Struct
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux2_mcp.domain import catalog
from flux2_mcp.domain.urls import is_loopback
from flux2_mcp.sandbox import api, lasting_files, listen, login, uploads, webhooks
from flux2_mcp.sandbox.http import HttpError, SandboxCall, token
from flux2_mcp.sandbox.state import SandboxState, whole
from flux2_mcp.sandbox.tasks import SandboxTask

MAX_JSON_BYTES = 1024 * 1024
MAX_DRAWINGS = 2
API_KEY = "X-API-Key"
"""Brings the key without a scheme before it."""

Handler = Callable[[SandboxState, SandboxCall], Response]

logger = logging.getLogger(__name__)


class Endpoint(Struct, frozen=True):
    """One row of the table: a method on a path.

    `key`: the call needs the sandbox's key, in `header`, and its rate limit counts it. `cap`: the largest body in bytes.
    `draws`: the call may take a second of processor time.
    """

    method: str
    path: str
    handler: Handler
    key: bool = True
    cap: int = 0
    draws: bool = False
    header: str = "Authorization"


def document(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /openapi.json`: the OpenAPI document of all calls."""
    del state, call
    return Response(files("flux2_mcp.sandbox").joinpath("openapi.json").read_bytes(), media_type="application/json")


def _line(service: str) -> tuple[Endpoint, Endpoint]:
    """The two rows of a model line."""
    path = f"/api/v1/{catalog.line_of(service)}/{{action}}"
    return (
        Endpoint("POST", path, partial(api.create_task, service=service), cap=MAX_JSON_BYTES),
        Endpoint("GET", f"{path}/{{id}}", partial(api.get_task, service=service)),
    )


# `openapi.json` describes each row; a test compares the two.
ENDPOINTS = (
    *(each for service in catalog.services() for each in _line(service)),
    Endpoint("GET", "/api/v1/tasks/{id}", api.get_result),
    Endpoint("GET", "/api/v1/price_schedules", api.price_schedules, key=False),
    Endpoint("POST", "/api/v1/price_quotes", api.price_quote, cap=MAX_JSON_BYTES),
    Endpoint("GET", "/api/v1/me", api.me),
    Endpoint("GET", "/api/v1/me/balance", api.balance),
    Endpoint("POST", "/api/v1/files/prepare", api.prepare_file, cap=MAX_JSON_BYTES),
    Endpoint("POST", "/api/v1/files/confirm", api.confirm_file, cap=MAX_JSON_BYTES),
    Endpoint("POST", "/api/v1/files", api.create_file, cap=uploads.MAX_BASE64_CHARS, draws=True),
    Endpoint("POST", "/v1/files", lasting_files.create, cap=lasting_files.MAX_BODY_BYTES),
    Endpoint("GET", "/v1/files", lasting_files.listed),
    Endpoint("GET", "/v1/files/{id}", lasting_files.retrieve),
    Endpoint("GET", "/v1/files/{id}/content", lasting_files.content),
    Endpoint("DELETE", "/v1/files/{id}", lasting_files.delete),
    Endpoint("POST", "/v1/uploads", lasting_files.begin, cap=MAX_JSON_BYTES),
    Endpoint("POST", "/v1/uploads/{id}/parts", lasting_files.add_part, cap=lasting_files.MAX_BODY_BYTES),
    Endpoint("POST", "/v1/uploads/{id}/complete", lasting_files.complete, cap=MAX_JSON_BYTES),
    Endpoint("POST", "/v1/uploads/{id}/cancel", lasting_files.cancel, cap=MAX_JSON_BYTES),
    Endpoint("PUT", "/uploads/{target}", api.put_file, key=False, cap=uploads.MAX_FILE_BYTES),
    Endpoint("GET", "/files/{id}", api.get_file, key=False),
    Endpoint("GET", "/results/{name}", api.result, key=False, draws=True),
    Endpoint("GET", "/cli/authorize", login.authorize, key=False),
    Endpoint("POST", "/cli/authorize", login.decide, key=False, cap=MAX_JSON_BYTES),
    Endpoint("POST", "/api/v1/cli/exchange", login.exchange, key=False, cap=MAX_JSON_BYTES),
    Endpoint("POST", "/api/v1/cli/listen_sessions", listen.open_session, header=API_KEY, cap=MAX_JSON_BYTES),
    Endpoint("DELETE", "/api/v1/cli/listen_sessions/{token}", listen.close_session, header=API_KEY),
    Endpoint("GET", "/api/v1/cli/listen_events", listen.events, header=API_KEY),
    Endpoint("POST", "/api/v1/cli/listen_events/{id}/ack", listen.acknowledge, header=API_KEY, cap=MAX_JSON_BYTES),
    Endpoint("GET", "/openapi.json", document, key=False),
)


def create(state: SandboxState, base_url: str) -> Starlette:
    """The application.

    Args:
        state: The open folder, which the caller must close.
        base_url: This server's address, without a slash at its end. All addresses in answers begin with it.

    `[sandbox:create_lost]` needs a server that puts `abort` into the ASGI state, as `server.Sandbox` does.
    """
    wake = asyncio.Event()
    drawing = anyio.CapacityLimiter(MAX_DRAWINGS)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(state.tidy)

        def shown(task: SandboxTask) -> dict[str, Any]:
            return api.task_json(state, task, base_url, state.clock())

        courier = asyncio.create_task(webhooks.deliver(state, wake, shown))
        try:
            yield
        finally:
            courier.cancel()
            await asyncio.wait([courier])

    def route(endpoint: Endpoint) -> Route:
        async def answer(request: Request) -> Response:
            call = await _read(state, base_url, endpoint, request)
            work = partial(_run, state, endpoint, call)
            limiter = drawing if endpoint.draws else None
            response = await anyio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=endpoint.draws)
            if endpoint.method == "POST":
                wake.set()
            return response

        return Route(endpoint.path, answer, methods=[endpoint.method])

    app = Starlette(
        routes=[route(endpoint) for endpoint in ENDPOINTS],
        exception_handlers={HttpError: _refuse, HTTPException: _refuse_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.add_middleware(HostGuard)
    return app


async def _read(state: SandboxState, base_url: str, endpoint: Endpoint, request: Request) -> SandboxCall:
    """Read a request. The key is checked before a byte of the body is read."""
    if endpoint.key:
        given = request.headers.get(endpoint.header, "")
        scheme, _, key = given.partition(" ") if endpoint.header != API_KEY else ("bearer", "", given)
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), state.api_key.encode()):
            raise HttpError(401, "authentication", "Invalid API key", headers={"WWW-Authenticate": "Bearer"})
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > endpoint.cap:
            raise HttpError(413, "payload_too_large", f"The body is larger than {endpoint.cap} bytes.")
    return SandboxCall(
        base_url=base_url,
        path={name: str(value) for name, value in request.path_params.items()},
        query=request.query_params,
        headers=request.headers,
        body=bytes(body),
    )


def _run(state: SandboxState, endpoint: Endpoint, call: SandboxCall) -> Response:
    if endpoint.key and (wait := state.admit()) is not None:
        raise HttpError(429, "rate_limited", "Too many requests", headers={"Retry-After": whole(wait)})
    return endpoint.handler(state, call)


async def _refuse(request: Request, exc: Exception) -> Response:
    del request
    assert isinstance(exc, HttpError)  # noqa: S101  # it is registered for this type alone
    return exc.response()


async def _refuse_route(request: Request, exc: Exception) -> Response:
    del request
    assert isinstance(exc, HTTPException)  # noqa: S101  # the same
    return HttpError(exc.status_code, "not_found", exc.detail, headers=exc.headers).response()


class HostGuard:
    """The rules for every request.

    Host must be a loopback name, so that a web page can't reach the sandbox by DNS rebinding. Every answer has a
    request id, and the caller's own id if it sent one. A handler that raises still gives an answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request; pass other events on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given: dict[str, str] = {}

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = f"req_{secrets.token_hex(8)}"
                answer["X-Content-Type-Options"] = "nosniff"
                answer["Date"] = formatdate(usegmt=True)
                answer.update(given)
            await send(message)

        try:
            _check_host(headers)
            if (own := token(headers, "X-Client-Request-Id")) is not None:
                given["X-Client-Request-Id"] = own
        except HttpError as exc:
            await exc.response()(scope, receive, stamped)
            return
        try:
            await self._app(scope, receive, stamped)
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("a sandbox handler broke")
            await HttpError(500, "server", "The sandbox broke").response()(scope, receive, stamped)


def _check_host(headers: Headers) -> None:
    try:
        host = urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        host = None
    if not is_loopback(host):
        raise HttpError(403, "forbidden", "The sandbox answers only to names of this machine.")
