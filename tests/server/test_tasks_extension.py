"""MCP tasks in memory: a handle for who asks for one, a plain result for everybody else."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
    Implementation,
    Request,
    Result,
)
from msgspec.structs import replace
from pydantic import RootModel

from flux2_mcp.engine.seam import Timing
from flux2_mcp.server.app import build
from flux2_mcp.server.results.tasks import JOINED_NOTICE
from flux2_mcp.server.tasks_extension import ID, NO_CANCEL, NO_PREVIEW, handle
from tests.server.test_confirmation import User
from tests.support.deep import thin
from tests.support.rows import each_row
from tests.support.services import (
    BUSY,
    CORRUPT,
    CREATE,
    FETCH,
    NO_MONEY,
    POLL,
    WRONG_KEY,
    Front,
    Reply,
    Seen,
    always,
    constantly,
    fronted,
    through,
    until,
)

pytestmark = pytest.mark.anyio

METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
PENDING = Reply(200, b'{"status": "pending"}')


class Handle(Result):
    """What `tools/call` answers in place of a result."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    status_message: str
    created_at: str
    last_updated_at: str
    ttl_ms: None
    poll_interval_ms: int


class Asking(ClientExtension):
    """Declares the extension, and polls a handle to its end where the SDK's client is given one."""

    identifier = ID

    def __init__(self) -> None:
        self.handles: list[Handle] = []

    def claims(self) -> list[ResultClaim[Handle]]:
        async def resolve(handle: Handle, context: ClaimContext) -> CallToolResult:
            self.handles.append(handle)
            return CallToolResult.model_validate((await ended(context.session, handle.task_id))["result"])

        return [ResultClaim(result_type="task", model=Handle, resolve=resolve)]


async def call(client: Client, **arguments: object) -> Result:
    with anyio.fail_after(30):
        return await client.session.call_tool("generate", {"prompt": "a red fox"} | arguments, allow_claimed=True)


async def made(client: Client, **arguments: object) -> str:
    result = await call(client, **arguments)
    assert isinstance(result, Handle), result
    assert result.status == "working"
    return result.task_id


async def ask(client: Client | ClientSession, method: str, task_id: str, **more: object) -> dict[str, Any]:
    session = client.session if isinstance(client, Client) else client
    request = Request[dict[str, Any], str](method=method, params={"taskId": task_id} | more)
    with anyio.fail_after(30):
        return (await session.send_request(request, RootModel[dict[str, Any]])).root


async def ended(client: Client | ClientSession, task_id: str) -> dict[str, Any]:
    with anyio.fail_after(30):
        while (task := await ask(client, "tasks/get", task_id))["status"] == "working":
            pass  # each poll waits for the end itself
    return task


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


@pytest.fixture
async def asking(front: Front, tmp_path: Path) -> AsyncIterator[Client]:
    async with Client(build(front.settings(tmp_path)), extensions=[Asking()]) as client:
        yield client


@pytest.fixture
async def impatient(front: Front, tmp_path: Path) -> AsyncIterator[Client]:
    """The same, of a server that waits a fifth of a second where it would wait ten."""
    timing = Timing(answer_seconds=0.2, key_trouble_seconds=0.2)
    server = build(front.settings(tmp_path), seam=lambda usual: replace(usual, timing=timing))
    async with Client(server, extensions=[Asking()]) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "preview"),
    thin(
        [("tests", True), ("claude-code", True), ("codex", False), ("copilot", False)],
        kept=[("claude-code", True), ("codex", False)],
    ),
)
async def test_a_finished_task_holds_what_the_call_would_have_answered_this_client(
    front: Front, tmp_path: Path, name: str, *, preview: bool
) -> None:
    arguments = {"prompt": "a red fox", "preview": preview, "idempotency_key": "fox", "count": 2}
    settings, info = front.settings(tmp_path), Implementation(name=name, version="1")
    front.rule = constantly(POLL, PENDING)
    async with Client(build(settings), extensions=[Asking()], client_info=info) as asking:
        task_id = await made(asking, **arguments)
        front.rule = through
        task = await ended(asking, task_id)
    async with Client(build(settings), client_info=info) as plain:
        answered = await plain.call_tool("generate", arguments)
    told = answered.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"meta"})
    assert task["result"] == told
    assert (task["status"], task["resultType"]) == ("completed", "complete")
    assert [each.creates for each in front.tasks()] == [1, 1]  # the second call was the same two tasks


async def test_a_handle_is_given_before_the_end_and_says_how_the_call_stands(front: Front, asking: Client) -> None:
    front.rule = constantly(POLL, PENDING)
    created = await call(asking)
    assert isinstance(created, Handle)
    (remote,) = front.tasks()
    whole = created.model_dump(mode="json", by_alias=True)
    working = await ask(asking, "tasks/get", created.task_id)
    for task, kind in ((whole, "task"), (working, "complete")):
        assert task["taskId"] == remote.id
        assert (task["status"], task["resultType"], task["ttlMs"], task["pollIntervalMs"]) == (
            "working",
            kind,
            None,
            1000,
        )
        assert task["createdAt"] <= task["lastUpdatedAt"]
        assert task["statusMessage"].startswith("0 of 1 done after ")
        assert NO_CANCEL in task["statusMessage"]
        assert not {"result", "error", "inputRequests", "requestState", "ttl", "pollInterval", "task"} & set(task)


async def test_several_images_are_one_handle_and_it_ends_with_the_last(front: Front, asking: Client) -> None:
    held: list[str] = []

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(POLL) and held and held[0] in seen.what:
            return PENDING
        return await through(seen)

    held.append("")
    front.rule = rule
    task_id = await made(asking, count=3)
    ids = task_id.split("+")
    assert sorted(ids) == sorted(task.id for task in front.tasks())
    held[0] = ids[1]
    with anyio.fail_after(30):
        while not (task := await ask(asking, "tasks/get", task_id))["statusMessage"].startswith("2 of 3 done"):
            assert task["status"] == "working"
    held.clear()
    result = (await ended(asking, task_id))["result"]["structuredContent"]
    assert [each["task_id"] for each in result["tasks"]] == ids
    assert {each["status"] for each in result["tasks"]} == {"completed"}


async def test_a_call_that_says_how_long_to_wait_is_given_a_handle_only_after_that(asking: Client) -> None:
    result = await call(asking, wait_seconds=30)
    assert isinstance(result, CallToolResult)
    assert isinstance(result.structured_content, dict)
    assert result.structured_content["status"] == "completed"


async def test_the_configured_wait_holds_for_who_asks_for_handles_too(front: Front, tmp_path: Path) -> None:
    async with Client(build(front.settings(tmp_path, wait_seconds=30.0)), extensions=[Asking()]) as client:
        assert isinstance(await call(client), CallToolResult)


async def test_what_is_refused_is_told_at_once_and_makes_no_task(front: Front, asking: Client) -> None:
    front.rule = constantly(CREATE, NO_MONEY)
    refused = await call(asking)
    assert isinstance(refused, CallToolResult)
    assert refused.is_error
    invalid = await call(asking, count=99)
    assert isinstance(invalid, CallToolResult)
    assert invalid.is_error
    assert front.tasks() == []


@pytest.mark.parametrize("action", ["accept", "decline"])
async def test_what_costs_much_is_asked_for_before_there_is_a_handle(
    front: Front, tmp_path: Path, action: Literal["accept", "decline"]
) -> None:
    front.rule = always(POLL, *[PENDING] * 6)
    user, extension = User(action), Asking()
    settings = front.settings(tmp_path, confirm_usd=Decimal("0.10"))
    async with Client(build(settings), extensions=[extension], elicitation_callback=user) as client:
        with anyio.fail_after(30):
            result = await client.call_tool("generate", {"prompt": "a red fox", "count": 3})
    agreed = action == "accept"
    assert (len(user.asked), len(extension.handles), len(front.tasks())) == (1, agreed, 3 * agreed)
    assert result.is_error is not agreed
    if agreed:
        assert isinstance(result.structured_content, dict)
        assert result.structured_content["status"] == "completed"


async def test_other_tools_answer_plainly(asking: Client) -> None:
    for tool in ("check_task", "check_pricing", "list_variants"):
        assert isinstance(await asking.session.call_tool(tool, {}, allow_claimed=True), CallToolResult)


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_who_does_not_declare_the_extension_gets_plain_results_and_no_methods(
    front: Front, tmp_path: Path, era: str
) -> None:
    async with Client(build(front.settings(tmp_path)), mode=era) as client:
        assert isinstance(await call(client), CallToolResult)
        (task,) = front.tasks()
        for method in METHODS:
            with pytest.raises(MCPError) as caught:
                await ask(client, method, task.id)
            code = METHOD_NOT_FOUND if era == "legacy" else MISSING_REQUIRED_CLIENT_CAPABILITY
            assert caught.value.error.code == code
            if era == "auto":
                assert caught.value.error.data == {"requiredCapabilities": {"extensions": {ID: {}}}}


async def test_a_client_of_the_old_era_that_declares_it_gets_a_plain_result(front: Front, tmp_path: Path) -> None:
    async with Client(build(front.settings(tmp_path)), mode="legacy", extensions=[Asking()]) as client:
        assert isinstance(await call(client), CallToolResult)


async def test_an_unknown_task_is_an_invalid_parameter_and_runapi_is_not_asked(front: Front, asking: Client) -> None:
    unknown = ["", "nobody", "+", NO_PREVIEW, "a" * 9000, "\u2028", "%00", "nobody+nobody"]
    with each_row() as row:
        for method, task_id in itertools.product(METHODS, unknown):
            with row((method, task_id[:20])):
                with pytest.raises(MCPError) as caught:
                    await ask(asking, method, task_id)
                assert caught.value.error.code == INVALID_PARAMS
    assert front.seen == []


async def test_a_handle_holds_no_more_tasks_than_a_call_makes(front: Front, asking: Client) -> None:
    await call(asking, wait_seconds=30)
    (task,) = front.tasks()
    with pytest.raises(MCPError) as caught:
        await ask(asking, "tasks/get", "+".join([task.id] * 9))
    assert caught.value.error.code == INVALID_PARAMS


async def test_a_cancel_is_acknowledged_and_the_task_runs_on_as_its_status_has_said(
    front: Front, asking: Client
) -> None:
    front.rule = constantly(POLL, PENDING)
    task_id = await made(asking)
    assert set(await ask(asking, "tasks/cancel", task_id)) <= {"resultType", "_meta"}
    after = await ask(asking, "tasks/get", task_id)
    assert after["status"] == "working"
    assert "RunAPI has no cancel, so it runs on, and is charged if it completes" in after["statusMessage"]
    front.rule = through
    result = (await ended(asking, task_id))["result"]["structuredContent"]
    assert (result["status"], result["charged_usd"]) == ("completed", 0.05)
    assert (await ask(asking, "tasks/cancel", task_id))["resultType"] == "complete"  # and changes nothing
    assert (await ended(asking, task_id))["result"]["structuredContent"] == result


async def test_an_update_is_acknowledged_and_changes_nothing(front: Front, asking: Client) -> None:
    front.rule = constantly(POLL, PENDING)
    task_id = await made(asking)
    ack = await ask(asking, "tasks/update", task_id, inputResponses={"never asked": {"action": "accept"}})
    assert set(ack) <= {"resultType", "_meta"}
    assert (await ask(asking, "tasks/get", task_id))["status"] == "working"


async def test_a_failed_image_is_a_completed_task_whose_result_says_so(asking: Client) -> None:
    task = await ended(asking, await made(asking, prompt="a red fox [sandbox:moderation]"))
    assert task["status"] == "completed"
    assert task["result"]["structuredContent"]["status"] == "failed"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [(BUSY, "Service unavailable"), pytest.param(WRONG_KEY, "Invalid API key", marks=pytest.mark.deep)],
)
async def test_trouble_on_the_way_stands_in_the_status_and_is_not_the_end(
    front: Front, impatient: Client, trouble: Reply, said: str
) -> None:
    asking = impatient
    front.rule = constantly(POLL, trouble)
    task_id = await made(asking)

    async def told() -> bool:
        task = await ask(asking, "tasks/get", task_id)
        assert task["status"] == "working"
        return said in task["statusMessage"]

    await until(told)
    front.rule = through
    assert (await ended(asking, task_id))["result"]["structuredContent"]["status"] == "completed"


async def test_a_task_whose_image_can_not_be_fetched_ends_with_its_url(front: Front, asking: Client) -> None:
    front.rule = constantly(FETCH, CORRUPT)
    task = await ended(asking, await made(asking))
    (image,) = task["result"]["structuredContent"]["tasks"][0]["images"]
    assert image["url"].startswith("http")
    assert "path" not in image


async def test_an_answer_that_never_came_gives_a_handle_by_our_own_key(front: Front, impatient: Client) -> None:
    asking, release = impatient, anyio.Event()

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(CREATE):
            await release.wait()
        return await through(seen)

    front.rule = rule
    task_id = await made(asking)
    (created,) = [seen for seen in front.seen if seen.is_(CREATE)]
    assert task_id == created.key
    assert (await ask(asking, "tasks/get", task_id))["status"] == "working"
    chosen = await call(asking, prompt="another fox", idempotency_key="fox-1")
    assert isinstance(chosen, CallToolResult)  # a key that somebody chose could be guessed
    assert isinstance(chosen.structured_content, dict)
    assert chosen.structured_content["tasks"][0]["task_id"] == "fox-1"
    release.set()
    assert (await ended(asking, task_id))["result"]["structuredContent"]["status"] == "completed"


async def test_refused_after_the_handle_was_given_it_ends_with_the_error_that_the_call_would_have_been(
    front: Front, impatient: Client
) -> None:
    asking, release = impatient, anyio.Event()

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(CREATE):
            await release.wait()
            return NO_MONEY
        return await through(seen)

    front.rule = rule
    task_id = await made(asking)
    release.set()
    task = await ended(asking, task_id)
    assert task["status"] == "completed"
    assert task["result"]["isError"] is True
    assert "Insufficient credits" in task["result"]["content"][0]["text"]


async def test_a_call_that_joins_another_is_told_so_and_given_the_same_handle(front: Front, asking: Client) -> None:
    front.rule = constantly(POLL, PENDING)
    first = await made(asking)
    second = await call(asking)
    assert isinstance(second, Handle)
    assert second.task_id == first
    assert JOINED_NOTICE in second.status_message


async def test_a_journal_that_can_not_be_read_is_an_internal_error_in_our_words(
    front: Front, asking: Client, tmp_path: Path
) -> None:
    front.rule = constantly(POLL, PENDING)
    task_id = await made(asking)
    async with Client(build(front.settings(tmp_path / "other")), extensions=[Asking()]) as client:
        (tmp_path / "other" / "home").parent.mkdir()
        (tmp_path / "other" / "home").write_text("no folder")
        with pytest.raises(MCPError) as caught:
            await ask(client, "tasks/get", task_id)
    assert caught.value.error.code == INTERNAL_ERROR
    assert caught.value.error.message.startswith("The journal can't be used: ")


def test_a_handle_is_fit_for_a_header_whatever_the_ids_are() -> None:
    assert handle(["a b", "c+d", "e?f", "\u00e9"], preview=False) == f"a%20b+c%2Bd+e%3Ff+%C3%A9{NO_PREVIEW}"
