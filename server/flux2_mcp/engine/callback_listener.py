"""A listener for RunAPI's callbacks. A callback is only a hint: its body is not read, and the task is polled instead.

The signature scheme of the callbacks is not published (`api/runapi.md`, webhooks). So the callback URL of each task
holds a token that only RunAPI receives. A forged, duplicated or late callback can only cause one extra poll.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import anyio
from anyio.abc import SocketStream
from anyio.streams.stapled import MultiListener

from flux2_mcp.engine.callbacks import token
from flux2_mcp.errors import JournalError
from flux2_mcp.journal.contract import Callbacks, Leases
from flux2_mcp.system import one_shot_http
from flux2_mcp.system.logs import Outage
from flux2_mcp.system.one_shot_http import LocalReply, LocalRequest, OneShotServer

log = logging.getLogger("flux2_mcp.engine.callback_listener")

LOOK_SECONDS = 0.05
"""The interval at which the journal is checked for callbacks that another process received, seconds."""


class CallbackListener:
    """Listens on loopback. The user's tunnel or reverse proxy forwards the callbacks to it.

    Args:
        port: The port on 127.0.0.1.
        base_url: `FLUX2_CALLBACK_URL`, which is forwarded to that port.
        callbacks: Passes a callback to the process that holds the lease of the task.
        leases: Has a version that changes when another process writes to the journal.
        nudge: Called with the key of each task of this process for which a callback came.
        retry_seconds: The delay before a busy port is tried again: another process of ours has it, and may end.
        sleep: Waits for a number of seconds.
        listen: Opens the port.
        call_seconds: The maximum time for a caller to send its request.
    """

    def __init__(
        self,
        port: int,
        base_url: str,
        callbacks: Callbacks,
        leases: Leases,
        nudge: Callable[[str], None],
        *,
        retry_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        listen: Callable[[int], Awaitable[MultiListener[SocketStream]]] = one_shot_http.listen,
        call_seconds: float = one_shot_http.CALL_SECONDS,
    ) -> None:
        self._port = port
        self._base_url = base_url.rstrip("/")
        self._callbacks = callbacks
        self._leases = leases
        self._retry_seconds = retry_seconds
        self._sleep = sleep
        self._nudge = nudge
        self._open = listen
        self._server = OneShotServer(self._answer, call_seconds=call_seconds)

    async def run(self) -> None:
        """Listen for all our processes, and read the callbacks that another one received for us, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            version = None
            outage = Outage(log, "callbacks not looked for", "callbacks looked for again")
            while True:
                await self._sleep(LOOK_SECONDS)
                try:
                    if (latest := await self._leases.version()) != version:
                        version = latest
                        await self._pass_on()
                except JournalError as exc:
                    outage.fails(exc.reason)
                else:
                    outage.works()

    async def _listen(self) -> None:
        """Listen while this process has the port. When the process that has it ends, another takes over."""
        while True:
            try:
                async with await self._open(self._port) as listener:
                    await listener.serve(self._server.serve)
            except OSError:
                log.info("port %d is taken; the process that has it passes callbacks on", self._port)
            await self._sleep(self._retry_seconds)

    async def _answer(self, request: LocalRequest) -> LocalReply:
        await self._callbacks.mark(f"{self._base_url}/{token(request.target)}")
        await self._pass_on()
        return LocalReply(HTTPStatus.NO_CONTENT)

    async def _pass_on(self) -> None:
        for key in await self._callbacks.take():
            self._nudge(key)
