"""A small OpenID provider of the tests' own: discovery and keys over loopback HTTP, and tokens as a test wants them."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

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
    """Serves until it is left. `keys` is what it publishes, `asked` which paths were asked for, `down` makes it fail.

    With `signs_in`, its page lets Ada in at once: who opens it comes back with a code. `claims_of_sign_in` is what her token says
    beyond the usual, `registers` whether clients may register themselves, `known` which ones it knows.

    While `answers` is not set, it says nothing.
    """

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [jwk(rsa_key(), kid="first")]
        self.about: dict[str, Any] = {}
        self.asked: list[str] = []
        self.down = False
        self.bodies: dict[str, bytes] = {}
        self.signs_in = False
        self.registers = True
        self.known: set[str] = set()
        self.claims_of_sign_in: dict[str, Any] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self.answers = threading.Event()
        self.answers.set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                provider.answers.wait()
                if provider.signs_in and self.path.startswith("/realms/team/authorize?"):
                    self.send_response(302)
                    self.send_header("Location", provider.let_in(dict(parse_qsl(urlsplit(self.path).query))))
                    self.end_headers()
                    return
                body = provider.body(self.path)
                self.send_response(503 if provider.down else 404 if body is None else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b"{}" if provider.down or body is None else body)

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                status, answer = provider.posted(self.path, self.rfile.read(int(self.headers["content-length"])))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

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
            found: dict[str, Any] = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
            pages = ("authorize", "token", *(["register"] if self.registers else []))
            names = {
                "authorize": "authorization_endpoint",
                "token": "token_endpoint",
                "register": "registration_endpoint",
            }
            if self.signs_in:
                found |= {
                    **{names[page]: f"{self.issuer}/{page}" for page in pages},
                    "response_types_supported": ["code"],
                    "code_challenge_methods_supported": ["S256"],
                    "authorization_response_iss_parameter_supported": True,
                }
            return json.dumps(found | self.about).encode()
        return json.dumps({"keys": self.keys}).encode() if path == "/realms/team/keys" else None

    def let_in(self, asked: dict[str, str]) -> str:
        """Where the browser of somebody who allowed it goes."""
        assert asked["client_id"] in self.known
        code = f"code-{len(self._codes)}"
        self._codes[code] = asked
        back = urlencode({"code": code, "state": asked["state"], "iss": self.issuer})
        return f"{asked['redirect_uri']}?{back}"

    def posted(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The answer to what a client sends: it registers, or brings a code with the secret that belongs to it (RFC 7636)."""
        if path == "/realms/team/register" and self.registers:
            self.known.add(client := f"client-{len(self.known)}")
            return 201, json.loads(body) | {"client_id": client}
        given = dict(parse_qsl(body.decode()))
        asked = self._codes.pop(given.get("code", ""), None) if path == "/realms/team/token" else None
        digest = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
        if asked is None or urlsafe_b64encode(digest).decode().rstrip("=") != asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        token = self.token(asked["resource"], **self.claims_of_sign_in)
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME_SECONDS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.set()
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
