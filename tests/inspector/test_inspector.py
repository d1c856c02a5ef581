"""The Inspector's command line, which shares no code with us, uses everything that the server lists: both eras, over stdio.

Each use is a process of its own with a server of its own, so what one made, the next finds in the journal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import environment
from tests.support import npm
from tests.support.asleep import Witness, needs_proc
from tests.support.stdio import COMMAND

PACKAGES = {"@modelcontextprotocol/inspector": "2.12.0"}
USE_SECONDS = 90
ARGUMENTS: Mapping[str, Mapping[str, str]] = {"generate": {"prompt": "a red fox in snow", "count": "2"}}
"""What a tool is called with beside what it requires."""
WORDS = {"language": "python"}
"""What required arguments of tools and prompts are, by their names; any other is a prompt."""


class Inspector:
    """The command line in one era."""

    def __init__(self, program: list[str], era: str, folder: Path) -> None:
        self._program = [*program, "--cli", "--protocol-era", era]
        self._env = environment(folder)

    def use(self, method: str, *options: str, command: Sequence[str] = COMMAND) -> dict[str, Any]:
        """What it prints of one method; it ends with another code than 0 where anything is wrong with that."""
        variables = [part for name, value in self._env.items() for part in ("-e", f"{name}={value}")]
        done = subprocess.run(
            [*self._program, *variables, *command, "--method", method, *options],
            env=self._env | {"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=USE_SECONDS,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{method} {options}: {done.stdout}{done.stderr}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(params=["legacy", "modern"])
def inspector(request: pytest.FixtureRequest, tmp_path: Path) -> Inspector:
    node, packages = npm.fetched(npm.NODE, scripts=True), npm.fetched(PACKAGES)
    if isinstance(node, str) or isinstance(packages, str):
        pytest.skip(node if isinstance(node, str) else str(packages))
    program = [str(node / npm.NODE_BINARY), str(packages / ".bin" / "mcp-inspector")]
    return Inspector(program, request.param, tmp_path)


def given(required: list[str], known: Mapping[str, str] | None = None) -> list[str]:
    return [
        f"{each}={value}"
        for each, value in ({each: WORDS.get(each, "a red fox") for each in required} | dict(known or {})).items()
    ]


def test_it_lists_and_calls_each_tool_and_finds_nothing_to_mend(inspector: Inspector) -> None:
    tools = inspector.use("tools/list", "--strict")["tools"]
    assert [tool["name"] for tool in tools] == ["generate", "check_task", "check_pricing", "list_variants"]
    for tool in tools:
        pairs = given(tool["inputSchema"].get("required", []), ARGUMENTS.get(tool["name"]))
        options = [part for pair in pairs for part in ("--tool-arg", pair)]
        result = inspector.use("tools/call", "--tool-name", tool["name"], *options)
        assert result.get("isError") in {None, False}
        assert result["content"][0]["text"]
        assert result["structuredContent"]
        if tool["name"] in ARGUMENTS:
            assert [task["status"] for task in result["structuredContent"]["tasks"]] == ["completed"] * 2


@needs_proc
def test_what_it_lists_wakes_nobody_and_a_call_does(inspector: Inspector, tmp_path: Path) -> None:
    witness = Witness(tmp_path, str(Path(sys.executable).with_name("flux2-mcp")))
    for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
        assert inspector.use(method, command=[str(witness.command)])
    assert set(witness.told()) == {"asleep"}
    inspector.use("tools/call", "--tool-name", "list_variants", command=[str(witness.command)])
    deadline = time.monotonic() + USE_SECONDS
    while "awake" not in witness.told():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_it_reads_each_resource(inspector: Inspector) -> None:
    inspector.use("tools/call", "--tool-name", "generate", "--tool-arg", "prompt=a red fox")
    resources = inspector.use("resources/list")["resources"]
    assert len(resources) >= 3  # the list of tasks, the task, its image
    for resource in resources:
        (content,) = inspector.use("resources/read", "--uri", resource["uri"])["contents"]
        assert content["uri"] == resource["uri"]
        assert content["mimeType"] == resource["mimeType"]
        assert content.get("text") or content.get("blob")
    assert inspector.use("resources/templates/list")["resourceTemplates"]


def test_it_gets_each_prompt(inspector: Inspector) -> None:
    prompts = inspector.use("prompts/list")["prompts"]
    assert prompts
    for prompt in prompts:
        required = [each["name"] for each in prompt.get("arguments", []) if each.get("required")]
        pairs = [part for pair in given(required) for part in ("--prompt-args", pair)]
        assert inspector.use("prompts/get", "--prompt-name", prompt["name"], *pairs)["messages"]
