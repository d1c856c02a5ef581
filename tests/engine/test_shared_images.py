"""Servers on several machines with one store of images: each has a FLUX2_HOME of its own, and answers for what another has made."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.models import RequestArgs
from flux2_mcp.engine.applied import Result
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.project import Project
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import Flux2Error, StorageError
from flux2_mcp.images.names import image_name
from flux2_mcp.images.object_store import ObjectStore
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.server import resources
from flux2_mcp.server.session import ServerSession
from tests.support.object_store import S3Server, running
from tests.support.services import (
    CREATE,
    FETCH,
    PATIENCE,
    PICTURE,
    POLL,
    UNKNOWN_TASK,
    Front,
    constantly,
    fronted,
    journal_of,
    made,
    opened,
    states,
)

pytestmark = pytest.mark.anyio

SECONDS = 1.0
"""A store that says nothing is given up after this time."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running() as server, pytest.MonkeyPatch.context() as patch:
        for name, text in server.env.items():
            patch.setenv(name, text)
        yield server


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


class Machines:
    """Machines with one journal and one store. What is a folder of one is none of another."""

    def __init__(self, front: Front, server: S3Server, folder: Path) -> None:
        server.clear()
        self.server = server
        self._front, self._folder = front, folder
        self._first = front.settings(folder / "one")

    @asynccontextmanager
    async def opened(
        self,
        name: str,
    ) -> AsyncIterator[Service]:
        """The service of one machine."""
        settings = self._front.settings(
            self._folder / name, workspace=None, images_url=self.server.url, images_over_http=True
        )
        shared = SqliteJournal(self._first.home, account_name(settings), f"owner-{name}")
        store = ObjectStore(self.server.url, http=True, seconds=SECONDS)
        async with opened(settings, journal=lambda _: shared, store=store) as service:
            yield service

    def environment(self) -> dict[str, str]:
        """The settings of the first machine, whose journal is that of all, for a process of its own."""
        return {
            "FLUX2_HOME": str(self._first.home),
            "RUNAPI_API_KEY": str(self._first.api_key),
            "RUNAPI_BASE_URL": self._first.base_url,
            "FLUX2_RATE": "1000",
            "FLUX2_IMAGES_URL": self.server.url,
            **self.server.env,
        }

    def creates(self) -> int:
        return self._front.sandbox.creates()


@pytest.fixture
def machines(front: Front, server: S3Server, tmp_path: Path) -> Machines:
    return Machines(front, server, tmp_path)


def name_of(prompt: str, data: bytes = PICTURE.body) -> str:
    """The name of an image that is made today."""
    return image_name(prompt, at=datetime.now(UTC), sha256=hashlib.sha256(data).hexdigest(), suffix=".png")


async def record_of(service: Service, ident: str) -> TaskRecord:
    """What the journal has of a task."""
    [record] = await journal_of(service).tasks.find([ident])
    return record


async def test_what_one_machine_has_made_another_answers_for_from_its_own_folder(
    machines: Machines, front: Front
) -> None:
    async with machines.opened("one") as one, machines.opened("two") as two:
        outcome = await made(one)
        assert states(outcome) == [State.DELIVERED]
        ident = outcome.tasks[0].record.task_id
        assert ident is not None
        [image] = outcome.tasks[0].record.images
        name = Path(image.path).name
        assert (Path(image.path).parent, machines.server.names()) == (one.images.folder, [name])
        assert [each.path for each in (await record_of(one, ident)).images] == [name]
        # As a resource, small and whole.
        assert await resources.read(ServerSession(two), f"flux2://images/{ident}?max=768")
        content = await resources.read(ServerSession(two), f"flux2://images/{ident}")
        assert content is not None
        assert content.content == PICTURE.body
        (two.images.folder / name).unlink()
        # In the answer about the task: its file is there.
        found = (await two.check([ident], wait_seconds=0)).tasks[0].record.images[0]
        assert (found.path, Path(found.path).read_bytes()) == (str(two.images.folder / name), PICTURE.body)
        Path(found.path).unlink()
        # As the source of another task, when RunAPI does not have it any more.
        front.rule = constantly(f"{POLL}text_to_image/{ident}", UNKNOWN_TASK)
        asked = await two.request(RequestArgs(prompt="at night", source_images=[f"task:{ident}"]), folders=[])
        remixed = await two.generate(await two.offer(asked), approved=True, wait_seconds=PATIENCE)
        assert states(remixed) == [State.DELIVERED]
        [source] = remixed.tasks[0].record.request.sources
        assert source.uploaded_bytes
        # In a list it has this machine's path, whether or not the file is there.
        listed = await two.recent(limit=5)
        assert {Path(image.path).parent for task in listed.tasks for image in task.record.images} == {two.images.folder}
        page = await two.page(limit=5, before=None)
        assert {Path(image.path).parent for record in page for image in record.images} == {two.images.folder}


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_store_that_falls_silent_during_a_delivery_delays_it_and_costs_nothing(
    machines: Machines, front: Front, how: str
) -> None:
    async with machines.opened("one") as one, machines.opened("two") as two:
        if how == "stopped":
            machines.server.signal(signal.SIGSTOP)
        else:
            machines.server.stop()
        try:
            outcome = await made(one)
            assert states(outcome) == [State.COMPLETED]
            trouble = outcome.tasks[0].trouble
            assert isinstance(trouble, StorageError)
            assert trouble.message == "The store of images (FLUX2_IMAGES_URL) did not answer."
            assert [path.name for path in one.images.folder.iterdir()] == [name_of("a red fox")]
            health = await one.health().check()
            assert (health["images"], health["store"]) == ("ok", "can't be used")
        finally:
            if how == "stopped":
                machines.server.signal(signal.SIGCONT)
            else:
                machines.server.start()
        ident = outcome.tasks[0].record.task_id or ""
        ended = await two.check([ident], wait_seconds=PATIENCE)
        assert (states(ended), machines.creates(), machines.server.names()) == (
            [State.DELIVERED],
            1,
            [name_of("a red fox")],
        )
        assert (await one.health().check())["store"] == "ok"
    assert (front.count(CREATE), front.count(FETCH)) == (1, 1)


async def test_a_store_that_vanished_gets_nothing_until_it_is_back_and_no_task_is_lost(
    machines: Machines,
) -> None:
    server = machines.server
    async with machines.opened("one") as one:
        first = (await made(one)).tasks[0].record
        kept = {name: server.get(name) for name in server.everything()}
        assert len(kept) == 2  # the image, and the mark
        server.lose()
        outcome = await made(one, "a blue hare")
        assert states(outcome) == [State.COMPLETED]
        assert "is not the one in which the images of this journal are" in str(outcome.tasks[0].trouble)
        assert (await one.health().check())["store"] == "is not the one that it was"
    async with machines.opened("two") as two:  # another machine, and a process that has never seen the store
        with pytest.raises(StorageError, match="is not the one in which"):
            await two.images.here((await record_of(two, first.key)).images[0])
        with pytest.raises(StorageError, match="is not the one in which"):
            await two.pruner.find(datetime.now(UTC))
        assert server.everything() == []
        for name, data in kept.items():
            server.put(name, data)
        ended = await two.check([outcome.tasks[0].record.task_id or ""], wait_seconds=PATIENCE)
        assert (states(ended), machines.creates()) == ([State.DELIVERED], 2)
        assert server.names() == sorted(map(name_of, ("a red fox", "a blue hare")))
        assert (await two.health().check())["store"] == "ok"


async def test_other_bytes_under_the_name_of_an_image_stay_and_the_task_waits_for_somebody_to_look(
    machines: Machines,
) -> None:
    name = name_of("a red fox")
    machines.server.put(name, b"something else")
    async with machines.opened("one") as one:
        outcome = await made(one)
        assert states(outcome) == [State.COMPLETED]
        assert "has other bytes under the name of this image" in str(outcome.tasks[0].trouble)
        assert machines.server.get(name) == b"something else"
        machines.server.clear()
        ended = await one.check([outcome.tasks[0].record.task_id or ""], wait_seconds=PATIENCE)
        assert (states(ended), machines.server.get(name), machines.creates()) == ([State.DELIVERED], PICTURE.body, 1)


async def test_an_object_that_was_cut_short_is_shown_to_nobody(machines: Machines) -> None:
    async with machines.opened("one") as one, machines.opened("two") as two:
        outcome = await made(one)
        record = outcome.tasks[0].record
        machines.server.put(Path(record.images[0].path).name, PICTURE.body[:-10])
        for uri in (f"flux2://images/{record.task_id}", f"flux2://images/{record.task_id}?max=64"):
            with pytest.raises(Flux2Error, match="has other bytes under the name of this image"):
                await resources.read(ServerSession(two), uri)
        assert states(await two.check([record.task_id or ""], wait_seconds=0)) == [State.DELIVERED]
        assert list(two.images.folder.iterdir()) == []


DIES = """
import os, signal, sys

import anyio
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.submission import CheckedRequest
from flux2_mcp.images.object_store import ObjectStore
from flux2_mcp.settings import from_env


class Dies(ObjectStore):
    def put(self, *given):
        super().put(*given)
        os.kill(os.getpid(), signal.SIGKILL)


async def main():
    settings = from_env(os.environ)
    store = Dies(settings.images_url, http=settings.images_over_http)
    async with Service.opened(settings, seam=lambda usual: replace(usual, store=store)) as service:
        offer = await service.offer(CheckedRequest(catalog.request(prompt="a red fox")))
        await service.generate(offer, approved=True, wait_seconds=60)


anyio.run(main)
"""


async def test_a_process_that_is_killed_between_store_and_journal_leaves_the_rest_to_the_next(
    machines: Machines, front: Front
) -> None:
    """What it put is there already, with the same bytes; only the journal does not know."""
    env = machines.environment() | {"PATH": os.environ["PATH"]}
    with anyio.fail_after(PATIENCE):
        ended = await anyio.run_process([sys.executable, "-c", DIES], env=env, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, b"")
    assert machines.server.names() == [name_of("a red fox")]
    async with machines.opened("two") as two:
        [record] = await journal_of(two).tasks.recent(limit=2)
        assert record.state is State.COMPLETED
        outcome = await two.check([record.key], wait_seconds=PATIENCE)
        assert (states(outcome), machines.creates(), machines.server.names()) == (
            [State.DELIVERED],
            1,
            [name_of("a red fox")],
        )
    assert front.count(FETCH) == 2


@pytest.mark.parametrize("here", ["removed", "changed"])
async def test_what_waits_for_the_store_is_fetched_anew_only_if_its_file_is_not_what_was_checked(
    machines: Machines, front: Front, here: str
) -> None:
    async with machines.opened("one") as one:
        machines.server.signal(signal.SIGSTOP)
        try:
            outcome = await made(one)
        finally:
            machines.server.signal(signal.SIGCONT)
        [path] = one.images.folder.iterdir()
        path.write_bytes(b"something else") if here == "changed" else path.unlink()
        ended = await one.check([outcome.tasks[0].record.task_id or ""], wait_seconds=PATIENCE)
        assert (states(ended), front.count(FETCH)) == ([State.DELIVERED], 2)
        assert machines.server.get(path.name) == path.read_bytes() == PICTURE.body


async def test_a_project_gets_back_on_another_machine_what_only_the_store_has_left(
    machines: Machines, front: Front, tmp_path: Path
) -> None:
    (folder := tmp_path / "site").mkdir()
    (folder / "flux2.toml").write_text('[images."a.png"]\nprompt = "a red fox"\n', "utf-8")
    project = Project(folder, live=True)
    async with machines.opened("one") as one:
        applied = await one.manifests.apply(await one.manifests.quote(project), approved=True)
        assert [image.result for image in applied.images] == [Result.MADE]
    (folder / "a.png").unlink()
    front.rule = constantly(POLL, UNKNOWN_TASK)
    async with machines.opened("two") as two:
        machines.server.signal(signal.SIGSTOP)
        try:  # what is not known to be gone is not paid for again
            with pytest.raises(StorageError, match="did not answer"):
                await two.manifests.quote(project)
        finally:
            machines.server.signal(signal.SIGCONT)
        quote = await two.manifests.quote(project)
        assert quote.paid == ()
        applied = await two.manifests.apply(quote, approved=True)
        assert [image.result for image in applied.images] == [Result.RESTORED]
        [record] = await journal_of(two).tasks.recent(limit=5)
        assert [(each.path, each.saved) for each in record.images] == [(name_of("a red fox"), str(folder / "a.png"))]
    assert machines.creates() == 1


async def test_prune_removes_from_the_store_and_from_the_folder_what_no_task_needs(machines: Machines) -> None:
    async with machines.opened("one") as one, machines.opened("two") as two:
        for prompt in ("a red fox", "a blue hare"):
            await made(one, prompt)
        cut = datetime.now(UTC)
        # A younger task, of another machine, has the same image under the same name.
        young = (await made(two, "a red fox!")).tasks[0].record
        both = frozenset(map(name_of, ("a red fox", "a blue hare")))
        assert machines.server.names() == sorted(both)
        old = await one.pruner.find(cut)
        assert (old.names, frozenset(old.stored), len(old.records)) == (both, both, 2)
        await one.pruner.remove(old)
        assert [path.name for path in one.images.folder.iterdir()] == machines.server.names() == [name_of("a red fox")]
        # Whoever has no file of an image removes it from the store all the same.
        (one.images.folder / name_of("a red fox")).unlink()
        last = await one.pruner.find(datetime.now(UTC))
        assert (len(last.files), [*last.stored]) == (0, [name_of("a red fox")])
        assert await one.pruner.remove(last) == last.size_bytes >= len(PICTURE.body)
        assert (machines.server.names(), (await record_of(two, young.key)).images) == ([], ())


async def test_nothing_is_forgotten_while_the_store_does_not_answer(machines: Machines) -> None:
    async with machines.opened("one") as one:
        record = (await made(one)).tasks[0].record
        old = await one.pruner.find(datetime.now(UTC))
        machines.server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(StorageError, match="did not answer"):
                await one.pruner.remove(old)
        finally:
            machines.server.signal(signal.SIGCONT)
        assert len((await record_of(one, record.key)).images) == 1
        assert Path(record.images[0].path).exists()
