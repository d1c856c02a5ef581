"""Serves MCP over streamable HTTP to a team, from the listener to the shutdown.

A server keeps nothing between two calls, in either era of the protocol, so any number of them can stand behind one address,
and a caller needs no particular one. On SIGTERM it takes no new call, answers those that it has, and ends with 0.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain.urls import is_url
from flux2_mcp.errors import GET_A_KEY, NOTHING_SENT, AuthenticationError, JournalError, SettingsError
from flux2_mcp.server.http import GRACE_SECONDS, MAX_BODY_BYTES, PATH
from flux2_mcp.settings import Settings, SignIn
from flux2_mcp.system.loopback import named

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from starlette.applications import Starlette
    from starlette.routing import Route

    from flux2_mcp.domain.people import Person
    from flux2_mcp.server.app import Flux2Server
    from flux2_mcp.server.team.provider import SigningKeys
    from flux2_mcp.server.team.tokens import Tokens
    from flux2_mcp.server.team.traffic import Traffic

MAX_CONNECTIONS = 512
"""The maximum number of simultaneous connections, and also of calls. With those to RunAPI and to the journal, they stay below
the 1024 files that most systems let a process open."""
MAX_CALLS_OF_ONE = MAX_CONNECTIONS // 4
"""The maximum number of simultaneous calls of one person."""
MAX_DECODED, MAX_DECODED_OF_ONE = 8, 1
"""Pictures that are decoded at once, of all and of one person. Of large ones, those wait for room that have their turn."""
OPEN_FOR_ALL = ("/.well-known/oauth-protected-resource", f"/.well-known/oauth-protected-resource{PATH}")


class Address(Struct, frozen=True, kw_only=True):
    """Where a server listens, and by which address the team knows it.

    `drain_seconds` is the maximum time for the calls under way at the end.
    """

    host: str
    public_url: str | None = None
    drain_seconds: float = 20.0

    def public(self, port: int) -> str:
        """Return the public address, without a slash at its end; on loopback, it is where the server listens."""
        return f"http://{named(self.host)}:{port}" if self.public_url is None else self.public_url.lower().rstrip("/")


def checked(settings: Settings, address: Address, *, has_tokens: Callable[[], bool]) -> bool:
    """Return whether to serve a team, or else this machine alone, before a port is opened.

    Args:
        settings: The settings of the service.
        address: From where and as what the server is to be reached.
        has_tokens: Looks whether the journal has a personal token in force.

    Raises:
        SettingsError: The server would be open to others without sign-in, or its address is not usable.
        AuthenticationError: There is no key to serve a team with.
        JournalError: The journal can't be read.
    """
    beyond = not ipaddress.ip_address(address.host).is_loopback
    if settings.sign_in is None:
        if not beyond and address.public_url is None:
            return False
        if not _read(has_tokens):
            raise SettingsError(
                f"{f'--host {address.host}' if beyond else '--public-url'} would let others in, and nothing says who they are.",
                next_step="Set FLUX2_OIDC_ISSUER to the team's OpenID provider, or make a personal token with flux2-mcp team"
                " token create, or leave the option out.",
            )
    if find_spec("prometheus_client") is None:
        raise SettingsError(
            "A server for a team needs packages that are not installed.",
            next_step="Install them: pip install 'flux2-mcp[team]'.",
        )
    settings.need()
    if address.public_url is None and beyond:
        raise SettingsError(
            f"--host {address.host} needs --public-url: the address by which people call this server.",
            next_step="Add --public-url https://HOST, as the load balancer has it.",
        )
    if address.public_url is not None:
        _check_public(address.public_url)
    if settings.mode == "live" and settings.api_key is None:
        raise AuthenticationError(
            "A server for a team needs the RunAPI key that all share, and there is none.",
            status=401,
            next_step=f"Get a key: {GET_A_KEY}; or set FLUX2_MODE=sandbox to try without one.",
        )
    return True


def _read(has_tokens: Callable[[], bool]) -> bool:
    try:
        return has_tokens()
    except JournalError as exc:
        raise JournalError(
            f"The server did not start: without FLUX2_OIDC_ISSUER, it must first read the personal tokens. {exc.message}",
            cost=NOTHING_SENT,
            next_step=exc.next_step,
            reason=exc.reason,
        ) from exc


def _check_public(url: str) -> None:
    if not is_url(url, local=True) or urlsplit(url).path not in {"", "/"} or set(url) & set("?#"):
        raise SettingsError(
            "--public-url must be https://host[:port] without a path, or http:// on loopback.",
            next_step="Give the address as the load balancer has it.",
        )


async def serve(
    settings: Settings, listener: socket.socket, address: Address, *, on_ready: Callable[[str], None]
) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code: 0 after a drain, else 128 and the signal's number.

    Args:
        settings: The settings of the service, which were `checked`.
        listener: A socket that listens.
        address: From where and as what the server is reached.
        on_ready: Called with the public URL when the server is ready.
    """
    gc.disable()  # as in the stdio server, while the SDK builds its models
    from flux2_mcp.server.team import health, metrics
    from flux2_mcp.server.team.traffic import Traffic
    from flux2_mcp.system import http_server

    traffic = Traffic()
    public = address.public(int(listener.getsockname()[1]))
    async with _application(settings, listener, public, traffic) as (server, application):
        gc.freeze()
        gc.enable()
        ends = _Ends()
        kept_paths = (*health.PATHS, metrics.PATH)
        serving = http_server.served(
            application, listener, grace_seconds=GRACE_SECONDS, most=MAX_CONNECTIONS, kept_paths=kept_paths
        )
        async with serving:
            on_ready(f"{public}{PATH}")
            number = await ends.first()
            traffic.stopping = True
            server.session.whole.stop_waiting()
            if number == signal.SIGTERM:
                quiet, again = asyncio.ensure_future(traffic.quiet()), asyncio.ensure_future(ends.second())
                await asyncio.wait({quiet, again}, timeout=address.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
                number = number if again.done() else 0
                for each in (quiet, again):
                    each.cancel()
    return 128 + number if number else 0


class _Ends:
    """The signals that end the server."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._first, self._second = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda number, _: loop.call_soon_threadsafe(self._note, number))

    def _note(self, number: int) -> None:
        (self._second if self._numbers else self._first).set()
        self._numbers.append(number)

    async def first(self) -> int:
        """Wait for the first signal."""
        await self._first.wait()
        return self._numbers[0]

    async def second(self) -> None:
        """Wait for another one: whoever sends it does not want to wait."""
        await self._second.wait()


@asynccontextmanager
async def _application(
    settings: Settings, listener: socket.socket, public: str, traffic: Traffic
) -> AsyncIterator[tuple[Flux2Server, Starlette]]:
    """Open the server and all that stands before it. What is added last runs first."""
    from mcp.server.request_state import RequestStateSecurity
    from mcp.server.transport_security import TransportSecuritySettings

    from flux2_mcp.engine.remote_files import FOLDER, RemoteFiles
    from flux2_mcp.server.app import build
    from flux2_mcp.server.team import health, links, metrics, own_tokens, uploads
    from flux2_mcp.server.team.large_messages import AnswersOut, LargeAnswers, LargeCalls
    from flux2_mcp.server.team.origin import Origin, caller
    from flux2_mcp.server.team.personal import Bearers, PersonalTokens
    from flux2_mcp.server.team.proxies import Forwarded
    from flux2_mcp.server.team.runapi_http import API, RunApiHttp
    from flux2_mcp.server.team.sign_in import SignedInOnly
    from flux2_mcp.server.team.traffic import CountedCalls, post_alone
    from flux2_mcp.server.transports import bearer, readable
    from flux2_mcp.system.turns import Turns

    port = int(listener.getsockname()[1])
    numbers = metrics.Numbers(traffic)
    image_links = links.ImageLinks(public, settings.seal_keys)
    server = build(
        # A path that a caller names is one of the caller's machine.
        replace(settings, workspace=None, allowed_dirs=()),
        seam=lambda usual: replace(
            numbers.watching(usual), remote=RemoteFiles(public), turns=Turns(MAX_DECODED_OF_ONE, MAX_DECODED)
        ),
        remote=public,
        security=RequestStateSecurity(keys=settings.seal_keys) if settings.seal_keys else None,
        caller=caller,
        link=image_links.link,
        before_much=LargeAnswers(caller).begin,
    )
    server.middleware.insert(0, Origin())
    hosts = _hosts(public, port)
    application = server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        max_request_body_size=MAX_BODY_BYTES,
        transport_security=TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[public]),
    )
    # A redirect would name http:// behind a load balancer with the certificate, and clients would send their token there.
    application.router.redirect_slashes = False
    application.router.routes.insert(0, post_alone(PATH))

    def meet(person: Person) -> None:
        server.session.whole.callers.meet(person)

    async with _provider(settings.sign_in, f"{public}{PATH}", lambda: server.session.whole.background) as provider:
        personal = PersonalTokens(lambda: server.session.whole.callers, monotonic=time.monotonic)
        tokens = Bearers(personal, provider.tokens)
        application.add_middleware(readable.MessagesOnly, path=PATH, most=MAX_BODY_BYTES)
        application.add_middleware(LargeCalls, path=PATH, caller=caller)
        application.add_middleware(
            SignedInOnly,
            tokens=tokens,
            metadata_url=provider.metadata_url,
            scopes=() if settings.sign_in is None else settings.sign_in.scopes,
            open_paths=(*OPEN_FOR_ALL, *health.PATHS, metrics.PATH),
            open_folder=links.FOLDER,
            meet=meet,
            most_of_one=MAX_CALLS_OF_ONE,
        )
        application.add_middleware(AnswersOut)
        application.add_middleware(
            CountedCalls, traffic=traffic, paths=(PATH, FOLDER, own_tokens.PATH), folders=(f"{API}/", links.FOLDER)
        )
        application.add_middleware(Forwarded, trusted=settings.trusted_proxies)
        application.router.routes.extend(provider.routes)
        async with application.router.lifespan_context(application):
            service = server.session.whole
            service.background.start_soon(service.callers.tell_caps, settings.caps)
            service.background.start_soon(personal.learn)
            reader, _ = bearer.token(settings.home, metrics.TOKEN_FILE)
            places = uploads.Places(caller, settings.home)
            runapi_http = RunApiHttp(lambda: server.session.service, caller, image_links, places)
            sign_in = settings.sign_in
            application.router.routes.extend(
                (
                    *health.HealthRoutes(service.health(), provider.keys, traffic).routes(),
                    metrics.route(numbers, service, tokens, reader, public),
                    links.route(image_links, lambda: server.session.whole, most_of_one=MAX_CALLS_OF_ONE),
                    uploads.route(lambda: server.session.service, places),
                    *runapi_http.routes(),
                    *(() if sign_in is None else (own_tokens.route(service.callers, caller, sign_in.login_days),)),
                )
            )
            yield server, application


class _Provider(Struct, frozen=True, kw_only=True):
    """What a server needs to know its provider's people by; without a provider, nothing."""

    keys: SigningKeys | None = None
    tokens: Tokens | None = None
    metadata_url: str | None = None
    routes: tuple[Route, ...] = ()


@asynccontextmanager
async def _provider(
    sign_in: SignIn | None, address: str, background: Callable[[], TaskGroup]
) -> AsyncIterator[_Provider]:
    if sign_in is None:
        yield _Provider()
        return
    from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
    from mcp.server.auth.settings import AuthSettings
    from pydantic import AnyHttpUrl

    from flux2_mcp.runapi.transport import HttpTransport
    from flux2_mcp.server.team.provider import SigningKeys
    from flux2_mcp.server.team.tokens import Tokens

    resource = AnyHttpUrl(address)
    # `AnyHttpUrl` alone would add a slash to an issuer without a path, and clients compare issuers letter by letter.
    auth = AuthSettings.model_validate(
        {"issuer_url": sign_in.issuer, "resource_server_url": resource, "validate_token_resource": False}
    )
    described = create_protected_resource_routes(
        resource, [auth.issuer_url], list(sign_in.scopes) or None, resource_name="FLUX.2 images"
    )
    transport = HttpTransport(sign_in.issuer)
    keys = SigningKeys(sign_in.issuer, transport, background)
    try:
        yield _Provider(
            keys=keys,
            tokens=Tokens(keys, sign_in, audience=sign_in.audience or str(resource)),
            metadata_url=str(build_resource_metadata_url(resource)),
            routes=tuple(described),
        )
    finally:
        await transport.aclose()


def _hosts(public: str, port: int) -> list[str]:
    """Return what `Host` may be: the public address, with and without the usual port, and the names of loopback."""
    parts = urlsplit(public)
    usual = 443 if parts.scheme == "https" else 80
    named = [parts.netloc] if parts.port else [parts.netloc, f"{parts.netloc}:{usual}"]
    return [*named, *(f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]"))]
