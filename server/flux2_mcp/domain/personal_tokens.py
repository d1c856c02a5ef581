"""Personal tokens: what a program without a browser shows to a team's server, in the place of a sign-in.

Form: `flux2_` and 43 letters, digits, `-` and `_`: 32 random bytes. Only the SHA-256 of a token is kept. Nothing can be guessed
from it, since a token is as random as a key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime

from msgspec import Struct

from flux2_mcp.domain.people import Person

PREFIX = "flux2_"
ISSUER = "token"
"""Stands in the place of an OpenID provider's address, which it can't be mistaken for."""
RANDOM_BYTES = 32
LIVE, EXPIRED, REVOKED = STATES = ("live", "expired", "revoked")
SHOWN_CHARS = 8
"""Of a digest, as a token's id."""
MAX_NAME_CHARS = 100
_FORM = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


class TokenRecord(Struct, frozen=True, kw_only=True):
    """A token, as the journal knows it. Those that whoever runs the server made, with the same name, are one person's.

    `digest` is the SHA-256 of the token, 64 hex digits. `expires_at` None: it never ends. `revoked_at` None: nobody took it back.
    `issuer` and `subject` are those of the person who got it by a sign-in; None: whoever runs the server made it.
    """

    digest: str
    name: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    issuer: str | None = None
    subject: str | None = None

    @property
    def ident(self) -> str:
        """What people call the token by; it opens nothing."""
        return self.digest[:SHOWN_CHARS]

    @property
    def person(self) -> Person:
        """Whom the token names. They are no admin, whatever their groups: a token says nothing of these."""
        if self.issuer is None or self.subject is None:
            return person(self.name)
        return Person(issuer=self.issuer, subject=self.subject, name=self.name)

    def state(self, now: datetime) -> str:
        """Return one of `STATES`."""
        if self.revoked_at is not None:
            return REVOKED
        return LIVE if self.expires_at is None or now < self.expires_at else EXPIRED


def person(name: str) -> Person:
    """Whom the tokens with a name belong to. They are no admin."""
    return Person(issuer=ISSUER, subject=name, name=name)


def new() -> str:
    """Make a token."""
    return f"{PREFIX}{secrets.token_urlsafe(RANDOM_BYTES)}"


def is_token(text: str) -> bool:
    """Whether a text has the form of a token."""
    return _FORM.fullmatch(text) is not None


def digest(token: str) -> str:
    """Return what is kept of a token: its SHA-256, 64 hex digits."""
    return hashlib.sha256(token.encode()).hexdigest()
