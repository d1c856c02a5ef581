"""Large calls and large answers: of one person there are few at once. Each is in memory, several times over, until it is answered.

Of those beyond, nothing is in memory: a call is not read, an answer not begun. They wait for those before them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from http import HTTPStatus

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flux2_mcp.domain.people import Caller
from flux2_mcp.server.team.uploads import READ_SECONDS
from flux2_mcp.system.turns import Turns

MOST_CALLS, MOST_ANSWERS = 8, 1
"""Large calls and large answers of one person at once. Measured: a call of 4 MB takes 20 MB of memory until it is answered."""
WAIT_SECONDS = READ_SECONDS - 10
"""How long a large call waits for its turn. Afterwards there is still time to say so."""
BUSY = JSONResponse(
    {
        "error": f"{MOST_CALLS} of your large calls are being answered, and none has ended for {WAIT_SECONDS:g} s. Call again later."
    },
    HTTPStatus.SERVICE_UNAVAILABLE,
    {"Retry-After": "10", "Cache-Control": "no-store"},
)
LARGE_BYTES = 256 * 1024
"""A larger call is a large one: more than fifty times the longest prompt, so it brings a picture."""


class LargeCalls:
    """Middleware that lets a large call begin in its person's turn. Until then it is not read.

    Args:
        app: The application behind it.
        path: The path of calls that may be large.
        caller: Returns who makes the call that is being served.
        wait_seconds: How long a call waits for its turn.
    """

    def __init__(
        self, app: ASGIApp, *, path: str, caller: Callable[[], Caller | None], wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._app = app
        self._path = path
        self._who = caller
        self._wait_seconds = wait_seconds
        self._turns = Turns(MOST_CALLS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] != "http" or scope["path"] != self._path or not _is_large(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        caller = self._who()
        scope["state"]["allow"](READ_SECONDS)
        try:
            with anyio.fail_after(self._wait_seconds):
                end = await self._turns.take(None if caller is None else caller.person.key)
        except TimeoutError:
            await BUSY(scope, receive, send)
            return
        try:
            scope["state"]["allow"](READ_SECONDS)
            await self._app(scope, receive, send)
        finally:
            end()


def _is_large(headers: Headers) -> bool:
    """Whether a call is large, or does not say how large it is."""
    return "transfer-encoding" in headers or int(headers.get("content-length", "0")) > LARGE_BYTES


class _Answer:
    """An answer under way."""

    def __init__(self) -> None:
        self._ends: list[Callable[[], None]] = []
        self._out = False

    def hold(self, end: Callable[[], None]) -> None:
        """Call `end` when the answer is out."""
        if self._out:
            end()
        else:
            self._ends.append(end)

    def out(self) -> None:
        """Note that all of it was sent, or that its caller has gone."""
        self._out = True
        for end in self._ends:
            end()


_ANSWER: ContextVar[_Answer] = ContextVar("_ANSWER")


class AnswersOut:
    """Middleware that knows when an answer is out.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        answer = _Answer()
        token = _ANSWER.set(answer)
        try:
            await self._app(scope, receive, send)
        finally:
            answer.out()
            _ANSWER.reset(token)


class LargeAnswers:
    """The turns of people for large answers.

    Args:
        caller: Returns who makes the call that is being served.
    """

    def __init__(self, caller: Callable[[], Caller | None]) -> None:
        self._who = caller
        self._turns = Turns(MOST_ANSWERS)

    async def begin(self) -> None:
        """Wait until the caller may be sent a large answer. Their turn ends when it is out, however slowly they read."""
        caller, answer = self._who(), _ANSWER.get()
        answer.hold(await self._turns.take(None if caller is None else caller.person.key))
