"""Our stdio transport: one host on standard input and output, one message on each line (MCP, transports, stdio).

The SDK's own transport (mcp 2.3.0, `server/stdio.py`) reads and writes in threads that can't be woken: after a signal,
or if the host does not read, the process hangs. It also drops a line that is no message, without an error. This
transport waits in the event loop, and uses the same two streams of the SDK. A signal, the end of input and a lost host
all end it in the same way: it stops reading, waiting requests are answered, and the lifespan closes.

POSIX only: Windows can't poll a pipe, and uses the SDK's transport.
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

Incoming: TypeAlias = SessionMessage | Exception  # the SDK's type; this transport sends no exceptions
Received: TypeAlias = MemoryObjectReceiveStream[Incoming]
Sent: TypeAlias = MemoryObjectSendStream[SessionMessage]

NO_JSON = 4
"""The exit code after a typed line that is no JSON: that of a command with wrong arguments."""
CHUNK_BYTES = 65_536
MAX_LINE_BYTES = 16 * 2**20
"""The maximum length of a line; the arguments of a tool take a few thousand bytes."""
TAIL_BYTES = 4096
"""Of a longer line, its end is stored, too: many clients write the id of a request last, and the error needs the id."""
BLOCKED_SECONDS = 0.1
"""After this time with a full pipe, check whether the host still exists."""
GRACE_SECONDS = 0.1
"""After the shutdown has begun, the maximum time to write the last answers to a host that does not read."""
ANSWER_SECONDS = 0.25
"""The same for a host that reads."""
LAST_SECONDS = 0.4
"""The process exits this long after the shutdown has begun, even if something blocks. The journal survives any exit."""

_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)  # POLLRDHUP, on Linux: a half-closed socket
_NO_TEXT = ErrorData(code=INTERNAL_ERROR, message="Internal error: the answer holds text that is no UTF-8.")


class RefusedLine(SessionMessage):
    """Our error for a line. It is always sent, even if its id was answered before: the line gets no other answer."""


class StdioTransport:
    """Serves one host. Use it once, on the main thread, because it handles signals.

    Args:
        source: The descriptor of the input, to which the host writes.
        sink: The descriptor of the output, from which the host reads.
        unread: Input that was read from `source` before.
        unsent: Output that still has to be written to `sink`.
        given: The ids of requests that were answered before: the server's own answers to them are dropped.
        typed: Whether the input is a terminal. There a line that is no JSON is a person's, and ends it with code 4.
    """

    def __init__(
        self, source: int, sink: int, unread: bytes, unsent: bytes, given: Iterable[RequestId], *, typed: bool = False
    ) -> None:
        self._source = source
        self._sink = sink
        self._unread = unread
        self._unsent = unsent
        self._given = set(given)
        self._typed = typed
        self._code: int | None = None
        self._latest = math.inf

    def serve(self, run: Callable[[Received, Sent], Awaitable[None]]) -> int:
        """Serve until a signal, the end of input, or the loss of the host.

        Args:
            run: Serves over a stream of incoming and one of outgoing messages until the input ends, and closes both.

        Returns:
            The exit code: 0, 128 and the number of the signal, or 4 after a typed line that is no JSON.
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
        """Begin the shutdown, from the event loop or a signal handler. Only the first call counts."""
        if self._code is None:
            self._code = code
            # If something blocks the event loop, the process still exits after this time.
            last = threading.Timer(LAST_SECONDS, os._exit, [code])
            last.daemon = True
            last.start()
            with suppress(RuntimeError):  # the loop has just ended
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
                await self._pass_on(lines.of(b"\n"), to_server, refusals)  # the last line may have no newline
            self._end(0)

    async def _pass_on(
        self, lines: Iterable[bytes], to_server: MemoryObjectSendStream[Incoming], refusals: Sent
    ) -> None:
        for line in lines:
            if self._typed and not messages.is_json(line):
                self._end(NO_JSON)
                return  # what was pasted with it is not the server's, either
            if (message := messages.message(line, MAX_LINE_BYTES)) is not None:
                await to_server.send(SessionMessage(message))
            elif (refusal := messages.refusal(line, MAX_LINE_BYTES)) is not None:
                for one in refusal if isinstance(refusal, list) else [refusal]:
                    await refusals.send(RefusedLine(one))

    async def _more(self) -> bytes:
        """Return the next bytes of the input; empty at its end."""
        if _events(self._source, select.POLLIN):
            await anyio.lowlevel.checkpoint()  # a file is always ready, so let other tasks run
        else:
            await anyio.wait_readable(self._source)
        try:
            return os.read(self._source, CHUNK_BYTES)
        except OSError:  # a reset socket: the host is gone
            return b""

    async def _write(self, from_server: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with from_server:  # after it is closed, further messages are dropped
            with self._writing:
                try:
                    await self._put(self._unsent)
                    async for message in from_server:
                        if isinstance(message, RefusedLine) or not self._was_given(message.message):
                            await self._put(_line(message.message))
                except OSError:  # the host has closed its end, or is gone
                    self._end(0)

    async def _put(self, data: bytes) -> None:
        # The descriptor stays blocking: it may be shared, and a change would affect the other processes, too.
        rest = memoryview(data)
        while rest:
            if _events(self._sink, select.POLLOUT):
                rest = rest[os.write(self._sink, rest[: select.PIPE_BUF]) :]  # this much never blocks
                if self._latest < math.inf:
                    self._give_grace()
                continue
            with anyio.move_on_after(BLOCKED_SECONDS) as waiting:
                await anyio.wait_writable(self._sink)
            if waiting.cancelled_caught and _events(self._source, 0) & _GONE:
                self._end(0)  # the host is gone, though unread input may hide the end of input

    def _was_given(self, message: JSONRPCMessage) -> bool:
        if self._given and isinstance(message, JSONRPCResponse | JSONRPCError) and message.id in self._given:
            self._given.remove(message.id)
            return True
        return False


class LineReader:
    """Assembles lines from chunks. Of a line that is too long, the first MAX_LINE_BYTES and last TAIL_BYTES stay."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._tail = b""

    def of(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that end in this chunk, without newlines and without empty lines."""
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
    except pydantic_core.PydanticSerializationError:  # for example, a file name that is no UTF-8
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            return _line(JSONRPCError(jsonrpc="2.0", id=message.id, error=_NO_TEXT))
        return b""


def _events(descriptor: int, wanted: int) -> int:
    """Return the current poll events of a descriptor: the wanted ones, and those of its end."""
    poll = select.poll()
    poll.register(descriptor, wanted | _GONE)
    return next((events for _, events in poll.poll(0)), 0)
