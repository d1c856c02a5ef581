"""Admits calls of people who have signed in, and tells all others where to sign in.

The SDK's own middleware (`RequireAuthMiddleware`) has one text for every refusal and names no scope, and it stands behind
the router, where no connection is admitted. So this one stands before it, and hands the SDK what its middleware would: the
user in the scope, with which the SDK keeps people's sessions and questions apart.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.authentication import AuthCredentials
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flux2_mcp.domain.people import Person
from flux2_mcp.domain.personal_tokens import is_token
from flux2_mcp.server.team.personal import Bearers
from flux2_mcp.server.team.tokens import PersonToken, Refusal
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.server.team.sign_in")

NO_TOKEN = Refusal(
    HTTPStatus.UNAUTHORIZED,
    None,
    "This server needs a token, of your sign-in or a personal one: Authorization: Bearer TOKEN.",
)

TOO_MANY = Refusal(
    HTTPStatus.TOO_MANY_REQUESTS, None, "Too many of your calls are being answered at once. Call again later.", 1
)
"""One person, or a program that has their token, must not take the places of all others."""


def caller() -> Person | None:
    """Return the person whose call is being served; None on a server without sign-in."""
    token = get_access_token()
    return token.person if isinstance(token, PersonToken) else None


def by_personal_token() -> bool:
    """Whether the call that is being served has a personal token, and no sign-in."""
    token = get_access_token()
    return token is not None and is_token(token.token)


def bearer_token(headers: Headers) -> str | None:
    """Return the bearer token that the headers hold, or None."""
    given = headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip() or None if scheme.lower() == "bearer" else None


class SignedInOnly:
    """Admits calls with a token that is in force.

    Args:
        app: The application that it guards.
        tokens: Checks the tokens.
        metadata_url: Where clients read how to sign in; None: nobody can, and personal tokens alone count.
        scopes: What a client should ask the provider for.
        open_paths: What everybody may read.
        open_folder: What paths begin with that prove themselves.
        meet: Told of each person who calls.
        most_of_one: The maximum number of simultaneous calls of one person.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Bearers,
        metadata_url: str | None,
        scopes: Collection[str],
        open_paths: Collection[str],
        open_folder: str,
        meet: Callable[[Person], None],
        most_of_one: int,
    ) -> None:
        self._app = app
        self._signed_in = AuthContextMiddleware(app)
        self._tokens = tokens
        told = {"resource_metadata": metadata_url, "scope": " ".join(scopes)}
        self._challenge = [f'{name}="{value}"' for name, value in told.items() if value]
        self._open = frozenset(open_paths)
        self._open_folder = open_folder
        self._meet = meet
        self._most_of_one = most_of_one
        self._calls = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] == "lifespan" or scope["path"] in self._open or scope["path"].startswith(self._open_folder):
            await self._app(scope, receive, send)
            return
        found = await self.check(Headers(scope=scope))
        if not isinstance(found, Refusal):
            scope["state"]["admit"]()
            if self._calls[found.person.key] >= self._most_of_one:
                found = TOO_MANY
        if isinstance(found, Refusal):
            log.info("refused", extra=fields(reason=found.text, status=int(found.status), client=_address(scope)))
            await self.answer(found)(scope, receive, send)
            return
        with self._counted(found.person):
            if found.met:
                self._meet(found.person)
            scope["user"], scope["auth"] = AuthenticatedUser(found), AuthCredentials(found.scopes)
            await self._signed_in(scope, receive, send)
            await scope["state"]["sent"]()  # an answer that nobody reads is one of the person's calls until it is cut

    @contextmanager
    def _counted(self, person: Person) -> Iterator[None]:
        self._calls[person.key] += 1
        try:
            yield
        finally:
            self._calls[person.key] -= 1
            if not self._calls[person.key]:
                del self._calls[person.key]

    async def check(self, headers: Headers) -> PersonToken | Refusal:
        """Return the person that the headers of a call name, or why it is refused."""
        token = bearer_token(headers)
        return NO_TOKEN if token is None else await self._tokens.check(token)

    def answer(self, refusal: Refusal) -> Response:
        """Return the answer to a call that is refused."""
        headers = {"Cache-Control": "no-store"}
        parts = list(self._challenge)
        body = {"error_description": refusal.text}
        if refusal.error is not None:
            parts = [f'error="{refusal.error}"', f'error_description="{refusal.text}"', *parts]
            body = {"error": refusal.error, **body}
        if refusal.retry_after_seconds is not None:
            headers["Retry-After"] = str(refusal.retry_after_seconds)
        else:
            headers["WWW-Authenticate"] = f"Bearer {', '.join(parts)}".rstrip()
        return Response(json.dumps(body), refusal.status, headers, "application/json")


def _address(scope: Scope) -> str | None:
    return scope["client"][0] if scope["client"] else None
