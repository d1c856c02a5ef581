"""Answers and downloads before `wire` reads them, and the error that an answer stands for. Pure, without httpx2."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus

from msgspec import Struct

from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    InsufficientCreditsError,
    NotFoundError,
    RateLimitedError,
    RejectedError,
    ServiceError,
    TeamCapError,
    WireError,
)
from flux2_mcp.runapi.error_text import cap_refusal, error_message, field_errors, is_page, loads
from flux2_mcp.runapi.retry import http_date, parse_retry_after

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Bytes of JSON that are read. RunAPI's answers are a few kB."""

MAX_ERROR_BYTES = 64 * 1024
"""Bytes of an error's body that are read: its text is at the beginning."""

_ERRORS: Mapping[int, type[ApiError]] = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: AuthenticationError,
    404: NotFoundError,
    408: ServiceError,
    409: ConflictError,
    410: NotFoundError,
    429: RateLimitedError,
}


class Response(Struct, frozen=True):
    """One HTTP answer, read whole. Header names are lower-case; `body` is at most one byte longer than allowed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    __repr__ = repr_without("body")

    @property
    def ok(self) -> bool:
        """True for a success (2xx)."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def text(self) -> str:
        """The body as text, whatever it holds."""
        return self.body.decode("utf-8-sig", "replace")

    @property
    def page(self) -> bool:
        """True for markup: not RunAPI's own answer."""
        return is_page(self.text, self.headers.get("content-type", ""))

    def ahead(self, now: datetime) -> timedelta:
        """How far the other side's clock is ahead of ours, by the answer's own `Date`; 0 if it has none.

        The answer's absolute times are read by its own clock, since either clock may be wrong.
        """
        moment = http_date(self.headers.get("date"))
        return timedelta() if moment is None else moment - now

    def retry_after(self, now: datetime) -> float | None:
        """The wait in seconds that RunAPI asks for before the next call, or None."""
        return parse_retry_after(self.headers.get("retry-after"), now + self.ahead(now))


class DownloadStream(Struct, frozen=True):
    """A file while it is downloaded: status, headers with lower-case names, and its bytes, still with their coding.

    `chunks()` can be read once; it raises `TransportError` if the bytes break off.
    """

    status: int
    headers: Mapping[str, str]
    chunks: Callable[[], AsyncIterator[bytes]]

    __repr__ = repr_without("chunks")


def failure(answer: Response, *, now: datetime, key: str | None = None, whom: str = "RunAPI") -> ApiError | None:
    """The error that an answer stands for; None for a success and for 304.

    Args:
        answer: The answer.
        now: The present time, aware: `Retry-After` may be a date, and the answer may have no `Date` of its own.
        key: The API key, which is never shown.
        whom: The name of the side that answered.
    """
    status = answer.status
    if status == HTTPStatus.NOT_MODIFIED or (answer.ok and not answer.page):
        return None
    ours = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    kind = _ERRORS.get(status, RejectedError if ours else ServiceError)
    if status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE} and answer.page:
        # Firewalls and proxies answer these statuses in HTML. Only RunAPI itself can say that a key or task is unknown.
        kind = ServiceError
    words = error_message(answer.text, answer.headers.get("content-type", ""), key) or _phrase(status)
    message, after = f"{whom} answered {status}{' with a web page' if answer.ok else ''}: {words}", ""
    if status == HTTPStatus.PAYMENT_REQUIRED and (refused := cap_refusal(answer.text, key)) is not None:
        # RunAPI was not asked, and its account is not what lacks money.
        kind, message, after = TeamCapError, f"The team's server refused it: {refused[0]}", refused[1]
    return kind(
        message,
        status=status,
        request_id=answer.headers.get("x-request-id"),
        retry_after=answer.retry_after(now),
        field_errors=field_errors(answer.text, key),
        next_step=after or None,
    )


def payload(answer: Response) -> Mapping[str, object]:
    """The JSON object of a success.

    Raises:
        WireError: The body is too long, not JSON, or no object.
    """
    if len(answer.body) > MAX_ANSWER_BYTES:
        raise WireError(f"RunAPI answered {answer.status} with more than {MAX_ANSWER_BYTES // 2**20} MB.")
    try:
        loaded = loads(answer.text)
    except ValueError as exc:
        raise WireError(f"RunAPI answered {answer.status} with something that is not JSON.") from exc
    if not isinstance(loaded, dict):
        raise WireError(f"RunAPI answered {answer.status} with JSON that is not an object.")
    return loaded


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no words of its own"
