"""One HTTP call as the handlers see it, and their answers. The shapes of errors are RunAPI's (`api/runapi.md`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from msgspec import Struct
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

MAX_HEADER_CHARS = 512
"""Characters of an Idempotency-Key or X-Client-Request-Id."""


class SandboxCall(Struct, frozen=True, kw_only=True):
    """A request whose body has been read. `base_url` is the answering server's own, without a slash at its end."""

    base_url: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Headers
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            HttpError: 415 for another content type, 400 for anything that is not one JSON object.
        """
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HttpError(415, "unsupported_media_type", "Send application/json.")
        try:
            value = json.loads(self.body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as exc:
            raise HttpError(400, "bad_request", "The body is not valid JSON.") from exc
        if not isinstance(value, dict):
            raise HttpError(400, "bad_request", "The body must be a JSON object.")
        return value


def token(headers: Headers, name: str) -> str | None:
    """An optional header of 1 to 512 printable ASCII characters.

    Raises:
        HttpError: 400 if the header is there and its value is anything else.
    """
    value = headers.get(name)
    if value is not None and not (0 < len(value) <= MAX_HEADER_CHARS and value.isascii() and value.isprintable()):
        raise HttpError(400, "bad_request", f"{name} must be 1 to {MAX_HEADER_CHARS} printable ASCII characters.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


class HttpError(Exception):
    """An error answer.

    Args:
        status: The HTTP status.
        code: The error's name for programs.
        message: Its text for people.
        headers: More headers, such as Retry-After.
        fields: For 422: the problems, by the body's own field names. The answer takes the shape of a validation error.
        page: Send an HTML page instead of JSON, as a proxy would.
        top_level: Send the code beside the text, not in an object with it.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, list[str]] | None = None,
        page: bool = False,
        top_level: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.fields = fields
        self.page = page
        self.top_level = top_level

    def response(self) -> Response:
        """The answer to send."""
        if self.page:
            html = f"<!doctype html><html><head><title>{self.message}</title></head><body><h1>{self.message}</h1></body></html>"
            return Response(html, self.status, self.headers, "text/html")
        if self.fields is not None:
            return JSONResponse({"error": self.message, "errors": dict(self.fields)}, self.status, self.headers)
        if self.top_level:
            return JSONResponse({"error": self.message, "code": self.code}, self.status, self.headers)
        return JSONResponse({"error": {"code": self.code, "message": self.message}}, self.status, self.headers)


def invalid(fields: Mapping[str, list[str]]) -> HttpError:
    """422 with the problems of each field."""
    return HttpError(422, "validation", "Validation failed", fields=fields)


class CutConnection(Response):
    """Cuts the TCP connection: the client gets no byte of an answer. The protocol of `server.Sandbox` gives `abort`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Abort, and return when the connection is gone, so that no other answer is sent."""
        del send
        scope["state"]["abort"]()
        await receive()
