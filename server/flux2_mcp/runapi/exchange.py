"""Every call to RunAPI passes through here: headers, gate, attempts, errors. `retry` decides when to try again."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from http import HTTPStatus
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.errors import NOTHING_SENT, ApiError, AuthenticationError, RateLimitedError, ServiceError, TransportError
from flux2_mcp.runapi import retry
from flux2_mcp.runapi.responses import DownloadStream, Response, failure

logger = logging.getLogger("flux2_mcp.runapi")


Permit = Callable[[], Awaitable[None]]
"""Awaited at each attempt, after the connection is open and before the first byte of the body is sent. If it raises,
the call ends: RunAPI accepts no request without its body."""


class Transport(Protocol):
    """Carries the calls. It raises `TransportError` if no answer came; `whom` is the other side's name in it."""

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes = b"",
        whom: str = "RunAPI",
        permit: Permit | None = None,
    ) -> Response:
        """Send one request, and read its whole answer."""
        ...

    def download(self, url: str, headers: Mapping[str, str], whom: str) -> AbstractAsyncContextManager[DownloadStream]:
        """Send a GET, whose answer the caller reads piece by piece."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Exchange(Struct, frozen=True, kw_only=True):
    """The common part of all calls. The arguments are those of `client.RunApi`."""

    transport: Transport
    base: str
    key: str | None
    agent: str
    policy: retry.Policy
    gate: Callable[[], Awaitable[None]] | None
    on_limited: Callable[[float | None], Awaitable[None]] | None
    sleep: Callable[[float], Awaitable[None]]
    monotonic: Callable[[], float]
    now: Callable[[], datetime]
    jitter: Callable[[], float]
    on_answer: Callable[[int | None], None] | None = None

    __repr__ = repr_without("key")

    def bearer(self) -> dict[str, str]:
        """The header with the key; raises as `needed_key`."""
        return {"Authorization": f"Bearer {self.needed_key()}"}

    def needed_key(self) -> str:
        """The key.

        Raises:
            AuthenticationError: There is no key.
        """
        if self.key is None:
            raise AuthenticationError("No RunAPI API key is configured.", status=401, cost=NOTHING_SENT)
        return self.key

    async def get(
        self, path: str, headers: Mapping[str, str] | None = None, *, attempts: int | None = None
    ) -> Response:
        """GET, with the key unless `headers` are given; retried by the policy, or up to `attempts` times in all."""
        policy = self.policy if attempts is None else replace(self.policy, attempts=attempts)
        return await self._insist("GET", path, self.bearer() if headers is None else headers, b"", policy)

    async def post(
        self,
        path: str,
        body: Mapping[str, object],
        headers: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | None = None,
        permit: Permit | None = None,
    ) -> Response:
        """POST JSON, with the key unless `headers` are given; retried only with an idempotency key."""
        sent = dict(self.bearer() if headers is None else headers) | {"Content-Type": "application/json"}
        if idempotency_key is None:
            policy = replace(self.policy, attempts=1)
        else:
            policy = self.policy
            sent["Idempotency-Key"] = idempotency_key
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # A file name may hold bytes that are not valid text.
        content = text.encode(errors="replace")
        return await self._insist("POST", path, sent, content, policy, permit)

    async def delete(self, path: str, headers: Mapping[str, str]) -> Response:
        """DELETE, with one attempt."""
        return await self._insist("DELETE", path, headers, b"", replace(self.policy, attempts=1))

    async def _insist(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes,
        policy: retry.Policy,
        permit: Permit | None = None,
    ) -> Response:
        """Call until an attempt succeeds or the policy gives up; then raise the last error.

        That error also covers the earlier attempts: its `unanswered` or `sent` is True if one of them may have reached
        RunAPI.
        """
        sent = {"User-Agent": self.agent, "Accept": "application/json", "Accept-Encoding": "gzip"} | dict(headers)
        attempt, started, reached = 1, self.monotonic(), False
        while True:
            try:
                if self.gate is not None:
                    await self.gate()
                # The first wait for the limiter does not count as time of the attempts.
                started = self.monotonic() if attempt == 1 else started
                return await self._once(method, path, sent, content, permit)
            except (ApiError, TransportError) as error:
                wait = retry.delay(
                    policy,
                    attempt=attempt,
                    elapsed=self.monotonic() - started,
                    retry_after=error.retry_after if isinstance(error, ApiError) else None,
                    jitter=self.jitter(),
                )
                if isinstance(error, TransportError):
                    reached = error.sent = error.sent or reached
                else:
                    error.unanswered = reached
                    reached = reached or not isinstance(error, RateLimitedError)
                if wait is None or not _passing(error):
                    raise
            logger.debug("%s %s: attempt %d failed, next in %.2f s", method, _shown(path), attempt, wait)
            await self.sleep(wait)
            attempt += 1

    async def _once(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes, permit: Permit | None
    ) -> Response:
        began = self.monotonic()
        url = f"{self.base}{path}"
        try:
            answer = await self.transport.send(method, url, headers=headers, content=content, permit=permit)
        except TransportError:
            if self.on_answer is not None:
                self.on_answer(None)
            raise
        if self.on_answer is not None:
            self.on_answer(answer.status)
        logger.debug("%s %s: %d in %.3f s", method, _shown(path), answer.status, self.monotonic() - began)
        error = failure(answer, now=self.now(), key=self.key)
        if error is None:
            return answer
        if isinstance(error, RateLimitedError) and self.on_limited is not None:
            await self.on_limited(error.retry_after)
        raise error


def _passing(error: ApiError | TransportError) -> bool:
    """True if the same request may succeed later: after one of `RETRIED_STATUSES`, a proxy's page, or no answer."""
    if isinstance(error, ApiError):
        page = isinstance(error, ServiceError) and error.status < HTTPStatus.MULTIPLE_CHOICES
        return page or error.status in retry.RETRIED_STATUSES
    return True


def _shown(path: str) -> str:
    return path.partition("?")[0]


def sendable(value: str) -> bool:
    """True for text that may be the value of a header unchanged."""
    return bool(value) and value.isascii() and value.isprintable() and value == value.strip()
