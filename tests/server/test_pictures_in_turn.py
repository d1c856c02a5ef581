"""Where many people call, each has one picture decoded at once, whichever way it comes, and holds up nobody else by it."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from mcp.client.client import Client
from msgspec.structs import replace
from PIL import Image

from flux2_mcp.domain.models import RequestArgs
from flux2_mcp.domain.people import Caller, Person
from flux2_mcp.domain.sources import UnreadableError
from flux2_mcp.engine.remote_files import RemoteFiles
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.source_images import SourceImages
from flux2_mcp.errors import Flux2Error, InvalidRequestError
from flux2_mcp.server import resources
from flux2_mcp.server.app import build
from flux2_mcp.server.results.tasks import Link
from flux2_mcp.server.session import ServerSession
from flux2_mcp.server.team.links import ImageLinks
from flux2_mcp.settings import Settings
from flux2_mcp.system.turns import Turns
from tests.server.test_previews import delivered
from tests.support.stdio import DEADLINE

pytestmark = pytest.mark.anyio

ADA, BEN = (
    Caller(person=Person(issuer="https://sso.example.com", subject=name, admin=True)) for name in ("ada", "ben")
)
LINK: Link = ImageLinks("https://flux2.example.com", ["k" * 32]).link
OLD = "task-0"


def picture(size: tuple[int, int] = (300, 200)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "lime").save(out, "PNG")
    return out.getvalue()


def uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


class Many:
    """A service that many people call."""

    def __init__(self, service: Service, turns: Turns, seam: Seam | None = None) -> None:
        self.service, self.turns, self.seam = service, turns, seam

    @asynccontextmanager
    async def held(self, caller: Caller) -> AsyncIterator[None]:
        """While a picture of this person is being decoded, which takes as long as this context."""
        release = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self.turns.run, caller.person.key, partial(release.wait, DEADLINE))
            await anyio.wait_all_tasks_blocked()
            try:
                yield
            finally:
                release.set()


@pytest.fixture
async def many(sandbox_settings: Settings, tmp_path: Path) -> AsyncIterator[Many]:
    await delivered(sandbox_settings, tmp_path, 1)
    turns, seams = Turns(1, 2), list[Seam]()

    def given(usual: Seam) -> Seam:
        seams.append(many_people(usual, turns))
        return seams[-1]

    async with Service.opened(sandbox_settings, keep=False, seam=given) as service:
        yield Many(service, turns, *seams)


def many_people(usual: Seam, turns: Turns) -> Seam:
    return replace(usual, turns=turns, remote=RemoteFiles("https://flux2.example.com"))


async def source(service: Service) -> object:
    return await service.request(RequestArgs(prompt="at night", source_images=[uri(picture())]))


async def upload(service: Service) -> object:
    return await service.take_source(picture)


async def scaled(service: Service) -> object:
    return await resources.read(ServerSession(service, link=LINK), f"flux2://images/{OLD}?max=64")


async def small(service: Service) -> object:
    return await resources.read(ServerSession(service, link=LINK), f"flux2://images/{OLD}?max=768")


async def whole(service: Service) -> object:
    return await resources.read(ServerSession(service, link=LINK), f"flux2://images/{OLD}")


@pytest.mark.parametrize("work", [source, upload, scaled, small, whole])
async def test_whoever_has_a_picture_decoded_holds_up_their_own_alone(
    many: Many, work: Callable[[Service], Awaitable[object]]
) -> None:
    done = list[str]()

    async def of(caller: Caller) -> None:
        await work(many.service.of(caller))
        done.append(caller.person.subject)

    with anyio.fail_after(DEADLINE):
        async with many.held(ADA):
            async with anyio.create_task_group() as group:
                group.start_soon(of, ADA)
                while not many.turns.waiting:
                    await anyio.lowlevel.checkpoint()
                await of(BEN)
                assert (done, many.turns.waiting) == (["ben"], 1)
                group.cancel_scope.cancel()
            assert many.turns.waiting == 0
    assert done == ["ben"]


async def test_the_later_step_of_a_picture_is_its_persons(many: Many) -> None:
    assert many.seam is not None
    own = SourceImages(many.seam, (), many.service.images)
    record = await many.service.known(OLD)
    assert record is not None
    (image,) = record.images
    right = replace(image, sha256=hashlib.sha256(Path(image.path).read_bytes()).hexdigest())
    done = list[str]()

    async def of(caller: Caller) -> None:
        await own.of_step(replace(record, images=(right,), person=caller.person.key))
        done.append(caller.person.subject)

    with anyio.fail_after(DEADLINE):
        async with many.held(ADA), anyio.create_task_group() as group:
            group.start_soon(of, ADA)
            while not many.turns.waiting:
                await anyio.lowlevel.checkpoint()
            await of(BEN)
            assert (done, many.turns.waiting) == (["ben"], 1)
            group.cancel_scope.cancel()


async def test_small_pictures_of_an_answer_wait_for_their_persons_turn(
    sandbox_settings: Settings, tmp_path: Path
) -> None:
    await delivered(sandbox_settings, tmp_path, 1)
    turns, callers, answers = Turns(1, 2), [BEN], list[int]()
    server = build(
        sandbox_settings,
        seam=lambda usual: many_people(usual, turns),
        caller=lambda: callers[0],
        remote="https://flux2.example.com",
        link=LINK,
    )

    async def ask(client: Client) -> None:
        answers.append(len((await client.call_tool("check_task", {"task_ids": [OLD]})).content))

    with anyio.fail_after(DEADLINE):
        async with Client(server) as client, Many(server.session.whole, turns).held(ADA):
            await ask(client)
            callers[:] = [ADA]
            async with anyio.create_task_group() as group:
                group.start_soon(ask, client)
                while not turns.waiting:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
    assert len(answers) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"upscale": 3},
        {"aspect_ratio": "7:1"},
        {"callback_url": "file:///x"},
        {"prompt": "x"},
        {"source_images": [uri(picture())] * 9},
        {"source_images": [uri(picture()), "/etc/passwd"]},
        {"source_images": [uri(picture()), "task:none"]},
    ],
    ids=" ".join,
)
async def test_what_is_wrong_otherwise_is_refused_before_a_picture_is_decoded(
    many: Many, wrong: dict[str, Any]
) -> None:
    args: dict[str, Any] = {"prompt": "at night", "source_images": [uri(picture())]} | wrong
    with anyio.fail_after(DEADLINE):
        async with many.held(ADA):  # so that it would wait for ever
            with pytest.raises(InvalidRequestError):
                await many.service.of(ADA).request(RequestArgs(**args))


async def test_what_is_no_picture_is_named_all_the_same(many: Many) -> None:
    ada = many.service.of(ADA)
    sources = [uri(b"none"), uri(picture((300, 200))), uri(b"")]
    with pytest.raises(InvalidRequestError) as raised:
        await ada.request(RequestArgs(prompt="at night", source_images=sources))
    assert [each.text for each in raised.value.problems] == [
        "item 1 is no PNG, JPEG or WebP image; convert it first.",
        "item 3 is empty.",
    ]
    with pytest.raises(UnreadableError, match="is empty"):
        await ada.take_source(bytes)
    with pytest.raises(InvalidRequestError, match="upscale"):
        await ada.request(RequestArgs(source_images=[uri(picture((7000, 7000)))], upscale=8))


async def test_a_server_whose_people_wait_for_pictures_is_healthy(many: Many) -> None:
    with anyio.fail_after(DEADLINE):
        async with many.held(ADA), many.held(BEN), anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(upload, many.service.of(ADA))
            await anyio.wait_all_tasks_blocked()
            assert set((await many.service.health().check()).values()) == {"ok"}
            group.cancel_scope.cancel()


@pytest.mark.parametrize("more", [0, 1], ids=["as large as may be", "larger"])
async def test_an_image_too_large_for_a_message_is_named_by_its_link_and_no_path(
    sandbox_settings: Settings, tmp_path: Path, more: int
) -> None:
    await delivered(sandbox_settings, tmp_path, 1, size_bytes=resources.MAX_LINKED_BYTES + more)
    waited = list[bool]()

    async def before_much() -> None:
        waited.append(True)

    async with Service.opened(sandbox_settings, keep=False) as service:
        session = ServerSession(service, link=LINK, before_much=before_much)
        assert await resources.read(session, f"flux2://images/{OLD}?max=64")
        assert waited == []
        if not more:
            assert await resources.read(session, f"flux2://images/{OLD}")
            assert waited == [True]
            return
        with pytest.raises(
            Flux2Error, match=r"Fetch it from https://flux2.example.com/images/azA/0\?expires="
        ) as raised:
            await resources.read(session, f"flux2://images/{OLD}")
        assert str(tmp_path) not in str(raised.value.message)
