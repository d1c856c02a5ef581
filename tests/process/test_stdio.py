from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.stdio import ERAS, LEGACY, Host

# What the server needs to answer its first requests holds none of these: they load at first use.
HEAVY = {"httpx", "PIL", "sqlite3", "platformdirs", "flux2_mcp.sandbox", "flux2_mcp.runapi.client"}
FOR_PEOPLE = {"flux2_mcp.commands", "flux2_mcp.login"}


@pytest.mark.parametrize("era", ERAS)
def test_stdout_holds_only_the_protocol_and_the_end_of_input_is_the_end(
    era: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Host(clean_env, era, cwd=str(tmp_path)) as host:
        assert host.call("generate", prompt="a red fox in snow")["structuredContent"]["status"] == "completed"
        errors = host.close()
    assert host.process.returncode == 0
    assert "Traceback" not in errors
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in host.lines)


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
