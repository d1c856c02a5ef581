"""The local address to which the browser returns. One answer is accepted; any other request changes nothing."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
from anyio.abc import SocketStream
from anyio.streams.stapled import MultiListener

from flux2_mcp.errors import LoginError
from flux2_mcp.runapi.login import page
from flux2_mcp.runapi.login.page import LOGIN_LOST, LOGIN_USED, NOT_OUR_LOGIN, LoginPage
from flux2_mcp.runapi.login.redeem import LoginResult
from flux2_mcp.system.loopback import HOST, plain_name
from flux2_mcp.system.one_shot_http import LocalReply, LocalRequest, OneShotServer

PATH = "/callback"
ANSWER_SECONDS = 300.0
"""How long the answer to a browser may take: the page shows the result of the exchange, which may take RunAPI long."""
LAST_WORDS_SECONDS = 5.0
"""How long a browser may take to receive its page before the process ends."""

Finish = Callable[[str], Awaitable[LoginResult]]


class Attempt(Protocol):
    """What an answer must be for; see `pkce.LoginAttempt`."""

    @property
    def port(self) -> int:
        """Where the browser comes back to."""
        ...

    def answer(self, query: str) -> str | LoginError | None:
        """The code in a query string, a refusal, or None if it is not for this attempt."""
        ...

    def pasted(self, text: str) -> str | LoginError | None:
        """The same in a text that a person pasted."""
        ...


class LoginCallback:
    """`http://127.0.0.1:<port>/callback`, for one attempt.

    Args:
        attempt: What an answer must be for.
        finish: Called with the code, once. `result` returns or raises what it did; the browser's page shows it too.
        last_words_seconds: How long a browser may take to read its page before `run` ends.
    """

    def __init__(self, attempt: Attempt, finish: Finish, *, last_words_seconds: float = LAST_WORDS_SECONDS) -> None:
        self._attempt = attempt
        self._finish = finish
        self._last_words_seconds = last_words_seconds
        self._hosts = {f"{name}:{attempt.port}" for name in (HOST, "localhost")}
        self._waiting = anyio.CancelScope()
        self._taken = False
        self._ended = anyio.Event()
        self._result: LoginResult | Exception | None = None

    async def run(self, listener: MultiListener[SocketStream], seconds: float) -> None:
        """Wait for the answer and complete the login; `result` then gives the outcome.

        Args:
            listener: A listener on the attempt's port. It is closed at the end.
            seconds: How long to wait for an answer. The time for its exchange is not counted.
        """
        door = OneShotServer(self._answer, answer_seconds=ANSWER_SECONDS)
        async with anyio.create_task_group() as callers:
            async with listener, anyio.create_task_group() as group:
                group.start_soon(listener.serve, door.serve, callers)
                with self._waiting:
                    self._waiting.deadline = anyio.current_time() + seconds
                    await self._ended.wait()
                # Later requests are too late; a browser that was heard still gets its page.
                self._taken = True
                group.cancel_scope.cancel()
            door.hush()  # browsers open connections in advance, and keep them
            callers.cancel_scope.deadline = anyio.current_time() + self._last_words_seconds

    @property
    def deadline(self) -> float:
        """When it ends without an answer, by `anyio.current_time`; infinite once there is one, and before `run`."""
        return self._waiting.deadline

    def result(self) -> LoginResult | None:
        """What `finish` gave; None where no answer came in time.

        Raises:
            LoginError: The answer was a refusal; else what `finish` raised.
        """
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    async def take(self, found: str | LoginError) -> LoginPage:
        """Accept the one answer, from the browser or pasted by a person. A second one changes nothing."""
        if self._taken:
            return LOGIN_USED
        self._taken, self._waiting.deadline = True, math.inf
        try:
            self._result = found if isinstance(found, LoginError) else await self._finished(found)
        finally:
            self._ended.set()
        return page.ended(self._result)

    async def _finished(self, code: str) -> LoginResult | Exception:
        try:
            return await self._finish(code)
        except Exception as exc:  # noqa: BLE001  # `result` raises it to its caller
            return exc

    async def _answer(self, request: LocalRequest) -> LocalReply:
        return page.reply(await self._page(request))

    async def _page(self, request: LocalRequest) -> LoginPage:
        path, _, query = request.target.partition("?")
        if plain_name(request.headers.get("host", "")) not in self._hosts:
            return NOT_OUR_LOGIN  # a foreign name that resolves to this machine: a web page may be asking
        if request.method != "GET" or path != PATH:
            return LOGIN_LOST
        found = self._attempt.answer(query)
        return NOT_OUR_LOGIN if found is None else await self.take(found)
