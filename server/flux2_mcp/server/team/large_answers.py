"""Large answers: one person is sent one at a time. An answer is in memory, several times over, until its last byte is out."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send

from flux2_mcp.domain.people import Caller
from flux2_mcp.system.turns import Turns

MOST_OF_ONE = 1


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
        self._turns = Turns(MOST_OF_ONE)

    async def begin(self) -> None:
        """Wait until the caller may be sent a large answer. Their turn ends when it is out, however slowly they read."""
        caller, answer = self._who(), _ANSWER.get()
        answer.hold(await self._turns.take(None if caller is None else caller.person.key))
