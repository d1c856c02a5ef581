"""Carries the calls to RunAPI over connections that live as long as the process. Only this module imports httpx2."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import httpx2
from anyio.abc import AsyncResource
from msgspec import Struct
from msgspec.structs import asdict

from flux2_mcp.domain import codings
from flux2_mcp.errors import SettingsError, TransportError, Wording
from flux2_mcp.runapi import causes, proxies, routes
from flux2_mcp.runapi.causes import CERTIFICATE_FOLDER, CERTIFICATES, Peer
from flux2_mcp.runapi.exchange import Permit
from flux2_mcp.runapi.proxies import Proxy
from flux2_mcp.runapi.responses import MAX_ANSWER_BYTES, MAX_ERROR_BYTES, DownloadStream, Response
from flux2_mcp.runapi.routes import Judge, Resolve, Route
from flux2_mcp.system.environment import said_path

MIN_BYTES_PER_SECOND = 16 * 1024
"""Bytes a second that an upload must reach: the slowest uplink of a home."""
PIECE_BYTES = 64 * 1024
"""Bytes passed to the connection at once; each piece has a write timeout of its own."""
CHUNK_BYTES = 256 * 1024
"""Bytes of a download passed on at once: the receiver writes them in a thread, and a change of threads takes time."""
MAX_CALLS, MAX_DOWNLOADS = 48, 16
"""Connections at once; together they stay below every system's limit of open files. They are apart, so that slow
downloads delay no poll."""
MAX_HOST_DOWNLOADS = 4
"""Connections in one of httpx2's pools, which spends time with the square of their number on each request: with 1,000
polls at once, a poll takes 3 ms of processor time over pools of 4 and 13 ms over one of 48."""
KEEP_ALIVE_SECONDS = 30.0
"""Seconds that an idle connection is kept: less than servers usually keep it."""
MAX_PORT = 65_535

_FOREIGN = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, TimeoutError, UnicodeError)
# The first row that fits gives our own text: the libraries' may hold a URL with its signature. False: nothing was sent.
_WORDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, bool, str], ...] = (
    (
        httpx2.PoolTimeout,
        "no connection was free in time",
        False,
        Wording("Wait until other calls have ended, then {name:call again}."),
    ),
    (httpx2.ConnectTimeout, "no connection in time", False, Wording("Check the network, then {name:call again}.")),
    (
        (httpx2.TimeoutException, TimeoutError),
        "no answer in time",
        True,
        Wording("{name:Call again} in a minute: the same call is not paid twice."),
    ),
    (
        (httpx2.UnsupportedProtocol, httpx2.InvalidURL, UnicodeError),
        "the address can't be called",
        False,
        Wording("Check RUNAPI_BASE_URL where it is set, then {name:start the server again}."),
    ),
    (httpx2.ConnectError, "no connection", False, Wording("Check the network, then {name:call again}.")),
    (
        Exception,
        "the connection broke off, or what came is not HTTP",
        True,
        Wording("{name:Call again}; if it stays so, check the network and whatever stands between."),
    ),
)
PROXY = "proxy"
"""The extension of a request that holds its proxy, for the text of its errors."""


class Timeouts(Struct, frozen=True, kw_only=True):
    """Seconds for each part of a call. `answer` limits one attempt, without the wait for a place and the upload."""

    connect: float = 5.0
    read: float = 30.0
    write: float = 30.0
    pool: float = 30.0
    answer: float = 60.0


class HttpTransport:
    """Calls through httpx2. Each request is made by hand, so that no key, cookie or header of one gets into another.

    It is made without I/O; connections open at their first use, and `aclose` closes them. Calls raise `TransportError`
    if no answer came, and `SettingsError` if the environment's proxy or certificates can't be used.

    Args:
        base_url: RunAPI's address: files there are fetched whatever the host's address, and errors name its variable.
        timeouts: Seconds for each part of a call.
        resolve: Looks up the hosts of files.
        judge: Says which of their addresses nothing may be fetched from.
        env: The environment: which proxies lead out, and whose certificates are trusted. Read at each first connection.
        max_calls: Connections at once for calls.
        max_downloads: Connections at once for downloads.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeouts: Timeouts | None = None,
        resolve: Resolve = routes.looked_up,
        judge: Judge = routes.not_public,
        env: Mapping[str, str] = os.environ,
        max_calls: int = MAX_CALLS,
        max_downloads: int = MAX_DOWNLOADS,
    ) -> None:
        self._base = base_url
        self._timeouts = timeouts or Timeouts()
        self._resolve, self._judge = resolve, judge
        self._env = env
        self._tls: ssl.SSLContext | None = None
        self._calls = _PooledClient(max_calls, self._client)
        self._downloads = _PooledClient(max_downloads, self._client)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._calls.aclose()
        await self._downloads.aclose()

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes = b"",
        whom: str = "RunAPI",
        permit: Permit | None = None,
    ) -> Response:
        """See `Transport.send`."""
        within = self._timeouts.pool + self._timeouts.answer + len(content) / MIN_BYTES_PER_SECOND
        with self._translated(whom), anyio.fail_after(within):
            proxy = proxies.proxy(url, self._env)
            request = self._request(method, url, headers, content, proxy=proxy, permit=permit)
            async with self._calls.open(request, self._timeouts.pool) as response:
                return Response(response.status_code, dict(response.headers), await _body(response))

    @asynccontextmanager
    async def download(self, url: str, headers: Mapping[str, str], whom: str) -> AsyncIterator[DownloadStream]:
        """See `Transport.download`."""
        async with AsyncExitStack() as stack:
            with self._translated(whom):
                found = await routes.routes_to(url, self._base, self._resolve, self._env, judge=self._judge)
                response = await self._reached(stack, found, headers)

            async def chunks() -> AsyncIterator[bytes]:
                with self._translated(whom):
                    async for piece in response.aiter_raw(CHUNK_BYTES):
                        yield piece

            yield DownloadStream(response.status_code, dict(response.headers), chunks)

    async def _reached(
        self, stack: AsyncExitStack, found: Sequence[Route], headers: Mapping[str, str]
    ) -> httpx2.Response:
        """The answer on the first route on which a connection succeeds."""
        for route in found:
            proxy = None if route.way == routes.DIRECT else proxies.proxy(route.url, self._env)
            request = self._request("GET", route.url, {**headers, **route.headers}, proxy=proxy)
            if route.name is not None:
                request.extensions["sni_hostname"] = route.name
            try:
                opening = self._downloads.open(request, self._timeouts.pool)
                return await stack.enter_async_context(opening)
            except httpx2.ConnectError:
                if route is found[-1]:
                    raise
        raise httpx2.ConnectError("no address")

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes = b"",
        *,
        proxy: Proxy | None,
        permit: Permit | None = None,
    ) -> httpx2.Request:
        sent = httpx2.Headers(dict(headers))
        if method != "GET":
            sent["Content-Length"] = str(len(content))
        pieces = _pieces(content, permit) if content else None
        extensions = {"timeout": asdict(self._timeouts), PROXY: proxy}
        request = httpx2.Request(method, url, headers=sent, content=pieces, extensions=extensions)
        if not 0 <= (request.url.port or 0) <= MAX_PORT:
            # Otherwise the socket would raise its own error later, in a group.
            raise httpx2.InvalidURL("no such port")
        return request

    def _client(self, scheme: str, proxy: Proxy | None) -> httpx2.AsyncClient:
        """A client that ignores the environment: httpx2 would refuse all traffic for one value that it can't read."""
        if scheme == "https" and self._tls is None:
            self._tls = _trusted(self._env)
        try:
            return httpx2.AsyncClient(
                trust_env=False,
                proxy=None if proxy is None else proxy.url,
                # To read certificates takes 30 ms or more, and the sandbox needs none. An empty context trusts no host.
                verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self._tls is None else self._tls,
                limits=httpx2.Limits(
                    max_connections=MAX_HOST_DOWNLOADS,
                    max_keepalive_connections=MAX_HOST_DOWNLOADS,
                    keepalive_expiry=KEEP_ALIVE_SECONDS,
                ),
                follow_redirects=False,
            )
        except (ValueError, httpx2.InvalidURL) as exc:
            if proxy is None:
                raise
            raise proxies.unusable(proxy.variable, proxy.url) from exc

    @contextmanager
    def _translated(self, whom: str) -> Iterator[None]:
        try:
            yield
        except _FOREIGN as exc:
            words, sent, cure, setting = self._words(exc)
            raise TransportError(
                f"{whom} gave no answer: {words}.", sent=sent, setting=setting, next_step=cure
            ) from exc

    def _words(self, exc: Exception) -> tuple[str, bool, str, str | None]:
        """What happened, whether something may have been sent, what to do, and the variable that mends it, or None."""
        peer = self._peer(exc)
        if peer is not None and isinstance(exc, httpx2.ConnectError | httpx2.ConnectTimeout):
            cause = causes.of(exc, peer, in_time=isinstance(exc, httpx2.ConnectError))
            return cause.words, False, cause.cure, cause.setting
        if peer is not None and peer.proxy is not None and isinstance(exc, httpx2.ProxyError):
            cause = causes.of_proxy(str(exc), peer.proxy)
            return cause.words, False, cause.cure, cause.setting
        words, sent, cure = next((words, sent, cure) for kinds, words, sent, cure in _WORDS if isinstance(exc, kinds))
        return words, sent, cure, None

    def _peer(self, exc: Exception) -> Peer | None:
        """The other end of a failed request; None if no request was made."""
        try:
            request = exc.request if isinstance(exc, httpx2.RequestError) else None
        except RuntimeError:
            request = None
        if request is None:
            return None
        return Peer(
            host=str(request.extensions.get("sni_hostname", request.url.host)),
            port=request.url.port,
            proxy=request.extensions[PROXY],
            base_url=str(request.url).startswith(self._base),
        )


class _PooledClient:
    """Connections for one kind of traffic. Requests queue here: httpx2's own queue costs the square of its length."""

    def __init__(self, places: int, make: Callable[[str, Proxy | None], httpx2.AsyncClient]) -> None:
        self._make = make
        self._places = anyio.Semaphore(places, fast_acquire=True)
        # A stack of clients' numbers: under little load, one client is made, and its open connections are used again.
        self._free = [place // MAX_HOST_DOWNLOADS for place in reversed(range(places))]
        self._clients: dict[tuple[int, str, Proxy | None], httpx2.AsyncClient] = {}

    async def aclose(self) -> None:
        while self._clients:
            await self._clients.popitem()[1].aclose()

    @asynccontextmanager
    async def open(self, request: httpx2.Request, patience: float) -> AsyncIterator[httpx2.Response]:
        with anyio.move_on_after(patience) as scope:
            await self._places.acquire()
        if scope.cancelled_caught:
            raise httpx2.PoolTimeout("no place")
        number, proxy = self._free.pop(), request.extensions[PROXY]
        which = (number, request.url.scheme, proxy)
        try:
            if which not in self._clients:
                self._clients[which] = self._make(request.url.scheme, proxy)
            response = await _sent(self._clients[which], request, proxy)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            self._free.append(number)
            self._places.release()


async def _body(response: httpx2.Response) -> bytes:
    """The body, at most one byte too long. An error whose body breaks off keeps its status and `Retry-After`."""
    largest = MAX_ERROR_BYTES if response.is_error else MAX_ANSWER_BYTES
    body = bytearray()
    try:
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > largest:
                break
    except httpx2.HTTPError:
        if not response.is_error:
            raise
    return codings.plain(bytes(body), response.headers.get("content-encoding", ""), largest)[: largest + 1]


async def _pieces(content: bytes, permit: Permit | None) -> AsyncIterator[bytes]:
    if permit is not None:
        await permit()
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


async def _sent(client: httpx2.AsyncClient, request: httpx2.Request, proxy: Proxy | None) -> httpx2.Response:
    if proxy is None or not proxy.url.startswith(proxies.SOCKS):
        return await client.send(request, stream=True)
    opened: list[AsyncResource] = []

    async def trace(event: str, told: Mapping[str, AsyncResource]) -> None:
        if event.endswith("connect_tcp.complete"):
            opened.append(told["return_value"])

    request.extensions["trace"] = trace
    try:
        return await client.send(request, stream=True)
    except Exception as exc:
        if isinstance(exc, httpx2.HTTPError) and not isinstance(exc, httpx2.ProxyError):
            raise
        # After a failed handshake, the library leaves the connection open, and it may have raised any error.
        for stream in opened:
            await stream.aclose()
        raise httpx2.ProxyError("no SOCKS", request=request) from exc


def _trusted(env: Mapping[str, str]) -> ssl.SSLContext:
    """The trusted certificates: those that the environment names, else the system's.

    Raises:
        SettingsError: The environment names certificates that can't be read.
    """
    file, folder = (said_path(env.get(name), env) for name in (CERTIFICATES, CERTIFICATE_FOLDER))
    if file is None and folder is None:
        return httpx2.create_ssl_context(trust_env=False)
    name, told = (CERTIFICATES, file) if file else (CERTIFICATE_FOLDER, folder)
    try:
        if file is None:
            next(Path(str(folder)).iterdir(), None)  # raises for a missing folder: OpenSSL would not
        return ssl.create_default_context(cafile=file, capath=None if file else folder)
    except OSError as exc:
        reason = "there is none in it" if isinstance(exc, ssl.SSLError) else exc.strerror
        raise SettingsError(f"{name} names no certificates: {reason}.", setting=name, says=told) from exc
