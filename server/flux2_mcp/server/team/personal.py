"""Decides whom a personal token names. The tokens are the journal's; a server keeps those in force for a few seconds.

Rules
- A token that was revoked is refused after `KEPT_SECONDS` at the latest, and one that expires at once.
- Whatever callers send, the journal is asked at most once in `PAUSE_SECONDS`: all that wait for an answer share it. So a new
  token counts within that time.
- Calls with tokens that are not known wait in a bounded number; the others are sent away with 503 at once. A call with a known token
  waits for no pause, and behind none of them.
- A journal that does not answer proves nothing: the call is sent away with 503, and so are all that have waited for the same
  answer. A journal that takes long to fail is not asked for each of them in turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Protocol

import anyio

from flux2_mcp.domain import personal_tokens
from flux2_mcp.domain.people import Person
from flux2_mcp.domain.personal_tokens import TokenRecord
from flux2_mcp.errors import JournalError
from flux2_mcp.server.team.lookups import CrowdedError, Lookups
from flux2_mcp.server.team.tokens import TOO_MANY_UNKNOWN, PersonToken, Refusal, Tokens, no_token

KEPT_SECONDS = 5.0
PAUSE_SECONDS = 1.0
RETRY_SECONDS = 5
NOT_NOW = "The server can't read its journal, so it can't check the token. Call again later."


class Source(Protocol):
    """Where the tokens come from; see `engine.team.Callers`."""

    async def tokens(self) -> Mapping[str, TokenRecord]:
        """Return the tokens in force, by digest."""
        ...

    def in_force(self, token: TokenRecord) -> bool:
        """Whether a token has not expired since."""
        ...


class PersonalTokens:
    """Knows the tokens in force.

    Args:
        source: Called at each look, because it is there only when the server is.
        monotonic: Seconds on a clock that never jumps.
        sleep: Waits a number of seconds.
    """

    def __init__(
        self,
        source: Callable[[], Source],
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._source = source
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = anyio.Lock()
        self._lookups = Lookups("personal", monotonic)
        self._known: Mapping[str, TokenRecord] = {}
        self._asked_at = float(
            "-inf"
        )  # when the journal was last asked; of an answer, what was true at that moment counts
        self._known_at = float("-inf")
        self._failure: JournalError | None = None  # what the last question came to

    async def learn(self) -> None:
        """Read the tokens before anybody calls: many may call a server that has just started, and all of them at once."""
        with suppress(JournalError):  # the calls that need the journal say so themselves
            await self._look(self._monotonic())

    async def find(self, token: str) -> Person | None:
        """Return the person to whom a token belongs; None if there is no such token in force.

        Raises:
            JournalError: The journal can't be read.
            CrowdedError: The token is not known, and too many calls wait to hear of such.
        """
        if not personal_tokens.is_token(token):
            return None
        digest, called_at = personal_tokens.digest(token), self._monotonic()
        if digest not in self._known:
            with self._lookups.one():
                await self._look(called_at)
        elif called_at - self._known_at >= KEPT_SECONDS:
            await self._look(called_at)
        found = self._known.get(digest)
        return found.person if found is not None and self._source().in_force(found) else None

    async def _look(self, called_at: float) -> None:
        """Ask the journal, unless somebody has asked it since `called_at`.

        Raises:
            JournalError: It can't be read, for this call or for the one that has asked.
        """
        async with self._lock:
            if self._known_at > called_at:
                return
            if self._failure is not None and self._asked_at > called_at:
                raise self._failure.with_traceback(None)
            await self._sleep(max(0.0, self._asked_at + PAUSE_SECONDS - self._monotonic()))
            self._asked_at, self._failure = self._monotonic(), None
            asked_at = self._asked_at
            try:
                self._known = await self._source().tokens()
            except JournalError as exc:
                self._failure = exc
                raise
            self._known_at = asked_at


class Bearers:
    """Decides whom a bearer token names: a personal one, or one of the provider.

    Args:
        personal: The personal tokens.
        provider: The provider's; None: the team has none.
    """

    def __init__(self, personal: PersonalTokens, provider: Tokens | None) -> None:
        self._personal = personal
        self._provider = provider
        self._vouching = None if provider is None else provider.vouching

    async def check(self, token: str) -> PersonToken | Refusal:
        """Return the person that a token names, or why it is refused."""
        if token.startswith(personal_tokens.PREFIX):
            return await self._personally(token)
        if self._provider is None:
            return no_token("This server takes personal tokens alone: flux2-mcp team token create makes one.")
        return await self._provider.check(token)

    async def _personally(self, token: str) -> PersonToken | Refusal:
        try:
            person = await self._personal.find(token)
        except JournalError:
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, None, NOT_NOW, RETRY_SECONDS)
        except CrowdedError:
            return TOO_MANY_UNKNOWN
        if person is not None and person.issuer not in {personal_tokens.ISSUER, self._vouching}:
            return no_token("The token came from a sign-in with a provider that counts here no more.")
        if person is None:
            return no_token("The token is not known, or it has expired or was revoked.")
        return PersonToken(
            token=token,
            client_id="",
            scopes=[],
            subject=person.subject,
            claims={"iss": person.issuer},
            person=person,
            met=person.issuer == personal_tokens.ISSUER,
        )
