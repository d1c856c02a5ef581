"""A real session with the server, as a host has it, in the sandbox: its tools, and one call with its answer.

What the README shows of them is true by that. Ids, times and folders differ from run to run: each is replaced by one that stays.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

WISH: Final = "The landing page needs a hero image: paper boats on a calm sea. Put it where the page looks for it."
"""What a user writes; the agent makes CALL of it."""
TOOL: Final = "generate"
CALL: Final = {
    "prompt": "A hero image: paper boats on a calm sea",
    "aspect_ratio": "16:9",
    "save_to": "public/hero.png",
}
HOST: Final = {"name": "readme", "version": "1"}
PROTOCOL: Final = "2025-06-18"
WIDTH: Final = 140
_STAYS: Final = (
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "27c04f1d-8a3e-4c1e-9f57-2a4f6f4c9d10"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "2026-11-28T10:00:04Z"),
)


@dataclass(frozen=True, slots=True)
class Session:
    """The tools as `tools/list` gave them, and the words that a call was answered with."""

    tools: tuple[dict[str, Any], ...]
    answer: str


@cache
def session() -> Session:
    """Start the server, ask for its tools, make one image. Takes about two seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (project := folder / "site").mkdir()
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("FLUX2_", "RUNAPI_", "OTEL_"))}
        # Not the early answers: they may be older than the code.
        settings = {"FLUX2_MODE": "sandbox", "FLUX2_EARLY": "0", "FLUX2_SANDBOX_SPEED": "1000"}
        home = {"HOME": str(folder), "USERPROFILE": str(folder), "FLUX2_HOME": str(folder / "flux2")}
        hello = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": HOST}
        with subprocess.Popen(
            [sys.executable, "-m", "flux2_mcp"], env=clean | home | settings, cwd=project,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as server:  # fmt: skip
            _ask(server, "initialize", hello)
            _say(server, {"method": "notifications/initialized"})
            tools = _ask(server, "tools/list", {})["tools"]
            result = _ask(server, "tools/call", {"name": TOOL, "arguments": CALL})
            server.communicate()
    assert not result.get("isError"), result
    words = next(part["text"] for part in result["content"] if part["type"] == "text")
    for pattern, stays in _STAYS:
        words = pattern.sub(stays, words)
    return Session(tuple(tools), words.replace(str(folder), "/home/ada"))


def _ask(server: subprocess.Popen[str], method: str, params: object) -> dict[str, Any]:
    _say(server, {"id": method, "method": method, "params": params})
    assert server.stdout is not None
    for line in server.stdout:
        answer = json.loads(line)
        if answer.get("id") == method:
            result: dict[str, Any] = answer["result"]
            return result
    raise AssertionError(f"the server ended before it answered {method}")


def _say(server: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    server.stdin.flush()


def conversation() -> str:
    """The wish, the call and its answer as a block of text."""
    said = {"you": [WISH], "agent": [f"{TOOL} {json.dumps(CALL)}"], "answer": session().answer.splitlines()}
    lines = [
        (f"{who:8}" if number == 0 else "", line) for who, part in said.items() for number, line in enumerate(part)
    ]
    indent = " " * 8
    wrapped = (
        textwrap.fill(
            line,
            WIDTH,
            initial_indent=who or indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for who, line in lines
    )
    return "\n".join(["```text", *wrapped, "```"])
