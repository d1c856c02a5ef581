"""Our own end of the pipes: one host on standard input and output, a line a message (MCP, transports, stdio).

The SDK's own transport (mcp 2.3.0, `server/stdio.py`) reads and writes in threads that nothing can wake: a signal, or a host
that reads nothing, leaves the process hanging. And it drops a line that is no message without a word. This one waits in the
event loop, between the same two streams of the SDK. Whatever ends it, a signal, the end of input or a host that is gone, it
ends in one way: no more is read, what waits is answered, the lifespan closes.

POSIX only: Windows can't poll a pipe, and is served by the SDK's transport.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeAlias

import anyio
import anyio.lowlevel
import pydantic_core
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, JSONRPCMessage, JSONRPCResponse, RequestId

from flux2_mcp.server.transports import messages

Incoming: TypeAlias = SessionMessage | Exception  # the SDK's; this transport answers what is no message itself
Received: TypeAlias = MemoryObjectReceiveStream[Incoming]
Sent: TypeAlias = MemoryObjectSendStream[SessionMessage]

CHUNK_BYTES = 65_536
MAX_LINE_BYTES = 16 * 2**20
"""The longest line. A tool's arguments take a few thousand; what is longer is not kept,"""
TAIL_BYTES = 4096
"""but for its end: many clients write a request's id last, and it is all that matters then."""
BLOCKED_SECONDS = 0.1
"""After so long with a full pipe, look whether the host is still there."""
GRACE_SECONDS = 0.1
"""How long, once the end has begun, the last answers wait for a host that reads nothing,"""
ANSWER_SECONDS = 0.25
"""and for one that does."""
LAST_SECONDS = 0.4
"""Once the end has begun, whatever holds the process longer is left behind. The journal bears that like any other end."""

_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)  # the last: Linux, a socket's half
_NO_TEXT = ErrorData(code=INTERNAL_ERROR, message="Internal error: the answer holds text that is no UTF-8.")


class RefusedLine(SessionMessage):
    """An answer of ours to a line: whatever its id was given before, nothing else answers this line."""


class StdioTransport:
    """Serves one host. Use once, on the main thread: it takes the signals.

    Args:
        source: The descriptor that the host writes to.
        sink: The descriptor that it reads from.
        unread: What was read from `source` before.
        unsent: What still has to be written to `sink`.
        given: The ids that were answered before: the server's own answers to them are dropped.
    """

    def __init__(self, source: int, sink: int, unread: bytes, unsent: bytes, given: Iterable[RequestId]) -> None:
        self._source = source
        self._sink = sink
        self._unread = unread
        self._unsent = unsent
        self._given = set(given)
        self._code: int | None = None
        self._latest = math.inf

    def serve(self, run: Callable[[Received, Sent], Awaitable[None]]) -> int:
        """Serve until the end, whichever it is.

        Args:
            run: Serves over a stream of what comes in, to its end, and a stream of what goes out, and closes both.

        Returns:
            The exit code: 0, or 128 and the number of the signal.
        """
        anyio.run(self._serve, run)
        return self._code or 0

    async def _serve(self, run: Callable[[Received, Sent], Awaitable[None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading, self._writing = anyio.CancelScope(), anyio.CancelScope()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda signum, _: self._end(128 + signum))
        to_server, received = anyio.create_memory_object_stream[Incoming]()
        sent, from_server = anyio.create_memory_object_stream[SessionMessage]()
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, to_server, sent.clone())
            group.start_soon(self._write, from_server)
            await run(received, sent)

    def _end(self, code: int) -> None:
        """Begin the end, from the event loop or a signal's handler. Only the first counts."""
        if self._code is None:
            self._code = code
            # Should the loop itself be held up, by whatever it is: nobody waits longer than this.
            last = threading.Timer(LAST_SECONDS, os._exit, [code])
            last.daemon = True
            last.start()
            with suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._reading.cancel()
        self._latest = anyio.current_time() + ANSWER_SECONDS
        self._give_grace()

    def _give_grace(self) -> None:
        self._writing.deadline = min(self._latest, anyio.current_time() + GRACE_SECONDS)

    async def _read(self, to_server: MemoryObjectSendStream[Incoming], refusals: Sent) -> None:
        lines = LineReader()
        async with to_server, refusals:
            with self._reading, suppress(anyio.BrokenResourceError):
                chunk = self._unread or await self._more()
                while chunk:
                    await self._pass_on(lines.of(chunk), to_server, refusals)
                    chunk = await self._more()
                await self._pass_on(lines.of(b"\n"), to_server, refusals)  # a last line without its end
            self._end(0)

    async def _pass_on(
        self, lines: Iterable[bytes], to_server: MemoryObjectSendStream[Incoming], refusals: Sent
    ) -> None:
        for line in lines:
            if (message := messages.message(line, MAX_LINE_BYTES)) is not None:
                await to_server.send(SessionMessage(message))
            elif (refusal := messages.refusal(line, MAX_LINE_BYTES)) is not None:
                for one in refusal if isinstance(refusal, list) else [refusal]:
                    await refusals.send(RefusedLine(one))

    async def _more(self) -> bytes:
        """The next bytes; none at the end of input."""
        if _events(self._source, select.POLLIN):
            await anyio.lowlevel.checkpoint()  # a file is always ready, and must not keep others from running
        else:
            await anyio.wait_readable(self._source)
        try:
            return os.read(self._source, CHUNK_BYTES)
        except OSError:  # a socket that was reset: nobody is there any more
            return b""

    async def _write(self, from_server: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with from_server:  # once it is closed, what is still sent is dropped
            with self._writing:
                try:
                    await self._put(self._unsent)
                    async for message in from_server:
                        if isinstance(message, RefusedLine) or not self._was_given(message.message):
                            await self._put(_line(message.message))
                except OSError:  # the host has closed its end, or is gone
                    self._end(0)

    async def _put(self, data: bytes) -> None:
        # Not made non-blocking: the descriptor may be shared, and that would change it for the others too.
        rest = memoryview(data)
        while rest:
            if _events(self._sink, select.POLLOUT):
                rest = rest[os.write(self._sink, rest[: select.PIPE_BUF]) :]  # as much as never blocks when it is ready
                if self._latest < math.inf:
                    self._give_grace()
                continue
            with anyio.move_on_after(BLOCKED_SECONDS) as waiting:
                await anyio.wait_writable(self._sink)
            if waiting.cancelled_caught and _events(self._source, 0) & _GONE:
                self._end(0)  # unread input may stand before the end of input, and nobody will read the answers

    def _was_given(self, message: JSONRPCMessage) -> bool:
        if self._given and isinstance(message, JSONRPCResponse | JSONRPCError) and message.id in self._given:
            self._given.remove(message.id)
            return True
        return False


class LineReader:
    """Puts chunks together to lines. Of one that is too long, the first `MAX_LINE_BYTES` and the last `TAIL_BYTES` come."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._tail = b""

    def of(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that this chunk ends, without their ends and without the empty ones."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._keep(piece)
            line = bytes(self._begun) + self._tail
            self._begun.clear()
            self._tail = b""
            if line and not line.isspace():
                yield line
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._begun)
        self._begun += piece[:room]
        self._tail = (self._tail + piece[room:])[-TAIL_BYTES:]


def _line(message: JSONRPCMessage) -> bytes:
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
    except pydantic_core.PydanticSerializationError:  # the name of a file, say, that is no UTF-8
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            return _line(JSONRPCError(jsonrpc="2.0", id=message.id, error=_NO_TEXT))
        return b""


def _events(descriptor: int, wanted: int) -> int:
    """What is the case with a descriptor just now, of what is wanted and of its end."""
    poll = select.poll()
    poll.register(descriptor, wanted | _GONE)
    return next((events for _, events in poll.poll(0)), 0)
