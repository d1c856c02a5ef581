"""The signing keys of the team's OpenID provider: found by discovery, kept, and fetched again when they change.

Rules
- The discovery document must name the issuer that the settings name, letter by letter.
- Keys come over https; over http only from a provider on loopback that the settings name so. Redirects are not followed.
- A key that the provider withdraws is refused after `FRESH_SECONDS` at the latest.
- A key that is not known yet is looked for at once, but at most once in `PAUSE_SECONDS`: tokens are free to write.
- A provider that does not answer leaves the known keys in use, and is asked again `PAUSE_SECONDS` after it has failed. All that wait
  share what one question comes to.
- Calls with keys that are not known wait in a bounded number; the others are sent away with 503 at once. A call with a known key waits
  for a question alone that is the first since the keys grew old; they are fetched before, as long as there are calls.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import anyio
from anyio.abc import TaskGroup

from flux2_mcp.domain.urls import is_url
from flux2_mcp.errors import Flux2Error, ProviderError, TransportError
from flux2_mcp.runapi.exchange import Transport
from flux2_mcp.server.team.lookups import Lookups
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.server.team.provider")

DISCOVERY = "/.well-known/openid-configuration"
FRESH_SECONDS = 600.0
EARLY_SECONDS = 540.0
"""The age at which the keys are fetched again while the known ones are in use."""
PAUSE_SECONDS = 10.0
ANSWER_SECONDS = 8.0
"""The maximum time for the discovery document and the keys together: less than a connection has that waits for them."""
MAX_BYTES = 256 * 1024
"""The maximum size of each of the two documents."""
MAX_KEYS = 100

Key = Mapping[str, Any]
"""A JSON Web Key."""


class SigningKeys:
    """The provider's keys.

    Args:
        issuer: The provider.
        transport: Carries the calls to it.
        background: In which they are made. Called at each, because it is there only when the server is.
        monotonic: Seconds on a clock that never jumps.
    """

    def __init__(
        self,
        issuer: str,
        transport: Transport,
        background: Callable[[], TaskGroup],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._transport = transport
        self._background = background
        self._monotonic = monotonic
        self._lookups = Lookups("provider", monotonic)
        self._keys: tuple[Key, ...] | None = None
        self._failed = False  # the last try
        self._fetched_at = self._tried_at = float("-inf")  # the end of each
        self._end: anyio.Event | None = None  # of the try under way

    async def find(self, kid: str | None) -> Key | None:
        """Return the key with this id, or None. A token without an id is signed with the provider's only key.

        Raises:
            ProviderError: No key was ever fetched, and none can be fetched now.
            CrowdedError: The key is not known, and too many calls wait to hear of such.
        """
        age = self._monotonic() - self._fetched_at
        if self._keys is not None and age > EARLY_SECONDS:
            first = self._end is None and not self._failed
            end = self._begin()
            if age > FRESH_SECONDS and first and end is not None:
                await end.wait()
        if (found := self._named(kid)) is None and (end := self._begin()) is not None:
            with self._lookups.one():
                await end.wait()
            found = self._named(kid)
        if self._keys is None:
            raise ProviderError("The sign-in provider's keys are not known: it gave no usable answer.")
        return found

    async def known(self) -> bool:
        """Return whether keys are known: fetched earlier, or else now."""
        if self._keys is None and (end := self._begin()) is not None:
            await end.wait()
        return self._keys is not None

    def _named(self, kid: str | None) -> Key | None:
        keys = self._keys or ()
        if kid is None:
            return keys[0] if len(keys) == 1 else None
        return next((key for key in keys if key.get("kid") == kid), None)

    def _begin(self) -> anyio.Event | None:
        """Begin to fetch the keys, unless that is under way. Return what is set at its end; None: the last end was a moment ago."""
        if self._end is None and self._monotonic() - self._tried_at >= PAUSE_SECONDS:
            self._end = anyio.Event()
            self._background().start_soon(self._fetch, self._end)
        return self._end

    async def _fetch(self, end: anyio.Event) -> None:
        self._failed = True
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                self._keys = await self._fetched()
            self._failed, self._fetched_at = False, self._monotonic()
        except (Flux2Error, TimeoutError) as exc:
            reason = exc.message if isinstance(exc, Flux2Error) else "it took too long"
            log.warning("the sign-in provider's keys could not be fetched", extra=fields(reason=reason))
        except Exception as exc:  # it would end the service
            log.exception("unexpected %s", type(exc).__name__)
        finally:
            self._tried_at, self._end = self._monotonic(), None
            end.set()

    async def _fetched(self) -> tuple[Key, ...]:
        about = await self._document(self._issuer.rstrip("/") + DISCOVERY)
        if about.get("issuer") != self._issuer:
            raise ProviderError("The discovery document names another issuer.")
        place = about.get("jwks_uri")
        if not isinstance(place, str) or not is_url(place, local=self._issuer.startswith("http:")):
            raise ProviderError("The discovery document names no https address of keys.")
        keys = (await self._document(place)).get("keys")
        if not isinstance(keys, list):
            raise ProviderError("The document of keys has no list of keys.")
        signing = [key for key in keys[:MAX_KEYS] if isinstance(key, dict) and key.get("use", "sig") == "sig"]
        if not signing:
            raise ProviderError("The document of keys has no key for signatures.")
        return tuple(signing)

    async def _document(self, url: str) -> dict[str, Any]:
        try:
            answer = await self._transport.send(
                "GET", url, headers={"Accept": "application/json"}, whom="The sign-in provider"
            )
        except TransportError as exc:
            raise ProviderError(exc.message) from exc
        if answer.status != HTTPStatus.OK:
            raise ProviderError(f"The sign-in provider answered {answer.status}.")
        if len(answer.body) > MAX_BYTES:
            raise ProviderError(f"The sign-in provider answered with more than {MAX_BYTES // 1024} kB.")
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError) as exc:
            raise ProviderError("The sign-in provider answered with something that is no JSON.") from exc
        if not isinstance(document, dict):
            raise ProviderError("The sign-in provider answered with JSON that is no object.")
        return document
