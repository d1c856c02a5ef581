"""Answers that are read slowly, over real sockets: whose call they are, and that an end waits for them."""

from __future__ import annotations

from http import HTTPStatus

import anyio
import httpx2
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flux2_mcp.server.team.personal import Bearers, PersonalTokens
from flux2_mcp.server.team.sign_in import SignedInOnly
from flux2_mcp.server.team.traffic import CountedCalls, Traffic
from flux2_mcp.system.http_server import listen, served
from flux2_mcp.system.loopback import HOST
from tests.server.test_personal_tokens import Journal
from tests.support.sandboxed import TLS
from tests.support.stdio import DEADLINE

LARGE = 32 * 1024 * 1024
"""More than the buffers of the system hold."""
pytestmark = pytest.mark.anyio


async def test_an_answer_that_is_not_read_is_one_of_its_persons_calls_and_an_end_waits_for_it() -> None:
    journal, traffic, answered = Journal(), Traffic(), anyio.Semaphore(0)
    tokens = {name: journal.make(name) for name in ("ada", "ben")}

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * (LARGE if scope["path"] == "/api/large" else 1))(scope, receive, send)
        answered.release()

    personal = PersonalTokens(lambda: journal, monotonic=lambda: journal.now, sleep=journal.sleep)
    guard = SignedInOnly(
        large,
        tokens=Bearers(personal, None),
        metadata_url=None,
        scopes=(),
        open_paths=(),
        open_folder="/images/",
        meet=lambda _: None,
        most_of_one=1,
    )
    counted = CountedCalls(guard, traffic=traffic, paths=(), folders=("/api/",))
    with listen(0) as listener, anyio.fail_after(DEADLINE):
        port = listener.getsockname()[1]
        async with (
            served(counted, listener, grace_seconds=DEADLINE),
            httpx2.AsyncClient(base_url=f"http://{HOST}:{port}", verify=TLS, timeout=DEADLINE) as http,
            await anyio.connect_tcp(HOST, port) as slow,
        ):

            async def call(name: str) -> int:
                return (await http.get("/api/small", headers={"Authorization": f"Bearer {tokens[name]}"})).status_code

            head = f"GET /api/large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tokens['ada']}\r\n\r\n"
            await slow.send(head.encode())
            await answered.acquire()
            assert [await call(name) for name in ("ada", "ben")] == [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.OK]
            assert traffic.calls == 1
            heard = 0
            while heard < LARGE:
                heard += len(await slow.receive())
            await traffic.quiet()
            assert await call("ada") == HTTPStatus.OK
