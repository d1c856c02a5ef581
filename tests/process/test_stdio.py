from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.sandbox.server import Sandbox
from tests.process.stdio import ERAS, LEGACY, Host

TOOLS = ["generate", "check_task", "check_pricing", "list_variants"]

# What the server needs to answer its first requests holds none of these: they load at first use.
HEAVY = {"httpx", "PIL", "sqlite3", "platformdirs", "flux2_mcp.sandbox", "flux2_mcp.runapi.client"}
FOR_PEOPLE = {"flux2_mcp.commands", "flux2_mcp.login"}


@pytest.fixture(params=ERAS)
def host(request: pytest.FixtureRequest, clean_env: dict[str, str], tmp_path: Path) -> Iterator[Host]:
    with Host(clean_env, request.param, cwd=str(tmp_path)) as host:
        yield host


def test_each_tool_can_be_called_and_stdout_holds_only_the_protocol(host: Host) -> None:
    assert [tool["name"] for tool in host.request("tools/list")["tools"]] == TOOLS
    made = host.call("generate", prompt="a red fox in snow")["structuredContent"]
    assert made["status"] == "completed"
    assert Path(made["tasks"][0]["images"][0]["path"]).read_bytes().startswith(b"\x89PNG")
    checked = host.call("check_task", task_ids=[made["tasks"][0]["task_id"]])["structuredContent"]
    assert checked["tasks"] == made["tasks"]
    assert host.call("check_pricing")["structuredContent"]["balance_usd"] == 99.95
    assert len(host.call("list_variants")["structuredContent"]["variants"]) == 6
    refused = host.call("generate", prompt="a red fox", seed=7)
    assert refused["isError"] is True
    errors = host.close()
    assert host.process.returncode == 0
    assert "Traceback" not in errors
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in host.lines)


def test_an_image_asked_for_in_the_project_stands_there_whole(host: Host, tmp_path: Path) -> None:
    made = host.call("generate", prompt="a red fox in snow", save_to="assets/hero.png", aspect_ratio="16:9")
    (image,) = made["structuredContent"]["tasks"][0]["images"]
    assert made["content"][0]["text"].startswith(f"{tmp_path}/assets/hero.png\n")
    assert (image["saved"], image["matches_request"]) == (str(tmp_path / "assets" / "hero.png"), True)
    with Image.open(tmp_path / "assets" / "hero.png") as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (1280, 720))
    assert [path.name for path in (tmp_path / "assets").iterdir()] == ["hero.png"]


@pytest.mark.parametrize("place", ["/", "home"])
def test_a_server_that_a_host_started_nowhere_in_particular_has_no_workspace(
    clean_env: dict[str, str], tmp_path: Path, place: str
) -> None:
    Path(clean_env["HOME"]).mkdir()
    with Host(clean_env, LEGACY, cwd=clean_env["HOME"] if place == "home" else place) as host:
        refused = host.call("generate", prompt="a red fox in snow", save_to="hero.png")
    assert refused["isError"] is True
    assert "Set FLUX2_WORKSPACE to the folder" in refused["content"][0]["text"]
    with Host(clean_env | {"FLUX2_WORKSPACE": str(tmp_path)}, LEGACY, cwd="/") as host:
        assert not host.call("generate", prompt="a red fox in snow", save_to="hero.png").get("isError")
    assert (tmp_path / "hero.png").exists()


@pytest.mark.parametrize("era", ERAS)
def test_with_a_key_the_same_binary_works_against_another_server_and_no_sandbox_is_started(
    era: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        with Host(env, era, cwd=str(tmp_path)) as host:
            made = host.call("generate", prompt="a red fox in snow")["structuredContent"]
            priced = host.call("check_pricing", variant="max")["structuredContent"]
        base_url = runapi.base_url
    assert (made["status"], made["sandbox"], made["notice"]) == ("completed", False, None)
    assert made["tasks"][0]["images"][0]["url"].startswith(base_url)
    assert {price["source"] for price in priced["prices"]} <= {"live", "cached"}
    assert not (Path(clean_env["FLUX2_HOME"]) / "sandbox").exists()


def test_live_mode_without_a_key_sends_nothing_and_says_what_to_do(clean_env: dict[str, str], tmp_path: Path) -> None:
    with Host(clean_env | {"FLUX2_MODE": "live"}, LEGACY, cwd=str(tmp_path)) as host:
        refused = host.call("generate", prompt="a red fox")
    text = refused["content"][0]["text"]
    assert refused["isError"] is True
    assert "There is no RunAPI key" in text
    assert "Run flux2-mcp login or set RUNAPI_API_KEY" in text
    assert not (Path(clean_env["FLUX2_HOME"]) / "sandbox").exists()


def test_the_key_is_in_no_answer_and_no_log(clean_env: dict[str, str], tmp_path: Path) -> None:
    canary = "canary-5d1c9b7e0a44"
    with Sandbox(tmp_path / "elsewhere", speed=1000) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": canary, "RUNAPI_BASE_URL": runapi.base_url, "FLUX2_LOG": "debug"}
        with Host(env, LEGACY, cwd=str(tmp_path)) as host:
            refused = host.call("generate", prompt="a red fox")
            errors = host.close()
    assert refused["isError"] is True
    assert "401" in refused["content"][0]["text"]
    assert canary not in errors
    assert not any(canary.encode() in line for line in host.lines)
    home = Path(clean_env["FLUX2_HOME"])
    assert not any(canary.encode() in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_nothing_heavy_is_imported_before_it_is_needed(clean_env: dict[str, str]) -> None:
    code = (
        "import sys; from flux2_mcp.app import build; from flux2_mcp.settings import from_env;"
        "build(from_env({'FLUX2_HOME': sys.argv[1]})); print('\\n'.join(sys.modules))"
    )
    unmeasured = {
        name: value for name, value in clean_env.items() if not name.startswith("COVERAGE")
    }  # it has SQLite in
    done = subprocess.run(
        [sys.executable, "-c", code, clean_env["FLUX2_HOME"]],
        env=unmeasured,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (HEAVY | FOR_PEOPLE) & set(done.stdout.split()) == set()


def test_a_setting_that_can_not_be_used_ends_the_start_with_its_name(clean_env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flux2_mcp"],
        env=clean_env | {"FLUX2_DAILY_BUDGET_USD": "lots"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert "FLUX2_DAILY_BUDGET_USD must be an amount in USD" in done.stderr
