"""One login's secrets, and the browser's answer to them (`api/runapi.md`, browser login; RFC 7636). No I/O."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from urllib.parse import parse_qs, urlencode

from msgspec import Struct, field

from flux2_mcp import __version__
from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.errors import LoginError
from flux2_mcp.runapi.error_text import clean
from flux2_mcp.runapi.exchange import sendable

ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Characters of display codes: no two of them look alike."""
MAX_CODE_CHARS = 2048
MAX_HOSTNAME_CHARS = 255
MAX_FIELDS = 16
"""Fields of a query. A longer query is refused."""


def _display_code() -> str:
    drawn = "".join(secrets.choice(ALPHABET) for _ in range(8))
    return f"{drawn[:4]}-{drawn[4:]}"


class LoginAttempt(Struct, frozen=True, kw_only=True):
    """One login, valid for one answer.

    The browser returns to `port`. The `state` is known only to the browser and RunAPI's page; an answer must have it.
    The `verifier` is known only to this process, and no code is of use without it. A person compares the
    `display_code`.
    """

    port: int
    state: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    display_code: str = field(default_factory=_display_code)

    __repr__ = repr_without("state", "verifier")

    @property
    def challenge(self) -> str:
        """The hash that commits to the verifier until it is sent (RFC 7636, section 4.2)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def address(self, base_url: str, hostname: str) -> str:
        """The URL of the page on which the person allows the login."""
        asked = {
            "state": self.state,
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
            "redirect_port": self.port,
            "display_code": self.display_code,
            "hostname": clean(hostname)[:MAX_HOSTNAME_CHARS],
            "version": __version__,
        }
        return f"{base_url}/cli/authorize?{urlencode(asked)}"

    def answer(self, query: str) -> str | LoginError | None:
        """The answer in a query string: the code, RunAPI's refusal, or None if it is not for this login."""
        try:
            given = parse_qs(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            return None
        if any(len(values) > 1 for values in given.values()):
            return None  # RunAPI sends no field twice
        state, code, error, why = (given.get(name, [""])[0] for name in ("state", "code", "error", "error_description"))
        if not hmac.compare_digest(state.encode(errors="replace"), self.state.encode()):
            return None
        if error:
            return LoginError(f"RunAPI did not give leave: {clean(why or error)}")
        return code if is_code(code) else None

    def pasted(self, text: str) -> str | LoginError | None:
        """The answer in a text that a person pasted: the address at which the browser ended, or only its code."""
        text = text.strip().strip("'\"<>")
        query = text.partition("#")[0].rpartition("?")[2]
        if "state=" in query:
            return self.answer(query)
        return text if is_code(text) and "/" not in text else None


def is_code(text: str) -> bool:
    """Whether a text has the form of a code."""
    return sendable(text) and " " not in text and len(text) <= MAX_CODE_CHARS
