"""A small OpenID provider of the tests' own: discovery and keys over loopback HTTP, and tokens as a test wants them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

LIFETIME_SECONDS = 600
ADMINS, MEMBERS = "flux2-admins", "designers"


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key, made once in a process: the same number, the same key."""
    del number
    return rsa.generate_private_key(65537, bits)


def jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, **more: str) -> dict[str, Any]:
    """The public half of a key, as a provider publishes it."""
    if isinstance(key, rsa.RSAPrivateKey):
        found: dict[str, Any] = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        found = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return found | {"use": "sig"} | more


class Provider:
    """Serves until it is left. `keys` is what it publishes, `asked` which paths were asked for, `down` makes it fail."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [jwk(rsa_key(), kid="first")]
        self.about: dict[str, Any] = {}
        self.asked: list[str] = []
        self.down = False
        self.bodies: dict[str, bytes] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                body = provider.body(self.path)
                self.send_response(503 if provider.down else 404 if body is None else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b"{}" if provider.down or body is None else body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}/realms/team"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def body(self, path: str) -> bytes | None:
        if path in self.bodies:
            return self.bodies[path]
        if path == "/realms/team/.well-known/openid-configuration":
            return json.dumps({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"} | self.about).encode()
        return json.dumps({"keys": self.keys}).encode() if path == "/realms/team/keys" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def claims(self, audience: str, **claims: Any) -> dict[str, Any]:  # noqa: ANN401  # any JSON
        """What a token of Ada's says; None leaves a claim out."""
        now = int(time.time())
        usual = {
            "iss": self.issuer, "aud": audience, "sub": "ada", "iat": now, "exp": now + LIFETIME_SECONDS,
            "name": "Ada Lovelace", "groups": [MEMBERS], "scope": "openid flux2", "client_id": "agent",
        }  # fmt: skip
        return {name: value for name, value in (usual | claims).items() if value is not None}

    def token(
        self,
        audience: str,
        *,
        key: Any = None,  # noqa: ANN401  # of any kind
        algorithm: str = "RS256",
        head: Mapping[str, Any] | None = None,
        **claims: Any,  # noqa: ANN401  # any JSON
    ) -> str:
        """A token, signed with the first key unless another is given."""
        headers = {"kid": "first"} | dict(head or {})
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(self.claims(audience, **claims), key or rsa_key(), algorithm, headers)
