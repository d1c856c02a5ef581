"""A listener for RunAPI's callbacks. A callback is only a hint to look: its body is not read; RunAPI is asked for the truth.

The signature scheme of the callbacks is not published (`api/runapi.md`, webhooks). So each task's address holds a token that
only RunAPI was told, and all that a forged, duplicated or late callback can do is to make us ask once.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import anyio
from anyio.abc import SocketStream
from anyio.streams.stapled import MultiListener

from flux2_mcp.errors import JournalError
from flux2_mcp.journal.contract import Callbacks, Leases
from flux2_mcp.system import one_shot_http
from flux2_mcp.system.logs import fields
from flux2_mcp.system.one_shot_http import LocalReply, LocalRequest, OneShotServer

log = logging.getLogger("flux2_mcp.engine.callback_listener")

LOOK_SECONDS = 0.05
"""How often the journal is looked at for calls that another process took."""
RETRY_SECONDS = 1.0


def address(base_url: str, secret: str, key: str) -> str:
    """Where RunAPI calls back for the task with this idempotency key. The same in every process that knows the secret."""
    token = hmac.new(secret.encode(), key.encode(), hashlib.sha256).hexdigest()[:32]
    return f"{base_url.rstrip('/')}/{token}"


class CallbackListener:
    """Listens on loopback; a tunnel or a reverse proxy of the user's leads there.

    Args:
        port: On 127.0.0.1.
        base_url: `FLUX2_CALLBACK_URL`, which leads to that port.
        callbacks: Carries a call to the process that looks after the task.
        leases: Tells that another process has written.
        nudge: Called with the key of each task of this process that RunAPI called back for.
        retry_seconds: Until a port that is taken is tried again: it belongs to another process of ours, which may end.
        sleep: Waits for a number of seconds.
        listen: Opens the port.
        call_seconds: How long a caller may take to say what it wants.
    """

    def __init__(
        self,
        port: int,
        base_url: str,
        callbacks: Callbacks,
        leases: Leases,
        nudge: Callable[[str], None],
        *,
        retry_seconds: float = RETRY_SECONDS,
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
        """Listen, for all our processes, and look for what another one heard for us, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            version = None
            while True:
                await self._sleep(LOOK_SECONDS)
                try:
                    if (latest := await self._leases.version()) != version:
                        version = latest
                        await self._pass_on()
                except JournalError as exc:
                    log.warning("callbacks not looked for", extra=fields(reason=exc.reason))

    async def _listen(self) -> None:
        """One process has the port; another takes over when it ends."""
        while True:
            try:
                async with await self._open(self._port) as listener:
                    await listener.serve(self._server.serve)
            except OSError:
                log.info("port %d is taken; callbacks come by the process that has it", self._port)
            await self._sleep(self._retry_seconds)

    async def _answer(self, request: LocalRequest) -> LocalReply:
        await self._callbacks.mark(f"{self._base_url}/{_token(request.target)}")
        await self._pass_on()
        return LocalReply(HTTPStatus.NO_CONTENT)

    async def _pass_on(self) -> None:
        for key in await self._callbacks.take():
            self._nudge(key)


def _token(target: str) -> str:
    return target.partition("?")[0].rpartition("/")[2]
