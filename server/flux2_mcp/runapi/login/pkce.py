"""One login's secrets, and what the browser brings back for them (`api/runapi.md`, browser login; RFC 7636). No I/O."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode

from flux2_mcp.errors import LoginError
from flux2_mcp.runapi.error_text import clean
from flux2_mcp.runapi.exchange import sendable

ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Of display codes: nothing in it looks like something else."""
MAX_CODE_CHARS = 2048
MAX_HOSTNAME_CHARS = 255
MAX_FIELDS = 16
"""Of a query that is read at all."""


def _display_code() -> str:
    drawn = "".join(secrets.choice(ALPHABET) for _ in range(8))
    return f"{drawn[:4]}-{drawn[4:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAttempt:
    """One login, good for one answer.

    `port` is where the browser comes back to. Only who was sent to the browser with it knows the `state`; nobody but this
    process knows the `verifier`, and no code is worth anything without it. A person compares the `display_code`.
    """

    port: int
    state: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    display_code: str = field(default_factory=_display_code)

    @property
    def challenge(self) -> str:
        """What stands for the verifier until it is shown (RFC 7636, section 4.2)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def address(self, base_url: str, hostname: str) -> str:
        """The page that asks the person for leave."""
        asked = {
            "state": self.state,
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
            "redirect_port": self.port,
            "display_code": self.display_code,
            "hostname": clean(hostname)[:MAX_HOSTNAME_CHARS],
        }
        return f"{base_url}/cli/authorize?{urlencode(asked)}"

    def answer(self, query: str) -> str | LoginError | None:
        """What a query string brings: the code, the refusal that it tells of, or None where it is not for this login."""
        try:
            given = parse_qs(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            return None
        if any(len(values) > 1 for values in given.values()):
            return None  # who says a thing twice is not RunAPI
        state, code, error, why = (given.get(name, [""])[0] for name in ("state", "code", "error", "error_description"))
        if not hmac.compare_digest(state.encode(errors="replace"), self.state.encode()):
            return None
        if error:
            return LoginError(f"RunAPI did not give leave: {clean(why or error)}")
        return code if is_code(code) else None

    def pasted(self, text: str) -> str | LoginError | None:
        """The same from what a person pasted: the address that the browser ended at, or only the code in it."""
        text = text.strip().strip("'\"<>")
        query = text.partition("#")[0].rpartition("?")[2]
        if "state=" in query:
            return self.answer(query)
        return text if is_code(text) and "/" not in text else None


def is_code(text: str) -> bool:
    """Whether it can be a code at all."""
    return sendable(text) and " " not in text and len(text) <= MAX_CODE_CHARS
