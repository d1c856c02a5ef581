"""Nothing of ours calls anybody at import or at start, and in the sandbox nobody but this machine: seen from inside the process."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.support.deep import thin
from tests.support.stdio import DEADLINE, MODERN, Raw, dressed, patched

# An audit hook sees what any library does, in any thread, and can't be taken out again.
WATCH = """
import sys
from itertools import product
def watched(event, args, told=open({file!r}, "a", buffering=1)):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        print(event, args[0] if event.startswith("socket.get") else args[-1][0], file=told)
sys.addaudithook(watched)
"""
ALL = """
import importlib, pkgutil, flux2_mcp
for each in pkgutil.walk_packages(flux2_mcp.__path__, "flux2_mcp."):
    if each.name != "flux2_mcp.__main__":
        importlib.import_module(each.name)
"""
KNOCK = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def ran(env: dict[str, str], file: Path, code: str) -> str:
    command = [sys.executable, "-c", WATCH.format(file=str(file)) + code]
    subprocess.run(command, env=env, check=True, timeout=DEADLINE)
    return file.read_text("utf-8")


def test_no_module_calls_anybody_when_it_is_imported(clean_env: dict[str, str], file: Path) -> None:
    assert ran(clean_env, file, KNOCK) == "socket.connect 127.0.0.1\n"  # the watch sees what it is there for
    file.unlink()
    assert ran(clean_env, file, ALL) == ""


@pytest.mark.parametrize(("early", "with_key"), thin(product(["0", "1"], [False, True]), kept=[("1", True)]))
def test_a_server_that_has_started_and_told_its_tools_has_called_nobody(
    clean_env: dict[str, str], file: Path, early: str, *, with_key: bool
) -> None:
    env = clean_env | {"FLUX2_EARLY": early} | ({"RUNAPI_API_KEY": "canary-5d1c9b7e0a44"} if with_key else {})
    with Raw(env, command=patched(WATCH.format(file=str(file))), loads=True) as raw:
        for number, method in enumerate(("tools/list", "resources/templates/list", "prompts/list")):
            request = {"jsonrpc": "2.0", "id": number, "method": method, "params": dressed(MODERN, {}, {})}
            raw.send(json.dumps(request))
            assert "result" in raw.receive()
        assert raw.end()[0] == 0
    assert file.read_text("utf-8") == ""


def test_an_image_of_the_sandbox_leaves_this_machine_in_peace(clean_env: dict[str, str], file: Path) -> None:
    params = {"name": "generate", "arguments": {"prompt": "a red fox", "preview": False}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": dressed(MODERN, params, {})}
    with Raw(clean_env, command=patched(WATCH.format(file=str(file)))) as raw:
        raw.send(json.dumps(request))
        assert raw.receive()["result"]["structuredContent"]["status"] == "completed"
        raw.end()
    calls = set(file.read_text("utf-8").splitlines())
    assert {call.rpartition(" ")[2] for call in calls} == {"127.0.0.1"}, calls
