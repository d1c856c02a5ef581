from __future__ import annotations

import gzip
import json
import logging
import time
from base64 import b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import md5
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import anyio
import pytest
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import (
    MAKING,
    Action,
    Balance,
    ImageRequest,
    PriceSchedule,
    RemoteTask,
    RunApiAccount,
    Status,
    UploadedFile,
)
from flux2_mcp.errors import (
    NOTHING_SENT,
    ApiError,
    AuthenticationError,
    ConflictError,
    Flux2Error,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    RejectedError,
    ServiceError,
    SettingsError,
    TransportError,
    WireError,
)
from flux2_mcp.runapi import retry
from flux2_mcp.runapi.client import RunApi
from flux2_mcp.runapi.exchange import Exchange
from flux2_mcp.runapi.responses import MAX_ANSWER_BYTES, MAX_ERROR_BYTES, DownloadStream, Response
from flux2_mcp.runapi.transport import MAX_CALLS, MAX_DOWNLOADS, HttpTransport, Timeouts
from flux2_mcp.runapi.wire import IssuedKey
from flux2_mcp.sandbox.server import Sandbox
from tests.support.recorded import Play, Recorded, Then, answer
from tests.support.rows import rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

pytestmark = pytest.mark.anyio

KEY = "sk-very-secret"
NOW = datetime(2026, 11, 22, 8, 0, 0, tzinfo=UTC)
T2I, REMIX = Action.TEXT_TO_IMAGE, Action.REMIX_IMAGE
CAT = ImageRequest(action=T2I, variant="pro", model="flux-2-pro-text-to-image", prompt="an astronaut — holding a cat")
CREATED = '{"id": "t-1", "status": "pending"}'
PENDING = RemoteTask(task_id="t-1", status=Status.PENDING)
DONE = '{"id": "t-1", "status": "completed", "images": [{"url": "https://cdn.example.com/1.png"}], "usage": {"cost": 0.05}}'
RESET, CLOSED = Play(b"", "reset"), Play(b"", "close")
PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>no</h1></body></html>"


@dataclass
class Seam:
    """A clock that only sleeping moves, dice that always show a half."""

    slept: list[float] = field(default_factory=list)
    limited: list[float | None] = field(default_factory=list)
    gated: int = 0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def hear(self, seconds: float | None) -> None:
        self.limited.append(seconds)

    async def gate(self) -> None:
        self.gated += 1


class Options(TypedDict, total=False):
    gate: Callable[[], Awaitable[None]] | None
    on_limited: Callable[[float | None], Awaitable[None]] | None
    sleep: Callable[[float], Awaitable[None]]
    now: Callable[[], datetime]


@asynccontextmanager
async def opened(
    url: str,
    seam: Seam | None = None,
    key: str | None = KEY,
    *,
    timeouts: Timeouts | None = None,
    max_calls: int = MAX_CALLS,
    max_downloads: int = MAX_DOWNLOADS,
    **options: Unpack[Options],
) -> AsyncIterator[RunApi]:
    seam = seam or Seam()
    defaults: Options = {"gate": seam.gate, "on_limited": seam.hear, "sleep": seam.sleep, "now": lambda: NOW}
    api = RunApi(
        url,
        key,
        version="1.2.3",
        transport=HttpTransport(url, timeouts=timeouts, max_calls=max_calls, max_downloads=max_downloads),
        monotonic=lambda: sum(seam.slept),
        jitter=lambda: 0.5,
        **(defaults | options),
    )
    try:
        with anyio.fail_after(60):
            yield api
    finally:
        await api.aclose()


def patient(play: Play) -> Timeouts:
    """Only what never comes is given up soon, and not before a busy machine has brought what comes before it."""
    return Timeouts(read=1.0) if play.then == "stall" else Timeouts()


async def create(api: RunApi) -> RemoteTask:
    return await api.create(CAT, idempotency_key="key-1")


async def get(api: RunApi) -> RemoteTask:
    return await api.get(T2I, "t-1")


# What is sent.


async def test_a_create_sends_exactly_the_contract() -> None:
    async with Recorded(answer(200, CREATED)) as server, opened(server.url) as api:
        task = await api.create(CAT, idempotency_key="key-1")
    [sent] = server.sent
    assert task == PENDING
    assert (sent.method, sent.path) == ("POST", "/api/v1/flux_2/text_to_image")
    assert sent.body.decode() == '{"model":"flux-2-pro-text-to-image","prompt":"an astronaut — holding a cat"}'
    assert sent.headers == {
        "host": server.url.removeprefix("http://"),
        "authorization": f"Bearer {KEY}",
        "user-agent": "flux2-mcp/1.2.3",
        "accept": "application/json",
        "accept-encoding": "gzip",
        "content-type": "application/json",
        "content-length": str(len(sent.body)),
        "idempotency-key": "key-1",
    }


async def test_a_remix_goes_to_its_own_endpoint_with_its_source_images() -> None:
    request = replace(
        CAT, action=REMIX, model="flux-2-pro-remix-image", source_image_urls=("https://example.com/a.png",)
    )
    async with Recorded(answer(201, CREATED)) as server, opened(server.url) as api:
        await api.create(request, idempotency_key="key-1")
    assert server.sent[0].path == "/api/v1/flux_2/remix_image"
    assert json.loads(server.sent[0].body)["source_image_urls"] == ["https://example.com/a.png"]


@pytest.mark.parametrize("action", list(MAKING))
async def test_a_poll_asks_the_endpoint_that_made_the_task(action: Action) -> None:
    async with Recorded(answer(200, DONE, Retry_After="3")) as server, opened(server.url) as api:
        task = await api.get(action, "t-1")
    assert task == RemoteTask(
        task_id="t-1",
        status=Status.COMPLETED,
        image_urls=("https://cdn.example.com/1.png",),
        cost_usd=Decimal("0.05"),
        retry_after=3.0,
    )
    [sent] = server.sent
    assert (sent.method, sent.path, sent.body) == ("GET", f"/api/v1/flux_2/{action}/t-1", b"")
    assert "content-length" not in sent.headers
    assert "idempotency-key" not in sent.headers


async def test_a_result_without_a_host_stands_where_runapi_does() -> None:
    images = [{"url": "/results/1.png?x=1"}, "//cdn.example.com/2.png", "https://cdn.example.com/3.png", "4.png"]
    body = json.dumps({"id": "t-1", "status": "completed", "images": images})
    async with Recorded([answer(200, body), answer(200, body)]) as server, opened(server.url) as api:
        tasks = [await api.get(T2I, "t-1"), await api.create(CAT, idempotency_key="key-1")]
    urls = (
        f"{server.url}/results/1.png?x=1",
        "http://cdn.example.com/2.png",
        "https://cdn.example.com/3.png",
        "4.png",
    )
    assert [task.image_urls for task in tasks] == [urls, urls]


async def test_a_task_id_can_not_leave_its_endpoint() -> None:
    async with Recorded(answer(200, DONE)) as server, opened(server.url) as api:
        await api.get(T2I, "../me?x=1#ü")
    assert server.sent[0].path == "/api/v1/flux_2/text_to_image/..%2Fme%3Fx%3D1%23%C3%BC"


@pytest.mark.parametrize("task_id", ["", ".", ".."])
async def test_what_is_no_task_id_is_not_sent(task_id: str) -> None:
    async with Recorded() as server, opened(server.url) as api:
        with pytest.raises(InvalidRequestError, match="task_ids"):
            await api.get(T2I, task_id)
    assert server.sent == []


@rows("value", ["", " a", "a\r\nX: y", "schlüssel", "x" * 513])
async def test_a_key_outside_its_bounds_is_not_sent(value: str) -> None:
    async with Recorded() as server, opened(server.url) as api:
        with pytest.raises(InvalidRequestError, match="idempotency_key"):
            await api.create(CAT, idempotency_key=value)
    assert server.sent == []


async def test_the_id_in_the_header_stands_in_for_one_that_the_answer_lacks() -> None:
    async with Recorded(answer(200, "{}", X_RunAPI_Task_Id="t-1")) as server, opened(server.url) as api:
        assert await create(api) == PENDING


async def test_a_base_url_may_have_a_path() -> None:
    async with Recorded(answer(200, CREATED)) as server, opened(f"{server.url}/proxy") as api:
        await create(api)
    assert server.sent[0].path == "/proxy/api/v1/flux_2/text_to_image"


# What each answer becomes.

STATUSES: list[tuple[int, type[ApiError]]] = [
    (302, ServiceError),
    (307, ServiceError),
    (400, RejectedError),
    (401, AuthenticationError),
    (402, InsufficientCreditsError),
    (403, AuthenticationError),
    (404, NotFoundError),
    (405, RejectedError),
    (408, ServiceError),
    (409, ConflictError),
    (410, NotFoundError),
    (413, RejectedError),
    (415, RejectedError),
    (418, RejectedError),
    (422, RejectedError),
    (429, RateLimitedError),
    (500, ServiceError),
    (501, ServiceError),
    (502, ServiceError),
    (503, ServiceError),
    (504, ServiceError),
]


@rows(("status", "kind"), STATUSES)
async def test_every_status_has_its_error(status: int, kind: type[ApiError]) -> None:
    refused = answer(status, '{"error": "the reason"}', X_Request_Id="req-7", Location="/elsewhere")
    async with Recorded(refused) as server, opened(server.url) as api:
        with pytest.raises(ApiError) as caught:
            await get(api)
    error = caught.value
    assert type(error) is kind
    assert (error.message, error.status, error.request_id, error.retry_after) == (
        f"RunAPI answered {status}: the reason",
        status,
        "req-7",
        None,
    )
    assert len(server.sent) == 1


@rows(
    ("status", "body", "content_type", "message"),
    [
        (
            422,
            '{"error": "Validation failed", "errors": {"prompt": ["is too short"]}}',
            "application/json",
            "RunAPI answered 422: Validation failed: prompt: is too short",
        ),
        (502, PAGE, "text/html; charset=utf-8", "RunAPI answered 502: 502 Bad Gateway"),
        (503, "", "text/plain", "RunAPI answered 503: Service Unavailable"),
        (500, "<p>no heading</p>", "text/html", "RunAPI answered 500: Internal Server Error"),
        (400, b"\xff\xfe broken", "text/plain", "RunAPI answered 400: \ufffd\ufffd broken"),
        (401, f'{{"error": "unknown key {KEY}"}}', "application/json", "RunAPI answered 401: unknown key ••••"),
    ],
)
async def test_an_error_says_what_runapi_said(status: int, body: bytes | str, content_type: str, message: str) -> None:
    async with Recorded(answer(status, body, content_type=content_type)) as server, opened(server.url) as api:
        with pytest.raises(ApiError) as caught:
            await get(api)
    assert caught.value.message == message


async def test_a_status_without_a_name_is_still_an_error() -> None:
    strange = Play(b"HTTP/1.1 599 What\r\nContent-Length: 0\r\n\r\n")
    async with Recorded(strange) as server, opened(server.url) as api:
        with pytest.raises(ServiceError, match=r"^RunAPI answered 599: no words of its own$"):
            await get(api)


@rows(
    ("status", "kind"),
    [
        (200, ServiceError),
        (401, AuthenticationError),
        (403, ServiceError),
        (404, ServiceError),
        (410, ServiceError),
        (413, RejectedError),
    ],
)
async def test_a_web_page_is_not_believed_about_keys_rights_and_tasks(status: int, kind: type[ApiError]) -> None:
    async with Recorded(answer(status, PAGE, content_type="text/html")) as server, opened(server.url) as api:
        with pytest.raises(ApiError, match="502 Bad Gateway") as caught:
            await get(api)
    assert type(caught.value) is kind


@rows(
    ("body", "reason"),
    [
        ("{not json", "not JSON"),
        ("", "not JSON"),
        ("[]", "not an object"),
        ('"text"', "not an object"),
        ("[" * 100_000, "not JSON"),
        (b" " * (MAX_ANSWER_BYTES + 1), "more than 4 MB"),
        (b" " * (MAX_ANSWER_BYTES * 3), "more than 4 MB"),
    ],
)
async def test_a_success_that_can_not_be_read_is_a_wire_error_and_not_retried(body: bytes | str, reason: str) -> None:
    seam = Seam()
    async with Recorded(answer(200, body)) as server, opened(server.url, seam) as api:
        with pytest.raises(WireError, match=reason):
            await create(api)
    assert (len(server.sent), seam.slept) == (1, [])


async def test_an_endless_success_is_read_no_further_than_the_limit() -> None:
    endless = answer(200, b" " * (MAX_ANSWER_BYTES + 65_536), Content_Length=str(MAX_ANSWER_BYTES * 10), then="stall")
    async with Recorded(endless) as server, opened(server.url) as api:
        with pytest.raises(WireError, match="more than 4 MB"):
            await get(api)


async def test_json_is_read_with_a_byte_order_mark_and_under_any_content_type() -> None:
    body = b"\xef\xbb\xbf" + CREATED.encode()
    async with Recorded(answer(200, body, content_type="text/plain")) as server, opened(server.url) as api:
        assert await create(api) == PENDING


async def test_gzip_is_read() -> None:
    packed = answer(200, gzip.compress(CREATED.encode()), Content_Encoding="gzip")
    async with Recorded(packed) as server, opened(server.url) as api:
        assert await create(api) == PENDING


async def test_a_small_body_that_swells_beyond_the_limit_is_refused() -> None:
    bomb = answer(200, gzip.compress(b" " * (MAX_ANSWER_BYTES * 8)), Content_Encoding="gzip")
    async with Recorded(bomb) as server, opened(server.url) as api:
        with pytest.raises(WireError, match="more than 4 MB"):
            await create(api)


@rows("encoding", ["gzip, gzip", "br", "zstd", "gzip, br", "x-gzip"])
async def test_of_several_codings_and_those_that_were_not_asked_for_none_is_read(encoding: str) -> None:
    body = gzip.compress(gzip.compress(b" " * MAX_ANSWER_BYTES))
    async with Recorded(answer(200, body, Content_Encoding=encoding)) as server, opened(server.url) as api:
        with pytest.raises(WireError, match="not JSON"):
            await get(api)


@rows(
    "broken",
    [
        answer(503, "x" * 100, Retry_After="9", cut=50, then="close"),
        answer(503, "x" * 100, Retry_After="9", cut=50, then="reset"),
        answer(503, "x" * 100, Retry_After="9", cut=50, then="stall"),
        answer(503, b"not gzip", Retry_After="9", Content_Encoding="gzip"),
        answer(503, b"what", Retry_After="9", Content_Encoding="br"),
        answer(503, b"x" * (MAX_ERROR_BYTES * 4), Retry_After="9"),
    ],
)
async def test_an_errors_status_and_retry_after_count_whatever_becomes_of_its_body(broken: Play) -> None:
    async with Recorded(broken) as server, opened(server.url, timeouts=patient(broken)) as api:
        with pytest.raises(ServiceError) as caught:
            await get(api)
    assert (caught.value.status, caught.value.retry_after) == (503, 9.0)


# No answer at all.


@rows(
    ("play", "words"),
    [
        (RESET, "broke off"),
        (CLOSED, "broke off"),
        (Play(b"HTTP/1.1 200 OK\r\nContent-Le", "close"), "broke off"),
        (Play(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "close"), "not HTTP"),
        (answer(200, DONE, cut=10, then="close"), "broke off"),
        (answer(200, DONE, cut=10, then="reset"), "broke off"),
        (Play(b"", "stall"), "no answer in time"),
        (answer(200, DONE, cut=10, then="stall"), "no answer in time"),
    ],
)
async def test_an_answer_that_does_not_come_whole_is_a_transport_error(play: Play, words: str) -> None:
    async with Recorded(play) as server, opened(server.url, timeouts=patient(play)) as api:
        with pytest.raises(TransportError, match=words) as caught:
            await get(api)
    assert (caught.value.sent, caught.value.__cause__ is None) == (True, False)


async def test_an_answer_that_drips_ends_with_its_attempt() -> None:
    drip = Play(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "stall")
    async with Recorded(drip) as server, opened(server.url, timeouts=Timeouts(pool=0.1, answer=0.1)) as api:
        with pytest.raises(TransportError, match="no answer in time"):
            await get(api)


@rows(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "no connection"),
        ("http://localhost:1", "no connection"),
        ("http://xn--a-.localhost:1", "address"),
        (f"http://{'a' * 70}.localhost:1", "no connection"),
        ("http://127.0.0.1:99999", "address"),
        ("ftp://127.0.0.1", "address"),
    ],
)
async def test_an_address_that_can_not_be_reached_is_a_transport_error(url: str, words: str) -> None:
    async with opened(url) as api:
        with pytest.raises(TransportError, match=words) as caught:
            await get(api)
    assert not caught.value.sent


async def test_a_call_that_finds_no_free_connection_says_so() -> None:
    plays = [Play(b"", "stall")]
    async with (
        Recorded(plays) as server,
        opened(server.url, timeouts=Timeouts(pool=0.1), max_calls=1) as api,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(get, api)
        while not server.sent:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(TransportError, match="no connection was free"):
            await get(api)
        tasks.cancel_scope.cancel()


# Trying again.

OK = answer(200, CREATED)
BLIP = answer(503, '{"error": "busy"}')


@rows(
    ("plays", "slept"),
    [
        ([BLIP, OK], [0.25]),
        ([BLIP, BLIP, OK], [0.25, 0.5]),
        ([BLIP, BLIP, BLIP, OK], [0.25, 0.5, 1.0]),
        ([RESET, OK], [0.25]),
        ([answer(200, CREATED, cut=9, then="close"), OK], [0.25]),
        ([answer(200, PAGE, content_type="text/html"), OK], [0.25]),
        ([answer(408), OK], [0.25]),
        ([answer(500), answer(502), answer(504), OK], [0.25, 0.5, 1.0]),
        ([answer(429, Retry_After="7"), OK], [7.25]),
        ([answer(429, Retry_After="Sun, 22 Nov 2026 08:00:09 GMT"), OK], [9.25]),
        ([answer(429, Retry_After="Sun, 22 Nov 2026 07:00:00 GMT"), OK], [0.25]),
        ([answer(429, Retry_After="soon"), OK], [0.25]),
        ([answer(503, Retry_After="0.5"), OK], [0.75]),
    ],
)
async def test_a_create_is_tried_again_with_the_same_key_and_bytes(plays: list[Play], slept: list[float]) -> None:
    seam = Seam()
    async with Recorded(plays) as server, opened(server.url, seam) as api:
        assert await create(api) == PENDING
    assert seam.slept == slept
    assert len(server.sent) == seam.gated == len(plays)
    first = server.sent[0]
    assert all((s.headers, s.body, s.path) == (first.headers, first.body, first.path) for s in server.sent)
    assert first.headers["idempotency-key"] == "key-1"


@rows("status", [400, 401, 402, 404, 409, 422, 501, 302])
async def test_what_will_not_change_is_not_tried_again(status: int) -> None:
    seam = Seam()
    async with Recorded(answer(status, "{}", Location="/")) as server, opened(server.url, seam) as api:
        with pytest.raises(ApiError):
            await create(api)
    assert (len(server.sent), seam.slept) == (1, [])


async def test_a_create_gives_up_after_its_attempts() -> None:
    seam = Seam()
    async with Recorded([BLIP] * 4, OK) as server, opened(server.url, seam) as api:
        with pytest.raises(ServiceError, match=r"^RunAPI answered 503: busy$"):
            await create(api)
    assert (len(server.sent), seam.slept) == (4, [0.25, 0.5, 1.0])


async def test_a_wait_that_does_not_fit_is_reported_at_once() -> None:
    seam = Seam()
    async with Recorded(answer(429, '{"error": "slow"}', Retry_After="60")) as server, opened(server.url, seam) as api:
        with pytest.raises(RateLimitedError) as caught:
            await create(api)
    assert (caught.value.retry_after, caught.value.next_step) == (60.0, "Wait 60 s and call again.")
    assert (len(server.sent), seam.slept, seam.limited) == (1, [], [60.0])


@rows(
    ("plays", "unanswered"),
    [
        ([answer(429, Retry_After="60")], False),
        ([answer(429)] * 4, False),
        ([RESET, answer(429, Retry_After="60")], True),
        ([BLIP, answer(429, Retry_After="60")], True),
        ([answer(200, PAGE, content_type="text/html"), answer(402)], True),
        ([answer(402)], False),
        ([BLIP] * 4, True),
    ],
)
async def test_an_error_says_whether_an_earlier_try_may_have_been_taken(plays: list[Play], unanswered: bool) -> None:
    async with Recorded(plays) as server, opened(server.url) as api:
        with pytest.raises(ApiError) as caught:
            await create(api)
    assert caught.value.unanswered is unanswered
    assert len(server.sent) == len(plays)


async def test_a_gate_that_closes_between_two_tries_leaves_what_is_known_of_the_first() -> None:
    asked = 0

    async def gate() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise RateLimitedError("closed", status=429, retry_after=60)

    async with Recorded(RESET) as server, opened(server.url, gate=gate) as api:
        with pytest.raises(RateLimitedError, match="closed") as caught:
            await create(api)
    assert (len(server.sent), asked, caught.value.unanswered) == (1, 2, True)
    assert caught.value.next_step == "Wait 60 s and call again."


async def test_a_connection_that_was_never_made_sent_nothing() -> None:
    seam = Seam()
    async with opened("http://127.0.0.1:1", seam) as api:
        with pytest.raises(TransportError) as caught:
            await create(api)
    assert (caught.value.sent, len(seam.slept)) == (False, 3)


async def test_an_earlier_try_that_was_sent_is_not_forgotten_when_the_last_one_was_not() -> None:
    async with Recorded(RESET) as server:

        async def gone(_: float) -> None:
            await server.stop()

        async with opened(server.url, sleep=gone) as api:
            with pytest.raises(TransportError, match="no connection") as caught:
                await create(api)
    assert caught.value.sent


async def test_a_poll_is_tried_once_and_says_when_to_ask_again() -> None:
    seam = Seam()
    plays = [answer(429, Retry_After="7"), answer(503, Retry_After="Sun, 22 Nov 2026 08:00:30 GMT")]
    async with Recorded(plays) as server, opened(server.url, seam) as api:
        with pytest.raises(RateLimitedError) as limited:
            await get(api)
        with pytest.raises(ServiceError) as busy:
            await get(api)
    assert (limited.value.retry_after, busy.value.retry_after) == (7.0, 30.0)
    assert (len(server.sent), seam.slept, seam.limited) == (2, [], [7.0])


async def test_a_poll_is_tried_as_often_as_asked() -> None:
    seam = Seam()
    async with Recorded(BLIP, answer(429), BLIP) as server, opened(server.url, seam) as api:
        with pytest.raises(RateLimitedError):
            await api.get(T2I, "t-1", attempts=2)
    assert (len(server.sent), len(seam.slept)) == (2, 1)


async def test_other_reads_are_tried_again() -> None:
    async with Recorded(RESET, BLIP, answer(200, '{"balance_cents": 1234}')) as server, opened(server.url) as api:
        assert await api.balance() == Balance(balance_usd=Decimal("12.34"))


UNKEYED: list[Callable[[RunApi], Awaitable[object]]] = [
    lambda api: api.upload("cat.png", b"x"),
    lambda api: api.exchange("c", "v", 1234, "host"),
]


@rows("call", UNKEYED)
@rows("play", [BLIP, RESET, answer(429), answer(200, PAGE, content_type="text/html")])
async def test_a_post_without_a_key_is_never_tried_again(
    call: Callable[[RunApi], Awaitable[object]], play: Play
) -> None:
    async with Recorded(play, OK) as server, opened(server.url) as api:
        with pytest.raises((ApiError, TransportError)):
            await call(api)
    assert len(server.sent) == 1


async def test_the_hook_hears_of_every_429() -> None:
    heard: list[float | None] = []

    async def on_limited(seconds: float | None) -> None:
        await anyio.lowlevel.checkpoint()
        heard.append(seconds)

    plays = [answer(429, Retry_After="2"), answer(429), OK]
    async with Recorded(plays) as server, opened(server.url, on_limited=on_limited) as api:
        assert await create(api) == PENDING
    assert heard == [2.0, None]


async def test_no_gate_and_no_hook_are_needed() -> None:
    async with Recorded(answer(429), OK) as server, opened(server.url, gate=None, on_limited=None) as api:
        assert await create(api) == PENDING


async def test_waiting_at_the_gate_for_the_first_time_uses_up_no_attempts() -> None:
    seam = Seam()

    async def gate() -> None:
        seam.gated += 1
        if seam.gated == 1:
            await seam.sleep(100)

    async with Recorded(BLIP, OK) as server, opened(server.url, seam, gate=gate) as api:
        assert await create(api) == PENDING
    assert seam.slept == [100, 0.25]


# The other calls.

PRICES = json.dumps(
    {
        "as_of": "2026-11-22T08:00:00Z",
        "price_schedules": [
            {
                "service": "flux-2",
                "action": "text_to_image",
                "model": "flux-2-pro-text-to-image",
                "unit_price_cents": None,
                "billing_config": {"key": "output_resolution", "overrides": {"1k": 5, "2k": 7}},
            }
        ],
    }
)
PRICED = (
    PriceSchedule(
        model="flux-2-pro-text-to-image",
        action=T2I,
        cents={"1k": Decimal(5), "2k": Decimal(7)},
        dearest_cents=Decimal(7),
        as_of="2026-11-22T08:00:00Z",
    ),
)


async def test_unchanged_prices_are_not_sent_again() -> None:
    plays = [answer(200, PRICES, ETag='W/"1"'), Play(b"HTTP/1.1 304 Not Modified\r\n\r\n"), answer(200, PRICES)]
    async with Recorded(plays) as server, opened(server.url) as api:
        assert [await api.price_schedules() for _ in range(3)] == [PRICED] * 3
    assert [sent.headers.get("if-none-match") for sent in server.sent] == [None, 'W/"1"', 'W/"1"']
    assert {sent.path for sent in server.sent} == {"/api/v1/price_schedules?service=flux-2"}


async def test_prices_are_kept_for_each_filter_by_itself() -> None:
    plays = [answer(200, PRICES, ETag='"1"'), answer(200, PRICES, ETag='"2"'), answer(200, PRICES)]
    async with Recorded(plays) as server, opened(server.url) as api:
        await api.price_schedules()
        await api.price_schedules(action=T2I, model="a model")
        await api.price_schedules(action=T2I, model="a model")
    assert [(sent.path.partition("?")[2], sent.headers.get("if-none-match")) for sent in server.sent] == [
        ("service=flux-2", None),
        ("service=flux-2&action=text_to_image&model=a+model", None),
        ("service=flux-2&action=text_to_image&model=a+model", '"2"'),
    ]


async def test_not_modified_without_a_kept_list_makes_no_sense() -> None:
    async with Recorded(Play(b"HTTP/1.1 304 Not Modified\r\n\r\n")) as server, opened(server.url) as api:
        with pytest.raises(WireError):
            await api.price_schedules()


async def test_prices_need_no_key() -> None:
    async with Recorded(answer(200, PRICES)) as server, opened(server.url, key=None) as api:
        assert await api.price_schedules() == PRICED
    assert "authorization" not in server.sent[0].headers


@rows("call", [create, get, *UNKEYED[:1], lambda api: api.balance(), lambda api: api.me()])
async def test_without_a_key_nothing_that_needs_one_is_sent(call: Callable[[RunApi], Awaitable[object]]) -> None:
    seam = Seam()
    async with Recorded(OK) as server, opened(server.url, seam, key=None) as api:
        with pytest.raises(AuthenticationError) as caught:
            await call(api)
    assert (server.sent, seam.gated, caught.value.cost) == ([], 0, NOTHING_SENT)


async def test_the_account_is_read() -> None:
    said = '{"id": 1, "name": "A", "email": "a@example.com", "account": {"id": 2, "name": "Team"}}'
    async with Recorded(answer(200, said)) as server, opened(server.url) as api:
        assert await api.me() == RunApiAccount(name="A", email="a@example.com", account_name="Team", account_id="2")
    assert server.sent[0].path == "/api/v1/me"


FILE = json.dumps(
    {
        "file_name": "cat.png",
        "url": "https://files.example.com/cat.png",
        "size_bytes": 200_000,
        "mime_type": "image/png",
        "expires_at": "2026-11-22T09:00:00Z",
    }
)
UPLOADED = UploadedFile(
    file_name="cat.png",
    url="https://files.example.com/cat.png",
    size_bytes=200_000,
    mime_type="image/png",
    expires_at=datetime(2026, 11, 22, 9, tzinfo=UTC),
)


def prepared(store: Recorded, **headers: str) -> Play:
    place = {"upload_url": f"{store.url}/put?signature=s3cr3t", "headers": headers, "signed_id": "sid"}
    return answer(200, json.dumps(place), Set_Cookie="session=1; Path=/")


async def test_an_upload_reaches_the_store_with_its_headers_and_nothing_of_ours() -> None:
    data = bytes(range(250)) * 800
    seam = Seam()
    async with Recorded(answer(200)) as store, Recorded() as server, opened(server.url, seam) as api:
        server.plays = [prepared(store, **{"Content-Type": "image/png", "x-amz-acl": "private"}), answer(200, FILE)]
        assert await api.upload("cat.png", data) == UPLOADED
    prepare, confirm = server.sent
    checksum = b64encode(md5(data, usedforsecurity=False).digest()).decode()
    assert (prepare.method, prepare.path) == ("POST", "/api/v1/files/prepare")
    assert json.loads(prepare.body) == {"filename": "cat.png", "byte_size": 200_000, "checksum": checksum}
    [put] = store.sent
    assert (put.method, put.path) == ("PUT", "/put?signature=s3cr3t")
    assert put.body == data
    assert put.headers == {
        "host": store.url.removeprefix("http://"),
        "content-type": "image/png",
        "content-length": "200000",
        "x-amz-acl": "private",
    }
    assert (confirm.path, json.loads(confirm.body)) == ("/api/v1/files/confirm", {"signed_id": "sid"})
    assert "cookie" not in confirm.headers
    assert seam.gated == 2


async def test_an_empty_file_and_a_given_length_are_sent_as_they_are() -> None:
    async with Recorded(answer(204)) as store, Recorded() as server, opened(server.url) as api:
        server.plays = [prepared(store, **{"content-length": "0"}), answer(200, FILE)]
        await api.upload("a\udcff.png", b"")
    assert store.sent[0].headers == {"host": store.url.removeprefix("http://"), "content-length": "0"}
    assert json.loads(server.sent[0].body)["filename"] == "a?.png"


@rows(
    ("play", "kind", "words"),
    [
        (
            answer(403, f"<Error><Message>Expired {KEY}</Message></Error>", content_type="application/xml"),
            ServiceError,
            r"^The upload store answered 403: Expired ••••$",
        ),
        (answer(503), ServiceError, r"^The upload store answered 503: Service Unavailable$"),
        (answer(307, Location="/else"), ServiceError, "307"),
        (Play(b"HTTP/1.1 304 Not Modified\r\n\r\n"), ServiceError, "304"),
        (RESET, TransportError, "^The upload store gave no answer"),
    ],
)
async def test_a_store_that_refuses_is_not_asked_again(play: Play, kind: type[Flux2Error], words: str) -> None:
    seam = Seam()
    async with Recorded(play, answer(200)) as store, Recorded() as server, opened(server.url, seam) as api:
        server.plays = [prepared(store)]
        with pytest.raises(kind, match=words):
            await api.upload("cat.png", b"x")
    assert (len(store.sent), len(server.sent), seam.limited) == (1, 1, [])


@rows("url", ["http://store.example.com/put", "file:///etc/passwd", "http://[", "store"])
async def test_bytes_are_never_sent_in_the_clear(url: str) -> None:
    place = json.dumps({"upload_url": url, "headers": {}, "signed_id": "sid"})
    async with Recorded(answer(200, place)) as server, opened(server.url) as api:
        with pytest.raises(WireError, match="not https"):
            await api.upload("cat.png", b"x")


async def test_a_login_code_is_exchanged_without_any_key() -> None:
    said = '{"key": "sk-new", "name": "laptop", "user": {"email": "a@example.com"}}'
    async with Recorded(answer(200, said)) as server, opened(server.url) as api:
        assert await api.exchange("c", "v", 1234, "Jürgens\nMac") == IssuedKey(
            key="sk-new", name="laptop", email="a@example.com"
        )
    [sent] = server.sent
    assert (sent.method, sent.path) == ("POST", "/api/v1/cli/exchange")
    assert json.loads(sent.body) == {"code": "c", "code_verifier": "v", "redirect_port": 1234}
    assert sent.headers["x-cli-hostname"] == "J?rgens?Mac"
    assert "authorization" not in sent.headers


# Downloads.


async def everything(download: DownloadStream) -> bytes:
    return b"".join([chunk async for chunk in download.chunks()])


async def test_a_download_comes_as_it_is_and_carries_no_key() -> None:
    image = bytes(range(256)) * 4096
    seam = Seam()
    first = answer(206, image, content_type="image/png", Set_Cookie="a=b")
    async with Recorded(first, answer(200, b"")) as server, opened(server.url, seam) as api:
        async with api.download(f"{server.url}/1.png?sig=1", headers={"Range": "bytes=0-"}) as download:
            assert await everything(download) == image
        async with api.download(f"{server.url}/2.png") as other:
            assert await everything(other) == b""
    assert (download.status, download.headers["content-type"]) == (206, "image/png")
    assert download.headers["content-length"] == str(len(image))
    assert (server.sent[0].method, server.sent[0].path) == ("GET", "/1.png?sig=1")
    common = {
        "host": server.url.removeprefix("http://"),
        "user-agent": "flux2-mcp/1.2.3",
        "accept": "*/*",
        "accept-encoding": "identity",
    }
    assert [sent.headers for sent in server.sent] == [common | {"range": "bytes=0-"}, common]
    assert (seam.gated, server.connections) == (0, 1)


@pytest.mark.parametrize("status", [302, 404, 503])
async def test_a_downloads_status_is_the_callers_to_judge(status: int) -> None:
    async with (
        Recorded(answer(status, b"no", Location="/else")) as server,
        opened(server.url) as api,
        api.download(server.url) as download,
    ):
        assert (download.status, download.headers["location"]) == (status, "/else")
    assert len(server.sent) == 1


@pytest.mark.parametrize("play", [RESET, Play(b"", "stall")])
async def test_a_download_that_does_not_open_is_a_transport_error(play: Play) -> None:
    async with Recorded(play) as server, opened(server.url, timeouts=patient(play)) as api:
        with pytest.raises(TransportError, match=r"^The image's host"):
            async with api.download(f"{server.url}/1.png"):
                pytest.fail("nothing opened")


@pytest.mark.parametrize("then", ["close", "reset", "stall"])
async def test_a_download_that_breaks_off_says_so_where_it_is_read(then: Then) -> None:
    play = answer(200, b"x" * 1000, cut=500, then=then)
    async with (
        Recorded(play) as server,
        opened(server.url, timeouts=patient(play)) as api,
        api.download(server.url) as download,
    ):
        with pytest.raises(TransportError, match=r"^The image's host gave no answer"):
            await everything(download)


async def test_an_error_of_the_reader_is_the_readers_own() -> None:
    async with Recorded(answer(200, b"x")) as server, opened(server.url) as api:
        with pytest.raises(TimeoutError, match="mine"):
            async with api.download(server.url):
                raise TimeoutError("mine")


async def test_a_download_left_early_gives_its_place_back() -> None:
    big = answer(200, b"x" * 3_000_000)
    async with Recorded([big] * 3) as server, opened(server.url, timeouts=Timeouts(pool=0.1), max_downloads=1) as api:
        for _ in range(3):
            async with api.download(server.url) as download:
                async for _chunk in download.chunks():
                    break


# The process's life.


async def test_one_connection_serves_one_call_after_another() -> None:
    async with Recorded([OK] * 5) as server, opened(server.url) as api:
        for _ in range(5):
            await create(api)
    assert server.connections == 1


async def test_nothing_is_opened_before_the_first_call_and_closing_twice_is_fine() -> None:
    api = RunApi("https://runapi.invalid", KEY, version="1")
    await api.aclose()
    await api.aclose()


async def test_another_transport_carries_all_calls_and_ends_with_them() -> None:
    class Overheard(HttpTransport):
        async def send(self, method: str, url: str, **rest: Any) -> Response:  # noqa: ANN401  # what it overhears it passes on
            heard.append((method, url))
            return await super().send(method, url, **rest)

        async def aclose(self) -> None:
            heard.append(("closed", ""))
            await super().aclose()

    heard: list[tuple[str, str]] = []
    async with Recorded(OK) as server:
        api = RunApi(server.url, KEY, version="1", transport=Overheard(server.url))
        assert await create(api) == PENDING
        await api.aclose()
    assert heard == [("POST", f"{server.url}/api/v1/flux_2/text_to_image"), ("closed", "")]


async def test_many_calls_at_once_are_all_answered_over_a_few_connections() -> None:
    async with (
        Recorded([answer(200, DONE)] * 150) as server,
        opened(server.url) as api,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(150):
            tasks.start_soon(get, api)
    assert len(server.sent) == 150
    assert server.connections <= MAX_CALLS


async def test_slow_downloads_keep_no_poll_waiting() -> None:
    slow = answer(200, b"x" * 10, cut=5, then="stall")
    async with (
        Recorded(slow, answer(200, CREATED)) as server,
        opened(server.url, timeouts=Timeouts(pool=0.1), max_downloads=1) as api,
        api.download(server.url),
    ):
        with pytest.raises(TransportError, match="no connection was free"):
            async with api.download(server.url):
                pytest.fail("there is one place")
        assert await get(api) == PENDING


async def test_cancelled_calls_leave_the_pool_healthy() -> None:
    for plays in ([Play(b"", "stall")] * 2, [answer(200, DONE, cut=5, then="stall")] * 2):
        async with Recorded(plays) as server, opened(server.url, max_calls=2) as api:
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(get, api)
                while len(server.sent) < 2:
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            server.plays = [OK] * 4
            for _ in range(4):
                assert await create(api) == PENDING


async def test_a_deadline_of_the_caller_is_the_callers_own() -> None:
    async with Recorded(Play(b"", "stall")) as server, opened(server.url) as api:
        with anyio.move_on_after(0.1) as scope:
            await create(api)
        assert scope.cancelled_caught


async def test_proxies_of_the_environment_never_stand_before_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with Recorded([OK] * 2) as server:
        port = server.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost"):
            async with opened(f"http://{host}:{port}") as api:
                assert await create(api) == PENDING


async def test_proxies_of_the_environment_carry_calls_to_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Play(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "close")
    async with Recorded(refusal) as proxy, opened("https://runapi.invalid") as api:
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        with pytest.raises(TransportError, match="the proxy did not let the call through"):
            await get(api)
    assert (proxy.sent[0].method, proxy.sent[0].path) == ("CONNECT", "runapi.invalid:443")
    assert "authorization" not in proxy.sent[0].headers


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "socks4://127.0.0.1:1"), ("ALL_PROXY", "gopher://x"), ("SSL_CERT_FILE", "/missing")],
)
async def test_an_environment_that_can_not_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    async with opened("https://runapi.invalid") as api:
        with pytest.raises(SettingsError, match=name):
            await get(api)


# The key.


@rows("key", ["", " sk", "sk\r\nX: y", "schlüssel"])
def test_a_key_that_can_not_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RunApi("https://runapi.invalid", key, version="1")
    assert key.strip() not in str(caught.value) or not key.strip()


@pytest.mark.parametrize(
    "play",
    [
        answer(401, json.dumps({"error": f"unknown key {KEY}"})),
        answer(500, f"<html><title>debug: Authorization: Bearer {KEY}</title></html>", content_type="text/html"),
        answer(200, json.dumps({"error": f"key {KEY}"})),
        answer(200, f"{KEY} is not JSON"),
        RESET,
    ],
)
async def test_the_key_is_in_no_error_and_no_log(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Recorded([play] * 4) as server, opened(server.url) as api:
        with pytest.raises(Flux2Error) as caught:
            await create(api)
        shown = [repr(api), repr(caught.value), str(caught.value.__cause__), caplog.text]
    assert not [text for text in shown if KEY in text]
    ours = [record for record in caplog.records if record.name == "flux2_mcp.runapi"]
    assert {record.levelname for record in ours} <= {"DEBUG"}
    assert CAT.prompt not in caplog.text


def test_what_holds_the_key_for_each_call_does_not_show_it() -> None:
    exchange = Exchange(
        transport=HttpTransport("https://runapi.invalid"), base="https://runapi.invalid", key=KEY, agent="flux2-mcp/1",
        policy=retry.STANDARD, gate=None, on_limited=None, sleep=anyio.sleep, monotonic=time.monotonic, now=lambda: NOW,
        jitter=lambda: 0.5,
    )  # fmt: skip
    assert exchange.bearer() == {"Authorization": f"Bearer {KEY}"}
    assert "https://runapi.invalid" in repr(exchange)
    assert KEY not in repr(exchange)


# Against the sandbox: the same client, a whole RunAPI.


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("sandbox"), speed=1000, rate=None) as running:
        yield running


async def ended(api: RunApi, action: Action, task_id: str) -> RemoteTask:
    while True:
        task = await api.get(action, task_id)
        if task.status.ended:
            return task


async def test_an_image_is_made_remixed_and_downloaded(sandbox: Sandbox) -> None:
    async with opened(sandbox.base_url, key=sandbox.api_key, gate=None) as api:
        created = await api.create(CAT, idempotency_key="sandbox-1")
        made = await ended(api, T2I, created.task_id)
        assert (made.status, made.cost_usd, made.error) == (Status.COMPLETED, Decimal("0.05"), None)
        remix = replace(CAT, action=REMIX, model="flux-2-pro-remix-image", source_image_urls=made.image_urls)
        remixed = await ended(api, REMIX, (await api.create(remix, idempotency_key="sandbox-2")).task_id)
        assert remixed.status is Status.COMPLETED
        async with api.download(remixed.image_urls[0]) as download:
            assert (await everything(download)).startswith(b"\x89PNG\r\n\x1a\n")
        assert (download.status, download.headers["content-type"]) == (200, "image/png")


async def test_the_same_key_brings_the_same_task_and_another_request_under_it_is_a_conflict(sandbox: Sandbox) -> None:
    async with opened(sandbox.base_url, key=sandbox.api_key) as api:
        first = await api.create(CAT, idempotency_key="sandbox-3")
        assert (await api.create(CAT, idempotency_key="sandbox-3")).task_id == first.task_id
        with pytest.raises(ConflictError):
            await api.create(replace(CAT, prompt="another cat"), idempotency_key="sandbox-3")


@rows("marker", ["create_503", "create_html", "create_lost", "rate_limited", "rate_limited_date"])
async def test_every_scripted_trouble_of_a_create_is_got_over(sandbox: Sandbox, marker: str) -> None:
    made = len(sandbox.tasks())
    async with opened(sandbox.base_url, key=sandbox.api_key, now=lambda: datetime.now(UTC)) as api:
        request = replace(CAT, prompt=f"[sandbox:{marker}] a cat")
        task = await api.create(request, idempotency_key=f"sandbox-{marker}")
        assert (await ended(api, T2I, task.task_id)).status is Status.COMPLETED
    assert len(sandbox.tasks()) == made + 1


async def test_a_moderated_task_says_why_and_costs_nothing(sandbox: Sandbox) -> None:
    async with opened(sandbox.base_url, key=sandbox.api_key) as api:
        created = await api.create(replace(CAT, prompt="[sandbox:moderation] a cat"), idempotency_key="sandbox-4")
        task = await ended(api, T2I, created.task_id)
    assert (task.status, task.cost_usd, task.image_urls) == (Status.FAILED, None, ())
    assert "moderation" in (task.error or "")


async def test_the_sandbox_refuses_by_status_and_in_words(sandbox: Sandbox) -> None:
    async with opened(sandbox.base_url, key=sandbox.api_key) as api:
        with pytest.raises(NotFoundError):
            await api.get(T2I, "no-such-task")
        with pytest.raises(RejectedError, match=r"422: Validation failed: output_resolution: "):
            await api.create(replace(CAT, output_resolution="8k"), idempotency_key="sandbox-5")
        with pytest.raises(InsufficientCreditsError):
            await api.create(replace(CAT, prompt="[sandbox:insufficient_credits] a cat"), idempotency_key="sandbox-6")
    async with opened(sandbox.base_url, key="sk-wrong") as api:
        with pytest.raises(AuthenticationError):
            await api.balance()


async def test_prices_and_the_account_are_read(sandbox: Sandbox) -> None:
    async with opened(sandbox.base_url, key=sandbox.api_key) as api:
        schedules = await api.price_schedules()
        assert await api.price_schedules() is schedules
        assert {schedule.model for schedule in schedules} == set(catalog.models())
        [pro] = await api.price_schedules(model=CAT.model)
        assert pro.cents == {"1k": Decimal(5), "2k": Decimal(7)}
        assert (await api.balance()).balance_usd > 0
        assert (await api.me()).name


async def test_a_file_is_uploaded_and_can_be_fetched(sandbox: Sandbox) -> None:
    data = b"\x89PNG\r\n\x1a\n" + bytes(100_000)
    async with opened(sandbox.base_url, key=sandbox.api_key) as api:
        file = await api.upload("cat.png", data)
        assert (file.file_name, file.size_bytes, file.mime_type) == ("cat.png", len(data), "image/png")
        assert file.expires_at is not None
        async with api.download(file.url) as download:
            assert await everything(download) == data
