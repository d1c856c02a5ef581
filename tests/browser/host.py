"""A host of MCP Apps: the extension's own bridge in a page on loopback, in headless Chromium; the test answers its calls."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import uvicorn
from playwright.async_api import Browser, BrowserContext, FrameLocator, Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from flux2_mcp.server import gallery
from tests.support import npm

PACKAGES = {
    "@modelcontextprotocol/ext-apps": "2.0.4",
    "@modelcontextprotocol/client": "2.4.0",
    "@modelcontextprotocol/core": "2.4.0",
    "zod": "4.6.7",
    "axe-core": "4.14.1",
}
"""The bridge with what it is built on, and the rules of accessibility as a program."""
CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-site-isolation-trials",  # a process more for each gallery is half of what a test costs
)
# The policy that the extension has hosts use where a resource declares no domain (2026-01-26, "Host Behavior").
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " media-src 'self' data:; object-src 'none'; connect-src 'none'; frame-src 'none'; base-uri 'self'"
)
EVERYTHING: Mapping[str, Any] = {
    "serverTools": {},
    "serverResources": {},
    "openLinks": {},
    "message": {"text": {}},
    "updateModelContext": {"text": {}},
}
OPEN_SECONDS = 60

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class RefusedError(Exception):
    """The host's answer is a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def chromium() -> str | None:
    """The browser's executable, or None."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def fetched() -> Path | str:
    """The folder with the packages, or why there is none."""
    return npm.fetched(PACKAGES)


@dataclass
class Host:
    """One gallery in the host's page, and what it asked of the host.

    Attributes:
        page: The host's page.
        turn: Its number: what an earlier one still asks is not this one's.
        answers: What to answer, by kind: "tool", "resource", "message", "link", "context".
        calls: What was asked, in order, as (kind, params).
        wrong: Errors and warnings of the console, failed requests, requests to elsewhere. Must stay empty.
    """

    page: Page
    turn: int
    base: str
    answers: dict[str, Answer]
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _news: anyio.Event = field(default_factory=anyio.Event)

    @property
    def view(self) -> FrameLocator:
        """The gallery."""
        return self.page.frame_locator("iframe")

    def tools(self, name: str) -> list[dict[str, Any]]:
        """The arguments that a tool was called with, call by call."""
        return [params["arguments"] for kind, params in self.calls if kind == "tool" and params["name"] == name]

    def reads(self) -> list[str]:
        """The addresses that were read, in order."""
        return [params["uri"] for kind, params in self.calls if kind == "resource"]

    async def open(self, *, capabilities: Mapping[str, Any] = EVERYTHING, **context: Any) -> None:  # noqa: ANN401  # JSON
        """Show the gallery: its page, the handshake."""
        with anyio.fail_after(OPEN_SECONDS):
            await self.page.evaluate(
                "options => open_gallery(options)",
                {
                    "turn": self.turn,
                    "url": f"{self.base}/gallery",
                    "permissions": gallery.PERMISSIONS.model_dump(by_alias=True, exclude_none=True),
                    "capabilities": dict(capabilities),
                    "context": {"theme": "light", "locale": "en-GB", "timeZone": "UTC", **context},
                },
            )

    async def input(self, **arguments: Any) -> None:  # noqa: ANN401  # JSON
        """Tell the gallery what the tool was called with."""
        await self.page.evaluate("args => bridge.sendToolInput({ arguments: args })", arguments)

    async def result(self, result: dict[str, Any]) -> None:
        """Tell the gallery what the tool answered, and let it be drawn."""
        await self.page.evaluate("result => bridge.sendToolResult(result)", result)
        await self.drawn()

    async def drawn(self) -> None:
        """Until all of the gallery can be clicked: the browser sends the pointer by what it drew last, and a click in a
        frame that has just grown may still go to the page behind it."""
        with anyio.fail_after(OPEN_SECONDS):
            while not await self._drawn():
                pass
        await self.page.mouse.move(0, 0)

    async def _drawn(self) -> bool:
        """Whether the frame is as high as the gallery, and feels the pointer at the bottom of what is seen of it.

        A frame that fills the window is never higher: the gallery scrolls in it."""
        frame = self.page.locator("iframe")
        full = await frame.evaluate("frame => frame.classList.contains('full')")
        top, height, seen = await frame.evaluate(
            "frame => [frame.getBoundingClientRect().top + frame.clientTop, frame.clientHeight, innerHeight]"
        )
        inner = self.view.locator("html")
        if not full and height < await inner.evaluate("() => Math.floor(document.body.getBoundingClientRect().height)"):
            return False
        box = await frame.bounding_box()
        assert box is not None
        await self.page.mouse.move(box["x"] + box["width"] / 2, min(top + height, seen) - 2)
        return bool(await inner.evaluate("html => html.matches(':hover')"))

    async def passed(self, seconds: int) -> None:
        """Let time pass in a page with a clock, until whatever the gallery asks in it has been asked."""
        await self.page.clock.run_for(1000 * seconds)
        mark = f"flux2://images/task-0?max={len(self.calls) + 1}"
        asked = {"jsonrpc": "2.0", "id": mark, "method": "resources/read", "params": {"uri": mark}}
        await self.view.locator("html").evaluate("(_, asked) => parent.postMessage(asked, '*')", asked)
        await self.until(lambda: mark in self.reads())

    async def until(self, check: Callable[[], bool]) -> None:
        """Until what was asked satisfies `check`."""
        with anyio.fail_after(OPEN_SECONDS):
            while not check():
                await self._news.wait()

    async def ask(self, kind: str, params: dict[str, Any]) -> dict[str, Any]:
        """Write down what the gallery asks, and answer it as the test wants."""
        self.calls.append((kind, params))
        self._news.set()
        self._news = anyio.Event()
        try:
            return {"result": await self.answers[kind](params)}
        except RefusedError as exc:
            return {"error": {"code": exc.code, "message": str(exc)}}


def watch(page: Page, base: str, wrong: Callable[[str], None]) -> None:
    """Tell of errors and warnings of the console, failed requests, and requests to elsewhere than `base`."""
    page.on("console", lambda message: wrong(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: wrong(str(error)))
    page.on("requestfailed", lambda request: wrong(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith((base, "data:")) else wrong(f"elsewhere: {request.url}"),
    )


class _Kept(StaticFiles):
    """Files that a browser keeps: every page is the same bridge again."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:  # noqa: ANN401  # as starlette has it
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "max-age=3600, immutable"
        return response


class Site:
    """The host's web server on a free port of loopback, and one browser profile. A page is loaded once, and shows one
    gallery after the other: loading the bridge takes ten times as long as showing a gallery.

    Args:
        context: Of the browser.
        base: The server's address.
    """

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.context = context
        self._base = base
        self._tabs: dict[bool, Page] = {}
        self._host: Host | None = None
        self._turn = 0

    @asynccontextmanager
    async def hosting(
        self,
        answers: dict[str, Answer],
        *,
        viewport: tuple[int, int] = (800, 900),
        reduced_motion: Literal["reduce", "no-preference"] = "reduce",
        clock: bool = False,
    ) -> AsyncIterator[Host]:
        """A gallery's place in a page, still empty.

        Args:
            answers: As in `Host`.
            viewport: Pixels.
            reduced_motion: What the user prefers. What moves is drawn sixty times a second, on the processor.
            clock: Time is the test's to pass, with `page.clock`.
        """
        page = self._tabs.pop(clock, None) or await self._load(clock=clock)
        await page.bring_to_front()  # one behind another is drawn once a second
        await page.set_viewport_size({"width": viewport[0], "height": viewport[1]})
        await page.emulate_media(reduced_motion=reduced_motion)
        self._turn += 1
        self._host = Host(page, self._turn, self._base, answers)
        try:
            yield self._host
            await page.evaluate("close_gallery()")
            self._tabs[clock] = page
        except BaseException:
            await page.close()  # nobody knows what it was left in
            raise
        finally:
            self._host = None

    async def _load(self, *, clock: bool) -> Page:
        page = await self.context.new_page()
        if clock:
            await page.clock.install()
        watch(page, self._base, self._wrong)
        with anyio.fail_after(OPEN_SECONDS):
            await page.goto(f"{self._base}/host.html")
            await page.wait_for_selector("html[data-ready]", state="attached")
        return page

    def _wrong(self, what: str) -> None:
        if self._host is not None:
            self._host.wrong.append(what)

    def routes(self, packages: Path) -> list[BaseRoute]:
        """What the server answers."""
        return [
            Route("/host.html", self._page),
            Route("/gallery", self._gallery),
            Route("/ask/{turn:int}/{kind}", self._ask, methods=["POST"]),
            Mount("/npm", _Kept(directory=packages)),
        ]

    async def _page(self, _: Request) -> Response:
        return FileResponse(Path(__file__).with_name("host.html"))

    async def _gallery(self, _: Request) -> Response:
        return Response(gallery.html(), media_type="text/html", headers={"Content-Security-Policy": POLICY})

    async def _ask(self, request: Request) -> Response:
        if self._host is None or self._host.turn != request.path_params["turn"]:  # the gallery is gone
            return JSONResponse({"error": {"code": -32000, "message": "nobody is there"}})
        return JSONResponse(await self._host.ask(request.path_params["kind"], await request.json()))


@asynccontextmanager
async def serving(browser: Browser, packages: Path) -> AsyncIterator[Site]:
    """A site, for as long as it is used."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        site = Site(context, base)
        app = Starlette(routes=site.routes(packages))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield site
        finally:
            await context.close()
            server.should_exit = True
            await task


def launch_options() -> dict[str, Any]:
    """How Chromium is started: Debian's, headless, quiet, with a profile of its own."""
    return {"executable_path": chromium(), "headless": True, "args": list(FLAGS), "env": dict(os.environ)}
