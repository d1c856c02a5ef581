"""Decides where a file may be fetched from: https at public addresses, and RunAPI's own origin. Deny by default.

A name is looked up once, right before the connection, and the connection goes to the address that was checked. So a
name server that changes its answer (DNS rebinding) has no effect. Redirects are checked here again.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

import anyio
from msgspec import Struct, field

from flux2_mcp.errors import DeliveryError, TransportError
from flux2_mcp.runapi import proxies

HTTPS_PORT, HTTP_PORT = 443, 80
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that hold an IPv4 address, to which a gateway forwards (RFC 6052)."""

# The kinds of addresses that are not public; the first that fits names an address.
_KINDS = (
    ("is_unspecified", "of this machine"),
    ("is_loopback", "of this machine (loopback)"),
    ("is_link_local", "link-local"),
    ("is_multicast", "multicast"),
    ("is_private", "private"),
    ("is_site_local", "private"),
    ("is_reserved", "reserved"),
)

ENVIRONMENT, DIRECT = "environment", "direct"
"""Ways of a connection: through the proxy that the environment names for the host, if any; without any proxy."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Looks a host up: its addresses, the best first. Raises OSError where there are none."""
Judge = Callable[[str], str | None]
"""Says what an address is that nothing may be fetched from, in words; None where it may."""


class Route(Struct, frozen=True):
    """One route to a file: the URL to call, headers to add, and the name that the certificate must have.

    `way` is `ENVIRONMENT`, `DIRECT`, or the address of a proxy, which then looks up the name.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    way: str = ENVIRONMENT


async def looked_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a host from the system, which also reads unusual forms of numbers: `0x7f.1`, `2130706433`."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for _, _, _, _, place in found))


def not_public(address: str) -> str | None:
    """What an address is instead of public, in words; None for a public one.

    Args:
        address: IPv4 or IPv6. One that carries another (mapped, 6to4, NAT64) is judged by that too.
    """
    try:
        one = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "no address"
    inner = _carried(one)
    if inner is not None:
        return not_public(str(inner))
    kind = next((words for name, words in _KINDS if getattr(one, name, False)), None)
    return kind if kind is not None or one.is_global else "not public"


def _carried(one: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if isinstance(one, ipaddress.IPv4Address):
        return None
    if one in NAT64:
        return ipaddress.IPv4Address(int(one) & 0xFFFF_FFFF)
    return one.ipv4_mapped or one.sixtofour


async def routes_to(
    url: str,
    base_url: str,
    resolve: Resolve = looked_up,
    env: Mapping[str, str] = os.environ,
    *,
    judge: Judge = not_public,
) -> list[Route]:
    """The routes to a file, to be tried in turn.

    Args:
        url: The file's.
        base_url: RunAPI's own, which the user has configured: files may stand there, even on plain loopback HTTP.
        resolve: Looks hosts up.
        env: The environment, which may name a proxy.
        judge: Looks at each address; one that it objects to is enough.

    Raises:
        DeliveryError: Nothing may be fetched from there; it says why.
        SettingsError: The proxy on the way can't be used.
        TransportError: The host's name is not known.
    """
    parts = _split(url)
    origin = _origin(parts)
    if origin is not None and origin == _origin(_split(base_url)):
        return [Route(url)]
    host, port = _host(parts), parts.port or HTTPS_PORT
    proxy = proxies.proxy(url, env)
    try:
        name = host if host.isascii() else host.encode("idna").decode()
        addresses = await resolve(host, port)
    except (OSError, UnicodeError) as exc:
        if proxy is not None and not _is_number(host):
            return [Route(url, way=proxy.url)]  # behind a proxy, names of the outside are often known to it alone
        raise TransportError(
            "The image's host is not known: its name leads to no address.",
            sent=False,
            next_step="Check the network, then call check_task with the task's id: it fetches the image again.",
        ) from exc
    for address in addresses:
        if (kind := judge(address)) is not None:
            raise _refused(f"leads to an address that is {kind}")
    if proxy is not None:
        return [Route(url, way=proxy.url)]
    # Closed after: a connection is known by its address, and must not serve another name at the same one.
    headers = {"Host": name if port == HTTPS_PORT else f"{name}:{port}", "Connection": "close"}
    return [Route(_at(parts, address), headers, name, DIRECT) for address in addresses]


def _is_number(host: str) -> bool:
    """True for what no name server is asked about."""
    return not host.rpartition(".")[2].isalpha()


def _refused(why: str) -> DeliveryError:
    return DeliveryError(f"The result's URL {why}, so it was not fetched.")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise _refused("is no URL") from exc
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _refused("names a port that no host has")
    return parts


def _host(parts: SplitResult) -> str:
    """The host of an https URL without a user name. Any other URL is refused."""
    if not parts.scheme:
        raise _refused("is not whole: it does not begin with https://")
    if parts.scheme != "https":
        raise _refused("is not https")
    if not parts.hostname:
        raise _refused("names no host")
    if "@" in parts.netloc:
        raise _refused("holds a user name")
    return parts.hostname


def _origin(parts: SplitResult) -> tuple[str, str, int] | None:
    if not parts.hostname or parts.scheme not in {"http", "https"}:
        return None
    port = parts.port or (HTTPS_PORT if parts.scheme == "https" else HTTP_PORT)
    # A URL with a user name is never at RunAPI's origin.
    return None if "@" in parts.netloc else (parts.scheme, parts.hostname, port)


def _at(parts: SplitResult, address: str) -> str:
    place = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=place if parts.port is None else f"{place}:{parts.port}", fragment="").geturl()
