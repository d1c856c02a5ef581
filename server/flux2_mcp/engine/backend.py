"""The only way to RunAPI: the live service, or the embedded sandbox over the same HTTP. It opens at its first use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from flux2_mcp import __version__
from flux2_mcp.domain import account_names
from flux2_mcp.domain.models import SANDBOX
from flux2_mcp.domain.urls import one_spelling
from flux2_mcp.errors import GET_A_KEY, AuthenticationError, Wording
from flux2_mcp.settings import Settings

if TYPE_CHECKING:
    from flux2_mcp.runapi.client import RunApi
    from flux2_mcp.sandbox.server import Sandbox

UNAUTHORIZED = 401

Connect: TypeAlias = "Callable[[str, str | None], RunApi]"
"""Makes a client of RunAPI from its base URL and a key."""


def account_name(settings: Settings) -> str:
    """Return a name for the service and the key that does not reveal the key. The journal files tasks under it."""
    if settings.mode == "sandbox":
        return SANDBOX
    return account_names.account_name(one_spelling(urlsplit(settings.base_url).netloc), settings.api_key)


class Backend:
    """Holds the process's one client and, in sandbox mode, its embedded RunAPI.

    Args:
        settings: Name the service and the key.
        gate: Awaited before each call to RunAPI: the limiter that all processes share.
        on_limited: Called at each 429 with its `Retry-After` in seconds.
        connect: Makes the client from a base URL and a key, at the first use.

    Attributes:
        on_answer: Called with the status of each of RunAPI's answers; None: no answer came.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        gate: Callable[[], Awaitable[None]],
        on_limited: Callable[[float | None], Awaitable[None]],
        connect: Connect | None = None,
    ) -> None:
        self._settings = settings
        self._connect = connect or partial(_http, gate=gate, on_limited=on_limited, on_answer=self._answered)
        self.on_answer: Callable[[int | None], None] | None = None
        self._lock = anyio.Lock()
        self._api: RunApi | None = None
        self._sandbox: Sandbox | None = None

    @property
    def sandbox(self) -> bool:
        """Whether the sandbox draws the images and nothing is paid."""
        return self._settings.mode == "sandbox"

    @property
    def base_url(self) -> str:
        """The base URL of RunAPI; in sandbox mode, that of the sandbox once it has started."""
        return self._sandbox.base_url if self._sandbox is not None else self._settings.base_url

    def require_key(self) -> None:
        """Check that there is a key, before a call that costs money.

        Raises:
            AuthenticationError: Live mode without a key.
        """
        if not self.has_key:
            raise AuthenticationError(
                "There is no RunAPI key and FLUX2_MODE is live.",
                status=UNAUTHORIZED,
                next_step=Wording(
                    "Get a key: {key}; or set FLUX2_MODE=sandbox to try without one. Then {name:start the server again}.",
                    key=GET_A_KEY,
                ),
            )

    @property
    def has_key(self) -> bool:
        """Whether calls that need a key are possible; the sandbox has its own key."""
        return self.sandbox or self._settings.api_key is not None

    def _answered(self, status: int | None) -> None:
        if self.on_answer is not None:
            self.on_answer(status)

    async def api(self) -> RunApi:
        """Return the client. Without a key, only calls that need no key work.

        Raises:
            SandboxError: The sandbox could not start.
        """
        async with self._lock:
            if self._api is None:
                self._api = await self._open()
            return self._api

    async def _open(self) -> RunApi:
        settings = self._settings
        base_url, key = settings.base_url, settings.api_key
        if self.sandbox:
            from flux2_mcp.sandbox.server import Sandbox

            self._sandbox = Sandbox(settings.home / "sandbox", speed=settings.sandbox_speed)
            await anyio.to_thread.run_sync(self._sandbox.start)
            base_url, key = self._sandbox.base_url, self._sandbox.api_key
        return self._connect(base_url, key)

    async def close(self) -> None:
        """Close the client and stop the sandbox."""
        if self._api is not None:
            await self._api.aclose()
        if self._sandbox is not None:
            await anyio.to_thread.run_sync(self._sandbox.close)


def _http(
    base_url: str,
    key: str | None,
    *,
    gate: Callable[[], Awaitable[None]],
    on_limited: Callable[[float | None], Awaitable[None]],
    on_answer: Callable[[int | None], None],
) -> RunApi:
    from flux2_mcp.runapi.client import RunApi

    return RunApi(base_url, key, version=__version__, gate=gate, on_limited=on_limited, on_answer=on_answer)
