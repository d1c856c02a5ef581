"""Every program that is served, run as it is served, against the sandbox; a front between them sees each call."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from jsonschema import Draft202012Validator
from PIL import Image

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import MAKING, Action
from flux2_mcp.sandbox.scenarios import MODERATED
from flux2_mcp.server.docs import examples, schemas, uris
from tests.support.programs import Quickstart, code, environment, runtime
from tests.support.rows import each_row
from tests.support.sandboxed import TLS
from tests.support.services import (
    CREATE,
    FETCH,
    PATIENCE,
    POLL,
    Front,
    Reply,
    Rule,
    Seen,
    always,
    fronted,
    limited,
    made_then_cut,
)

pytestmark = pytest.mark.anyio

PRO = "flux-2-pro-text-to-image"
MAX_REMIX = "flux-2-max-remix-image"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


async def in_every_language(
    folder: Path,
    check: Callable[[Quickstart, Front], Awaitable[None]],
    models: Mapping[str, str] | None = None,
    languages: Collection[str] = tuple(examples.LANGUAGES),
) -> None:
    """Check the quickstart of each language, all at once as they mostly wait, each with a sandbox of its own.

    Where a runtime is missing, the test is skipped once all others hold.
    """
    missing: list[str] = []
    with each_row() as row:

        async def checked(language: str) -> None:
            with row(language):
                (folder / language).mkdir()
                async with fronted(folder / language) as front:
                    uri = uris.quickstart(language, (models or {}).get(language))
                    await check(Quickstart(front, folder / language, language, uri), front)

        async with anyio.create_task_group() as group:
            for language in languages:
                if isinstance(found := runtime(language), str):
                    missing.append(found)
                else:
                    group.start_soon(checked, language)
    if missing:
        pytest.skip("; ".join(missing))


def two_of_them(*kept: str) -> list[Any]:
    """These languages in `make test`, the others in `make test-deep`: each has two to four of the tests of all."""
    others = [language for language in examples.LANGUAGES if language not in kept]
    return [pytest.param(kept, id="two"), pytest.param(others, id="the others", marks=pytest.mark.deep)]


def gaps(front: Front, kind: str) -> list[float]:
    """Seconds between the calls of one kind."""
    at = [seen.at for seen in front.seen if seen.is_(kind)]
    return [later - earlier for earlier, later in itertools.pairwise(at)]


async def untouched(seen: Seen) -> Reply | None:
    """The sandbox's own answer, its picture too."""
    return await seen.forward()


def patient(then: Rule) -> Rule:
    """The first poll finds the task open and is asked to wait 3 s, the second is told a date 3 s away; then, `then`."""
    left = ["open", "date"]

    async def rule(seen: Seen) -> Reply | None:
        if not (left and seen.is_(POLL)):
            return await then(seen)
        if left.pop(0) == "open":
            task = {"id": seen.what.rpartition("/")[2], "status": "processing"}
            return Reply(200, json.dumps(task).encode(), {"Content-Type": "application/json", "Retry-After": "3"})
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
        return Reply(503, b'{"error": "Service unavailable"}', {"Retry-After": date})

    return rule


# --- quickstarts ---


@pytest.mark.parametrize(
    "models",
    [
        dict(zip(examples.LANGUAGES, itertools.cycle([PRO, MAX_REMIX]), strict=False)),
        pytest.param(dict(zip(examples.LANGUAGES, itertools.cycle([MAX_REMIX, PRO]), strict=False)), marks=pytest.mark.deep),
    ],
    ids=["one model or the other", "the other"],
)  # fmt: skip
async def test_it_sends_the_described_request_once_and_saves_the_image(tmp_path: Path, models: dict[str, str]) -> None:
    async def check(quickstart: Quickstart, front: Front) -> None:
        model = catalog.models()[models[quickstart.language]]
        front.rule = untouched
        done = await quickstart.run()
        assert (done.returncode, done.stdout, done.stderr) == (0, b"flux-2.png\n", b"")
        (task,) = front.tasks()
        assert (task.action, task.body) == (model.action, schemas.example(model))
        assert (task.creates, len(task.idempotency_key or "") >= 32) == (1, True)
        with Image.open(quickstart.saved()[0]) as picture:
            picture.load()
            assert (picture.format, picture.width * 9) == ("PNG", picture.height * 16)
        # The key goes to RunAPI, and never to the host of the image.
        assert {seen.authorized for seen in front.seen if seen.is_(FETCH)} == {False}
        assert {seen.authorized for seen in front.seen if not seen.is_(FETCH)} == {True}

    await in_every_language(tmp_path, check, models)


async def test_whatever_goes_wrong_on_the_way_it_is_one_task_paid_once(tmp_path: Path) -> None:
    async def check(quickstart: Quickstart, front: Front) -> None:
        page = Reply(200, b"<!doctype html><title>Maintenance</title>", {"Content-Type": "text/html"})
        gone = Reply(410, b'{"error": "gone"}')
        polls = patient(then=always(POLL, page, then=always(FETCH, gone, page)))
        front.rule = always(CREATE, limited("2"), then=made_then_cut(then=polls))
        done = await quickstart.run()
        assert (done.returncode, done.stdout, done.stderr) == (0, b"flux-2.png\n", b"")
        (task,) = front.tasks()
        creates = [seen.key for seen in front.seen if seen.is_(CREATE)]
        assert creates == [task.idempotency_key] * 3
        assert (front.count(FETCH), len(quickstart.saved())) == (3, 1)
        # Of themselves the programs wait at most 1 s after a first failure, and 2 s between polls. A date is in whole
        # seconds.
        assert gaps(front, CREATE)[0] >= 2
        assert [gap >= least for gap, least in zip(gaps(front, POLL), (3, 2), strict=False)] == [True, True]

    await in_every_language(tmp_path, check)


@pytest.mark.parametrize("languages", two_of_them("php", "ruby"))
async def test_out_of_time_it_tells_the_key_with_which_the_same_task_is_fetched_later(
    tmp_path: Path, languages: Collection[str]
) -> None:
    async def check(quickstart: Quickstart, front: Front) -> None:
        late = await quickstart.run(WAIT_SECONDS="1")
        assert (late.returncode, late.stdout, quickstart.saved()) == (1, b"", [])
        (task,) = front.tasks()
        assert late.stderr.decode().strip().endswith(f"IDEMPOTENCY_KEY={task.idempotency_key}")
        done = await quickstart.run(IDEMPOTENCY_KEY=str(task.idempotency_key))
        assert (done.returncode, done.stdout) == (0, b"flux-2.png\n")
        assert [one.id for one in front.tasks()] == [task.id]

    await in_every_language(tmp_path, check, languages=languages)


@pytest.mark.parametrize("languages", two_of_them("python", "curl"))
async def test_a_failed_task_and_a_refused_request_end_it_at_once_with_the_reason(
    tmp_path: Path, languages: Collection[str]
) -> None:
    async def check(quickstart: Quickstart, front: Front) -> None:
        failed = await quickstart.run("a fox [sandbox:moderation]")
        assert failed.returncode == 1
        assert b"was not charged: The request was rejected by content moderation." in failed.stderr
        refused = await quickstart.run("a fox [sandbox:insufficient_credits]")
        assert refused.returncode == 1
        assert b"RunAPI answered 402" in refused.stderr
        assert b"Insufficient credits" in refused.stderr
        assert (front.count(CREATE), len(front.tasks()), quickstart.saved()) == (2, 1, [])

    await in_every_language(tmp_path, check, languages=languages)


# --- polling ---


async def test_the_polling_loop_tells_the_end_of_every_task(front: Front, tmp_path: Path) -> None:
    ids = {}
    for number, action in enumerate([*MAKING, Action.TEXT_TO_IMAGE]):
        body = schemas.example(catalog.find(None, action)) | {"prompt": f"fox {number}"}
        if number == 2:
            body["prompt"] = "a fox [sandbox:moderation]"
        ids[(await create(front, action, body))["id"]] = action
    front.rule = always(POLL, None, limited("1"))
    done = await poll(front, tmp_path, *(f"{action}/{ident}" for ident, action in ids.items()))
    assert (done.returncode, done.stderr) == (0, b"")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for task in told:
        Draft202012Validator(schemas.task()).validate(task)
    assert {task["id"]: task["status"] for task in told} == dict(
        zip(ids, ["completed", "completed", "failed"], strict=True)
    )


async def test_the_polling_loop_names_what_it_can_not_wait_for(front: Front, tmp_path: Path) -> None:
    ident = (await create(front, Action.TEXT_TO_IMAGE, schemas.example(catalog.models()[PRO])))["id"]
    wrong = await poll(front, tmp_path, f"remix_image/{ident}")
    assert (wrong.returncode, wrong.stdout) == (1, b"")
    assert wrong.stderr.decode().startswith(f"remix_image/{ident}: RunAPI answered 404: ")
    stuck = await create(front, Action.TEXT_TO_IMAGE, {"model": PRO, "prompt": "a fox [sandbox:stuck]"})
    late = await poll(front, tmp_path, f"text_to_image/{stuck['id']}", WAIT_SECONDS="1")
    assert (late.returncode, late.stderr.decode().strip()) == (1, f"Still open: text_to_image/{stuck['id']}")


async def poll(front: Front, folder: Path, *tasks: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    program = folder / "poll.py"
    program.write_text(code(uris.POLLING), "utf-8")
    with anyio.fail_after(PATIENCE):
        return await anyio.run_process(
            [sys.executable, "-W", "error", str(program), *tasks], env=environment(front, folder, **more), check=False
        )


async def create(front: Front, action: Action, body: dict[str, object]) -> dict[str, str]:
    async with httpx2.AsyncClient(verify=TLS, timeout=PATIENCE) as http:
        answer = await http.post(
            f"{front.base_url}/api/v1/flux_2/{action}",
            json=body,
            headers={"Authorization": f"Bearer {front.sandbox.api_key}"},
        )
    found: dict[str, str] = answer.raise_for_status().json()
    return found


# --- webhook ---


async def test_the_webhook_receiver_takes_real_callbacks_believes_nobody_and_saves_once(
    front: Front, tmp_path: Path
) -> None:
    program = tmp_path / "webhook.py"
    program.write_text(code(uris.WEBHOOK), "utf-8")
    env = environment(front, tmp_path, WEBHOOK_SECRET="only-for-this-test", PORT="0")
    with anyio.fail_after(2 * PATIENCE):
        async with (
            await anyio.open_process([sys.executable, str(program)], cwd=tmp_path, env=env) as process,
            httpx2.AsyncClient(verify=TLS, timeout=PATIENCE) as http,
        ):
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)

            async def line() -> str:
                return (await lines.receive_until(b"\n", 1000)).decode()

            address = await line()
            assert address.endswith("/hooks/ACTION/only-for-this-test")
            urls = {action: address.replace("ACTION", action) for action in MAKING}
            for action, url in urls.items():
                body = schemas.example(catalog.find(None, action))
                task = await create(front, action, body | {"callback_url": url})
                assert await line() == f"{task['id']}.png"
                assert (tmp_path / f"{task['id']}.png").read_bytes().startswith(b"\x89PNG")
                before = (tmp_path / f"{task['id']}.png").stat().st_mtime_ns
                # Announced again, with lies: it is looked up again, and not written again.
                lies = {"id": task["id"], "status": "failed", "images": [{"url": "http://127.0.0.1:9/evil.png"}]}
                assert (await http.post(url, json=lies)).status_code == 204
                assert await line() == f"{task['id']}.png"
                assert (tmp_path / f"{task['id']}.png").stat().st_mtime_ns == before
            url = urls[Action.TEXT_TO_IMAGE]
            refused = [
                await http.post(f"{url}x", json={"id": "a"}),
                await http.post(address, json={"id": "a"}),
                await http.post(url, content=b"no json"),
                await http.post(url, json={"id": "../../etc/passwd"}),
                await http.post(url, json=["id"]),
                await http.post(url, content=b"{" + b" " * 70_000),
            ]
            assert [answer.status_code for answer in refused] == [404, 404, 400, 400, 400, 413]
            unknown = "00000000-0000-4000-8000-000000000000"
            assert (await http.post(url, json={"id": unknown})).status_code == 204
            assert await line() == f"{unknown}: answered 404"
            task = await create(front, Action.TEXT_TO_IMAGE, {"model": PRO, "prompt": "a fox [sandbox:moderation]"})
            assert (await http.post(url, json=task)).status_code == 204
            assert await line() == f"{task['id']} failed and was not charged: {MODERATED}"
            process.terminate()
    assert {seen.authorized for seen in front.seen if seen.is_(FETCH)} == {False}
