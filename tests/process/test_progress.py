"""Progress on the wire: for who gave a token, strictly increasing, about once a second, and none after the result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.process.stdio import ERAS, Host
from tests.process.test_ways import TASKS, WAYS, Way
from tests.process.web import WebHost

TOKEN = "token-1"
SLOW = {"prompt": "a red fox [sandbox:slow]"}
AT_ONCE: list[tuple[str, dict[str, Any]]] = [
    ("list_variants", {}),
    ("check_pricing", {}),
    ("check_task", {}),
    ("generate", {}),
    ("generate", {"prompt": "a red fox", "seed": 7}),
    ("generate", {"prompt": "a red fox", "max_cost_usd": 0.01}),
]
MESSAGE = re.compile(r"\d of \d done after \d+ s(, about \d+ s left)?")


def asked(name: str, arguments: dict[str, Any], token: str | None = TOKEN) -> dict[str, Any]:
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    return {"name": name, "arguments": arguments} | meta


def progress(host: Host | WebHost) -> list[dict[str, Any]]:
    found = [each["params"] for each in host.heard if each.get("method") == "notifications/progress"]
    assert {each["progressToken"] for each in found} <= {TOKEN}
    values = [each["progress"] for each in found]
    assert all(earlier < later for earlier, later in pairwise(values)), values
    assert all(MESSAGE.fullmatch(each["message"]) and "total" not in each for each in found)
    return found


def last_is_an_answer(host: Host | WebHost) -> bool:
    return "result" in host.heard[-1]


@pytest.fixture(params=WAYS, ids=str)
def slow(request: pytest.FixtureRequest, clean_env: dict[str, str], tmp_path: Path) -> Iterator[Host | WebHost]:
    """A host whose slow tasks take three seconds."""
    way: Way = request.param
    with way.opened(clean_env | {"FLUX2_SANDBOX_SPEED": "10"}, tmp_path) as host:
        yield host


def test_a_call_that_waits_tells_how_it_stands_about_once_a_second_and_nothing_after_its_result(
    slow: Host | WebHost,
) -> None:
    answer = slow.answer("tools/call", asked("generate", SLOW | {"count": 2}))["result"]
    assert answer["structuredContent"]["status"] == "completed"
    assert last_is_an_answer(slow)
    found = progress(slow)
    assert found[0]["message"].startswith("0 of 2 done after 0 s")
    # One a second, one for each of the four changes of two tasks, and the first.
    assert 3 <= len(found) <= found[-1]["progress"] + 2 * 4 + 1
    known = len(slow.heard)
    slow.request("tools/list")
    assert [each for each in slow.heard[known:] if "method" in each] == []


def test_check_task_tells_how_what_it_waits_for_stands(slow: Host | WebHost) -> None:
    made = slow.call("generate", **SLOW, wait_seconds=0)["structuredContent"]
    ids = [task["task_id"] for task in made["tasks"]]
    slow.answer("tools/call", asked("check_task", {"task_ids": ids, "wait_seconds": 60}))
    assert last_is_an_answer(slow)
    assert progress(slow)[0]["message"].startswith("0 of 1 done after 0 s")


def test_without_a_token_there_is_none(slow: Host | WebHost) -> None:
    assert "result" in slow.answer("tools/call", asked("generate", SLOW, token=None))
    assert [each for each in slow.heard if each.get("method")] == []


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_call_that_answers_at_once_tells_nothing_before(way: Way, clean_env: dict[str, str], tmp_path: Path) -> None:
    with way.opened(clean_env, tmp_path) as host:
        known = len(host.heard)
        for tool, arguments in AT_ONCE:
            host.answer("tools/call", asked(tool, arguments))
        host.request("tools/list")
        assert [each for each in host.heard[known:] if "method" in each] == []


@pytest.mark.parametrize("era", ERAS)
def test_a_cancelled_call_tells_nothing_more(era: str, clean_env: dict[str, str], tmp_path: Path) -> None:
    with Host(clean_env, era, cwd=str(tmp_path)) as host:
        ident = host.ask("tools/call", asked("generate", {"prompt": "a red fox [sandbox:stuck]"}))
        while host.next().get("method") != "notifications/progress":
            pass
        host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": ident}})
        host.request("tools/list")  # what was on its way has arrived
        known = len(host.heard)
        # Longer than two progress notifications are apart, by a wait that the server itself keeps.
        host.call("check_task", task_ids=[open_task(host)], wait_seconds=2.5)
        assert [each for each in host.heard[known:] if "method" in each or each.get("id") == ident] == []


def open_task(host: Host) -> str:
    (task,) = host.call("check_task")["structuredContent"]["tasks"]
    assert task["status"] in {"pending", "processing"}  # cancelling the call did not cancel what is paid for
    ident: str = task["task_id"]
    return ident


@pytest.mark.parametrize("way", [way for way in WAYS if way.era == ERAS[1]], ids=str)
def test_who_was_given_a_handle_is_told_nothing_more(way: Way, clean_env: dict[str, str], tmp_path: Path) -> None:
    env = clean_env | {"FLUX2_SANDBOX_SPEED": "10"}
    with way.opened(env, tmp_path, capabilities=TASKS) as host:
        created = host.answer("tools/call", asked("generate", SLOW))["result"]
        assert created["resultType"] == "task"
        progress(host)
        known = len(host.heard)
        while host.request("tasks/get", {"taskId": created["taskId"]})["status"] == "working":
            pass
        assert [each for each in host.heard[known:] if "method" in each] == []
