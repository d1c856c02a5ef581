"""Why a connection failed: each cause in a sentence of its own, with its own cure. Pure: it reads the raised error.

The libraries raise one error for all causes; the error that it was raised from shows the cause. The libraries' texts
may hold a URL with its signature, so they are not shown, except OpenSSL's text about a certificate.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus

from msgspec import Struct

from flux2_mcp.errors import Wording, together
from flux2_mcp.runapi.proxies import Proxy

CERTIFICATES, CERTIFICATE_FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"
BAD_DATES, BAD_NAMES = frozenset({9, 10}), frozenset({62, 64})
"""OpenSSL's numbers (X509_V_ERR_*): not valid yet, expired; another host's, another address's."""
LET_THROUGH = "A firewall or a VPN may hold it up; where only a proxy leads out, HTTPS_PROXY must name it."
UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})


class Peer(Struct, frozen=True, kw_only=True):
    """The other end of a connection, and the proxy on the way. `base_url`: RUNAPI_BASE_URL names this end."""

    host: str
    port: int | None
    proxy: Proxy | None
    base_url: bool

    @property
    def first(self) -> str:
        """The first host on the way, in words: the proxy or the host itself."""
        if self.proxy is not None:
            return f"{self.proxy.place}, the proxy that {self.proxy.variable} names"
        return f"{self.host}:{self.port}" if self.port else self.host

    def check(self, what: str) -> str:
        """What the user can check if that host can't be reached.

        Args:
            what: Which part of RUNAPI_BASE_URL to check, if that names the host.
        """
        if self.proxy is not None:
            return Wording(
                "Check {variable}, or unset it; then {name:start the server again}.", variable=self.proxy.variable
            )
        also = f" and {what}RUNAPI_BASE_URL" if self.base_url else ""
        return Wording("Check the network{also}, then {name:call again}.", also=also)


class Cause(Struct, frozen=True):
    """What happened, what to do, and the variable that would mend it, or None."""

    words: str
    cure: str
    setting: str | None


def of(error: BaseException, peer: Peer, *, in_time: bool = True) -> Cause:
    """Why a connection failed.

    Args:
        error: The raised error.
        peer: The other end.
        in_time: False if the attempt was given up at its timeout.
    """
    setting = None if peer.proxy is None else peer.proxy.variable
    if not in_time:
        cure = peer.check("") if setting else together([LET_THROUGH, peer.check("")])
        return Cause(f"no connection in time with {peer.first}", cure, setting)
    raised = list(_chain(error))
    certificate = next((each for each in raised if isinstance(each, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        return _of_certificate(certificate, peer)
    if any(isinstance(each, ssl.SSLError) for each in raised):
        return _of_tls(peer)
    if any(isinstance(each, socket.gaierror | UnicodeError) for each in raised):
        words, cure = f"no address is known for {peer.first}", peer.check("the name in ")
    elif any(isinstance(each, ConnectionRefusedError) for each in raised):
        words, cure = f"nothing listens at {peer.first}", peer.check("")
    elif any(isinstance(each, OSError) and each.errno in UNREACHABLE for each in raised):
        words = f"no network leads to {peer.first}"
        cure = Wording("Check the network (cable, Wi-Fi, VPN), then {name:call again}.")
    else:
        words, cure = f"{peer.first} hung up", peer.check("")
    return Cause(f"no connection, since {words}", cure, setting)


def of_proxy(said: str, proxy: Proxy) -> Cause:
    """Why a proxy refused a call.

    Args:
        said: The library's text, which begins with the proxy's status.
        proxy: The proxy.
    """
    status = said[:3] if said[:3].isdecimal() else ""
    words = f"the proxy did not let the call through ({', '.join(filter(None, [proxy.variable, status]))})"
    if status == str(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED.value):
        cure = f"Write its user and password into {proxy.variable}, as http://user:password@host:port"
    else:
        cure = f"Ask who runs it to let it through, or name the host in NO_PROXY, or mend {proxy.variable}"
    return Cause(words, Wording("{cure}; then {name:start the server again}.", cure=cure), proxy.variable)


def _of_certificate(error: ssl.SSLCertVerificationError, peer: Peer) -> Cause:
    words = f"no connection, since the certificate of {peer.host} is not trusted ({error.verify_message})"
    if error.verify_code in BAD_DATES:
        return Cause(words, "Set this machine's clock if it is wrong; else whoever runs that host must renew it.", None)
    if error.verify_code in BAD_NAMES:
        where = "Check RUNAPI_BASE_URL: another host answers there." if peer.base_url else "Another host answers there."
        return Cause(words, where, None)
    cure = Wording(
        "Where a company's proxy or a virus scanner signs for it, {variable} must name a PEM file with that"
        " certificate; then {name:start the server again}.",
        variable=CERTIFICATES,
    )
    return Cause(words, cure, CERTIFICATES)


def _of_tls(peer: Peer) -> Cause:
    """The cause of a failed TLS handshake. Usually, a proxy was written with https:// but speaks plain HTTP."""
    if peer.proxy is None or not peer.proxy.url.startswith("https"):
        return Cause(f"no connection, since {peer.host} does not speak TLS as it should", peer.check(""), None)
    variable = peer.proxy.variable
    return Cause(
        f"no connection, since {peer.first} does not speak TLS",
        Wording(
            "Write http:// in {variable} where the proxy itself is reached so; then {name:start the server again}.",
            variable=variable,
        ),
        variable,
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and all errors that it was raised from."""
    left, seen = [error], set[int]()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [one for one in (each.__cause__, each.__context__) if one is not None]
        left += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
