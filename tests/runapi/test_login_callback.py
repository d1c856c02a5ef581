"""Where the browser comes back to, over real sockets: one answer is taken, and whatever else comes changes nothing."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

import anyio
import httpx2
import pytest
from anyio.abc import SocketAttribute

from flux2_mcp.domain.models import Balance
from flux2_mcp.errors import LoginError, TransportError
from flux2_mcp.runapi.login.callback import LAST_WORDS_SECONDS, LoginCallback
from flux2_mcp.runapi.login.page import LOGIN_LOST, LOGIN_USED, NOT_OUR_LOGIN
from flux2_mcp.runapi.login.pkce import LoginAttempt
from flux2_mcp.runapi.login.redeem import LoginResult
from flux2_mcp.system import one_shot_http
from tests.support.rows import rows
from tests.support.sandboxed import TLS

pytestmark = pytest.mark.anyio

KEY = "sk-run-0123456789abcdef"
REDEEMED = LoginResult(
    key=KEY, name="Key <for> desk", email="a&b@example.com", balance=Balance(balance_usd=Decimal("12.50"))
)
DEADLINE = 30.0


@dataclass
class Login:
    """A login under way. `hold` keeps its one exchange from ending; `codes` are those that were exchanged."""

    attempt: LoginAttempt
    callback: LoginCallback
    hold: anyio.Event
    began: anyio.Event = field(default_factory=anyio.Event)
    codes: list[str] = field(default_factory=list)
    ended: anyio.Event = field(default_factory=anyio.Event)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.attempt.port}"

    async def ask(
        self, method: str = "GET", path: str = "/callback", host: str | None = None, **query: str
    ) -> httpx2.Response:
        headers = {} if host is None else {"Host": host.format(port=self.attempt.port)}
        async with httpx2.AsyncClient(verify=TLS) as http:
            return await http.request(method, f"{self.base}{path}", params=query, headers=headers, timeout=DEADLINE)

    async def allow(self) -> httpx2.Response:
        return await self.ask(code="c0de", state=self.attempt.state)


@asynccontextmanager
async def waiting(
    result: LoginResult | Exception = REDEEMED,
    seconds: float = DEADLINE,
    last_words_seconds: float = LAST_WORDS_SECONDS,
) -> AsyncIterator[Login]:
    """A login that waits on a port of its own, until it has ended."""
    listener = await one_shot_http.listen(0)
    attempt = LoginAttempt(port=listener.extra(SocketAttribute.local_port))  # noqa: S610  # no Django here

    async def finish(code: str) -> LoginResult:
        login.codes.append(code)
        login.began.set()
        await login.hold.wait()
        if isinstance(result, Exception):
            raise result
        return result

    login = Login(attempt, LoginCallback(attempt, finish, last_words_seconds=last_words_seconds), anyio.Event())
    login.hold.set()

    async def run() -> None:
        await login.callback.run(listener, seconds)
        login.ended.set()

    with anyio.fail_after(2 * DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            yield login
            await login.ended.wait()


def title(response: httpx2.Response) -> str:
    found = re.search("<h1>(.*)</h1>", response.text)
    assert found
    return found[1]


async def test_the_page_tells_what_became_of_the_code_and_the_login_ends() -> None:
    async with waiting() as login:
        page = await login.allow()
    assert (page.status_code, title(page), login.codes) == (200, "You are logged in", ["c0de"])
    assert re.findall("<d[td]>(.*?)</d[td]>", page.text) == [
        *("Account", "a&amp;b@example.com"),
        *("Key", "Key &lt;for&gt; desk ****cdef"),
        *("Balance", "$12.50"),
    ]
    assert KEY not in page.text
    assert login.callback.result() is REDEEMED
    with pytest.raises(httpx2.ConnectError):
        await login.allow()


@pytest.mark.parametrize("host", ["LOCALHOST:{port}", "localhost.:{port}"])
async def test_the_name_of_this_machine_has_no_case_and_may_end_in_a_dot(host: str) -> None:
    async with waiting() as login:
        page = await login.ask(host=host, code="c0de", state=login.attempt.state)
    assert (page.status_code, login.codes) == (200, ["c0de"])


async def test_the_page_runs_nothing_loads_nothing_and_is_framed_by_nobody() -> None:
    async with waiting() as login:
        pages = [await login.ask(path="/"), await login.allow()]
    for page in pages:
        rules = dict(rule.split(" ", 1) for rule in page.headers["Content-Security-Policy"].split("; "))
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules.pop("style-src"))
        assert rules == dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
        assert not re.search(r"(?i)<script|<link|<img|<iframe|style=|\son\w+=|url\(|@import|//\w", page.text)
        wanted = {
            "Content-Type": "text/html; charset=utf-8",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        assert (
            wanted.items() <= dict(page.headers.items()).items()
            or {name: page.headers[name] for name in wanted} == wanted
        )


@rows(
    ("asked", "page"),
    [
        ({"code": "c0de", "state": "wrong"}, NOT_OUR_LOGIN),
        ({"code": "c0de"}, NOT_OUR_LOGIN),
        ({"error": "access_denied", "state": "wrong"}, NOT_OUR_LOGIN),
        ({"error": "access_denied"}, NOT_OUR_LOGIN),
        ({"state": "{state}"}, NOT_OUR_LOGIN),
        ({"host": "evil.example:{port}", "code": "c0de", "state": "{state}"}, NOT_OUR_LOGIN),
        ({"host": "127.0.0.1", "code": "c0de", "state": "{state}"}, NOT_OUR_LOGIN),
        ({"host": "[::1]:{port}", "code": "c0de", "state": "{state}"}, NOT_OUR_LOGIN),
        ({"path": "/", "code": "c0de", "state": "{state}"}, LOGIN_LOST),
        ({"path": "/callback/", "code": "c0de", "state": "{state}"}, LOGIN_LOST),
        ({"path": "/favicon.ico"}, LOGIN_LOST),
        ({"method": "POST", "code": "c0de", "state": "{state}"}, LOGIN_LOST),
        ({"method": "OPTIONS"}, LOGIN_LOST),
        ({"method": "DELETE"}, LOGIN_LOST),
    ],
)
async def test_what_is_not_the_answer_is_told_so_and_waited_on(asked: dict[str, str], page: object) -> None:
    async with waiting() as login:
        told = await login.ask(**{name: value.replace("{state}", login.attempt.state) for name, value in asked.items()})
        assert (told.status_code, title(told)) == (page.status, page.title)  # type: ignore[attr-defined]  # both are pages
        assert (login.codes, login.ended.is_set()) == ([], False)
        assert (await login.allow()).status_code == 200
    assert login.callback.result() is REDEEMED


@rows("garbage", [b"\x00\xff" * 2000, b"GET /callback HTTP/1.1\r\n\r\n", b"A" * 100_000, b"\x16\x03\x01"])
async def test_garbage_is_hung_up_on_and_the_answer_still_heard(garbage: bytes) -> None:
    async with waiting() as login:
        async with await anyio.connect_tcp("127.0.0.1", login.attempt.port) as stream:
            try:
                await stream.send(garbage)
                await stream.send_eof()
                with anyio.fail_after(DEADLINE):
                    assert await stream.receive() == b""
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
        assert (await login.allow()).status_code == 200


async def test_a_second_answer_changes_nothing_while_the_first_is_seen_to() -> None:
    async with waiting() as login:
        login.hold = anyio.Event()
        pages: list[httpx2.Response] = []

        async def first() -> None:
            pages.append(await login.allow())

        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await login.began.wait()
            for asked in ({"code": "c0de"}, {"code": "other"}, {"error": "access_denied"}):
                told = await login.ask(state=login.attempt.state, **asked)
                assert (told.status_code, title(told)) == (LOGIN_USED.status, LOGIN_USED.title)
            assert await login.callback.take("pasted") is LOGIN_USED
            login.hold.set()
        assert [title(page) for page in pages] == ["You are logged in"]
    assert (login.codes, login.callback.result()) == (["c0de"], REDEEMED)


async def test_a_refusal_ends_the_login_and_its_words_are_text() -> None:
    why = "<script>alert(1)</script> & \x1b[31mred"
    async with waiting() as login:
        page = await login.ask(error="access_denied", error_description=why, state=login.attempt.state)
        assert title(page) == "The login did not work"
        assert "RunAPI did not give leave: &lt;script&gt;alert(1)&lt;/script&gt; &amp; [31mred" in page.text
        assert "<script" not in page.text
    with pytest.raises(LoginError, match="did not give leave"):
        login.callback.result()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (TransportError("RunAPI gave no answer."), "RunAPI gave no answer."),
        (RuntimeError(f"with {KEY}"), "The login failed for a reason that flux2-mcp does not know."),
    ],
)
async def test_what_fails_after_is_told_to_the_browser_and_raised_here(failure: Exception, words: str) -> None:
    async with waiting(failure) as login:
        page = await login.allow()
    assert (title(page), words in page.text, KEY in page.text) == ("The login did not work", True, False)
    with pytest.raises(type(failure)):
        login.callback.result()


async def test_who_does_not_come_is_not_waited_for_longer_and_comes_too_late() -> None:
    async with waiting(seconds=0.05) as login:
        await login.ended.wait()
        assert await login.callback.take("late") is LOGIN_USED
    assert (login.codes, login.callback.result()) == ([], None)


async def test_who_came_in_time_is_seen_to_however_long_that_takes() -> None:
    async with waiting() as login:
        login.hold = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(login.allow)
            await login.began.wait()
            assert login.callback.deadline == math.inf
            assert not login.ended.is_set()
            login.hold.set()
    assert login.callback.result() is REDEEMED


async def test_connections_that_say_nothing_do_not_hold_up_the_end() -> None:
    async with waiting(last_words_seconds=10 * DEADLINE) as login:
        silent = [await anyio.connect_tcp("127.0.0.1", login.attempt.port) for _ in range(5)]
        await login.allow()
        await login.ended.wait()
        for stream in silent:
            await stream.aclose()


async def test_connections_that_say_nothing_do_not_put_out_the_browser_while_its_code_is_exchanged() -> None:
    async with waiting() as login:
        login.hold = anyio.Event()
        pages: list[httpx2.Response] = []

        async def allow() -> None:
            pages.append(await login.allow())

        async with anyio.create_task_group() as group:
            group.start_soon(allow)
            await login.began.wait()
            idle = [
                await anyio.connect_tcp("127.0.0.1", login.attempt.port) for _ in range(one_shot_http.MAX_CALLERS + 6)
            ]
            assert (await login.ask(path="/")).status_code == LOGIN_LOST.status  # all of them were let in before
            login.hold.set()
        assert [title(page) for page in pages] == ["You are logged in"]
        for stream in idle:
            await stream.aclose()
    assert login.callback.result() is REDEEMED
