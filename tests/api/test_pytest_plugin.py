"""The fixture that is shipped: what a suite of somebody else's has of it, and that it costs other suites nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.picture_files import corner, saved
from tests.support.python_programs import DEADLINE_SECONDS

UNUSED = """
import os, sys

def test_nothing_is_loaded_and_nothing_is_set():
    ours = {name for name in sys.modules if name.split(".")[0] == "flux2_mcp"}
    assert ours == {"flux2_mcp", "flux2_mcp.pytest_plugin"}
    assert os.environ["RUNAPI_API_KEY"] == "a-real-key" and "FLUX2_MODE" not in os.environ
"""
USED = """
import json, os, subprocess, sys, urllib.request
import pytest
from flux2_mcp import AsyncFlux2Client, Flux2Client
homes = set()

@pytest.fixture
def outside():
    yield  # is undone last
    assert os.environ["RUNAPI_API_KEY"] == "a-real-key" and "FLUX2_MODE" not in os.environ

@pytest.mark.parametrize("number", [1, 2])
def test_each_test_has_a_home_of_its_own(outside, flux2_sandbox, tmp_path, number):
    homes.add(flux2_sandbox.home)
    assert len(homes) == number and flux2_sandbox.creates() == 0
    task = flux2_sandbox.client.text_to_image.run(prompt="A red fox", save_to="fox.png")
    assert flux2_sandbox.client.sandbox and task.images[0].saved == tmp_path / "fox.png" == flux2_sandbox.workspace / "fox.png"
    assert flux2_sandbox.creates() == 1

def test_code_and_processes_find_it_by_themselves(flux2_sandbox):
    with Flux2Client() as client:
        task = client.text_to_image.run(prompt="A red fox")
    code = f"from flux2_mcp import Flux2Client\\nwith Flux2Client() as c: print(c.sandbox, c.text_to_image.get({task.id!r}).id)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["True", task.id]
    request = urllib.request.Request(
        f"{flux2_sandbox.base_url}/api/v1/flux_2/text_to_image/{task.id}",
        headers={"Authorization": f"Bearer {flux2_sandbox.api_key}"},
    )
    assert json.load(urllib.request.urlopen(request))["status"] == "completed"

def test_a_file_of_the_project_is_remixed(flux2_sandbox, request):
    source = request.path.parent / "day.png"
    task = flux2_sandbox.client.remix_image.run(prompt="Make it night", source_images=[source])
    assert task.images[0].path.is_relative_to(flux2_sandbox.home)

def test_the_async_client_finds_it_too(flux2_sandbox):
    import asyncio
    async def main():
        async with AsyncFlux2Client() as client:
            return client.sandbox, (await client.balance()).balance_usd
    assert asyncio.run(main()) == (True, 100)
"""


def suite(folder: Path, text: str, env: dict[str, str]) -> str:
    """The output of pytest over one file, in a folder where nothing else is."""
    (folder / "test_it.py").write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:schemathesis", "-p", "no:cacheprovider", "-W", "error"],
        env={"PATH": os.environ["PATH"], "RUNAPI_API_KEY": "a-real-key"}
        | {name: value for name, value in env.items() if not name.startswith("FLUX2_")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "suite").mkdir()
    return tmp_path / "suite"


def test_a_suite_that_does_not_use_the_fixture_loads_nothing_for_it(folder: Path, clean_env: dict[str, str]) -> None:
    assert "1 passed" in suite(folder, UNUSED, clean_env)


def test_a_suite_that_uses_it_draws_in_the_sandbox_alone(folder: Path, clean_env: dict[str, str]) -> None:
    (folder / "day.png").write_bytes(saved(corner()))
    config = Path(clean_env["HOME"]) / ".config/runapi/config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"api_key": "another-real-key"}))
    assert "5 passed" in suite(folder, USED, clean_env)
    assert not (Path(clean_env["HOME"]) / ".local").exists()  # where FLUX2_HOME would be
