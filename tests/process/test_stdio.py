from __future__ import annotations

import json
import re
import sys
from itertools import product
from pathlib import Path

import pytest

from flux2_mcp.__main__ import project
from tests.support.deep import thin
from tests.support.openings import opening
from tests.support.stdio import ERAS, LEGACY, MODERN, NO_HURRY, Host, Raw, patched

# All that is there, beside Python's own, once the server has answered its first requests.
MAY_BE_THERE = {
    "mcp", "mcp_types", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection",
    "anyio", "idna", "opentelemetry", "cryptography", "starlette", "sse_starlette", "python_multipart", "httpx2", "sniffio", "msgspec",
    "uvicorn", "click",  # by way of sse_starlette
    "rich",  # where it is installed, the SDK logs through it; it is none of ours
    "sitecustomize",
}  # fmt: skip
TEAM = (
    "flux2_mcp.server.team",
    "flux2_mcp.domain.people",
    "flux2_mcp.engine.health",
    "prometheus_client",
    "jwt",
    "psycopg",
    "obstore",
    "flux2_mcp.images.object_store",
)
LATER = (
    *TEAM,
    "flux2_mcp.sandbox",
    "flux2_mcp.cli",
    "flux2_mcp.runapi.login",
    "flux2_mcp.runapi.transport",
    "flux2_mcp.system.sqlite_file",
)
TELLS_ITS_MODULES = f"{NO_HURRY}import atexit; atexit.register(lambda: sys.stderr.write('\\n'.join(sys.modules)))"


@pytest.mark.parametrize(("era", "early"), thin(product(ERAS, ["1", "0"]), kept=[(MODERN, "1")]))
def test_stdout_holds_only_the_protocol_stderr_nothing_and_the_end_of_input_is_the_end(
    era: str, early: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Host(clean_env | {"FLUX2_EARLY": early}, era, cwd=str(tmp_path), loads=True) as host:
        assert host.call("generate", prompt="a red fox in snow")["structuredContent"]["status"] == "completed"
        errors = host.close()
    assert (host.process.returncode, errors) == (0, "")
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in host.lines)


@pytest.mark.parametrize("place", ["plugin", *(pytest.param(place, marks=pytest.mark.deep) for place in ("/", "home"))])
def test_a_server_that_a_host_started_nowhere_in_particular_has_no_workspace(
    clean_env: dict[str, str], tmp_path: Path, place: str
) -> None:
    (plugin := tmp_path / "plugin").mkdir()
    Path(clean_env["HOME"]).mkdir()
    folder = {"home": clean_env["HOME"], "plugin": str(plugin)}.get(place, place)
    with Host(clean_env | {"PLUGIN_ROOT": str(plugin)}, LEGACY, cwd=folder) as host:
        refused = host.call("generate", prompt="a red fox in snow", save_to="hero.png")
    assert refused["isError"] is True
    assert "Set FLUX2_WORKSPACE to the folder" in refused["content"][0]["text"]


def test_a_folder_that_nobody_chose_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "PLUGIN_ROOT"):
        (folder := tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(folder))
    found = {}
    for folder in (tmp_path, tmp_path / "HOME", tmp_path / "PLUGIN_ROOT", Path(tmp_path.anchor)):
        monkeypatch.chdir(folder)
        found[folder] = project()
    assert [*found.values()] == [str(tmp_path), None, None, None]


def test_the_workspace_that_is_set_counts_wherever_the_server_was_started(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Host(clean_env | {"FLUX2_WORKSPACE": str(tmp_path)}, LEGACY, cwd="/") as host:
        assert not host.call("generate", prompt="a red fox in snow", save_to="hero.png").get("isError")
    assert (tmp_path / "hero.png").exists()


@pytest.mark.parametrize("early", ["1", pytest.param("0", marks=pytest.mark.deep)])
def test_nothing_heavy_is_imported_before_it_is_needed(early: str, clean_env: dict[str, str]) -> None:
    env = clean_env | {"FLUX2_EARLY": early, "FLUX2_SLEEP": "0"}
    with Raw(env, command=patched(TELLS_ITS_MODULES), loads=True) as server:
        server.send(
            *opening(LEGACY, "tests"), '{"jsonrpc":"2.0","id":"last","method":"prompts/get","params":{"name":"none"}}'
        )
        while server.receive()["id"] != "last":
            pass
        assert server.end() == (0, b"")
        there = set(server.errors().split())
    others = (
        {name.partition(".")[0] for name in there} - sys.stdlib_module_names - {"flux2_mcp", "__main__", "__mp_main__"}
    )
    assert {name for name in others if not name.startswith("_")} <= MAY_BE_THERE
    assert "sqlite3" not in there
    assert not [
        name for name in there if re.match(r"opentelemetry\.(sdk|exporter)", name)
    ]  # no variable names a collector
    assert {name for name in there if name.startswith(LATER)} == set()
    assert ("flux2_mcp.server.transports.early" in there) == (early == "1")
