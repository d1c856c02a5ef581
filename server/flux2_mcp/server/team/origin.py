"""From where a call comes: what its client says of itself, and its address. For the audit; nothing is decided by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from starlette.requests import Request

from flux2_mcp.domain.people import Caller
from flux2_mcp.server.team import sign_in

_ORIGIN: ContextVar[tuple[str | None, str | None]] = ContextVar("_ORIGIN", default=(None, None))


def caller() -> Caller | None:
    """Return who makes the call that is being served, and from where; None on a server without sign-in."""
    person = sign_in.caller()
    if person is None:
        return None
    client, address = _ORIGIN.get()
    return Caller(person=person, client=client, address=address)


class Origin:
    """Middleware for every message, before all other: some of them ask the service, too."""

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Handle one message."""
        token = _ORIGIN.set((_client(ctx), _address(ctx)))
        try:
            return await call_next(ctx)
        finally:
            _ORIGIN.reset(token)


@contextmanager
def of_request(request: Request) -> Iterator[None]:
    """Let the calls inside come from a request that is no message of MCP's."""
    token = _ORIGIN.set((request.headers.get("user-agent"), address_of(request)))
    try:
        yield
    finally:
        _ORIGIN.reset(token)


def address_of(request: Request) -> str | None:
    """Return the address that `proxies.Forwarded` has found."""
    return None if request.client is None else str(request.client.host)


def _client(ctx: ServerRequestContext[Any, Any]) -> str | None:
    """Return the name and version of the client.

    Before 2026-07-28 a client says them in `initialize` alone, and this server keeps nothing between two calls: then it is
    what the client's HTTP library calls itself.
    """
    if (params := ctx.session.client_params) is not None:
        return f"{params.client_info.name} {params.client_info.version}"
    agent = None if ctx.request is None else ctx.request.headers.get("user-agent")
    return str(agent) if agent else None


def _address(ctx: ServerRequestContext[Any, Any]) -> str | None:
    return None if ctx.request is None else address_of(ctx.request)
