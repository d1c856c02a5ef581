"""`POST /tokens`: a personal token for whoever signed in with the provider, so that programs on their machine work through here.

It is in force for a number of days and names the same person, so tasks and caps are the same; it makes nobody an admin. A token
makes no other: one that was stolen ends when it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flux2_mcp.domain.people import Caller
from flux2_mcp.engine.team import Callers
from flux2_mcp.errors import JournalError
from flux2_mcp.server.results.tasks import stamp
from flux2_mcp.server.team import origin
from flux2_mcp.server.team.personal import NOT_NOW, RETRY_SECONDS
from flux2_mcp.server.team.sign_in import by_personal_token

PATH = "/tokens"
NOT_BY_TOKEN = "A personal token makes no other one. Sign in: flux2-mcp login --team URL."  # noqa: S105  # a sentence
TOO_MANY = "You have made very many tokens in the last hour. Sign in again later."
NOBODY = (
    "This server gives no tokens to people who sign in. Ask whoever runs it: flux2-mcp team token create makes one."
)


def route(callers: Callers, caller: Callable[[], Caller | None], days: int) -> Route:
    """Return the route.

    Args:
        callers: Makes the tokens.
        caller: Returns who makes the call that is being served.
        days: How long a token is in force; 0: nobody gets one.
    """

    async def answer(request: Request) -> Response:
        if by_personal_token():
            return _refused(HTTPStatus.CONFLICT, NOT_BY_TOKEN)
        if not days:
            return _refused(HTTPStatus.CONFLICT, NOBODY)
        with origin.of_request(request):
            who = caller()
        assert who is not None  # noqa: S101  # `SignedInOnly` lets nobody else come here
        try:
            made = await callers.make_token(who, days=days)
        except JournalError:
            return _refused(HTTPStatus.SERVICE_UNAVAILABLE, NOT_NOW, {"Retry-After": str(RETRY_SECONDS)})
        if made is None:
            return _refused(HTTPStatus.TOO_MANY_REQUESTS, TOO_MANY, {"Retry-After": "3600"})
        token, record = made
        ends = None if record.expires_at is None else stamp(record.expires_at)
        shown = {"token": token, "id": record.ident, "name": record.name, "expires_at": ends}
        return JSONResponse(shown, HTTPStatus.CREATED, {"Cache-Control": "no-store"})

    return Route(PATH, answer, methods=["POST"])


def _refused(status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, {"Cache-Control": "no-store"} | (headers or {}))
