"""The ten commands of docs/team.md, as they stand there, in an empty home folder. A port that is free stands for 8788."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.support import postgres, team_page
from tests.support.sandboxed import TLS
from tests.support.stdio import DEADLINE, MODERN, dressed
from tests.support.web import ACCEPT, messages

HEADING = "From nothing to a team in ten commands"
PORT = "8788"

pytestmark = pytest.mark.skipif(postgres.binaries() is None, reason="there is no PostgreSQL")


def test_ten_commands_make_a_team_and_its_first_pictures(tmp_path: Path) -> None:
    port = str(team_page.free_port())
    serving, using = [block.replace(PORT, port) for block in team_page.blocks(HEADING)]
    assert len((serving + using).splitlines()) <= 10
    with postgres.cluster(postgres.FAST) as cluster:
        env = team_page.shell(tmp_path, cluster)
        *first, serve = serving.splitlines()
        script = "\n".join(["set -e", *first, f"exec {serve} --port {port}"])
        server = subprocess.Popen(
            ["bash", "-c", script],
            env=env,
            cwd=env["HOME"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert server.stdout is not None
        said = ""
        try:
            for line in server.stdout:
                said += line
                if "Serving MCP" in line:
                    break
            assert f"Serving MCP at http://127.0.0.1:{port}/mcp, for personal tokens." in said
            (token,) = re.findall(r"^(flux2_\S+)$", said, re.MULTILINE)
            done = subprocess.run(
                ["bash", "-ec", using.replace("TOKEN", token)], env=env, cwd=env["HOME"], input=token, capture_output=True, text=True,
                check=False, timeout=DEADLINE,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            pictures = list((Path(env["HOME"]) / "ada").rglob("*.png"))
            assert [path.name for path in pictures if str(path) in done.stdout] == [path.name for path in pictures]
            assert len(pictures) == 1
            *_, address, _, header = done.stdout.splitlines()  # what Claude Code was told
            assert made_by_a_host(address, header) == "completed"
        finally:
            server.terminate()
            server.communicate(timeout=DEADLINE)
    assert server.returncode == 0


def made_by_a_host(address: str, header: str) -> str:
    """The status of a picture that an agent host asks for, with the header that it was told."""
    name, value = header.split(": ")
    told = ACCEPT | {name: value, "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "generate"}
    params = dressed(MODERN, {"name": "generate", "arguments": {"prompt": "a red fox"}}, {})
    with httpx2.Client(verify=TLS, timeout=DEADLINE, headers=told) as http:
        *_, answer = messages(
            http.post(address, json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        )
    return str(answer["result"]["structuredContent"]["status"])
