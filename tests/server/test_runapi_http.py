"""RunAPI's own HTTP of a team's server, where no server is needed: what RunAPI has answered is passed on."""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar
from decimal import Decimal
from types import SimpleNamespace
from typing import cast

import anyio
import httpx2
import pytest
from starlette.requests import Request
from starlette.routing import Router

from flux2_mcp.domain.people import Caller, Person
from flux2_mcp.engine.service import Service
from flux2_mcp.server.team.links import ImageLinks
from flux2_mcp.server.team.runapi_http import RunApiHttp
from flux2_mcp.server.team.uploads import MOST_AT_ONCE, MOST_OF_ONE, Places
from tests.support.stdio import DEADLINE

pytestmark = pytest.mark.anyio


def nobody() -> None:
    return None


async def test_a_price_of_a_part_of_a_cent_is_passed_on() -> None:
    async def passed_on(_: str) -> object:
        return {
            "unit_price_cents": Decimal("0.4"),
            "billing_config": {"overrides": {"1k": Decimal(5)}},
            "note": "\ud800",
        }

    service = cast("Service", SimpleNamespace(account=SimpleNamespace(passed_on=passed_on)))
    links = ImageLinks("https://flux2.example.com", ())
    transport = httpx2.ASGITransport(Router(RunApiHttp(lambda: service, nobody, links, Places(nobody)).routes()))
    async with httpx2.AsyncClient(transport=transport, base_url="https://flux2.example.com") as http:
        answer = await http.get("/api/v1/price_schedules")
    assert answer.json() == {"unit_price_cents": 0.4, "billing_config": {"overrides": {"1k": 5}}, "note": "\ud800"}


async def test_whoever_sends_a_file_slowly_holds_up_themselves_alone_and_nobody_is_late_who_has_waited() -> None:
    senders = {name: Caller(person=Person(issuer="token", subject=name)) for name in ("ada", "ben")}
    who: ContextVar[str] = ContextVar("who")
    places = Places(lambda: senders[who.get()])
    sending, allowed, stop = Counter[str](), Counter[str](), anyio.Event()

    async def send(name: str) -> None:
        who.set(name)
        scope = {"type": "http", "state": {"allow": lambda _: allowed.update([name])}}
        async with places.one(Request(scope)):
            sending[name] += 1
            await stop.wait()

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            for _ in range(MOST_AT_ONCE):
                group.start_soon(send, "ada")
            await anyio.wait_all_tasks_blocked()
            assert (sending["ada"], allowed["ada"]) == (MOST_OF_ONE, MOST_AT_ONCE + MOST_OF_ONE)
            group.start_soon(send, "ben")
            await anyio.wait_all_tasks_blocked()
            assert sending["ben"] == 1
            stop.set()
    assert (sending["ada"], allowed["ada"]) == (MOST_AT_ONCE, 2 * MOST_AT_ONCE)
