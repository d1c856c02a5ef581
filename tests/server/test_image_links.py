"""Signed links to images: which open, until when, and with which keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from flux2_mcp.engine.service import Service
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.server.team.links import LIFETIME, ImageLinks, route

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
OLD, NEW = "o" * 32, "n" * 32
BASE = "https://flux2.example.com"
RECORD = cast("TaskRecord", SimpleNamespace(key="k1"))
"""Of a task, a link needs its key alone."""
NAME = "azE"
"""What stands for the key in a link."""


class Clock:
    now = NOON

    def __call__(self) -> datetime:
        return self.now


def opens(links: ImageLinks, url: str) -> bool:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    _, _, named, number = parts.path.split("/")
    assert named == NAME
    return links.opens(RECORD.key, int(number), int(query["expires"][0]), query["signature"][0])


def test_a_link_is_in_force_for_an_hour() -> None:
    clock = Clock()
    links = ImageLinks(BASE, (NEW,), now=clock)
    url, until = links.link(RECORD, 0)
    expires = int(until.timestamp())
    assert until == NOON + LIFETIME == NOON + timedelta(hours=1)
    assert url.startswith(f"{BASE}/images/{NAME}/0?expires={expires}&signature=")
    assert opens(links, url)
    clock.now = NOON + timedelta(minutes=59, seconds=59)
    assert not links.expired(expires)
    clock.now = until
    assert links.expired(expires)


def test_servers_with_the_same_key_know_each_others_links_also_while_it_is_changed() -> None:
    before, during, after = (ImageLinks(BASE, keys, now=Clock()) for keys in ((OLD,), (NEW, OLD), (NEW,)))
    made_before, made_during = before.link(RECORD, 0)[0], during.link(RECORD, 0)[0]
    assert [opens(each, made_before) for each in (before, during, after)] == [True, True, False]
    assert [opens(each, made_during) for each in (before, during, after)] == [False, True, True]
    one, other = ImageLinks(BASE, (), now=Clock()), ImageLinks(BASE, (), now=Clock())
    assert opens(one, one.link(RECORD, 0)[0])
    assert not opens(other, one.link(RECORD, 0)[0])


def test_what_is_signed_can_not_be_read_in_two_ways() -> None:
    links = ImageLinks(BASE, (NEW,), now=Clock())
    url, until = links.link(RECORD, 1)
    signature, expires = parse_qs(urlsplit(url).query)["signature"][0], int(until.timestamp())
    assert links.opens(RECORD.key, 1, expires, signature)
    assert not links.opens(f"{expires} {RECORD.key}", 1, 1, signature)
    assert not links.opens(RECORD.key, 11, expires, signature)
    assert not links.opens(RECORD.key, 1, expires, signature[:-1])
    assert not links.opens(RECORD.key, 1, expires, "\u00e9" * 32)


@pytest.mark.anyio
async def test_a_link_of_ours_proves_its_connection_for_an_image_may_take_longer_than_an_unproven_one_has(
    tmp_path: Path,
) -> None:
    file = tmp_path / "fox.png"
    file.write_bytes(b"fox")
    image = SimpleNamespace(sha256="0" * 64, mime_type="image/png")
    noted, admitted = list[object](), list[bool]()

    async def known(_: str) -> object:
        return SimpleNamespace(key="k1", images=[image], person="ada")

    async def here(_: object) -> Path:
        return file

    async def note(entries: list[object]) -> None:
        noted.extend(entries)

    service = SimpleNamespace(
        known=known,
        images=SimpleNamespace(here=here),
        _seam=SimpleNamespace(now=Clock()),
        _journal=SimpleNamespace(audit=SimpleNamespace(note=note)),
    )
    links = ImageLinks(BASE, (NEW,), now=Clock())
    router = Router([route(links, lambda: cast("Service", service), most_of_one=1)])

    async def sent() -> None:
        pass

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await router({**scope, "state": {"admit": lambda: admitted.append(True), "sent": sent}}, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(application), base_url=BASE) as http:
        url, _ = links.link(RECORD, 0)
        assert (await http.get(url.replace("signature=", "signature=0"))).status_code == 404
        assert admitted == []
        assert (await http.get(url)).content == b"fox"
    assert (admitted, len(noted)) == ([True], 1)
