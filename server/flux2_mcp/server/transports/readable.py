"""Refuses bodies that are no messages over HTTP, with the same text and id as over pipes. The SDK omits the id.

A body with very many values is refused before anything parses it, whatever its content type says.
"""

from __future__ import annotations

from http import HTTPStatus

from mcp_types import JSONRPCError
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux2_mcp.server.transports import messages

JSON_TYPE = "application/json"


class MessagesOnly:
    """Passes on JSON-RPC messages, and all calls that are no POST of JSON; refuses the rest, and every crowded body.

    Args:
        app: The application behind it.
        path: Where messages come; calls of other paths pass.
        most: The maximum size of a body in bytes.
    """

    def __init__(self, app: ASGIApp, *, path: str, most: int) -> None:
        self._app = app
        self._path = path
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        body, read, whole = bytearray(), list[Message](), False
        while not whole and len(body) <= self._most:
            read.append(message := await receive())
            if message["type"] != "http.request":
                break
            body += message.get("body", b"")
            whole = not message.get("more_body", False)
        is_json = Headers(scope=scope).get("content-type", "").lower().startswith(JSON_TYPE)
        if (refusal := self._refusal(bytes(body), whole=whole, is_json=is_json)) is not None:
            await refusal(scope, receive, send)
            return

        async def replayed() -> Message:
            return read.pop(0) if read else await receive()

        await self._app(scope, replayed, send)

    def _refusal(self, text: bytes, *, whole: bool, is_json: bool) -> Response | None:
        too_long = len(text) > self._most
        if whole and not too_long and messages.is_crowded(text):  # asked first: to parse it would hold up all others
            return _response(messages.crowded(text), HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if not is_json or not (whole or too_long) or messages.message(text, self._most) is not None:
            return None
        if not (refusal := messages.refusal(text, self._most)):
            return None
        return _response(refusal, HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_long else HTTPStatus.BAD_REQUEST)


def _response(refusal: JSONRPCError | list[JSONRPCError], status: HTTPStatus) -> Response:
    body = f"[{','.join(map(_text, refusal))}]" if isinstance(refusal, list) else _text(refusal)
    return Response(body, status, media_type=JSON_TYPE)


def _text(refusal: JSONRPCError) -> str:
    return refusal.model_dump_json(by_alias=True, exclude_unset=True)
