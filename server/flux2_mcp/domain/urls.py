"""Checks of URLs: which are valid and may be sent, which are of this machine, which name the same service. Pure."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from flux2_mcp.errors import Problem

MAX_URL_CHARS = 2048


def is_loopback(host: str | None) -> bool:
    """True for localhost and for loopback addresses in any standard form."""
    name = (host or "").lower()
    if name.removesuffix(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def one_spelling(netloc: str) -> str:
    """One spelling of a service's host and port: lower case, no default port, `localhost` for every loopback address.

    Args:
        netloc: Host and port, as in a URL. Plain http is allowed on loopback only, so 443 is the default elsewhere.
    """
    try:
        parts = urlsplit(f"//{netloc}")
        host, port = _one_host(parts.hostname or ""), parts.port
    except ValueError:
        return netloc.lower()
    usual = {None, 443, 80} if host == "localhost" else {None, 443}
    return host if port in usual else f"{host}:{port}"


def _one_host(host: str) -> str:
    host = host.rstrip(".")
    with suppress(UnicodeError, OSError):
        if not host.isascii():
            host = host.encode("idna").decode()
        if host[:1].isdigit():  # the system also accepts fewer than four numbers, such as 127.1
            host = socket.inet_ntoa(socket.inet_aton(host))
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return "localhost"
    return f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)


def callback_problems(url: str | None, *, local: bool) -> list[Problem]:
    """The problems of a callback URL."""
    if url is None or is_url(url, local=local):
        return []
    return [Problem("callback_url", "is not an https URL that RunAPI could reach.")]


def is_url(text: str, *, local: bool) -> bool:
    """True for https with a host and without credentials; with `local`, also for plain http on loopback."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    if len(text) > MAX_URL_CHARS or not text.isprintable() or " " in text or "@" in parts.netloc:
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (local and parts.scheme == "http" and is_loopback(parts.hostname))
    )
