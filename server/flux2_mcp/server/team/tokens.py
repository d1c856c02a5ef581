"""Decides whom a token of the provider names, and whether that person may call.

A token is a JWT that the team's OpenID provider has signed. What is refused, and how, is what RFC 6750 and RFC 9068 say:
401 `invalid_token` for a token that proves nothing, 403 `insufficient_scope` for one of a person that may not call.

Rules
- Only signatures with a private key count (`ALGORITHMS`). The key's own type decides which of them fit it, so that no
  token chooses how it is checked: a public key never becomes the secret of an HMAC.
- `iss`, `aud`, `exp` and `sub` must be there; `nbf` and `iat` hold where they are there.
- A subject with characters that can't be printed names nobody: it could not be stored, or would steer a terminal.
- A token of another kind (`typ`), or one that only its holder's key may use (`cnf`), is no bearer token.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import jwt
from mcp.server.auth.provider import AccessToken
from msgspec import Struct
from pydantic import ConfigDict

from flux2_mcp.domain.people import Person
from flux2_mcp.errors import ProviderError, shortened
from flux2_mcp.server.team import lookups
from flux2_mcp.server.team.provider import PAUSE_SECONDS, Key, SigningKeys
from flux2_mcp.settings import SignIn
from flux2_mcp.system.terminal import plain

ALGORITHMS: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
        "ES256": ("EC", "P-256"),
        "ES384": ("EC", "P-384"),
        "ES512": ("EC", "P-521"),
        "EdDSA": ("OKP", "Ed25519"),
    }
)
"""The algorithms that count, each with the type and the curve of its keys."""
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""The `typ` of an access token, in lower case; many have none. A logout token, for one, has another."""
LEEWAY_SECONDS = 30
"""How far the provider's clock may be from this machine's."""
MAX_TOKEN_CHARS = 16 * 1024
MAX_GROUPS = 1000
MAX_SUBJECT_CHARS = 255
"""The maximum length of a subject, as OpenID Connect has it."""


class PersonToken(AccessToken):
    """A token that was checked, with the person that it names.

    `met`: whether the journal is to learn name and rights of the person from it. A token that somebody got by a sign-in says less
    than the sign-in did.
    """

    model_config = ConfigDict(frozen=True)
    person: Person
    met: bool = True


class Refusal(Struct, frozen=True):
    """Why a call is refused: the status, OAuth's name of the error (None: there was no token), and a sentence."""

    status: HTTPStatus
    error: str | None
    text: str
    retry_after_seconds: int | None = None


TOO_MANY_UNKNOWN = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, None, lookups.CROWDED, lookups.RETRY_SECONDS)


class _InvalidTokenError(Exception):
    """A token that proves nothing. Its text is for the caller."""


class Tokens:
    """Checks tokens.

    Args:
        keys: The provider's keys.
        sign_in: Which provider, and what a token must say.
        audience: What `aud` must be.

    Attributes:
        vouching: The issuer whose people's personal tokens count; None: nobody's do.
    """

    def __init__(self, keys: SigningKeys, sign_in: SignIn, *, audience: str) -> None:
        self._keys = keys
        self._sign_in = sign_in
        self._audience = audience
        self.vouching = sign_in.issuer if sign_in.login_days else None

    async def check(self, token: str) -> PersonToken | Refusal:
        """Return the person that a token names, or why it is refused."""
        if len(token) > MAX_TOKEN_CHARS:
            return no_token(f"The token is longer than {MAX_TOKEN_CHARS} characters.")
        try:
            return self._admitted(token, await self._claims(token))
        except _InvalidTokenError as exc:
            return no_token(str(exc))
        except ProviderError as exc:
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, None, exc.message, int(PAUSE_SECONDS))
        except lookups.CrowdedError:
            return TOO_MANY_UNKNOWN

    async def _claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that is the provider's, for us, and in force."""
        algorithm, kid = _head(token)
        key = await self._keys.find(kid)
        if key is None or not _fits(key, algorithm):
            raise _InvalidTokenError("The token is signed with a key that the provider does not have.")
        try:
            claims = jwt.decode(
                token,
                jwt.PyJWK(dict(key), algorithm),
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._sign_in.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["iss", "aud", "exp", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as exc:
            raise _InvalidTokenError(next(text for kind, text in _WORDS.items() if isinstance(exc, kind))) from exc
        if "cnf" in claims:
            raise _InvalidTokenError("The token is bound to a key of its holder, so it is no bearer token.")
        if not (0 < len(claims["sub"]) <= MAX_SUBJECT_CHARS and claims["sub"].isprintable()):
            raise _InvalidTokenError("The token names nobody.")
        return claims

    def _admitted(self, token: str, claims: Mapping[str, Any]) -> PersonToken | Refusal:
        """Return the person, if the scopes and groups of the token are those that are wanted."""
        sign_in = self._sign_in
        scopes = [*_texts(claims.get("scope")), *_texts(claims.get("scp"))]
        groups = frozenset(_texts(claims.get(sign_in.groups_claim), blanks=False))
        if missing := [scope for scope in sign_in.scopes if scope not in scopes]:
            return _not_allowed(f"The token lacks a scope: {' '.join(missing)}.")
        if sign_in.group is not None and sign_in.group not in groups:
            return _not_allowed("The token does not name a group that may use this server.")
        named = (claims.get(claim) for claim in ("name", "preferred_username", "email"))
        client = next((each for each in (claims.get("azp"), claims.get("client_id")) if isinstance(each, str)), "")
        person = Person(
            issuer=sign_in.issuer,
            subject=claims["sub"],
            name=next((_name(each) for each in named if isinstance(each, str) and each), None),
            groups=groups,
            admin=sign_in.admin_group is not None and sign_in.admin_group in groups,
        )
        return PersonToken(
            token=token,
            client_id=client,
            scopes=scopes,
            expires_at=int(claims["exp"]),
            subject=person.subject,
            claims={"iss": person.issuer},
            person=person,
        )


_WORDS: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "The token has expired.",
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.InvalidIssuerError: "The token is another issuer's.",
    jwt.InvalidAudienceError: "The token was issued for another server.",
    jwt.InvalidSignatureError: "The signature of the token is wrong.",
    jwt.MissingRequiredClaimError: "The token lacks one of iss, aud, exp and sub.",
    Exception: "The token can't be checked.",
}
"""The first that fits, in our own words: the library's repeat what the token says."""


def _head(token: str) -> tuple[str, str | None]:
    """Return the algorithm of a token, which counts, and the id of its key, if it names one."""
    try:
        head = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as exc:
        raise _InvalidTokenError("The token is no signed JWT.") from exc
    algorithm, kid, kind = head.get("alg"), head.get("kid"), head.get("typ")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise _InvalidTokenError("The token is not signed with an algorithm that counts here.")
    if kind is not None and str(kind).lower() not in TYPES:
        raise _InvalidTokenError("The token is no access token.")
    return algorithm, kid


def _fits(key: Key, algorithm: str) -> bool:
    """Whether a key may check this algorithm's signatures."""
    kind, curve = ALGORITHMS[algorithm]
    same = key.get("kty") == kind and (curve is None or key.get("crv") == curve)
    return same and key.get("alg", algorithm) == algorithm


def _name(given: str) -> str:
    """Return a name that can be stored and shown: people choose it themselves, so it may hold anything."""
    return plain(" ".join(shortened(given).encode(errors="replace").decode().split()))


def _texts(value: object, *, blanks: bool = True) -> list[str]:
    """Return the texts of a claim that is a list, or one text; with `blanks`, one text may hold several."""
    if isinstance(value, str):
        return value.split() if blanks else [value]
    return [each for each in value[:MAX_GROUPS] if isinstance(each, str)] if isinstance(value, list) else []


def no_token(text: str) -> Refusal:
    """The answer to a token that proves nothing."""
    return Refusal(HTTPStatus.UNAUTHORIZED, "invalid_token", text)


def _not_allowed(text: str) -> Refusal:
    return Refusal(HTTPStatus.FORBIDDEN, "insufficient_scope", text)
