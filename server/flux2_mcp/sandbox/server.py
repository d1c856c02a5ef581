"""The embedded server. It listens on a loopback socket, in a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flux2_mcp.errors import SandboxError
from flux2_mcp.sandbox import app, tasks
from flux2_mcp.sandbox.state import BURST_CALLS, CALLS_PER_SECOND, OPENING_CENTS, SandboxState
from flux2_mcp.sandbox.tasks import SandboxTask
from flux2_mcp.system.http_server import listen, served
from flux2_mcp.system.loopback import HOST

START_SECONDS = 10.0
GRACE_SECONDS = 0.2
"""How long open calls may take to end when the server closes."""


class Sandbox:
    """One server over a sandbox folder. Several servers may share the folder, in one process or in several.

    Args:
        folder: `FLUX2_HOME/sandbox`. Made if missing, readable by its owner only.
        speed: The factor by which tasks made here run faster than RunAPI's; from 100 on, their pictures are plain.
        hybrid: Whether all tasks made here are hybrid: 202, a Location, and the result in an envelope from there.
        port: On 127.0.0.1; 0: any free one.
        seed: Makes the durations of tasks reproducible; None: random durations.
        rate: Calls a second that the key may make in the long run; None: no limit.
        burst: Calls that it may make at once.
        opening_cents: The balance of a fresh folder, in cents.
    """

    def __init__(
        self,
        folder: Path,
        *,
        speed: float = 1.0,
        hybrid: bool = False,
        port: int = 0,
        seed: int | None = None,
        rate: float | None = CALLS_PER_SECOND,
        burst: int = BURST_CALLS,
        opening_cents: int = OPENING_CENTS,
    ) -> None:
        self._folder = folder
        self._port = port
        self._options: dict[str, Any] = {
            "speed": speed,
            "hybrid": hybrid,
            "seed": seed,
            "rate": rate,
            "burst": burst,
            "opening_cents": opening_cents,
        }
        self._state: SandboxState | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None

    def start(self) -> Self:
        """Start to serve; return when the server answers.

        Raises:
            SandboxError: The folder can't be used, the port is taken, or the server did not come up.
        """
        state = SandboxState(self._folder, **self._options)
        try:
            listener = listen(self._port)
        except OSError as exc:
            state.close()
            raise SandboxError(
                f"The sandbox can't listen on port {self._port} of {HOST}.",
                next_step="Choose another port, or 0 for any.",
            ) from exc
        self._state = state
        self._port = int(listener.getsockname()[1])
        up: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(listener, up), name="flux2-sandbox", daemon=True)
        self._thread.start()
        try:
            up.result(START_SECONDS)
        except Exception as exc:
            self.close()
            raise SandboxError("The sandbox's server did not come up.") from exc
        return self

    def close(self) -> None:
        """Stop serving and release the folder; open calls get `GRACE_SECONDS`. A second call does nothing."""
        if self._thread is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended by itself
                self._stop()
            self._thread.join()
            self._thread = None
        if self._state is not None:
            self._state.close()
            self._state = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """The server's address, without a slash at its end: `http://127.0.0.1:PORT`."""
        _ = self.state
        return f"http://{HOST}:{self._port}"

    @property
    def api_key(self) -> str:
        """The only key that the server accepts."""
        return self.state.api_key

    @property
    def state(self) -> SandboxState:
        """The open folder.

        Raises:
            SandboxError: The server was not started, or is closed.
        """
        if self._state is None:
            raise SandboxError("The sandbox is not running.")
        return self._state

    def tasks(self) -> list[SandboxTask]:
        """All tasks that were ever made in the folder, oldest first, with their counters."""
        return tasks.every(self.state)

    def creates(self) -> int:
        """The number of create calls with the right key that the folder's servers have received."""
        return self.state.counted("creates")

    def _run(self, listener: socket.socket, up: Future[None]) -> None:
        try:
            with listener:
                asyncio.run(self._serve(listener, up))
        except BaseException as exc:
            if up.done():
                raise
            up.set_exception(exc)

    async def _serve(self, listener: socket.socket, up: Future[None]) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        self._stop = partial(loop.call_soon_threadsafe, stop.set)
        application = app.create(self.state, self.base_url)
        async with (
            application.router.lifespan_context(application),
            served(application, listener, grace_seconds=GRACE_SECONDS, guarded=False),
        ):
            up.set_result(None)
            await stop.wait()
