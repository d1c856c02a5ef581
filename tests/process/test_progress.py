"""Progress on the wire: for who gave a token, strictly increasing, about once a second, and none after the result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.support.sandboxed import LOGO
from tests.support.stdio import LEGACY, MODERN, Host
from tests.support.ways import DECLARED, OVER_HTTP, OVER_STDIO, Hosts, Way, each

TWO = (OVER_STDIO[LEGACY], OVER_HTTP[MODERN])
"""Each transport and each era, once."""
TOKEN = "token-1"
# They fail in the end: drawing is the most of what a process does for an image.
SLOW = {"prompt": "a red fox [sandbox:slow][sandbox:moderation]"}
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


def progress(heard: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [one["params"] for one in heard if one.get("method") == "notifications/progress"]
    assert {one["progressToken"] for one in found} <= {TOKEN}
    values = [one["progress"] for one in found]
    assert all(earlier < later for earlier, later in pairwise(values)), values
    assert all(MESSAGE.fullmatch(one["message"]) and "total" not in one for one in found)
    return found


def told(heard: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All that is no answer."""
    return [one for one in heard if "method" in one]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Slow tasks take three seconds."""
    with Hosts(tmp_path_factory.mktemp("hosts"), FLUX2_SANDBOX_SPEED="10", FLUX2_RATE="8") as hosts:
        yield hosts


@pytest.mark.parametrize("way", each(*TWO), ids=str)
def test_a_call_that_waits_tells_how_it_stands_about_once_a_second_and_nothing_after_its_result(
    way: Way, hosts: Hosts
) -> None:
    host = hosts[way]
    known = len(host.heard)
    answer = host.answer("tools/call", asked("generate", SLOW | {"count": 2}))["result"]
    assert answer["structuredContent"]["status"] == "failed"
    assert "result" in host.heard[-1]
    found = progress(host.heard[known:])
    assert found[0]["message"].startswith("0 of 2 done after ")
    # One a second, one for each of at most four changes of two tasks, and the first.
    assert 3 <= len(found) <= found[-1]["progress"] + 2 * 4 + 1
    known = len(host.heard)
    host.request("tools/list")
    assert told(host.heard[known:]) == []


@pytest.mark.parametrize("way", each(*TWO), ids=str)
def test_check_task_tells_how_what_it_waits_for_stands(way: Way, hosts: Hosts) -> None:
    host = hosts[way]
    made = host.call("generate", **SLOW, wait_seconds=0)["structuredContent"]
    known = len(host.heard)
    ids = [task["task_id"] for task in made["tasks"]]
    host.answer("tools/call", asked("check_task", {"task_ids": ids, "wait_seconds": 60}))
    assert "result" in host.heard[-1]
    assert progress(host.heard[known:])[0]["message"].startswith("0 of 1 done after ")


@pytest.mark.parametrize("way", each(*TWO), ids=str)
def test_without_a_token_there_is_none(way: Way, hosts: Hosts) -> None:
    known = len(hosts[way].heard)
    assert "result" in hosts[way].answer("tools/call", asked("generate", SLOW, token=None))
    assert told(hosts[way].heard[known:]) == []


@pytest.mark.parametrize("way", each(*TWO), ids=str)
def test_a_call_that_answers_at_once_tells_nothing_before(way: Way, hosts: Hosts) -> None:
    host = hosts[way]
    known = len(host.heard)
    for tool, arguments in AT_ONCE:
        host.answer("tools/call", asked(tool, arguments))
    host.request("tools/list")
    assert told(host.heard[known:]) == []


@pytest.mark.parametrize("way", [OVER_STDIO[LEGACY], pytest.param(OVER_STDIO[MODERN], marks=pytest.mark.deep)], ids=str)
def test_a_cancelled_call_tells_nothing_more(way: Way, hosts: Hosts) -> None:
    host = hosts[way]
    assert isinstance(host, Host)
    ident = host.ask("tools/call", asked("generate", {"prompt": f"{LOGO} [sandbox:slow]"}))
    while host.next().get("method") != "notifications/progress":
        pass
    host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": ident}})
    newest = host.call("check_task", wait_seconds=0)["structuredContent"]["tasks"][0]  # what was on its way has arrived
    known = len(host.heard)
    # Longer than two progress notifications are apart, by a wait that the server itself keeps.
    (task,) = host.call("check_task", task_ids=[newest["task_id"]], wait_seconds=60)["structuredContent"]["tasks"]
    assert [one for one in host.heard[known:] if "method" in one or one.get("id") == ident] == []
    assert task["status"] == "completed"  # cancelling the call did not cancel what is paid for


@pytest.mark.parametrize("way", each(OVER_HTTP[MODERN], era=MODERN), ids=str)
def test_who_was_given_a_handle_is_told_nothing_more(way: Way, hosts: Hosts) -> None:
    host = hosts[way]
    call = asked("generate", SLOW)
    call["_meta"] |= DECLARED
    known = len(host.heard)
    created = host.answer("tools/call", call)["result"]
    assert created["resultType"] == "task"
    progress(host.heard[known:])
    known = len(host.heard)
    while host.request("tasks/get", {"taskId": created["taskId"], "_meta": DECLARED})["status"] == "working":
        pass
    assert told(host.heard[known:]) == []
