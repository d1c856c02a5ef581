"""A small HTTP server on loopback: it reads one request from each caller and gives one answer.

No caller can block another. A caller whose request is not complete has a short time, and is cut if there are too many.
A caller that is being answered keeps its place: the answer may do something that can be done only once, such as the
exchange of a login's code.

h11 reads and writes; no other server is involved. It holds at most `MAX_CALLERS` connections, and of each the head of
one request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import ByteStream, SocketStream
from anyio.streams.stapled import MultiListener
from msgspec import Struct

from flux2_mcp.system.loopback import HOST

log = logging.getLogger("flux2_mcp.system.one_shot_http")

CALL_SECONDS = 5.0
"""How long a caller may take to send its request, and the default for how long the answer may take."""
MAX_CALLERS = 64
"""Callers at once. For one more, the oldest that is not being answered is cut: idle connections must neither keep out
others nor use up the process's file descriptors."""
MAX_BODY_BYTES = 1024 * 1024
"""Bytes of a request that are read and discarded, so that the caller can receive the answer."""


class LocalRequest(Struct, frozen=True):
    """A caller's request. Names of headers are lower case; the body is not kept."""

    method: str
    target: str
    headers: dict[str, str]


class LocalReply(Struct, frozen=True):
    """The answer to a request."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


async def listen(port: int) -> MultiListener[SocketStream]:
    """A listener on 127.0.0.1. Port 0: any free one.

    Raises:
        OSError: The port is taken.
    """
    return await anyio.create_tcp_listener(local_host=HOST, local_port=port)


class OneShotServer:
    """Answers callers. `serve` handles each stream of a listener from `listen`.

    Args:
        answer: Called with each request when its head has arrived. If it raises, only that caller is affected.
        call_seconds: How long a caller may take to send its request, and to receive the answer.
        answer_seconds: How long an answer may take.
        most: The largest number of callers at once.
    """

    def __init__(
        self,
        answer: Callable[[LocalRequest], Awaitable[LocalReply]],
        *,
        call_seconds: float = CALL_SECONDS,
        answer_seconds: float = CALL_SECONDS,
        most: int = MAX_CALLERS,
    ) -> None:
        self._answer = answer
        self._call_seconds = call_seconds
        self._answer_seconds = answer_seconds
        self._most = most
        self._callers: dict[anyio.CancelScope, bool] = {}  # in the order of arrival; True: being answered

    async def serve(self, stream: ByteStream) -> None:
        """Handle one caller, from its first byte to the last of the answer."""
        call = anyio.CancelScope(deadline=anyio.current_time() + self._call_seconds)
        self._callers[call] = False
        if len(self._callers) > self._most:
            oldest = next(caller for caller, answered in self._callers.items() if not answered)  # it may be this one
            self._callers.pop(oldest)
            oldest.cancel()
        try:
            async with stream:
                with call:
                    await self._hear(stream, call)
        except Exception:  # an error with one caller must not stop the server
            log.debug("a caller did not speak HTTP, or hung up", exc_info=True)
        finally:
            self._callers.pop(call, None)

    def hush(self) -> None:
        """Cut all callers whose request is not complete; the others get their answers."""
        for call, answered in self._callers.items():
            if not answered:
                call.cancel()

    def _note(self, call: anyio.CancelScope, *, answered: bool) -> bool:
        """Note whether a caller is being answered, if it still has its place. Returns whether it has."""
        if call in self._callers:
            self._callers[call] = answered
        return call in self._callers

    async def _hear(self, stream: ByteStream, call: anyio.CancelScope) -> None:
        import h11

        connection, size, reply = h11.Connection(h11.SERVER), 0, LocalReply(204)
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self._note(call, answered=False)
                data = await stream.receive(4096)
                size += len(data)
                if size > MAX_BODY_BYTES:
                    return
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                if not self._note(call, answered=True):
                    return  # just cut: no answer may begin, since one that has begun must end
                call.deadline = anyio.current_time() + self._answer_seconds
                reply = await self._answer(_request(event.method, event.target, list(event.headers)))
                call.deadline = anyio.current_time() + self._call_seconds
        length = [("Content-Length", str(len(reply.body)))] if reply.body else []
        head = h11.Response(status_code=reply.status, headers=[*reply.headers, *length, ("Connection", "close")])
        parts = (head, h11.Data(reply.body), h11.EndOfMessage())
        await stream.send(b"".join(connection.send(part) or b"" for part in parts))


def _request(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> LocalRequest:
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return LocalRequest(method.decode("latin-1"), target.decode("latin-1"), named)
