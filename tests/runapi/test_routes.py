"""Where files may come from: a table of hostile addresses, and a real TLS server that is reached only as what it is."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import anyio
import pytest
import trustme

from flux2_mcp.errors import DeliveryError, TransportError
from flux2_mcp.images.download import deliver
from flux2_mcp.runapi import routes
from flux2_mcp.runapi.client import RunApi
from flux2_mcp.runapi.routes import DIRECT, ENVIRONMENT, Resolve, Route, not_public, routes_to
from flux2_mcp.runapi.transport import HttpTransport
from tests.images.test_download import AT, PNG
from tests.support.rows import rows

pytestmark = pytest.mark.anyio

HERE = "http://127.0.0.1:8080"
LIVE = "https://runapi.ai"
PUBLIC = "93.184.215.14"
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


def answering(*answers: Sequence[str]) -> Resolve:
    """A name server that gives these answers, one after the other, the last for ever."""
    left = list(answers)

    async def resolve(_: str, __: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


# --- which addresses are public ---


@rows("address", ["8.8.8.8", PUBLIC, "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"])
def test_a_public_address_is_public_also_where_another_carries_it(address: str) -> None:
    assert not_public(address) is None


@rows(
    ("address", "kind"),
    [
        ("127.0.0.1", "of this machine (loopback)"),
        ("127.255.255.254", "of this machine (loopback)"),
        ("::1", "of this machine (loopback)"),
        ("0.0.0.0", "of this machine"),  # noqa: S104  # nobody listens here
        ("::", "of this machine"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("fc00::1", "private"),
        ("fd12:3456::1", "private"),
        ("fec0::1", "private"),
        ("100.64.0.1", "not public"),
        ("198.18.0.1", "private"),
        ("192.0.2.1", "private"),
        ("2001:db8::1", "private"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("240.0.0.1", "private"),
        ("255.255.255.255", "private"),
        # An inner address decides.
        ("::ffff:127.0.0.1", "of this machine (loopback)"),
        ("::ffff:169.254.169.254", "link-local"),
        ("64:ff9b::7f00:1", "of this machine (loopback)"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:7f00:1::", "of this machine (loopback)"),
        ("2002:c0a8:101::", "private"),
        ("2001:0:7f00:1::", "private"),
        ("::127.0.0.1", "reserved"),
        ("cat", "no address"),
        ("", "no address"),
    ],
)
def test_what_is_not_public_is_named(address: str, kind: str) -> None:
    assert not_public(address) == kind


# --- which URLs lead where ---


async def test_a_public_host_is_asked_at_the_addresses_it_has_under_its_own_name() -> None:
    resolve = answering([PUBLIC, "2606:4700::1111"])
    assert await routes_to("https://cdn.example.com/a.png?x=1#f", LIVE, resolve) == [
        Route(
            f"https://{PUBLIC}/a.png?x=1", {"Host": "cdn.example.com", "Connection": "close"}, "cdn.example.com", DIRECT
        ),
        Route(
            "https://[2606:4700::1111]/a.png?x=1",
            {"Host": "cdn.example.com", "Connection": "close"},
            "cdn.example.com",
            DIRECT,
        ),
    ]


async def test_a_port_and_letters_beyond_ascii_are_kept() -> None:
    (route,) = await routes_to("https://münchen.example:8443/ä", LIVE, answering([PUBLIC]))
    assert (route.url, route.name) == (f"https://{PUBLIC}:8443/ä", "xn--mnchen-3ya.example")
    assert route.headers["Host"] == "xn--mnchen-3ya.example:8443"


@rows(
    ("url", "base"),
    [
        ("http://127.0.0.1:8080/a.png", HERE),
        ("https://runapi.ai/a.png", LIVE),
        ("https://runapi.ai:443/a.png", LIVE),
        ("https://10.1.2.3/a.png", "https://10.1.2.3/api"),
    ],
)
async def test_where_runapi_itself_stands_is_never_refused_nor_looked_up(url: str, base: str) -> None:
    assert await routes_to(url, base, answering(["10.0.0.1"])) == [Route(url, way=ENVIRONMENT)]


@rows(
    ("url", "why"),
    [
        *((f"http://127.0.0.1{rest}/a.png", "is not https") for rest in (":8081", "", ":8080@example.com")),
        ("http://localhost:8080/a.png", "is not https"),
        ("http://cdn.example.com/a.png", "is not https"),
        ("file:///etc/passwd", "is not https"),
        ("ftp://example.com/a.png", "is not https"),
        ("gopher://example.com/", "is not https"),
        ("data:image/png;base64,AAAA", "is not https"),
        ("javascript:alert(1)", "is not https"),
        ("//cdn.example.com/a.png", "is not whole: it does not begin with https://"),
        ("/results/a.png", "is not whole: it does not begin with https://"),
        ("cdn.example.com/a.png", "is not whole: it does not begin with https://"),
        ("", "is not whole: it does not begin with https://"),
        ("https:///a.png", "names no host"),
        ("https://", "names no host"),
        ("https://[::1", "is no URL"),
        ("https://example.com:99999/", "names a port that no host has"),
        ("https://example.com:x/", "names a port that no host has"),
        ("https://example.com:0/", "names a port that no host has"),
        ("http://127.0.0.1:-1/", "names a port that no host has"),
    ],
)
async def test_what_is_not_https_at_a_host_is_not_fetched_and_told_by_what_it_is(url: str, why: str) -> None:
    with pytest.raises(DeliveryError) as caught:
        await routes_to(url, HERE, answering([PUBLIC]))
    assert caught.value.message == f"The result's URL {why}, so it was not fetched."


@pytest.mark.parametrize("url", ["https://ada@example.com/a", "https://ada:pw@example.com/a", "https://@example.com/"])
async def test_a_url_with_a_user_in_it_is_not_fetched(url: str) -> None:
    with pytest.raises(DeliveryError) as caught:
        await routes_to(url, HERE, answering([PUBLIC]))
    assert caught.value.message == "The result's URL holds a user name, so it was not fetched."
    assert "ada" not in caught.value.message


@rows(
    ("url", "kind"),
    [
        ("https://127.0.0.1/a.png", "of this machine (loopback)"),
        ("https://localhost/a.png", "of this machine (loopback)"),
        ("https://LOCALHOST:8443/a.png", "of this machine (loopback)"),
        ("https://[::1]/a.png", "of this machine (loopback)"),
        ("https://[::ffff:127.0.0.1]/a.png", "of this machine (loopback)"),
        ("https://[::ffff:7f00:1]/a.png", "of this machine (loopback)"),
        ("https://[64:ff9b::7f00:1]/a.png", "of this machine (loopback)"),
        ("https://2130706433/a.png", "of this machine (loopback)"),
        ("https://0x7f000001/a.png", "of this machine (loopback)"),
        ("https://0177.0.0.1/a.png", "of this machine (loopback)"),
        ("https://127.1/a.png", "of this machine (loopback)"),
        ("https://0/a.png", "of this machine"),
        ("https://0.0.0.0/a.png", "of this machine"),
        ("https://[::]/a.png", "of this machine"),
        ("https://169.254.169.254/latest/meta-data/", "link-local"),
        ("https://2852039166/latest/meta-data/", "link-local"),
        ("https://[fe80::1]/a.png", "link-local"),
        ("https://10.0.0.1/a.png", "private"),
        ("https://172.16.0.1/a.png", "private"),
        ("https://192.168.0.1/a.png", "private"),
        ("https://[fd00::1]/a.png", "private"),
        ("https://100.64.0.1/a.png", "not public"),
        ("https://224.0.0.1/a.png", "multicast"),
    ],
)
async def test_an_address_that_is_not_public_is_refused_however_it_is_written(url: str, kind: str) -> None:
    """Over the system's own look-up, which reads more ways of writing a number than anybody should."""
    with pytest.raises(DeliveryError) as caught:
        await routes_to(url, LIVE)
    assert caught.value.message == f"The result's URL leads to an address that is {kind}, so it was not fetched."


@rows("answer", [["10.0.0.1"], [PUBLIC, "127.0.0.1"], ["2606:4700::1111", "fe80::1"], ["nonsense"]])
async def test_one_address_that_is_not_public_condemns_the_name(answer: list[str]) -> None:
    with pytest.raises(DeliveryError, match="so it was not fetched"):
        await routes_to("https://cdn.example.com/a.png", LIVE, answering(answer))


async def test_an_answer_that_changes_after_the_look_changes_nothing() -> None:
    """DNS rebinding: the second answer would be loopback, and is never asked for."""
    (route,) = await routes_to("https://cdn.example.com/a.png", LIVE, answering([PUBLIC], ["127.0.0.1"]))
    assert route.url == f"https://{PUBLIC}/a.png"


async def test_a_name_that_nobody_knows_is_no_answer_and_nothing_was_sent() -> None:
    async def unknown(_: str, __: int) -> Sequence[str]:
        raise OSError

    with pytest.raises(TransportError) as caught:
        await routes_to("https://nowhere.invalid/a.png", LIVE, unknown)
    assert (caught.value.sent, caught.value.message) == (
        False,
        "The image's host is not known: its name leads to no address.",
    )


async def test_behind_a_proxy_names_are_its_own_to_look_up_but_not_what_is_known_to_be_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def unknown(_: str, __: int) -> Sequence[str]:
        raise OSError

    proxy, url = "http://proxy.example:3128", "https://cdn.example.com/a.png"
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert await routes_to(url, LIVE, unknown) == [Route(url, way=proxy)]
    assert await routes_to(url, LIVE, answering([PUBLIC])) == [Route(url, way=proxy)]
    for private in ("https://169.254.169.254/latest", "https://localhost/a.png"):
        with pytest.raises(DeliveryError, match="so it was not fetched"):
            await routes_to(private, LIVE)
    with pytest.raises(TransportError):
        await routes_to("https://300.300.300.300/", LIVE, unknown)
    monkeypatch.setenv("NO_PROXY", "cdn.example.com")
    (route,) = await routes_to(url, LIVE, answering([PUBLIC]))
    assert route.way == DIRECT


# --- over real TLS ---

NAME = "images.example"


class Host(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, authority: trustme.CA) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hosts: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(NAME).configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, *_: object) -> None:
        """A client that does not like the certificate hangs up."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        cast("Host", self.server).hosts.append(self.headers["Host"])
        self.send_response(200)
        self.send_header("Content-Length", str(len(PNG)))
        self.end_headers()
        self.wfile.write(PNG)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host whose certificate names it, on an address that `fetched` alone takes for a public one."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Host(authority) as host:
        serving = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield host
        host.shutdown()
        serving.join()


def here_is_public(address: str) -> str | None:
    return None if address.startswith("127.") else "private"


async def fetched(url: str, tmp_path: Path, resolve: Resolve) -> bytes:
    api = RunApi(LIVE, "key", version="0", transport=HttpTransport(LIVE, resolve=resolve, judge=here_is_public))
    try:
        with anyio.fail_after(30):
            stored = await deliver(api.download, url, folder=tmp_path / "images", prompt="a cat", at=AT)
    finally:
        await api.aclose()
    return Path(stored.path).read_bytes()


async def test_the_address_that_was_looked_at_is_the_one_that_is_asked_and_its_certificate_must_bear_the_name(
    host: Host, tmp_path: Path
) -> None:
    resolve = answering(["127.0.0.1"], ["127.0.0.9"])
    assert await fetched(f"https://{NAME}:{host.port}/a.png", tmp_path, resolve) == PNG
    assert host.hosts == [f"{NAME}:{host.port}"]
    with pytest.raises(TransportError):
        await fetched(f"https://other.example:{host.port}/a.png", tmp_path, answering(["127.0.0.1"]))
    assert len(host.hosts) == 1


async def test_the_next_address_is_tried_where_nobody_listens_at_the_first(host: Host, tmp_path: Path) -> None:
    resolve = answering(["127.0.0.3", "127.0.0.1"])
    assert await fetched(f"https://{NAME}:{host.port}/a.png", tmp_path, resolve) == PNG
    with pytest.raises(TransportError):
        await fetched(f"https://{NAME}:{host.port}/a.png", tmp_path, answering(["127.0.0.3", "127.0.0.4"]))


async def test_the_system_is_asked_for_every_address_of_a_host() -> None:
    assert "127.0.0.1" in await routes.looked_up("localhost", 443)


async def test_of_a_host_with_several_addresses_all_are_given_each_once() -> None:
    nowhere = cast("str", None)  # for no name the system gives its own addresses: one of each kind, on every machine
    assert sorted(await routes.looked_up(nowhere, 443)) == ["127.0.0.1", "::1"]
