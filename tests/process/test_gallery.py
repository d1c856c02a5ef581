"""`flux2-mcp gallery` over loopback: who gets in, who doesn't, and what the command does around it. The browser's part is in `tests/browser`."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import pytest

from flux2_mcp.server import gallery
from flux2_mcp.server.viewer.app import MAX_BODY_BYTES, opened
from flux2_mcp.server.viewer.guard import HEADERS, PATHS, UNKNOWN_CALLER, ViewerGuard
from flux2_mcp.settings import Settings
from tests.process.conftest import Here
from tests.support import forked

pytestmark = pytest.mark.anyio

DEADLINE = 60.0
COMMAND = [sys.executable, "-m", "flux2_mcp", "gallery"]
URL = re.compile(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}")
JSON = "application/json"
Answer = tuple[int, Mapping[str, str], str]


class Visitor:
    """Somebody on this machine, with HTTP written by hand: nothing is added, nothing put right.

    Args:
        url: As printed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.port = parts.port or 0
        self.host = parts.netloc
        self.record = f"{parts.path}?{parts.query}"
        self.cookie: str | None = None

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str | None) -> Answer:
        """One request on a connection of its own. A header that is None is left out."""
        sent = {"Host": self.host, "Cookie": self.cookie} | {
            name.replace("_", "-"): each for name, each in headers.items()
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def enter(self) -> Answer:
        """With the token; keeps the cookie."""
        answer = self.ask("GET", self.record)
        self.cookie = answer[1].get("set-cookie", "").partition(";")[0] or self.cookie
        return answer

    def call(self, method: str, **params: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
        """What the gallery asks of the page around it."""
        body = json.dumps({"method": method, "params": params}).encode()
        status, _, text = self.ask("POST", "/rpc", body, Origin=f"http://{self.host}", Content_Type=JSON)
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer


@asynccontextmanager
async def visiting(settings: Settings) -> AsyncIterator[tuple[Visitor, ViewerGuard]]:
    with anyio.fail_after(DEADLINE):
        async with opened(settings, port=0, limit=50) as guard:
            yield Visitor(guard.url()), guard


async def off(call: Any, *args: Any, **more: Any) -> Any:  # noqa: ANN401  # whatever it gives
    """A visitor's call, in a thread: the server runs in this one."""
    return await anyio.to_thread.run_sync(lambda: call(*args, **more))


# --- who gets in --------------------------------------------------------------------------------------------------------


async def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(sandbox_settings: Settings) -> None:
    async with visiting(sandbox_settings) as (visitor, guard):
        assert URL.fullmatch(guard.url())
        status, headers, _ = await off(visitor.enter)
        assert (status, headers["location"]) == (303, "/")
        cookie, *attributes = headers["set-cookie"].split("; ")
        assert re.fullmatch(rf"flux2-gallery-{visitor.port}=[\w-]{{43}}", cookie)
        assert sorted(map(str.lower, attributes)) == ["httponly", "path=/", "samesite=strict"]
        assert cookie.partition("=")[2] not in guard.url()
        pages = [await off(visitor.ask, "GET", path) for path in ("/", "/gallery")]
        for status, headers, body in pages:
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert "token" not in body
        assert pages[1][2] == gallery.html()
        # Who is in and comes with a token, even an old one, is only sent to the clean address.
        status, headers, _ = await off(visitor.ask, "GET", "/?token=old")
        assert (status, headers["location"]) == (303, "/")


async def test_without_the_token_or_the_cookie_nobody_gets_in(sandbox_settings: Settings) -> None:
    async with visiting(sandbox_settings) as (visitor, _), visiting(sandbox_settings) as (other, _):
        token = visitor.record.partition("=")[2]
        wrong = [
            "/", "/gallery", "/?token=", f"/?token={token[:-1]}", f"/?token={token}x", f"/?token={token[::-1]}",
            "/?token=%C3%A9%00", f"/?Token={token}", f"/gallery?token={token}", other.record,
        ]  # fmt: skip
        for target in wrong:
            status, headers, body = await off(visitor.ask, "GET", target)
            assert (status, body, "set-cookie" in headers) == (403, UNKNOWN_CALLER, False), target
        await off(other.enter)
        name, _, value = (other.cookie or "").partition("=")
        mine = name.replace(str(other.port), str(visitor.port))
        for cookie in (
            other.cookie,
            f"{mine}={value}",
            f"{mine}=",
            f"{mine}={token}",
            f"{mine}=é".encode().decode("latin-1"),
        ):
            status, _, body = await off(visitor.ask, "GET", "/", Cookie=cookie)
            assert (status, body) == (403, UNKNOWN_CALLER), cookie
            origin = f"http://{visitor.host}"
            status, _, body = await off(
                visitor.ask, "POST", "/rpc", b"{}", Cookie=cookie, Origin=origin, Content_Type=JSON
            )
            assert (status, body) == (403, UNKNOWN_CALLER), cookie


async def test_a_ticket_opens_once_and_the_printed_url_as_often_as_wanted(sandbox_settings: Settings) -> None:
    async with visiting(sandbox_settings) as (visitor, guard):
        ticket = Visitor(guard.ticket())
        assert ticket.record != visitor.record
        assert [(await off(ticket.ask, "GET", ticket.record))[0] for _ in range(2)] == [303, 403]
        assert [(await off(visitor.ask, "GET", visitor.record))[0] for _ in range(2)] == [303, 303]


async def test_only_loopback_names_with_our_port_are_hosts(sandbox_settings: Settings) -> None:
    async with visiting(sandbox_settings) as (visitor, _):
        await off(visitor.enter)
        port = visitor.port
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", f"localhost.:{port}"):
            assert (await off(visitor.ask, "GET", "/", Host=host))[0] == 200
        refused = [
            "127.0.0.1", "localhost", f"127.0.0.1:{port + 1}", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}",
            f"localhost.evil.example:{port}", f"evil.example/127.0.0.1:{port}", f"user@127.0.0.1:{port}", f"0.0.0.0:{port}",
            f"127.1:{port}", f"2130706433:{port}", f"[::1]:{port}", f"127.0.0.1:0{port}", f"127.0.0.1:{port}.", "",
        ]  # fmt: skip
        for host in refused:
            status, headers, body = await off(visitor.ask, "GET", visitor.record, Host=host)
            assert (status, body, "set-cookie" in headers) == (403, "Not from here.\n", False), host
        assert (await off(visitor.ask, "GET", "/", Host=None))[0] == 400


async def test_only_our_own_page_may_call_and_no_other_origin_may_even_look(sandbox_settings: Settings) -> None:
    async with visiting(sandbox_settings) as (visitor, _):
        await off(visitor.enter)
        body = b'{"method": "tools/call", "params": {"name": "list_variants"}}'
        post = {"method": "POST", "target": "/rpc", "body": body, "Content_Type": JSON}
        own = f"http://{visitor.host}"
        assert (await off(visitor.ask, **post, Origin=own))[0] == 200
        dotted = f"localhost.:{visitor.port}"
        assert (await off(visitor.ask, **post, Host=dotted, Origin=f"http://{dotted}"))[0] == 200
        foreign = [
            "null", "https://evil.example", f"https://{visitor.host}", f"{own}.evil.example", own[:-1], f"{own}/",
            f"http://localhost:{visitor.port}", "http://127.0.0.1", f"http://127.0.0.1:{visitor.port + 1}", f"{own}, {own}",
        ]  # fmt: skip
        for origin in foreign:
            assert (await off(visitor.ask, **post, Origin=origin))[0] == 403, origin
            assert (await off(visitor.ask, "GET", "/", Origin=origin))[0] == 403, origin
        assert (await off(visitor.ask, **post))[0] == 403
        assert (await off(visitor.ask, **post, Origin=""))[0] == 403


async def test_there_are_three_paths_with_one_method_each(sandbox_settings: Settings) -> None:
    async with visiting(sandbox_settings) as (visitor, _):
        await off(visitor.enter)
        own = f"http://{visitor.host}"
        for path, method in PATHS.items():
            for other in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "ODD"} - {method}:
                status, headers, _ = await off(visitor.ask, other, path, Origin=own)
                assert (status, headers["allow"]) == (405, method), (other, path)
        elsewhere = [
            "/favicon.ico", "/gallery/", "/gallery.html", "//", "//gallery", "/rpc/", "/../", "/../../etc/passwd", "/gallery/../rpc",
            "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/gallery%00", "/\\..\\", "/host.html", "*", f"{own}/gallery",
        ]  # fmt: skip
        for target in elsewhere:
            status, _, body = await off(visitor.ask, "GET", target)
            assert (status, body) == (404, "There is nothing.\n"), target
        with anyio.fail_after(DEADLINE):
            stream = await anyio.connect_tcp("127.0.0.1", visitor.port)
            async with stream:
                await stream.send(f"GET / HTTP/1.1\r\nHost: {visitor.host}\r\nHost: evil.example\r\n\r\n".encode())
                assert (await stream.receive()).startswith(b"HTTP/1.1 400")


async def test_every_answer_keeps_out_of_caches_and_the_pages_run_their_own_scripts_alone(
    sandbox_settings: Settings,
) -> None:
    async with visiting(sandbox_settings) as (visitor, _):
        refusals = [("GET", "/", {}), ("GET", "/nothing", {}), ("PUT", "/", {}), ("GET", "/", {"Host": "evil.example"})]
        answers = [await off(visitor.ask, method, target, **more) for method, target, more in refusals]
        answers += [await off(visitor.enter)]
        pages = [await off(visitor.ask, "GET", path) for path in ("/", "/gallery")]
        for _, headers, _ in answers + pages:
            assert {name: headers.get(name.lower()) for name in HEADERS} == dict(HEADERS)
        for _, headers, body in pages:
            parts = (part.split() for part in headers["content-security-policy"].split(";"))
            policy = {name: values for name, *values in parts}
            assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
            for kind, tag in (("script-src", "<script>"), ("style-src", "<style>")):
                assert [value[:8] for value in policy[kind]] == ["'sha256-"] * body.count(tag) == ["'sha256-"]
            assert "<script " not in body
        host, shown = (headers["content-security-policy"] for _, headers, _ in pages)
        assert host.endswith("connect-src 'self'; frame-src 'self'; frame-ancestors 'none'")
        assert shown.endswith("frame-ancestors 'self'; sandbox allow-scripts")


# --- what is passed on --------------------------------------------------------------------------------------------------


async def test_calls_reach_the_same_tools_and_resources(sandbox_settings: Settings) -> None:
    async with visiting(sandbox_settings) as (visitor, _):
        await off(visitor.enter)
        made = await off(
            visitor.call, "tools/call", name="generate", arguments={"prompt": "a red fox in snow", "wait_seconds": 60}
        )
        (task,) = made["result"]["structuredContent"]["tasks"]
        assert (task["status"], task["charged_usd"]) == ("completed", 0.05)
        assert Path(task["images"][0]["path"]).is_file()
        assert made["result"]["_meta"]["flux-2/requests"][task["task_id"]]["prompt"] == "a red fox in snow"
        # Pictures come as resources, when they are looked at: none is sent along with an answer.
        assert {block["type"] for block in made["result"]["content"]} == {"text"}
        uri = f"flux2://images/{task['task_id']}?max=64"
        (picture,) = (await off(visitor.call, "resources/read", uri=uri))["result"]["contents"]
        assert (picture["mimeType"], len(picture["blob"]) > 100) == ("image/jpeg", True)
        refused = await off(visitor.call, "tools/call", name="generate", arguments={"prompt": "x", "seed": 1})
        assert refused["result"]["isError"] is True
        assert "seed" in refused["result"]["content"][0]["text"]


async def test_what_is_no_call_of_the_gallery_is_refused(sandbox_settings: Settings) -> None:
    async with visiting(sandbox_settings) as (visitor, _):
        await off(visitor.enter)
        for uri in ("file:///etc/passwd", "flux2://images/nothing", "../../etc/passwd", ""):
            assert (await off(visitor.call, "resources/read", uri=uri))["error"]["code"] < 0, uri
        unknown = await off(visitor.call, "tools/call", name="rm", arguments={})
        assert unknown["error"] == {"code": -32602, "message": "Unknown tool: rm"}
        own = {"Origin": f"http://{visitor.host}"}
        junk = [
            b"", b"[]", b"nonsense", b'{"method": "tools/list", "params": {}}', b'{"method": "tools/call"}', b"\xff\xfe",
            b'{"method": "tools/call", "params": {"name": 1}}', b'{"method": "tools/call", "params": {"arguments": []}}',
        ]  # fmt: skip
        for body in junk:
            assert (await off(visitor.ask, "POST", "/rpc", body, Content_Type=JSON, **own))[0] == 400, body
        for kind in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            assert (await off(visitor.ask, "POST", "/rpc", b"{}", Content_Type=kind, **own))[0] == 415, kind
        large = b" " * (MAX_BODY_BYTES + 1)
        assert (await off(visitor.ask, "POST", "/rpc", large, Content_Type=JSON, **own))[0] == 413


# --- the command --------------------------------------------------------------------------------------------------------


@contextmanager
def running(env: Mapping[str, str], *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `flux2-mcp gallery` and the line that it printed."""
    command = [*COMMAND, *options]
    with forked.begin(command, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().rstrip("\n")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "browser"), [(signal.SIGINT, "w3m"), pytest.param(signal.SIGTERM, None, marks=pytest.mark.deep)]
)
def test_without_a_browser_with_windows_it_only_prints_its_url_and_it_ends_cleanly(
    clean_env: dict[str, str], tmp_path: Path, number: signal.Signals, browser: str | None
) -> None:
    if browser is not None:
        (tmp_path / browser).write_text("#!/bin/sh\necho taken over\n")
        (tmp_path / browser).chmod(0o700)
    with running(clean_env | {"PATH": str(tmp_path), "TERM": "xterm"}) as (process, url):
        assert URL.fullmatch(url)
        visitor = Visitor(url)
        assert visitor.enter()[0] == 303
        assert visitor.call("tools/call", name="check_task")["result"]["structuredContent"]["tasks"] == []
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read(), process.wait(DEADLINE)) == ("", "", 0)


def test_the_browser_is_opened_with_a_url_that_serves_once(clean_env: dict[str, str], tmp_path: Path) -> None:
    opened_with, browser = tmp_path / "opened", tmp_path / "browser"
    os.mkfifo(opened_with)
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened_with}\n')
    browser.chmod(0o700)
    with running(clean_env | {"BROWSER": f"{browser} %s"}) as (_, url):
        ticket = opened_with.read_text().rstrip("\n")
        assert URL.fullmatch(ticket)
        assert ticket != url
        assert [Visitor(ticket).enter()[0] for _ in range(2)] == [303, 403]


def test_a_taken_port_is_said_to_be_and_no_browser_is_opened_unasked(
    clean_env: dict[str, str], here: Here, tmp_path: Path
) -> None:
    env = clean_env | {"BROWSER": f"touch {tmp_path / 'opened'} %s"}
    with running(env, "--no-open") as (_, url):
        port = str(Visitor(url).port)
        code, out, err = here("gallery", "--port", port, BROWSER=env["BROWSER"])
        assert (code, out) == (1, "")
        assert err == (
            f"Error: The gallery can't listen on port {port} of 127.0.0.1.\n"
            "Nothing was charged.\n"
            "Next: Choose another --port, or leave it out for any free one.\n"
        )
    assert not (tmp_path / "opened").exists()
