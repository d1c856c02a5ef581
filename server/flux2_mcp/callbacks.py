"""A listener for RunAPI's callbacks. A callback is only a hint to look: its body is not read, and what is true is asked for.

The signature scheme of the callbacks is not published (`api/runapi.md`, webhooks). So each task's address holds a token that
only RunAPI was told, and all that a forged, duplicated or late callback can do is to make us ask once.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio.abc import ByteStream

from flux2_mcp.errors import JournalError
from flux2_mcp.journal.entry import Journal

log = logging.getLogger("flux2_mcp.callbacks")

HOST = "127.0.0.1"
CALL_SECONDS = 5.0
"""How long one caller may take to say what it wants."""
LOOK_SECONDS = 0.05
"""How often the journal is looked at for calls that another process took."""
RETRY_SECONDS = 1.0
"""Seconds until a taken port is tried again: it belongs to another process of ours, which may end."""
MOST_CALLERS = 64
"""At once. For one more, the oldest is hung up on: who holds connections open must neither keep RunAPI out nor use up
the process's files."""
LARGEST = 1024 * 1024
"""Bytes of a call that are read and thrown away, so that the caller gets to hear the answer. A task is some kB."""


def address(base_url: str, secret: str, key: str) -> str:
    """Where RunAPI calls back for the task with this idempotency key. The same in every process that knows the secret."""
    token = hmac.new(secret.encode(), key.encode(), hashlib.sha256).hexdigest()[:32]
    return f"{base_url.rstrip('/')}/{token}"


class Callbacks:
    """Listens on loopback; a tunnel or a reverse proxy of the user's leads there.

    Args:
        port: On 127.0.0.1.
        base_url: `FLUX2_CALLBACK_URL`, which leads to that port.
        journal: Carries a call to the process that keeps the task.
        nudge: Told the key of each task of this process that RunAPI called for.
    """

    def __init__(self, port: int, base_url: str, journal: Journal, nudge: Callable[[str], None]) -> None:
        self._port = port
        self._base_url = base_url.rstrip("/")
        self._journal = journal
        self._nudge = nudge
        self._callers = deque[anyio.CancelScope]()

    async def run(self) -> None:
        """Listen, for all our processes, and look for what another one heard for us, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            version = None
            while True:
                await anyio.sleep(LOOK_SECONDS)
                try:
                    if (latest := await self._journal.version()) != version:
                        version = latest
                        await self._pass_on()
                except JournalError as exc:
                    log.warning("callbacks not looked for: %s", exc.message)

    async def _listen(self) -> None:
        """One process has the port; another takes over when it ends."""
        while True:
            try:
                async with await anyio.create_tcp_listener(local_host=HOST, local_port=self._port) as listener:
                    await listener.serve(self._serve)
            except OSError:
                log.info("port %d is taken; callbacks come by the process that has it", self._port)
            await anyio.sleep(RETRY_SECONDS)

    async def _serve(self, stream: ByteStream) -> None:
        call = anyio.CancelScope(deadline=anyio.current_time() + CALL_SECONDS)
        self._callers.append(call)
        if len(self._callers) > MOST_CALLERS:
            self._callers.popleft().cancel()
        try:
            async with stream:
                with call:
                    await self._hear(stream)
        except Exception:  # whatever a caller does, the next one is heard
            log.debug("a caller did not speak HTTP, or hung up", exc_info=True)
        finally:
            with suppress(ValueError):
                self._callers.remove(call)

    async def _hear(self, stream: ByteStream) -> None:
        import h11

        connection, size = h11.Connection(h11.SERVER), 0
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                data = await stream.receive(4096)
                size += len(data)
                if size > LARGEST:
                    return
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                await self._journal.nudge(f"{self._base_url}/{_token(event.target)}")
                await self._pass_on()
        answer = h11.Response(status_code=204, headers=[("Connection", "close")])
        await stream.send(connection.send(answer) or b"")

    async def _pass_on(self) -> None:
        for key in await self._journal.nudged():
            self._nudge(key)


def _token(target: bytes) -> str:
    return target.partition(b"?")[0].rpartition(b"/")[2].decode("ascii", "replace")
