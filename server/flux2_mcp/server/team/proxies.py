"""Whom a call comes from, where proxies stand between. Only what a trusted proxy says of it is believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from flux2_mcp.domain.urls import is_loopback
from flux2_mcp.settings import Network
from flux2_mcp.system.loopback import plain_name

PASSED_ON = (b"forwarded", b"via", b"x-real-ip")
"""Headers of a call that a proxy passes on, beside all `X-Forwarded-*`."""


class Forwarded:
    """Reads `X-Forwarded-For` and `X-Forwarded-Host` of trusted proxies, and removes all headers of proxies.

    The application finds in the scope: `client`, the last address that no trusted proxy has; `Host`, as the caller wrote
    it; and `state["near"]`, whether the call seems to come straight from this machine. A call by another name than
    loopback's came through a proxy on this machine, or from a page that has tricked a browser on it. A proxy that names
    loopback in its calls, and adds no header, can't be told from a program here: `near` proves nothing where there is one.

    Args:
        app: The application behind it.
        trusted: The networks of trusted proxies.
    """

    def __init__(self, app: ASGIApp, *, trusted: Sequence[Network]) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope)
        peer = _address(scope["client"][0] if scope["client"] else "")
        trusted = self._trusts(peer)
        here = peer is not None and peer.is_loopback
        direct = not any(_is_of_a_proxy(name) for name, _ in scope["headers"])
        headers = [(name, value) for name, value in scope["headers"] if not _is_of_a_proxy(name)]
        client = scope["client"]
        if trusted:
            scope["state"]["admit"]()  # a proxy keeps its connections for the calls of many
            hops = [each.strip() for line in said.getlist("x-forwarded-for") for each in line.split(",")]
            client = (self._origin(hops, client[0]), 0)
            if host := said.get("x-forwarded-host"):
                name = plain_name(host.rpartition(",")[2].strip()).encode("latin-1")
                headers = [(key, name if key == b"host" else value) for key, value in headers]
        near = direct and here and not trusted and _names_loopback(said.get("host"))
        state = {**scope["state"], "near": near}
        await self._app({**scope, "headers": headers, "client": client, "state": state}, receive, send)

    def _origin(self, hops: Sequence[str], peer: str) -> str:
        """Return the last address that is no trusted proxy's; what stands before it, anybody may have written."""
        for hop in reversed(hops):
            if not self._trusts(address := _address(hop)):
                return peer if address is None else str(address)
            peer = str(address)
        return peer

    def _trusts(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def _is_of_a_proxy(header: bytes) -> bool:
    return header in PASSED_ON or header.startswith(b"x-forwarded-")


def _names_loopback(host: str | None) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname)
    except ValueError:  # such as an address in brackets that is none
        return False


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address in a text; None if there is none. A port after it is left out."""
    host = text.partition("]")[0].removeprefix("[") if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address
