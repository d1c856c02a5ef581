"""Finds the proxy for a host from the environment's variables HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.

This module reads them, not the HTTP library, which refuses all traffic if it can't read one value. Loopback never goes
through a proxy. An entry of NO_PROXY that can't be read names no host; a proxy that can't be used is refused, with its
variable's name.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.request
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.domain.urls import is_loopback
from flux2_mcp.errors import SettingsError, Wording
from flux2_mcp.system.environment import said

SOCKS = "socks5"
SCHEMES = {"http": "http", "https": "https", SOCKS: SOCKS, "socks5h": SOCKS, "socks": SOCKS}
"""The protocol of a proxy by the scheme that people write. A SOCKS proxy always looks up the names itself."""
PORTS = {"http": 80, "https": 443}
SYSTEM = "the system's settings"
MAX_SHOWN_CHARS = 60
"""Characters of an address that are shown."""

# `[::1]`, `[::1]:80`, `[fd07::]/64`; `name`, `name:80`, `10.0.0.0/8`; `::1`, `fd07::/64`.
_ENTRY = re.compile(r"\[([^]]*)\](/\d+)?(?::(\d+))?|([^:]*)(?::(\d+))?|(.*)")


class Proxy(Struct, frozen=True):
    """A proxy: its address, and the variable that names it."""

    url: str
    variable: str

    __repr__ = repr_without("url")

    @property
    def place(self) -> str:
        """The proxy's host and port, without user and password."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def proxy(url: str, env: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way to a URL; None for a direct connection.

    Args:
        url: The URL to call.
        env: The environment.

    Raises:
        SettingsError: The proxy that is named can't be used.
    """
    parts = _split(url)
    if parts is None or parts.hostname is None or is_loopback(parts.hostname):
        return None
    host, port = parts.hostname.rstrip("."), parts.port or PORTS.get(parts.scheme)
    names = [each for name in (f"{parts.scheme}_proxy", "all_proxy") for each in (name, name.upper())]
    variable, told = next(((name, text) for name in names if (text := said(env.get(name)))), (SYSTEM, None))
    told = told or _system(parts.scheme, host)
    past = said(env.get("no_proxy")) or said(env.get("NO_PROXY")) or ""
    return None if told is None or _is_named(host, port, past) else _usable(variable, told)


def _is_named(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY names a host."""
    return any(_fits(text, host, port) for each in re.split(r"[,\s]+", no_proxy) if (text := said(each)))


def _fits(text: str, host: str, port: int | None) -> bool:
    if text == "*":
        return True
    found = _ENTRY.fullmatch(text.lower().rpartition("://")[2].rstrip("/"))
    if found is None:
        return False
    inner, length, port_a, name, port_b, plain = found.groups()
    wanted, place = port_a or port_b, f"{inner}{length or ''}" if inner is not None else name or plain or ""
    if wanted and wanted.lstrip("0") != str(port):  # as text: Python parses no number of thousands of digits
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(place, strict=False)
    except ValueError:  # one of them is a name, or not readable
        domain = place.lstrip("*.").rstrip(".")
        return bool(domain) and f".{host}".endswith(f".{domain}")


def _usable(variable: str, told: str) -> Proxy:
    """The proxy that a variable names."""
    parts = _split(told if "://" in told else f"http://{told}")
    scheme = None if parts is None else SCHEMES.get(parts.scheme)
    if parts is None or scheme is None or not parts.hostname or not told.isprintable() or " " in told:
        raise unusable(variable, told)
    if scheme == SOCKS and find_spec("socksio") is None:
        raise SettingsError(
            f"{variable} names a SOCKS proxy, and the library that speaks with one is not installed.",
            setting=variable,
            next_step=Wording(
                "Install it (pip install 'flux2-mcp[socks]'), name an http:// proxy, or unset {variable};"
                " then {name:start the server again}.",
                variable=variable,
            ),
        )
    return Proxy(parts._replace(scheme=scheme).geturl(), variable)


def unusable(variable: str, told: str) -> SettingsError:
    """The error for a proxy that can't be used. It shows no user and no password."""
    return SettingsError(
        f"{variable} must be the address of a proxy, as http://host:port, https://host:port or socks5://host:port.",
        setting=variable,
        says=told.rpartition("@")[2][:MAX_SHOWN_CHARS],
    )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _system(scheme: str, host: str) -> str | None:
    """The proxy of the settings of macOS and Windows, for an environment that names none."""
    proxies, is_bypassed = _readers()
    told = proxies.get(scheme)
    return None if not told or is_bypassed(host) else told


@cache
def _readers() -> tuple[Mapping[str, str], Callable[[str], object]]:
    """Python's readers of those settings. They have another name on each of the two systems, and none elsewhere."""
    for kind in ("macosx_sysconf", "registry"):
        if (read := getattr(urllib.request, f"getproxies_{kind}", None)) is not None:
            return read(), getattr(urllib.request, f"proxy_bypass_{kind}")
    return {}, bool
