"""The calls of `api/runapi.md` as methods that take and return our models. The first client imports httpx2."""

from __future__ import annotations

import random
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from hashlib import md5
from http import HTTPStatus
from urllib.parse import quote, urlencode, urlsplit

import anyio
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import (
    SERVICE,
    Action,
    Balance,
    ImageRequest,
    ListenEvents,
    PriceSchedule,
    RemoteTask,
    RunApiAccount,
    UploadedFile,
)
from flux2_mcp.domain.urls import is_loopback
from flux2_mcp.errors import InvalidRequestError, Problem, ServiceError, SettingsError, WireError, Wording
from flux2_mcp.runapi import retry, wire
from flux2_mcp.runapi.exchange import Exchange, Permit, Transport, sendable
from flux2_mcp.runapi.responses import DownloadStream, Response, failure, payload
from flux2_mcp.system import logs

_API, _FILES = "/api/v1", "/api/v1/files"
_LISTEN = "/api/v1/cli/listen"


class RunApi:
    """RunAPI's calls. It is made without I/O; connections open at their first use, and `aclose` closes them.

    All calls raise `ApiError` by status, `TransportError` if no answer came, `WireError` if the answer makes no sense,
    and `SettingsError` if the environment's proxy or certificates can't be used. No error shows the key.

    Args:
        base_url: As `settings` validated it, without a slash at the end.
        api_key: The key; None: calls that need one raise `AuthenticationError` before anything is sent.
        version: Our version, for the `User-Agent`.
        transport: Carries the calls; `aclose` closes it. None: `transport.HttpTransport`.
        policy: How long GETs and creates are retried.
        gate: Awaited before every call to RunAPI, retries included; a limiter waits here.
        on_limited: Awaited at every 429 with its `Retry-After` in seconds.
        on_answer: Called with the status of each answer, retries included; None: no answer came.
        sleep: Waits for a number of seconds. This and the next three are the only clocks and the only randomness here.
        monotonic: Seconds on a clock that never goes back.
        now: The present time, aware.
        jitter: A random number in [0, 1).
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        version: str,
        transport: Transport | None = None,
        policy: retry.Policy = retry.STANDARD,
        gate: Callable[[], Awaitable[None]] | None = None,
        on_limited: Callable[[float | None], Awaitable[None]] | None = None,
        on_answer: Callable[[int | None], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if api_key is not None and not sendable(api_key):
            raise SettingsError("The API key holds characters that no key has.")
        logs.hide(api_key)
        if transport is None:
            from flux2_mcp.runapi.transport import HttpTransport

            transport = HttpTransport(base_url)
        self._calls = Exchange(
            transport=transport,
            base=base_url,
            key=api_key,
            agent=f"flux2-mcp/{version}",
            policy=policy,
            gate=gate,
            on_limited=on_limited,
            on_answer=on_answer,
            sleep=sleep,
            monotonic=monotonic,
            now=now,
            jitter=jitter,
        )
        self._schedules: dict[str, tuple[str, tuple[PriceSchedule, ...]]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._calls.base!r})"

    async def aclose(self) -> None:
        """Close all connections."""
        await self._calls.transport.aclose()

    async def create(
        self,
        request: ImageRequest,
        *,
        idempotency_key: str,
        permit: Permit | None = None,
    ) -> RemoteTask:
        """Create a task, or find the one that was made with this key before. Retries use the same key.

        After `TransportError`, `ServiceError` or `WireError` the task may exist and be charged: a call with the same
        key finds it.

        Args:
            request: The request for the image.
            idempotency_key: 1 to 512 printable ASCII characters, one key for each logical task.
            permit: Awaited right before the body of each attempt is sent, retries included. If it raises, the call
                ends.
        """
        headers = self._calls.bearer()
        if not sendable(idempotency_key) or len(idempotency_key) > wire.MAX_ID_CHARS:
            bounds = f"must be 1 to {wire.MAX_ID_CHARS} printable ASCII characters."
            raise InvalidRequestError(Problem("idempotency_key", bounds))
        path = f"{_API}/{catalog.line(request)}/{request.action}"
        body = wire.body(request)
        answer = await self._calls.post(path, body, headers, idempotency_key=idempotency_key, permit=permit)
        return self._task(answer, path)

    async def get(
        self,
        action: Action,
        task_id: str,
        *,
        line: str = catalog.line_of(SERVICE),
        location: str | None = None,
        attempts: int = 1,
    ) -> RemoteTask:
        """Poll a task, by default with one attempt: a poller plans retries itself. A 429 or 503 has a `retry_after`.

        A hybrid task is polled at its `location`, any other at the endpoint of its line and action.
        """
        if not wire.can_be_asked(task_id):
            raise InvalidRequestError(Problem("task_ids", "holds something that is not a task's id."))
        path = location or f"{_API}/{line}/{action}/{quote(task_id, safe='', errors='replace')}"
        return self._task(await self._calls.get(path, attempts=attempts), path, asked=task_id)

    async def price_schedules(
        self, *, service: str = SERVICE, action: Action | None = None, model: str | None = None
    ) -> tuple[PriceSchedule, ...]:
        """The live prices of a service's models, one action or one model. No key is needed; `ETag` saves unchanged lists."""
        filters = {"service": service, "action": action, "model": model}
        path = f"/api/v1/price_schedules?{urlencode({name: value for name, value in filters.items() if value})}"
        etag, kept = self._schedules.get(path, ("", ()))
        headers = self._calls.bearer() if self._calls.key else {}
        answer = await self._calls.get(path, headers | ({"If-None-Match": etag} if etag else {}))
        if answer.status == HTTPStatus.NOT_MODIFIED and etag:
            return kept
        schedules = wire.price_schedules(payload(answer))
        if new := answer.headers.get("etag"):
            self._schedules[path] = (new, schedules)
        return schedules

    async def clock_ahead(self, *, at_once: bool = False) -> float | None:
        """How far this machine's clock is ahead of RunAPI's, to about a second; None if the answer has no `Date`.

        No key is needed. There is one attempt only: this call checks the present state of the connection. With `at_once` it
        takes no turn, because the limiter may be what does not answer.
        """
        path = f"/api/v1/price_schedules?{urlencode({'service': SERVICE})}"
        calls = replace(self._calls, gate=None) if at_once else self._calls
        answer = await calls.get(path, {}, attempts=1)
        now = self._calls.now()
        moment = retry.http_date(answer.headers.get("date"))
        return None if moment is None else (now - moment).total_seconds()

    async def balance(self) -> Balance:
        """The account's money."""
        return wire.balance(payload(await self._calls.get("/api/v1/me/balance")))

    async def me(self, *, attempts: int | None = None) -> RunApiAccount:
        """The owner of the key; retried by the policy, or up to `attempts` times in all."""
        return wire.account(payload(await self._calls.get("/api/v1/me", attempts=attempts)))

    async def upload(self, filename: str, data: bytes) -> UploadedFile:
        """Upload bytes to RunAPI's store, for an hour. Nothing is retried: another call starts from the beginning."""
        checksum = b64encode(md5(data, usedforsecurity=False).digest()).decode()
        asked = {"filename": filename, "byte_size": len(data), "checksum": checksum}
        place = wire.preparation(payload(await self._calls.post(f"{_FILES}/prepare", asked)))
        if not _private(place.upload_url):
            raise WireError("RunAPI named an upload address that is not https.")
        # The store is another host: it gets its own headers and nothing else, above all not the key.
        whom = "The upload store"
        answer = await self._calls.transport.send(
            "PUT", place.upload_url, headers=place.headers, content=data, whom=whom
        )
        if not answer.ok:
            refusal = failure(answer, now=self._calls.now(), key=self._calls.key, whom=whom)
            text = refusal.message if refusal else f"{whom} answered {answer.status}."
            raise ServiceError(
                text, status=answer.status, next_step=Wording("{name:Call again}: the file is uploaded afresh.")
            )
        confirmed = await self._calls.post(f"{_FILES}/confirm", {"signed_id": place.signed_id})
        return self._uploaded(confirmed, filename, len(data))

    async def passed_on(self, path: str, body: Mapping[str, object] | None) -> Mapping[str, object]:
        """Make somebody else's call with our key: a GET without a body, a POST with one. Returns the answer's JSON."""
        return payload(await (self._calls.get(path, attempts=1) if body is None else self._calls.post(path, body)))

    async def exchange(self, code: str, code_verifier: str, redirect_port: int, hostname: str) -> wire.IssuedKey:
        """Exchange a browser login's code for a key. No key of ours is sent, and nothing is retried."""
        body = {"code": code, "code_verifier": code_verifier, "redirect_port": redirect_port}
        headers = {"X-CLI-Hostname": "".join(c if c.isascii() and c.isprintable() else "?" for c in hostname).strip()}
        return wire.login(payload(await self._calls.post("/api/v1/cli/exchange", body, headers)))

    async def open_listen_session(self) -> str:
        """Ask RunAPI to keep callbacks for this client. Returns the session's token; `AuthenticationError`: not this key."""
        return wire.listen_session(payload(await self._calls.post(f"{_LISTEN}_sessions", {}, self._listening())))

    async def listen_events(self, token: str, last_id: int) -> ListenEvents:
        """The callbacks after `last_id`, with one attempt. `NotFoundError`: the session has expired."""
        path = f"{_LISTEN}_events?{urlencode({'last_id': last_id})}"
        answer = await self._calls.get(path, self._listening(token), attempts=1)
        return ListenEvents(wire.listen_events(payload(answer)), answer.retry_after(self._calls.now()))

    async def acknowledge(self, token: str, event_id: int) -> None:
        """Tell RunAPI that a callback has come."""
        await self._calls.post(f"{_LISTEN}_events/{event_id}/ack", {}, self._listening(token))

    async def close_listen_session(self, token: str) -> None:
        """End a listen session."""
        await self._calls.delete(f"{_LISTEN}_sessions/{quote(token, safe='')}", self._listening())

    def _listening(self, token: str | None = None) -> dict[str, str]:
        session = {} if token is None else {"X-Session-Token": token}
        return {"X-API-Key": self._calls.needed_key(), **session}

    def download(
        self, url: str, *, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[DownloadStream]:
        """Open a URL of any host, without key or cookies. The caller must handle redirects and statuses.

        Raises:
            TransportError: When the context is entered, or later from `chunks()`.
        """
        sent = {"User-Agent": self._calls.agent, "Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        return self._calls.transport.download(url, sent, "The image's host")

    def _uploaded(self, answer: Response, file_name: str, size_bytes: int = 0) -> UploadedFile:
        ahead = answer.ahead(self._calls.now())
        return wire.uploaded_file(payload(answer), file_name=file_name, size_bytes=size_bytes, ahead=ahead)

    def _task(self, answer: Response, path: str, asked: str | None = None) -> RemoteTask:
        named = answer.headers.get("location") if asked is None and answer.status == HTTPStatus.ACCEPTED else None
        location = named and wire.location_path(named, path, self._calls.base)
        return wire.task(
            _payload_or_nothing(answer) if location else payload(answer),
            asked=asked,
            location=location,
            named=answer.headers.get("x-runapi-task-id"),
            retry_after=answer.retry_after(self._calls.now()),
            key=self._calls.key,
            at=f"{self._calls.base}{path}",
        )


def _payload_or_nothing(answer: Response) -> Mapping[str, object]:
    """The JSON of an answer that is of use without it."""
    try:
        return payload(answer)
    except WireError:
        return {}


def _private(url: str) -> bool:
    """True for https, and for http on loopback, which never leaves the machine."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    except ValueError:
        return False
