"""Services over a real sandbox, with a front between them that sees every call and may answer in the sandbox's place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from weakref import WeakKeyDictionary

import anyio
import h11
from msgspec import structs
from PIL import Image
from starlette.types import Message

from flux2_mcp.domain import catalog
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine import planner
from flux2_mcp.engine.backend import Backend, Connect
from flux2_mcp.engine.forecast import Kind
from flux2_mcp.engine.planner import OpenTask, PollTime
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.submission import CheckedRequest
from flux2_mcp.engine.waiting import Outcome
from flux2_mcp.journal.contract import Journal
from flux2_mcp.runapi.client import RunApi
from flux2_mcp.sandbox import app, tasks
from flux2_mcp.sandbox.state import SandboxState
from flux2_mcp.sandbox.tasks import SandboxTask
from flux2_mcp.settings import Settings

SPEED = 1000.0
CREATE, POLL, FETCH = "POST /api/v1/flux_2/", "GET /api/v1/flux_2/", "GET /results/"
PATIENCE = 60.0


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


BUSY = Reply(503, b'{"error": "Service unavailable"}')
PAGE = Reply(502, b"<!doctype html><html><title>Bad gateway</title></html>", {"Content-Type": "text/html"})
WRONG_KEY = Reply(401, b'{"error": "Invalid API key"}')
NO_MONEY = Reply(402, b'{"error": "Insufficient credits"}')
UNKNOWN_TASK = Reply(404, b'{"error": "Task not found"}')
TAKEN_KEY = Reply(409, b'{"error": "This Idempotency-Key was used for another request."}')
GARBAGE = Reply(200, b"{ this is no JSON")
CORRUPT = Reply(200, b"\x89PNG\r\n\x1a\n and no more", {"Content-Type": "image/png"})


def limited(retry_after: str) -> Reply:
    return Reply(429, b'{"error": "Too many requests"}', {"Retry-After": retry_after})


def picture() -> Reply:
    """A small real PNG, so that no test waits for the sandbox to draw a large one."""
    out = BytesIO()
    Image.new("RGB", (16, 16), "red").save(out, "PNG")
    return Reply(200, out.getvalue(), {"Content-Type": "image/png"})


PICTURE = picture()


@dataclass(frozen=True)
class Seen:
    """One call that came. `at` is monotonic seconds, `key` the idempotency key; `forward` lets the sandbox answer it.

    `authorized`: it brought an API key, and `bearer` is that.
    """

    at: float
    what: str
    key: str | None
    forward: Callable[[], Awaitable[Reply | None]] = field(repr=False, compare=False)
    authorized: bool = False
    bearer: str = ""

    def is_(self, kind: str) -> bool:
        return self.what.startswith(kind)


Rule = Callable[[Seen], Awaitable[Reply | None]]
"""What a call is answered; None cuts its connection without a byte."""


async def through(seen: Seen) -> Reply | None:
    """The sandbox's own answer; images are replaced by a small one."""
    return PICTURE if seen.is_(FETCH) else await seen.forward()


def always(kind: str, *replies: Reply | None, then: Rule = through) -> Rule:
    """The calls of one kind meet these answers, one each and in order; then, and all others, `then`."""
    left = list(replies)

    async def rule(seen: Seen) -> Reply | None:
        return left.pop(0) if left and seen.is_(kind) else await then(seen)

    return rule


def constantly(kind: str, reply: Reply | None, then: Rule = through) -> Rule:
    """Every call of one kind meets this answer; all others `then`."""

    async def rule(seen: Seen) -> Reply | None:
        return reply if seen.is_(kind) else await then(seen)

    return rule


def made_then_cut(times: int = 1, then: Rule = through) -> Rule:
    """The first creates reach the sandbox, which makes the task; then the connection is cut."""
    left = times

    async def rule(seen: Seen) -> Reply | None:
        nonlocal left
        if not (left and seen.is_(CREATE)):
            return await then(seen)
        left -= 1
        await through(seen)
        return None

    return rule


class InTheLoop:
    """The sandbox without a server: its application is called in the test's own loop.

    A server for each test, and each call twice over HTTP, took a third of the time of such tests.
    """

    def __init__(self, folder: Path, base_url: str, options: Mapping[str, Any]) -> None:
        self.base_url = base_url
        self.state = SandboxState(folder, **options)
        self.application = app.create(self.state, base_url)

    @property
    def api_key(self) -> str:
        return self.state.api_key

    def tasks(self) -> list[SandboxTask]:
        return tasks.every(self.state)

    def creates(self) -> int:
        return self.state.counted("creates")

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """What it answers to a call; None: it cuts the connection."""
        path, _, query = target.partition("?")
        status, told, content, cut = 0, dict[str, str](), bytearray(), False
        given = [{"type": "http.request", "body": body, "more_body": False}]

        def abort() -> None:
            nonlocal cut
            cut = True

        async def receive() -> Message:
            if not given and not cut:
                await anyio.sleep_forever()
            return given.pop() if given else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status, told
            if message["type"] == "http.response.start":
                status = message["status"]
                told = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            content.extend(message.get("body", b""))

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "state": {"abort": abort, "admit": lambda: None},
        }
        await self.application(scope, receive, send)
        return None if cut else Reply(status, bytes(content), told)


class Front:
    """RunAPI as the service meets it. `rule` may be changed at any time."""

    sandbox: InTheLoop

    def __init__(self) -> None:
        self.rule: Rule = through
        self.seen: list[Seen] = []
        self.port = 0
        self.other_keys: set[str] = set()
        """Keys that are as good as the sandbox's own."""
        self.serving: set[asyncio.Task[Any]] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, kind: str) -> int:
        return sum(1 for seen in self.seen if seen.is_(kind))

    def tasks(self) -> list[SandboxTask]:
        return self.sandbox.tasks()

    def settings(self, home: Path, **more: Any) -> Settings:  # noqa: ANN401  # fields of Settings
        given: dict[str, Any] = {"rate": 1000.0, "in_flight": 100, "workspace": "/work"} | more
        return Settings(mode="live", home=home / "home", base_url=self.base_url, api_key=self.sandbox.api_key, **given)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, task = h11.Connection(h11.SERVER), asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            while (call := await self._read(connection, reader)) is not None:
                self.seen.append(call)
                reply = await self.rule(call)
                if reply is None:
                    return
                headers = [*reply.headers.items(), ("Content-Length", str(len(reply.body)))]
                for event in (
                    h11.Response(status_code=reply.status, headers=headers),
                    h11.Data(reply.body),
                    h11.EndOfMessage(),
                ):
                    writer.write(connection.send(event) or b"")
                await writer.drain()
                if connection.our_state is h11.MUST_CLOSE:  # the caller asked for it
                    return
                connection.start_next_cycle()
        except ConnectionError:
            return
        finally:
            writer.close()
            self.serving.discard(task)

    async def _read(self, connection: h11.Connection, reader: asyncio.StreamReader) -> Seen | None:
        request, body = None, b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                if not (data := await reader.read(65_536)):
                    return None
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
        assert request is not None
        headers = {name.decode(): value.decode() for name, value in request.headers}
        method, target = request.method.decode(), request.target.decode()

        async def forward() -> Reply | None:
            reply = await self.sandbox.answer(method, target, headers, body)
            names = ("content-type", "retry-after", "location", "x-runapi-task-id", "etag")
            return reply and replace(
                reply, headers={name: reply.headers[name] for name in names if name in reply.headers}
            )

        key, authorized = headers.get("idempotency-key"), "authorization" in headers
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if bearer in self.other_keys:
            headers["authorization"] = f"Bearer {self.sandbox.api_key}"
        return Seen(time.monotonic(), f"{method} {target}", key, forward, authorized, bearer)


@asynccontextmanager
async def fronted(folder: Path, **options: Any) -> AsyncIterator[Front]:  # noqa: ANN401  # whatever Sandbox takes
    """A sandbox a thousand times faster than life, without a rate limit, behind a front."""
    front = Front()
    # asyncio's own server: anyio's listener can lose a connection that is accepted while it is cancelled.
    server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    front.port = server.sockets[0].getsockname()[1]
    sandbox = InTheLoop(folder / "runapi", front.base_url, {"speed": SPEED, "rate": None, "seed": 1} | options)
    front.sandbox = sandbox
    try:
        async with sandbox.application.router.lifespan_context(sandbox.application):
            try:
                yield front
            finally:
                server.close()
                serving = [*front.serving]
                for task in serving:
                    task.cancel()
                await asyncio.gather(*serving, return_exceptions=True)
    finally:
        sandbox.state.close()


_SEAMS: WeakKeyDictionary[Service, Seam] = WeakKeyDictionary()


def journal_of(service: Service) -> Journal:
    """The journal that stands in the seam of a service that was opened here."""
    return _SEAMS[service].journal


def backend_of(service: Service) -> Backend:
    """The way to RunAPI of a service that was opened here."""
    return _SEAMS[service].backend


def same(usual: Journal) -> Journal:
    return usual


@asynccontextmanager
async def opened(
    settings: Settings,
    *,
    journal: Callable[[Journal], Journal] = same,
    connect: Connect | None = None,
    keep: bool = True,
    **seam: Any,  # noqa: ANN401  # other fields of Seam
) -> AsyncIterator[Service]:
    """A service whose planner knows how fast the sandbox's tasks are.

    `journal` makes another of the usual one, `connect` the client of a way to RunAPI without a limiter; the rest goes into
    the seam as it is.
    """
    async with AsyncExitStack() as stack:

        def given(usual: Seam) -> Seam:
            mine = structs.replace(usual, **({"speed": SPEED} | seam), journal=journal(usual.journal))
            if connect is not None:
                mine = structs.replace(
                    mine, backend=Backend(settings, gate=nothing, on_limited=nothing, connect=connect)
                )
                stack.push_async_callback(mine.backend.close)
            if mine.journal is not usual.journal:
                stack.push_async_callback(mine.journal.close)
            made_here.append(mine)
            return mine

        made_here: list[Seam] = []
        service = await stack.enter_async_context(Service.opened(settings, keep=keep, seam=given))
        _SEAMS[service] = made_here[0]
        yield service


class Counted:
    """How many calls to RunAPI a service makes of which this is the client."""

    def __init__(self) -> None:
        self.calls = 0

    def connect(self, base_url: str, key: str | None) -> RunApi:
        return RunApi(base_url, key, version="0", gate=self._gate)

    async def _gate(self) -> None:
        self.calls += 1


async def nothing(*_: object) -> None:
    """No gate, and nobody to tell."""


@asynccontextmanager
async def opened_twice(settings: Settings, **more: Any) -> AsyncIterator[tuple[Service, Service]]:  # noqa: ANN401  # as opened
    """Two processes' worth: each with a journal, an owner and a runner of its own, on one home."""
    async with opened(settings, **more) as one, opened(settings, **more) as two:
        yield one, two


async def made(service: Service, prompt: str = "a red fox", wait: float = PATIENCE, **more: Any) -> Outcome:  # noqa: ANN401  # arguments of generate
    """One call, which its user agrees to. All that waits here has an end."""
    asked = CheckedRequest(catalog.request(prompt=prompt, **more.pop("request", {})))
    priced = {name: more.pop(name) for name in ("count", "max_cost_usd", "idempotency_key") if name in more}
    folder = service.settings.workspace
    given: dict[str, Any] = {"workspace": None if folder is None else Path(folder)} | more
    with anyio.fail_after(wait + PATIENCE):
        offer = await service.offer(asked, **priced)
        return await service.generate(offer, approved=True, wait_seconds=wait, **given)


def states(outcome: Outcome) -> list[State]:
    return [told.record.state for told in outcome.tasks]


class Plans:
    """A planner as the usual one, which keeps what each of its plans was made from. `rates`: those that it was given."""

    def __init__(self) -> None:
        self.tasks: list[list[OpenTask]] = []
        self.histories: list[Mapping[Kind, Sequence[float]]] = []
        self.rates: list[float] = []

    def __call__(
        self, tasks: Collection[OpenTask], history: Mapping[Kind, Sequence[float]], *, now: float, rate: float
    ) -> tuple[PollTime, ...]:
        self.tasks.append(list(tasks))
        self.histories.append(history)
        self.rates.append(rate)
        return planner.plan(tasks, history, now=now, rate=rate)

    def clear(self) -> None:
        """Forget the plans so far."""
        for each in (self.tasks, self.histories, self.rates):
            each.clear()


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Wait for a condition, or fail. What comes late is looked for less often."""
    pause = 0.005
    with anyio.fail_after(seconds):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await anyio.sleep(pause)
            pause = min(pause * 1.2, 0.02)
