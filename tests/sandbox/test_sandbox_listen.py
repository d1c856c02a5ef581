"""Callbacks without an address, as the vendor's command line asks for them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx2
import pytest

from flux2_mcp.sandbox.listen import MAX_EVENTS, MAX_SESSIONS, SESSION_SECONDS
from tests.support.sandboxed import Api, running

SESSIONS, EVENTS = "/api/v1/cli/listen_sessions", "/api/v1/cli/listen_events"
INSTANT = "[sandbox:instant] a cat"


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


def keyed(api: Api) -> dict[str, str]:
    return {"X-API-Key": api.sandbox.api_key}


def session(api: Api) -> dict[str, str]:
    """The headers of a new session's calls."""
    opened = api.anyone.post(SESSIONS, headers=keyed(api))
    assert opened.status_code == 201
    return {**keyed(api), "X-Session-Token": opened.json()["session_token"]}


def heard(api: Api, headers: dict[str, str], last_id: int = 0) -> list[tuple[int, str]]:
    """The numbers of the events, and the ids of their tasks."""
    answer = api.anyone.get(EVENTS, params={"last_id": last_id}, headers=headers)
    return [(event["id"], json.loads(event["signed_body"])["id"]) for event in answer.json()["events"]]


def ack(api: Api, headers: dict[str, str], event_id: object) -> httpx2.Response:
    return api.anyone.post(f"{EVENTS}/{event_id}/ack", headers=headers)


def test_a_session_hears_of_each_task_that_ends_while_it_is_open(api: Api) -> None:
    api.create(INSTANT)
    headers = session(api)
    first, second = (api.create(INSTANT).json()["id"] for _ in range(2))
    api.create("[sandbox:stuck] a cat")
    assert heard(api, headers) == [(1, first), (2, second)]
    assert heard(api, headers, last_id=1) == [(2, second)]
    third = api.create(f"{INSTANT}[sandbox:moderation]").json()["id"]
    assert heard(api, headers, last_id=2) == [(3, third)]


def test_an_event_is_the_callbacks_body(api: Api) -> None:
    headers = session(api)
    done = api.create(INSTANT).json()
    (event,) = api.anyone.get(EVENTS, headers=headers).json()["events"]
    assert json.loads(event["signed_body"]) == done
    assert event["headers"] == {"Content-Type": "application/json", "X-RunAPI-Task-Id": done["id"]}


def test_what_was_acknowledged_does_not_come_again(api: Api) -> None:
    headers = session(api)
    ids = [api.create(INSTANT).json()["id"] for _ in range(2)]
    assert len(heard(api, headers)) == 2
    assert ack(api, headers, 1).status_code == 204
    assert heard(api, headers) == [(2, ids[1])]
    assert [ack(api, headers, wrong).status_code for wrong in (9, "x", "9" * 40)] == [404, 404, 404]


def test_a_task_with_a_callback_url_has_no_event(api: Api) -> None:
    headers = session(api)
    api.create(INSTANT, callback_url="https://example.com/hook")
    assert heard(api, headers) == []


def test_each_session_has_its_own_numbers_and_a_new_one_begins_at_its_opening(api: Api) -> None:
    one = session(api)
    first = api.create(INSTANT).json()["id"]
    assert heard(api, one) == [(1, first)]
    other = session(api)
    second = api.create(INSTANT).json()["id"]
    assert heard(api, other) == [(1, second)]
    assert heard(api, one, last_id=1) == [(2, second)]


def test_a_session_ends_when_it_is_closed_or_not_asked_for_long(api: Api) -> None:
    closed, left = session(api), session(api)
    for status in (204, 404):
        answer = api.anyone.delete(f"{SESSIONS}/{closed['X-Session-Token']}", headers=keyed(api))
        assert answer.status_code == status
    now = time.time()
    api.sandbox.state.clock = lambda: now + SESSION_SECONDS + 1
    for headers in (closed, left, keyed(api), {**keyed(api), "X-Session-Token": "x"}):
        assert api.anyone.get(EVENTS, headers=headers).status_code == 404
        assert ack(api, headers, 1).status_code == 404


def test_only_the_key_opens_a_session_and_it_comes_without_a_scheme(api: Api) -> None:
    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": f"Bearer {api.sandbox.api_key}"}):
        assert api.anyone.post(SESSIONS, headers=headers).status_code == 401


@pytest.mark.parametrize("last_id", ["x", "-1", "1.5", "9" * 40, ""])
def test_a_number_that_is_none_is_refused(api: Api, last_id: str) -> None:
    assert api.anyone.get(EVENTS, params={"last_id": last_id}, headers=session(api)).status_code == 400


def test_sessions_and_events_are_bounded(api: Api) -> None:
    headers = session(api)
    for _ in range(MAX_EVENTS + 5):
        api.create(INSTANT)
    found = heard(api, headers)
    assert [number for number, _ in found] == [*range(1, MAX_EVENTS + 1)]
    assert len(heard(api, headers, last_id=MAX_EVENTS)) == 5
    for _ in range(MAX_SESSIONS):
        session(api)
    assert api.anyone.get(EVENTS, headers=headers).status_code == 404
    (row,) = api.sandbox.state.database.read("SELECT count(*) AS sessions FROM listen_session")
    assert row["sessions"] == MAX_SESSIONS
    assert api.sandbox.state.database.read("SELECT * FROM listen_event") == []
