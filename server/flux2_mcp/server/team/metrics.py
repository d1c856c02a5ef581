"""`/metrics`, for Prometheus: numbers alone, no names of people, pictures or places.

Tasks and money come from the journal, so every server that shares it says the same of them: take the largest, not the sum.
The rest is what this process has seen since its start.
"""

from __future__ import annotations

import hmac
from functools import partial
from http import HTTPStatus
from time import monotonic
from urllib.parse import urlsplit

from msgspec.structs import replace
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.urls import is_loopback
from flux2_mcp.engine.health import KeptResult
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import JournalError
from flux2_mcp.server.team.personal import Bearers
from flux2_mcp.server.team.sign_in import bearer_token
from flux2_mcp.server.team.tokens import Refusal
from flux2_mcp.server.team.traffic import Traffic

PATH = "/metrics"
TOKEN_FILE = "metrics-token"  # noqa: S105 - a file's name
DELAYS_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
REFUSED = "The numbers are for the token in FLUX2_HOME/metrics-token, and for admins."


class Numbers:
    """Counts what happens in this process, and reads the rest from the journal.

    Args:
        traffic: Knows how many calls are under way.
    """

    def __init__(self, traffic: Traffic) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._tasks = Gauge("flux2_tasks", "Tasks in the journal, by state.", ["state"], registry=registry)
        self._charged = Gauge("flux2_charged_usd", "What RunAPI has charged for all tasks.", registry=registry)
        self._day = Gauge("flux2_day_usd", "What counts against the cap of 24 hours.", registry=registry)
        self._journal = Gauge("flux2_journal_up", "1 if the journal could be read.", registry=registry)
        calls = Gauge("flux2_calls_under_way", "Calls that this process is answering.", registry=registry)
        calls.set_function(lambda: traffic.calls)
        self._answers = Counter(
            "flux2_runapi_answers", "RunAPI's answers, by status; none: no answer came.", ["status"], registry=registry
        )
        self._delays = Histogram(
            "flux2_end_unknown_seconds",
            "How long, at most, the end of a task was not known: since the last poll that found it open.",
            buckets=DELAYS_SECONDS,
            registry=registry,
        )

    def watching(self, seam: Seam) -> Seam:
        """Return the seam with which a service tells what happens."""
        seam.backend.on_answer = self._answered
        return replace(seam, on_ended=self._delays.observe)

    def _answered(self, status: int | None) -> None:
        self._answers.labels("none" if status is None else str(status)).inc()

    def text(self) -> bytes:
        """Return all numbers, in Prometheus's format."""
        return generate_latest(self._registry)

    def journal_is_late(self) -> None:
        """Note that the journal does not answer. The numbers from it keep the values that were read last."""
        self._journal.set(0)

    async def read(self, service: Service) -> None:
        """Read the journal."""
        try:
            matched, spent = await service.figures()
        except JournalError:
            self.journal_is_late()
            return
        self._journal.set(1)
        self._charged.set(float(matched.charged_usd or 0))
        self._day.set(float(spent.daily_usd))
        for state in State:
            self._tasks.labels(state.value).set(matched.states.get(state, 0))


def route(numbers: Numbers, service: Service, tokens: Bearers, reader: str, public: str) -> Route:
    """Return the route.

    Args:
        numbers: What it answers.
        service: Has the journal.
        tokens: Checks the tokens of people.
        reader: The token of a program that reads the numbers.
        public: The public address of the server. If it is one of this machine, no proxy stands before it, and calls from here
            need no token.
    """
    alone = is_loopback(urlsplit(public).hostname)
    kept = KeptResult(partial(numbers.read, service), service.background, monotonic)

    async def refusal(given: str | None) -> Refusal | None:
        if given is None:
            return Refusal(HTTPStatus.UNAUTHORIZED, None, REFUSED)
        if hmac.compare_digest(given.encode("latin-1"), reader.encode("ascii")):
            return None
        found = await tokens.check(given)
        if isinstance(found, Refusal):
            return found
        return None if found.person.admin else Refusal(HTTPStatus.FORBIDDEN, "insufficient_scope", REFUSED)

    async def answer(request: Request) -> Response:
        refused = None if alone and request.state.near else await refusal(bearer_token(request.headers))
        if refused is not None:
            challenge = "Bearer" if refused.error is None else f'Bearer error="{refused.error}"'
            return PlainTextResponse(f"{refused.text}\n", refused.status, {"WWW-Authenticate": challenge})
        if not await kept.fresh():
            numbers.journal_is_late()
        return Response(numbers.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Route(PATH, answer, methods=["GET"])
