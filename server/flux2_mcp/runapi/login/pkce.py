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
        found = browser_answer(query, self.state, whose="RunAPI")
        return found["code"] if isinstance(found, dict) else found

    def pasted(self, text: str) -> str | LoginError | None:
        """The answer in a text that a person pasted: the address at which the browser ended, or only its code."""
        query, code = query_of(text), _bare(text)
        if "state=" in query:
            return self.answer(query)
        return code if is_code(code) and "/" not in code else None


def browser_answer(query: str, state: str, *, whose: str) -> dict[str, str] | LoginError | None:
    """The fields of an answer with a code, the refusal of `whose` page, or None if the answer is not for this state."""
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return None
    if any(len(values) > 1 for values in given.values()):
        return None  # no page sends a field twice
    found = {name: values[0] for name, values in given.items()}
    if not hmac.compare_digest(found.get("state", "").encode(errors="replace"), state.encode()):
        return None
    if found.get("error"):
        return LoginError(f"{whose} did not give leave: {clean(found.get('error_description') or found['error'])}")
    return found if is_code(found.get("code", "")) else None


def query_of(text: str) -> str:
    """The query of an address that a person pasted."""
    return _bare(text).partition("#")[0].rpartition("?")[2]


def _bare(text: str) -> str:
    return text.strip().strip("'\"<>")


def is_code(text: str) -> bool:
    """Whether a text has the form of a code."""
    return sendable(text) and " " not in text and len(text) <= MAX_CODE_CHARS
