"""Signs in with the OpenID provider of a team's server, and gets a personal token of the server's for it.

The mcp SDK's OAuth client finds the provider and speaks with it (RFC 9728, 8414, 7591, 7636, 8707, 9207). Its requests go
through our own transport: the same proxies, certificates and limits as for RunAPI.
"""

from __future__ import annotations

from contextlib import aclosing, suppress
from http import HTTPStatus
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import anyio
from msgspec import Struct

from flux2_mcp.domain.urls import is_url
from flux2_mcp.errors import Flux2Error, LoginError, WireError
from flux2_mcp.runapi import key_file
from flux2_mcp.runapi.error_text import clean
from flux2_mcp.runapi.exchange import sendable
from flux2_mcp.runapi.login.pkce import browser_answer, query_of
from flux2_mcp.runapi.login.redeem import LoginResult, prove
from flux2_mcp.system.loopback import HOST

if TYPE_CHECKING:
    import httpx2
    from mcp.client.auth import AuthorizationCodeResult
    from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

    from flux2_mcp.runapi.transport import HttpTransport

CALLBACK = "/callback"
TOKENS = "/tokens"
"""Where a team's server makes a token for whoever signed in; see `server.team.own_tokens`."""
DESCRIPTION = "/.well-known/oauth-protected-resource/mcp"
"""Where a team's server says which provider it has (RFC 9728); without a provider there is nothing."""
PROVIDER = "the team's provider"
ASK = "Ask whoever runs the server, or for a personal token: flux2-mcp login --team URL --stdin reads it."


class ProviderAttempt(Struct):
    """What the browser's answer must be for. `issuer` is what the answer says of who gave it (RFC 9207)."""

    port: int
    state: str
    address: str
    issuer: str | None = None

    def answer(self, query: str) -> str | LoginError | None:
        """The answer in a query string: the code, the provider's refusal, or None if it is not for this login."""
        found = browser_answer(query, self.state, whose="The team's provider")
        if found is None or isinstance(found, LoginError):
            return found
        self.issuer = found.get("iss")
        return found["code"]

    def pasted(self, text: str) -> str | LoginError | None:
        """The answer in the address at which the browser ended. A code alone is not enough here: it names no issuer."""
        return self.answer(query_of(text))


class ProviderSignIn:
    """One sign-in. `run` does all of it, beside a `LoginCallback` for `page()` with `finish`.

    Args:
        team: The address of the team's server.
        port: Where the browser comes back to.
        client_id: What the provider knows flux2-mcp by; None: flux2-mcp registers itself (RFC 7591).
        path: The file in which the token is kept.
    """

    def __init__(self, team: str, port: int, *, client_id: str | None, path: Path) -> None:
        self._team, self._port, self._client_id, self._path = team, port, client_id, path
        self._attempt: ProviderAttempt | None = None
        self._code: str | None = None
        self._asked, self._answered, self._ended = anyio.Event(), anyio.Event(), anyio.Event()
        self._result: LoginResult | Flux2Error | None = None

    async def run(self) -> None:
        """Sign in. What became of it is what `page` and `finish` raise or return."""
        try:
            self._result = await self._signed_in()
        except Flux2Error as exc:
            self._result = exc
        finally:
            self._asked.set()
            self._ended.set()

    async def page(self) -> ProviderAttempt:
        """Wait until the provider's page is known, and return where it is.

        Raises:
            Flux2Error: There is none: the server or its provider can't be used.
        """
        await self._asked.wait()
        if self._attempt is None:
            self._raise()
        assert self._attempt is not None  # noqa: S101  # without it, there was an error
        return self._attempt

    async def finish(self, code: str) -> LoginResult:
        """Take the browser's code, and wait for the end.

        Raises:
            Flux2Error: There is no token.
        """
        self._code = code
        self._answered.set()
        await self._ended.wait()
        self._raise()
        assert isinstance(self._result, LoginResult)  # noqa: S101
        return self._result

    def _raise(self) -> None:
        if isinstance(self._result, Flux2Error):
            raise self._result

    async def _signed_in(self) -> LoginResult:
        from flux2_mcp.runapi.transport import HttpTransport

        async with aclosing(HttpTransport(self._team)) as transport:
            token, name = await self._token(transport)
        key_file.save(self._path, token, team=self._team)
        balance = await prove(self._team, token)
        return LoginResult(key=token, name="", email=name, balance=balance)

    async def _token(self, transport: HttpTransport) -> tuple[str, str]:
        """Return a token of the server's, and the name of its person."""
        import httpx2
        from mcp.client.auth import OAuthClientProvider, OAuthFlowError
        from mcp.client.auth.exceptions import OAuthRegistrationError
        from mcp.shared.auth import OAuthClientMetadata
        from pydantic import ValidationError

        back = f"http://{HOST}:{self._port}{CALLBACK}"
        described = {
            "client_name": "flux2-mcp",
            "redirect_uris": [back],
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code"],
            "response_types": ["code"],
        }
        oauth = OAuthClientProvider(
            f"{self._team}/mcp",
            OAuthClientMetadata.model_validate(described),
            _Nothing(self._client_id, back),
            self._show,
            self._answer,
        )
        flow = oauth.async_auth_flow(httpx2.Request("POST", f"{self._team}{TOKENS}"))
        try:
            async with aclosing(flow):
                response = await _sent(transport, await anext(flow), self._team)
                with suppress(StopAsyncIteration):
                    while True:
                        response = await _sent(transport, await flow.asend(response), self._team)
            return self._made(response)
        except OAuthRegistrationError as exc:
            raise LoginError(
                "The team's provider does not let flux2-mcp register itself.",
                next_step="Ask whoever runs the server for a client id: flux2-mcp login --team URL --client-id ID.",
            ) from exc
        except (OAuthFlowError, ValidationError, ValueError) as exc:
            raise LoginError(
                "The sign-in failed: the team's provider answered with something else.", next_step=ASK
            ) from exc

    async def _show(self, address: str) -> None:
        state = parse_qs(urlsplit(address).query).get("state", [""])[0]
        if not is_url(address, local=True) or not address.isprintable():
            raise LoginError("The page of the team's provider is at no https address.", next_step=ASK)
        if self._attempt is not None:  # the SDK asks for more rights, which a second page would not give either
            raise _not_let_in(self._team)
        self._attempt = ProviderAttempt(port=self._port, state=state, address=address)
        self._asked.set()

    async def _answer(self) -> AuthorizationCodeResult:
        from mcp.client.auth import AuthorizationCodeResult

        await self._answered.wait()
        assert self._attempt is not None and self._code is not None  # noqa: S101, PT018  # in this order
        return AuthorizationCodeResult(code=self._code, state=self._attempt.state, iss=self._attempt.issuer)

    def _made(self, response: httpx2.Response) -> tuple[str, str]:
        if response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise _not_let_in(self._team)
        told = _fields(response)
        token, name = told.get("token"), told.get("name")
        if (
            response.status_code == HTTPStatus.CREATED
            and isinstance(token, str)
            and sendable(token)
            and " " not in token
        ):
            return token, clean(name) if isinstance(name, str) else ""
        why = told.get("error")
        raise LoginError(
            f"The server at {self._team} gave no token ({response.status_code})"
            f"{f': {clean(why)}' if isinstance(why, str) else '.'}",
            next_step=ASK,
        )


class _Nothing:
    """Keeps nothing of a sign-in beyond its end: see `mcp.client.auth.TokenStorage`."""

    def __init__(self, client_id: str | None, back: str) -> None:
        self._client_id, self._back = client_id, back

    async def get_tokens(self) -> OAuthToken | None:
        return None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        pass

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        from mcp.shared.auth import OAuthClientInformationFull

        if self._client_id is None:
            return None
        known = {"client_id": self._client_id, "redirect_uris": [self._back], "token_endpoint_auth_method": "none"}
        return OAuthClientInformationFull.model_validate(known)

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        pass


async def has_provider(team: str) -> bool:
    """Whether people sign in to a team's server with a provider. False: it takes personal tokens alone.

    Raises:
        TransportError: The server gave no answer.
        WireError: It can't answer now.
    """
    from flux2_mcp.runapi.transport import HttpTransport

    async with aclosing(HttpTransport(team)) as transport:
        answer = await transport.send("GET", f"{team}{DESCRIPTION}", headers={}, whom=f"the server at {team}")
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise WireError(
            f"The server at {team} can't answer now ({answer.status}).", next_step="Log in again in a minute."
        )
    return answer.status == HTTPStatus.OK


async def _sent(transport: HttpTransport, request: httpx2.Request, team: str) -> httpx2.Response:
    import httpx2

    url = str(request.url)
    if not is_url(url, local=True):
        raise WireError("The team's server names a provider at no https address.", next_step=ASK)
    whom = f"the server at {team}" if url.startswith(f"{team}/") else PROVIDER
    answer = await transport.send(
        request.method, url, headers=dict(request.headers), content=await request.aread(), whom=whom
    )
    return httpx2.Response(answer.status, headers=answer.headers, content=answer.body, request=request)


def _fields(response: httpx2.Response) -> dict[str, Any]:
    try:
        told = response.json()
    except (JSONDecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _not_let_in(team: str) -> LoginError:
    return LoginError(f"You have signed in, but the server at {team} does not let you in.", next_step=ASK)
