"""How the client leaves this machine: proxies, certificates, and each cause of no connection in a sentence of its own."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute, SocketStream

from flux2_mcp.errors import SettingsError, TransportError
from tests.contract.test_client import CREATED, OK, PENDING, create, get, opened
from tests.support.recorded import Play, Recorded, answer

pytestmark = pytest.mark.anyio

VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
NAME = "api.runapi.invalid"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """Whose certificate stands in `ca.pem`, where nobody trusts it yet."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


def tls(authority: trustme.CA, name: str = NAME, not_after: datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, not_after=not_after).configure_cert(context)
    return context


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@asynccontextmanager
async def listening(serve: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """Serve what connects, until the end. Gives the port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)  # noqa: S610  # no Django here
        group.cancel_scope.cancel()


async def web(stream: SocketStream) -> None:
    """Speaks plain HTTP, and says so to whatever comes."""
    async with stream:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def socks(port: int, *, refusal: int = 0) -> Callable[[SocketStream], Awaitable[None]]:
    """A SOCKS5 proxy without a password (RFC 1928) that leads every name to a port of this machine, or says no."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            assert await stream.receive() == b"\x05\x01\x00"
            await stream.send(b"\x05\x00")
            assert (await stream.receive())[:-2] == b"\x05\x01\x00\x03" + bytes([len(NAME)]) + NAME.encode()
            await stream.send(bytes([5, refusal, 0, 1, 0, 0, 0, 0, 0, 0]))
            if refusal:
                return
            async with await anyio.connect_tcp("127.0.0.1", port) as there, anyio.create_task_group() as group:
                group.start_soon(pumped, stream, there)
                group.start_soon(pumped, there, stream)

    return serve


async def pumped(source: SocketStream, sink: SocketStream) -> None:
    async for data in source:
        await sink.send(data)
    await sink.aclose()


async def refused(url: str) -> TransportError:
    async with opened(url) as api:
        with pytest.raises(TransportError) as caught:
            await get(api)
    return caught.value


async def called(url: str) -> None:
    async with opened(url) as api:
        assert await create(api) == PENDING


# --- loopback ---


@pytest.mark.parametrize(
    "env",
    [
        {"NO_PROXY": "localhost,127.0.0.1,::1,fd07:b51a:cc66:f0::/64"},
        {"NO_PROXY": "localhost,127.0.0.1,[::1]"},
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"HTTP_PROXY": '"http://127.0.0.1:9"'},
        {"HTTP_PROXY": "${HTTP_PROXY}"},
        {"ALL_PROXY": "nonsense://", "NO_PROXY": "[", "SSL_CERT_FILE": "/missing"},
    ],
)
async def test_whatever_the_environment_says_loopback_is_reached(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)  # as without the extra
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    async with Recorded([OK] * 2) as server:
        for host in ("127.0.0.1", "localhost"):
            await called(f"http://{host}:{server.port}")


# --- proxies ---


@pytest.mark.parametrize("told", ['"{}"', "'{}'", " {} "])
async def test_quotes_around_a_proxy_are_taken_off(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    no = Play(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "close")
    async with Recorded(no) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", told.format(proxy.url))
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,::1,fd07:b51a:cc66:f0::/64,[::1]")
        error = await refused(f"https://{NAME}")
    assert proxy.sent[0].path == f"{NAME}:443"
    assert error.message == "RunAPI gave no answer: the proxy did not let the call through (HTTPS_PROXY, 403)."
    assert "name the host in NO_PROXY" in error.next_step


async def test_a_proxy_that_wants_a_password_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    no = Play(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "close")
    async with Recorded(no) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        error = await refused(f"https://{NAME}")
    assert error.message.endswith("(ALL_PROXY, 407).")
    assert "Write its user and password into ALL_PROXY" in error.next_step
    assert (error.sent, error.setting) == (False, "ALL_PROXY")


async def test_a_socks_proxy_carries_calls_where_its_library_is_there(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with Recorded(answer(200, CREATED), tls=tls(authority)) as server, listening(socks(server.port)) as port:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        await called(f"https://{NAME}")
    assert server.sent[0].headers["host"] == NAME


async def test_a_socks_proxy_that_says_no_or_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(socks(9, refusal=4)) as port:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        error = await refused(f"https://{NAME}")
    assert error.message == "RunAPI gave no answer: the proxy did not let the call through (ALL_PROXY)."
    async with listening(web) as port:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        error = await refused(f"https://{NAME}")
    assert (error.sent, error.setting) == (False, "ALL_PROXY")


@pytest.mark.parametrize(
    ("name", "value"), [("ALL_PROXY", "socks5://127.0.0.1:9"), ("HTTPS_PROXY", "gopher://x"), ("SSL_CERT_FILE", "/no")]
)
async def test_what_can_not_be_used_is_refused_at_once_and_nothing_else_is_blamed(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(name, value)
    async with opened(f"https://{NAME}") as api:
        with pytest.raises(SettingsError) as caught:
            await get(api)
    told = caught.value.message + caught.value.next_step
    assert [each for each in VARIABLES if each in told] == [name]


# --- certificates ---


async def test_the_certificates_that_the_environment_names_are_trusted_quotes_or_not(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Recorded([answer(200, CREATED)] * 2, tls=tls(authority, "localhost")) as server:
        monkeypatch.setenv("HOME", str(tmp_path))
        for told in (f'"{tmp_path / "ca.pem"}"', "~/ca.pem"):
            monkeypatch.setenv("SSL_CERT_FILE", told)
            await called(f"https://localhost:{server.port}")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_certificates_that_are_not_there_are_told_with_the_variable_and_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for told, why in ((tmp_path / "none", "No such file or directory"), (empty, None)):
        monkeypatch.setenv(name, str(told))
        async with opened(f"https://{NAME}") as api:
            with pytest.raises(SettingsError, match=f"^{name} names no certificates: {why or ''}") as caught:
                await get(api)
        assert str(told) in caught.value.next_step


async def test_a_placeholder_names_no_certificates(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "${SSL_CERT_FILE}")
    async with Recorded(tls=tls(authority, "localhost")) as server:
        assert "is not trusted" in (await refused(f"https://localhost:{server.port}")).message


# --- the causes ---


async def test_each_cause_of_no_connection_is_said_with_its_own_cure(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = free_port()
    seen = [await refused("https://nowhere.invalid"), await refused(f"http://127.0.0.1:{closed}")]
    async with Recorded(tls=tls(authority, "localhost")) as server:
        seen.append(await refused(f"https://localhost:{server.port}"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    past = datetime(2020, 1, 1, tzinfo=UTC)
    for context in (tls(authority, "localhost", past), tls(authority, "another.example")):
        async with Recorded(tls=context) as server:
            seen.append(await refused(f"https://localhost:{server.port}"))
    async with listening(web) as plain:
        seen.append(await refused(f"https://127.0.0.1:{plain}"))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed}")
    seen.append(await refused(f"https://{NAME}"))
    monkeypatch.setenv("HTTPS_PROXY", "http://nowhere.invalid:3128")
    seen.append(await refused(f"https://{NAME}"))
    async with listening(web) as plain:
        monkeypatch.setenv("HTTPS_PROXY", f"https://127.0.0.1:{plain}")
        seen.append(await refused(f"https://{NAME}"))
    why = "RunAPI gave no answer: no connection, since "
    own = "then call again."
    unset = "Check HTTPS_PROXY, or unset it; then start the server again."
    assert [(error.message.removeprefix(why), error.next_step) for error in seen] == [
        ("no address is known for nowhere.invalid.", f"Check the network and the name in RUNAPI_BASE_URL, {own}"),
        (f"nothing listens at 127.0.0.1:{closed}.", f"Check the network and RUNAPI_BASE_URL, {own}"),
        (
            "the certificate of localhost is not trusted (unable to get local issuer certificate).",
            (
                "Where a company's proxy or a virus scanner signs for it, SSL_CERT_FILE must name a PEM file with that"
                " certificate; then start the server again."
            ),
        ),
        (
            "the certificate of localhost is not trusted (certificate has expired).",
            "Set this machine's clock if it is wrong; else whoever runs that host must renew it.",
        ),
        (
            (
                "the certificate of localhost is not trusted (Hostname mismatch, certificate is not valid for"
                " 'localhost'.)."
            ),
            "Check RUNAPI_BASE_URL: another host answers there.",
        ),
        ("127.0.0.1 does not speak TLS as it should.", f"Check the network and RUNAPI_BASE_URL, {own}"),
        (f"nothing listens at 127.0.0.1:{closed}, the proxy that HTTPS_PROXY names.", unset),
        ("no address is known for nowhere.invalid:3128, the proxy that HTTPS_PROXY names.", unset),
        (
            f"127.0.0.1:{plain}, the proxy that HTTPS_PROXY names does not speak TLS.",
            "Write http:// in HTTPS_PROXY where the proxy itself is reached so; then start the server again.",
        ),
    ]
    assert {error.sent for error in seen} == {False}
    assert [error.setting for error in seen] == [*[None] * 2, "SSL_CERT_FILE", *[None] * 3, *["HTTPS_PROXY"] * 3]
