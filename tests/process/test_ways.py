"""The same server in every way it is spoken to: over stdio and over HTTP, in both eras."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux2_mcp.domain import catalog
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.tasks_extension import ID
from tests.support.journals import newest_url
from tests.support.sandboxed import LOGO
from tests.support.stdio import DEADLINE, LEGACY, MODERN, Host, dressed
from tests.support.ways import DECLARED, OVER_HTTP, OVER_STDIO, TASKS, TOOLS, Hosts, Way, each
from tests.support.web import WebHost


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """At a rate at which a stuck task that one test leaves takes little from the next."""
    with Hosts(tmp_path_factory.mktemp("hosts"), FLUX2_RATE="40") as hosts:
        yield hosts


@pytest.fixture(params=each(OVER_STDIO[LEGACY], OVER_HTTP[MODERN]), ids=str)
def host(request: pytest.FixtureRequest, hosts: Hosts) -> Host | WebHost:
    return hosts[request.param]


def test_each_tool_can_be_called_and_what_was_made_is_a_resource(host: Host | WebHost) -> None:
    assert [tool["name"] for tool in host.request("tools/list")["tools"]] == list(TOOLS)
    before = host.call("check_pricing")["structuredContent"]["balance_usd"]
    made = host.call("generate", prompt="a red fox in snow")["structuredContent"]
    assert made["status"] == "completed"
    assert Path(made["tasks"][0]["images"][0]["path"]).read_bytes().startswith(b"\x89PNG")
    checked = host.call("check_task", task_ids=[made["tasks"][0]["task_id"]])["structuredContent"]
    assert checked["tasks"] == made["tasks"]
    assert round(before - host.call("check_pricing")["structuredContent"]["balance_usd"], 2) == 0.05
    assert len(host.call("list_variants")["structuredContent"]["variants"]) == len(catalog.all_models()) - 1
    refused = host.call("generate", prompt="a red fox", seed=7)
    assert refused["isError"] is True
    assert refused["content"][0]["text"].startswith("seed: no such argument")
    (task,) = made["tasks"]
    uris = [each["uri"] for each in host.request("resources/list")["resources"]]
    assert {f"flux2://tasks/{task['task_id']}", f"flux2://images/{task['task_id']}"} <= set(uris)
    (content,) = host.request("resources/read", {"uri": f"flux2://tasks/{task['task_id']}"})["contents"]
    assert json.loads(content["text"]) == task
    assert host.answer("resources/read", {"uri": "flux2://tasks/nobody"})["error"]["code"] == -32602


@pytest.mark.parametrize("way", each(OVER_STDIO[LEGACY], OVER_HTTP[MODERN]), ids=str)
def test_an_image_asked_for_in_the_project_stands_there_whole(way: Way, hosts: Hosts) -> None:
    host = hosts[way]
    made = host.call("generate", prompt="a white hare", save_to="assets/hero.png", aspect_ratio="16:9")
    file = Path(host.cwd or "") / "assets" / "hero.png"
    (image,) = made["structuredContent"]["tasks"][0]["images"]
    assert made["content"][0]["text"].startswith(f"{file} (")
    assert (image["saved"], image["matches_request"]) == (str(file), True)
    with Image.open(file) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (1280, 720))
    assert [path.name for path in file.parent.iterdir()] == ["hero.png"]


def test_an_unknown_tool_is_a_protocol_error(host: Host | WebHost) -> None:
    error = host.answer("tools/call", {"name": "paint", "arguments": {}})["error"]
    assert (error["code"], error["message"]) == (-32602, "Unknown tool: paint")


@pytest.mark.deep  # test_observed and test_canary have a key, too
@pytest.mark.parametrize("way", each(), ids=str)
def test_with_a_key_the_same_binary_works_against_another_server_and_no_sandbox_is_started(
    way: Way, clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        with way.opened(env, tmp_path) as host:
            made = host.call("generate", prompt="a red fox in snow")["structuredContent"]
            priced = host.call("check_pricing", variant="max")["structuredContent"]
        base_url = runapi.base_url
    assert (made["status"], made["sandbox"], made["notice"]) == ("completed", False, None)
    assert newest_url(Path(clean_env["FLUX2_HOME"])).startswith(base_url)
    assert {price["source"] for price in priced["prices"]} <= {"live", "cached"}
    assert not (Path(clean_env["FLUX2_HOME"]) / "sandbox").exists()


@pytest.mark.deep  # tests/server/test_login_gate.py shows the same in this process
@pytest.mark.parametrize("way", each(), ids=str)
def test_live_mode_without_a_key_sends_nothing_and_says_what_to_do(
    way: Way, clean_env: dict[str, str], tmp_path: Path
) -> None:
    with way.opened(clean_env | {"FLUX2_MODE": "live"}, tmp_path) as host:
        refused = host.call("generate", prompt="a red fox")
    text = refused["content"][0]["text"]
    assert refused["isError"] is True
    assert "There is no RunAPI key" in text
    assert "RUNAPI_API_KEY with a key" in text
    assert not (Path(clean_env["FLUX2_HOME"]) / "sandbox").exists()


def ended(host: Host | WebHost, task_id: str) -> dict[str, Any]:
    while (task := host.request("tasks/get", {"taskId": task_id}))["status"] == "working":
        pass  # each poll waits for the end itself
    return task


@pytest.mark.parametrize("way", each(OVER_STDIO[MODERN], era=MODERN), ids=str)
def test_a_task_survives_a_killed_process_and_the_next_one_ends_it_and_pays_once(
    way: Way, clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=10, rate=None) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        with way.opened(env, tmp_path, capabilities=TASKS) as host:
            arguments = {"prompt": f"{LOGO} [sandbox:slow]", "count": 2, "preview": False}
            created = host.request("tools/call", {"name": "generate", "arguments": arguments})
            assert (created["resultType"], created["status"]) == ("task", "working")
            host.process.kill()
            host.process.wait(DEADLINE)
        with way.opened(env, tmp_path, capabilities=TASKS) as host:
            found = host.request("tasks/get", {"taskId": created["taskId"]})
            assert (found["status"], found["createdAt"]) == ("working", created["createdAt"])
            assert host.request("tasks/cancel", {"taskId": created["taskId"]})["resultType"] == "complete"
            task = ended(host, created["taskId"])
            again = ended(host, created["taskId"])
        creates = [each.creates for each in runapi.tasks()]
    assert task["status"] == "completed"
    tasks = task["result"]["structuredContent"]["tasks"]
    assert sorted(each["status"] for each in tasks) == ["completed"] * 2
    assert all(Path(each["images"][0]["path"]).exists() for each in tasks)
    assert not any(block["type"] == "image" for block in task["result"]["content"])  # preview=false was remembered
    assert again == task
    assert creates == [1, 1]


@pytest.mark.parametrize("way", each(era=MODERN), ids=str)
def test_the_extension_is_offered_to_those_requests_alone_that_declare_it(way: Way, hosts: Hosts) -> None:
    host = hosts[way]
    assert ID in host.request("server/discover")["capabilities"]["extensions"]
    plain = host.call("generate", prompt="a black cat [sandbox:moderation]")
    assert plain["resultType"] == "complete"
    declared = {"_meta": DECLARED}
    arguments = {"prompt": "a black cat [sandbox:stuck]"}
    created = host.request("tools/call", {"name": "generate", "arguments": arguments} | declared)
    assert created["resultType"] == "task"
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        error = host.answer(method, {"taskId": created["taskId"]})["error"]
        assert error["code"] == -32021
        assert error["data"] == {"requiredCapabilities": TASKS}
    assert host.request("tasks/get", {"taskId": created["taskId"]} | declared)["status"] == "working"
    assert host.answer("tasks/get", {"taskId": "nobody"} | declared)["error"]["code"] == -32602


def test_over_http_a_header_that_names_another_task_than_the_body_is_refused(hosts: Hosts) -> None:
    host = hosts[OVER_HTTP[MODERN]]
    assert isinstance(host, WebHost)
    arguments = {"prompt": "a brown bear [sandbox:stuck]"}
    created = host.request("tools/call", {"name": "generate", "arguments": arguments, "_meta": DECLARED})
    params = dressed(MODERN, {"taskId": created["taskId"]}, TASKS)
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        message = {"jsonrpc": "2.0", "id": 9, "method": method, "params": params}
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        for named, status in (({}, 400), ({"Mcp-Name": "another"}, 400), ({"Mcp-Name": created["taskId"]}, 200)):
            answer = host.http.post(host.served.url, json=message, headers=headers | named)
            assert answer.status_code == status
            assert ("error" in answer.json()) is (status == 400)
            assert answer.json().get("error", {}).get("code") in {None, -32020}
