"""The service of a server, and its login: a client without a key can send its user to a login page.

After the login, the same server opens a second service with the key, beside the first service without one.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.streams.stapled import MultiListener
from msgspec import Struct, field
from msgspec.structs import replace

from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import AuthenticationError, Flux2Error, SettingsError
from flux2_mcp.settings import Settings

if TYPE_CHECKING:  # loaded when a login begins, or with the first answer about tasks
    from flux2_mcp.domain.people import Caller
    from flux2_mcp.runapi.login.pkce import LoginAttempt
    from flux2_mcp.runapi.login.redeem import LoginResult
    from flux2_mcp.server.results.tasks import Link

log = logging.getLogger("flux2_mcp.runapi.login")

LOGIN_SECONDS = 600.0
"""The maximum time for a login after it was offered."""
CONFIG = "RunAPI's config file"


class LoginOffer(Struct, frozen=True):
    """A login that waits for the user: its page, the code that the page must show; `over` is set at the end."""

    url: str
    display_code: str
    ident: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    over: anyio.Event = field(default_factory=anyio.Event)

    __repr__ = repr_without("url")


class ServerSession:
    """The current service of a server, and its login.

    Args:
        first: An open service; its task group runs the login and the second service. Or the error if there is none.
        seam: Replaces parts of the usual seam of the second service; see `Service.opened`.
        remote: Whether the callers are on other machines: then a path of theirs means nothing here.
        caller: Returns who makes the call that is being served; None: the server asks nobody who they are.
        link: Makes links to images, for callers on other machines; None: they have the images' files.
        before_much: Awaited before much is read to be sent at once: where many people share the server, it waits for a turn.
    """

    def __init__(
        self,
        first: Service | SettingsError,
        seam: Callable[[Seam], Seam] | None = None,
        *,
        remote: bool = False,
        caller: Callable[[], Caller | None] | None = None,
        link: Link | None = None,
        before_much: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
    ) -> None:
        self._present = first
        self._seam = seam
        self.remote = remote
        self.link = link
        self.before_much = before_much
        self._caller = caller
        self._offer: LoginOffer | None = None

    @property
    def service(self) -> Service:
        """The current service, as the caller of the call that is being served may use it. All answers come from here.

        Raises:
            SettingsError: There is no service, because a setting that it needs is unusable.
            AuthenticationError: The server knows people, and this call is nobody's.
        """
        if self._caller is None:
            return self.whole
        if (caller := self._caller()) is None:
            raise AuthenticationError("Nobody has signed in for this call.", status=401, next_step="Sign in again.")
        return self.whole.of(caller)

    @property
    def whole(self) -> Service:
        """The current service with everybody's tasks: for the process itself, and for no answer to a call.

        Raises:
            SettingsError: As `service`.
        """
        if isinstance(self._present, SettingsError):
            raise self._present.with_traceback(None)  # without this, each raise would add its frames
        return self._present

    @property
    def usable(self) -> bool:
        """Whether there is a service."""
        return not isinstance(self._present, SettingsError)

    @property
    def lacks_key(self) -> bool:
        """Whether the mode is live and there is no key."""
        return self.usable and self.whole.settings.mode == "live" and self.whole.settings.api_key is None

    async def offer(self) -> LoginOffer | None:
        """Return the waiting login, or begin one. None if a key could not be stored.

        Raises:
            OSError: No port could be opened for the login.
        """
        first = self.whole  # a later one has a key
        path = first.settings.config_path
        if path is None:
            return None
        if self._offer is None:
            from flux2_mcp.runapi.login.pkce import LoginAttempt
            from flux2_mcp.system import one_shot_http

            listener = await one_shot_http.listen(0)
            attempt = LoginAttempt(port=listener.extra(SocketAttribute.local_port))  # noqa: S610  # no Django here
            url = attempt.address(first.settings.base_url, socket.gethostname())
            self._offer = LoginOffer(url, attempt.display_code)
            first.background.start_soon(self._log_in, first, self._offer, attempt, listener, path)
        return self._offer

    async def _log_in(
        self,
        first: Service,
        offer: LoginOffer,
        attempt: LoginAttempt,
        listener: MultiListener[SocketStream],
        path: Path,
    ) -> None:
        from flux2_mcp.runapi.login.callback import LoginCallback
        from flux2_mcp.runapi.login.redeem import redeem

        async def finish(code: str) -> LoginResult:
            base_url, hostname = first.settings.base_url, socket.gethostname()
            return await redeem(attempt, code, base_url=base_url, hostname=hostname, path=path)

        callback = LoginCallback(attempt, finish)
        try:
            await callback.run(listener, LOGIN_SECONDS)
            if (redeemed := callback.result()) is not None:
                settings = replace(first.settings, api_key=redeemed.key, key_source=CONFIG)
                await first.background.start(self._serve, settings)
                log.info("logged in")
        except Flux2Error as exc:
            log.warning("not logged in: %s", type(exc).__name__)
        finally:
            self._offer = None
            offer.over.set()

    async def _serve(self, settings: Settings, *, task_status: TaskStatus[None]) -> None:
        async with Service.opened(settings, seam=self._seam) as service:
            self._present = service
            task_status.started()
            await anyio.sleep_forever()
