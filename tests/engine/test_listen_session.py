"""Callbacks without a public address: a hint to look, as those that come to a port are. Without it, tasks end all the same."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.backend import Backend
from flux2_mcp.engine.listen_session import ListenSession
from flux2_mcp.engine.planner import PollTime
from flux2_mcp.engine.seam import Timing
from flux2_mcp.runapi.client import RunApi
from flux2_mcp.settings import Settings
from tests.support import journals
from tests.support.deep import deep_but, thin
from tests.support.recorded import Play, Recorded, answer
from tests.support.services import (
    CREATE,
    FETCH,
    POLL,
    Counted,
    Front,
    Reply,
    Rule,
    Seen,
    always,
    constantly,
    fronted,
    journal_of,
    made,
    nothing,
    opened,
    opened_twice,
    through,
    until,
)

pytestmark = pytest.mark.anyio

OPEN, CLOSE = "POST /api/v1/cli/listen_sessions", "DELETE /api/v1/cli/listen_sessions/"
EVENTS, ACK = "GET /api/v1/cli/listen_events", "POST /api/v1/cli/listen_events/"
LISTEN = (OPEN, CLOSE, EVENTS, ACK)
SLOW, STUCK = "a red fox [sandbox:slow]", "a red fox [sandbox:stuck]"
EXPIRED = Reply(404, b'{"error": "Not found"}')


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path, speed=60.0) as front:
        front.rule = heard(front)
        yield front


def heard(front: Front) -> Rule:
    """No task is made before a session is open: one that ended before would have no event."""

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(CREATE):
            await until(lambda: front.count(OPEN) > front.count(CLOSE))
        return await through(seen)

    return rule


def never(*_: object, **__: object) -> tuple[PollTime, ...]:
    """No task is asked about unless RunAPI has an event for it: so it is the event that tells."""
    return ()


TIMING = Timing(listen_seconds=0.02, listen_idle_seconds=0.05)
QUIET: dict[str, Any] = {"plan": never, "timing": TIMING}


def listening(front: Front, home: Path, **more: Any) -> Settings:  # noqa: ANN401  # fields of Settings
    return front.settings(home, listen=True, **more)


def refused(caplog: pytest.LogCaptureFixture) -> int:
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return sum("not listening" in record.getMessage() for record in warned)


# --- what it is for ---


async def test_an_event_brings_the_end_with_one_poll(front: Front, tmp_path: Path) -> None:
    async with opened(listening(front, tmp_path), **QUIET) as service:
        for number in range(3):
            outcome = await made(service, f"fox {number} [sandbox:slow]")
            assert outcome.tasks[0].record.state is State.DELIVERED
    assert front.count(POLL) == 3
    assert {task.body.get("callback_url") for task in front.tasks()} == {None}


async def test_an_event_is_acknowledged_before_it_is_acted_upon_and_once(front: Front, tmp_path: Path) -> None:
    async with opened(listening(front, tmp_path), **QUIET) as service:
        await made(service, SLOW)
    whats = [seen.what for seen in front.seen if seen.is_(ACK) or seen.is_(POLL)]
    assert [what.startswith(ACK) for what in whats] == [True, False]


async def test_a_session_is_open_only_while_tasks_are(front: Front, tmp_path: Path) -> None:
    async with opened(listening(front, tmp_path), **QUIET) as service:
        assert not any(front.count(kind) for kind in LISTEN)
        await made(service, SLOW)
        await until(lambda: front.count(CLOSE) >= 1)
        assert front.count(OPEN) == 1
        asked = front.count(EVENTS)
        await made(service, "the next [sandbox:slow]")
        assert front.count(EVENTS) > asked
        assert front.count(OPEN) == 2


async def test_a_session_ends_with_its_process(front: Front, tmp_path: Path) -> None:
    async with opened(listening(front, tmp_path), **QUIET) as service:
        await made(service, STUCK, wait=0)
        await until(lambda: front.count(EVENTS) > 1)
    assert (front.count(OPEN), front.count(CLOSE)) == (1, 1)
    assert front.sandbox.state.database.read("SELECT * FROM listen_session") == []


async def test_two_processes_hear_of_their_own_tasks(front: Front, tmp_path: Path) -> None:
    async with opened_twice(listening(front, tmp_path), **QUIET) as services:
        for number in range(2):
            outcome = await made(services[number], f"fox {number} [sandbox:slow]")
            assert outcome.tasks[0].record.state is State.DELIVERED
    assert front.count(POLL) == 2


async def test_a_hybrid_task_has_events_too(front: Front, tmp_path: Path) -> None:
    async with opened(listening(front, tmp_path), **QUIET) as service:
        assert (await made(service, f"{SLOW}[sandbox:hybrid]")).tasks[0].record.state is State.DELIVERED
    assert front.count("GET /api/v1/tasks/") == 1


async def test_every_call_of_it_passes_the_gate_that_the_limiter_stands_at(front: Front, tmp_path: Path) -> None:
    counted = Counted()
    async with opened(listening(front, tmp_path), connect=counted.connect, **QUIET) as service:
        await made(service, SLOW)
    assert front.count(EVENTS) > 0
    assert counted.calls == sum(not seen.is_(FETCH) for seen in front.seen)


@pytest.mark.parametrize("more", [{"callback_url": "https://example.com/hook"}, {}], ids=["a callback", "no wish"])
async def test_nobody_listens_for_a_task_with_a_callback_of_its_own_or_unasked(
    front: Front, tmp_path: Path, more: dict[str, Any]
) -> None:
    front.rule = through
    async with opened(front.settings(tmp_path, listen=bool(more)), timing=TIMING) as service:
        assert (await made(service, request=more)).tasks[0].record.state is State.DELIVERED
    assert not any(front.count(kind) for kind in LISTEN)


# --- what else may come ---


async def test_an_expired_session_is_followed_by_a_new_one_from_the_beginning(front: Front, tmp_path: Path) -> None:
    front.rule = always(EVENTS, Reply(200, b'{"events": []}'), EXPIRED)
    async with opened(listening(front, tmp_path), **QUIET) as service:
        await made(service, STUCK, wait=0)
        await until(lambda: front.count(EVENTS) > 2)
    assert front.count(OPEN) == 2
    assert [seen.what for seen in front.seen if seen.is_(EVENTS)][2].endswith("last_id=0")


async def test_an_acknowledgement_of_an_expired_session_begins_a_new_one(front: Front, tmp_path: Path) -> None:
    front.rule = always(ACK, EXPIRED)
    async with opened(listening(front, tmp_path), timing=TIMING) as service:
        assert (await made(service, SLOW)).tasks[0].record.state is State.DELIVERED
        await made(service, STUCK, wait=0)
        await until(lambda: front.count(OPEN) >= 2)


@pytest.mark.parametrize(
    ("kind", "status"),
    thin([(OPEN, 401), (OPEN, 403), (OPEN, 404), (EVENTS, 401), (EVENTS, 403)], kept=[(OPEN, 404), (EVENTS, 401)]),
)
async def test_a_refusal_is_told_once_and_polling_goes_on(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, status: int
) -> None:
    front.rule = constantly(kind, Reply(status, b'{"error": "not with this key"}'))
    async with opened(listening(front, tmp_path), timing=TIMING) as service:
        for _ in range(2):
            assert (await made(service, SLOW)).tasks[0].record.state is State.DELIVERED
        await until(lambda: refused(caplog) == 1)
    assert front.count(kind) == 1


async def test_trouble_of_the_network_ends_nothing(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replies = (None, Reply(503), Reply(200, b"no JSON"), Reply(200, b'{"events": 7}'))
    front.rule = always(OPEN, *replies, then=always(EVENTS, *replies))
    async with opened(listening(front, tmp_path), **QUIET) as service:
        await made(service, STUCK, wait=0)
        await until(lambda: front.count(EVENTS) > len(replies))  # from now on there is a session
        assert (await made(service, SLOW)).tasks[0].record.state is State.DELIVERED
    assert refused(caplog) == 0


@pytest.mark.parametrize(
    "body",
    deep_but(
        ["", "no JSON", "7", "[]", "{}", '{"id": 7}', '{"id": "another"}', '{"id": "..."}', "[" * 50_000],
        "no JSON",
        '{"id": 7}',
        '{"id": "another"}',
        "[" * 50_000,
    ),
)
async def test_an_event_that_means_no_task_of_ours_is_acknowledged_and_changes_nothing(
    front: Front, tmp_path: Path, body: str
) -> None:
    said = [{"id": 3, "signed_body": body}, {"id": "4"}, {"id": -1}, {"id": True}, None, {"id": 2**70}]
    acked = 0

    async def rule(seen: Seen) -> Reply | None:
        nonlocal acked
        if seen.is_(ACK):
            acked += 1
            return Reply(204, b"")
        events = [] if acked else said
        return Reply(200, json.dumps({"events": events}).encode()) if seen.is_(EVENTS) else await through(seen)

    front.rule = rule
    async with opened(listening(front, tmp_path), **QUIET) as service:
        await made(service, STUCK, wait=0)
        await until(lambda: front.count(EVENTS) > 2)
        (record,) = await journal_of(service).tasks.recent(limit=9)
        assert record.state is State.SUBMITTED
    assert [seen.what for seen in front.seen if seen.is_(ACK)] == [f"{ACK}3/ack"]
    assert front.count(POLL) == 0


async def test_what_an_event_says_is_not_believed(front: Front, tmp_path: Path) -> None:
    async def rule(seen: Seen) -> Reply | None:
        lie = {
            "id": "".join(task.id for task in front.tasks()),
            "status": "completed",
            "images": [{"url": "https://evil.test/x.png"}],
        }
        events = [{"id": 1, "signed_body": json.dumps(lie)}]
        if seen.is_(ACK):
            return Reply(204, b"")
        return Reply(200, json.dumps({"events": events}).encode()) if seen.is_(EVENTS) else await through(seen)

    front.rule = rule
    async with opened(listening(front, tmp_path), **QUIET) as service:
        await made(service, STUCK, wait=0)
        await until(lambda: front.count(POLL) >= 1)
        await until(lambda: front.count(EVENTS) > 2)
        (record,) = await journal_of(service).tasks.recent(limit=9)
    assert (record.state.unfinished, record.image_urls) == (True, ())
    assert (front.count(ACK), front.count(POLL)) == (1, 1)  # the same event again is none


# --- how often it asks ---


@asynccontextmanager
async def alone(
    home: Path, *plays: Play, waiting: Callable[[], Collection[str]] = lambda: ["k"]
) -> AsyncIterator[list[object]]:
    """A session against recorded answers. Gives what it did in order: the seconds it waited in all, and the calls."""
    did: list[object] = []
    async with Recorded(plays) as server, journals.opened(home) as opened_home, anyio.create_task_group() as group:
        settings = Settings(mode="live", home=home, base_url=server.url, api_key="sk-secret")

        async def gate() -> None:
            did.append("call")

        async def sleep(seconds: float) -> None:
            if did and isinstance(did[-1], float):
                did[-1] += seconds
            else:
                did.append(seconds)
            if not server.plays:
                await anyio.sleep_forever()
            await anyio.lowlevel.checkpoint()

        backend = Backend(
            settings,
            gate=nothing,
            on_limited=nothing,
            connect=lambda url, key: RunApi(url, key, version="0", gate=gate),
        )
        callbacks = opened_home.journal().callbacks
        session = ListenSession(
            backend, callbacks, waiting, lambda _: None, first_seconds=1.0, idle_seconds=15.0, sleep=sleep
        )
        group.start_soon(session.run)
        await until(lambda: not server.plays and did[-1] != "call")
        yield did
        group.cancel_scope.cancel()
        await backend.close()


SESSION = answer(201, '{"session_token": "s"}')
EMPTY, ONE = answer(200, '{"events": []}'), answer(200, '{"events": [{"id": 1, "signed_body": "{}"}]}')


async def test_empty_answers_come_ever_more_seldom_and_an_event_begins_anew(tmp_path: Path) -> None:
    plays = (SESSION, *[EMPTY] * 6, ONE, answer(204), EMPTY)
    async with alone(tmp_path, *plays) as did:
        waits = [did[at] for at in range(len(did)) if isinstance(did[at], float)]
    assert waits[:-1] == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 1.0]


async def test_retry_after_is_honoured(tmp_path: Path) -> None:
    later = answer(200, '{"events": []}', Retry_After="20")
    async with alone(tmp_path, SESSION, later, answer(429, "{}", Retry_After="30"), EMPTY) as did:
        waits = [each for each in did if isinstance(each, float)]
    assert waits[:2] == [20.0, 30.0]


async def test_a_new_task_ends_the_wait(tmp_path: Path) -> None:
    looks = 0

    def waiting() -> list[str]:
        nonlocal looks
        looks += 1
        return ["k"] if looks < 70 else ["k", "new"]  # in the middle of the wait of 15 seconds

    async with alone(tmp_path, SESSION, *[EMPTY] * 7, waiting=waiting) as did:
        waits = [each for each in did if isinstance(each, float)]
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[4] < 15.0
    assert waits[5] == 1.0
