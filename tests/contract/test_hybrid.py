"""Our client and a create that answers 202: over real HTTP, against recorded bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import anyio
import pytest

from flux2_mcp.domain.models import Action, ImageRequest, RemoteTask, Status
from flux2_mcp.errors import NotFoundError, WireError
from flux2_mcp.runapi.client import RunApi
from tests.support.recorded import Recorded, answer
from tests.support.rows import rows

pytestmark = pytest.mark.anyio

CAT = ImageRequest(action=Action.TEXT_TO_IMAGE, variant="pro", model="flux-2-pro-text-to-image", prompt="a cat")
RESULT = "/api/v1/tasks/t-1"
ENVELOPE = json.dumps({"id": "t-1", "status": "pending", "error": None, "response": None})
ACCEPTED = RemoteTask(task_id="t-1", status=Status.PENDING, location=RESULT, retry_after=3.0)


def client(url: str) -> RunApi:
    return RunApi(url, "sk-secret", version="0", now=lambda: datetime(2026, 11, 22, tzinfo=UTC))


@rows(
    ("body", "kind"),
    [(ENVELOPE, "application/json"), ("", "text/plain"), ("null", "application/json"), ("Accepted", "text/plain")],
)
async def test_a_202_with_a_location_is_a_task_whatever_its_body(body: str, kind: str) -> None:
    play = answer(202, body, content_type=kind, Location=RESULT, Retry_After="3")
    async with Recorded(play) as server:
        api = client(server.url)
        with anyio.fail_after(60):
            assert await api.create(CAT, idempotency_key="k") == ACCEPTED
        await api.aclose()


async def test_a_hybrid_task_is_asked_about_at_its_location_alone() -> None:
    done = {"id": "t-1", "status": "completed", "images": [{"url": "/results/1.png"}]}
    stored = {"status": 200, "content_type": "application/json", "headers": {}, "body": done}
    ended = json.dumps({"id": "t-1", "status": "completed", "error": None, "response": stored})
    async with Recorded(answer(200, ended, Retry_After="2")) as server:
        api = client(server.url)
        with anyio.fail_after(60):
            task = await api.get(Action.REMIX_IMAGE, "t-1", location=RESULT)
        await api.aclose()
    assert (task.image_urls, task.retry_after) == ((f"{server.url}/results/1.png",), 2.0)
    assert [(sent.method, sent.path) for sent in server.sent] == [("GET", RESULT)]


async def test_a_location_elsewhere_gets_no_call_and_no_key() -> None:
    async with Recorded() as elsewhere, Recorded(answer(202, ENVELOPE, Location=f"{elsewhere.url}{RESULT}")) as server:
        api = client(server.url)
        with anyio.fail_after(60), pytest.raises(WireError, match="Nothing is lost"):
            await api.create(CAT, idempotency_key="k")
        await api.aclose()
    assert (len(server.sent), elsewhere.sent) == (1, [])


async def test_only_a_202_is_followed_and_one_without_a_location_is_a_task_like_any_other() -> None:
    plays = [answer(200, ENVELOPE, Location=RESULT), answer(202, ENVELOPE), answer(202, "", Location="")]
    async with Recorded(plays) as server:
        api = client(server.url)
        with anyio.fail_after(60):
            for _ in range(2):
                assert await api.create(CAT, idempotency_key="k") == RemoteTask(task_id="t-1", status=Status.PENDING)
            with pytest.raises(WireError):
                await api.create(CAT, idempotency_key="k")
        await api.aclose()


@pytest.mark.parametrize("status", [404, 410])
async def test_a_result_that_is_not_there_is_a_task_that_is_not_found(status: int) -> None:
    play = answer(status, '{"error": "This result is gone", "code": "result_gone"}')
    async with Recorded(play) as server:
        api = client(server.url)
        with anyio.fail_after(60), pytest.raises(NotFoundError, match="This result is gone"):
            await api.get(Action.TEXT_TO_IMAGE, "t-1", location=RESULT)
        await api.aclose()


async def test_a_code_at_the_top_of_an_error_is_read_where_there_are_no_words() -> None:
    async with Recorded(answer(404, '{"code": "callback_api_key_unusable"}')) as server:
        api = client(server.url)
        with anyio.fail_after(60), pytest.raises(NotFoundError, match="callback_api_key_unusable"):
            await api.get(Action.TEXT_TO_IMAGE, "t-1")
        await api.aclose()
