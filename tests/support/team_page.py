"""The commands of docs/team.md, and what stands for the programs that a test must not run: `sudo`, `apt-get`, `pipx`, `claude`."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

from tests.support.postgres import Cluster

PAGE = Path(__file__).parents[2] / "docs/team.md"
STAND_INS = {
    # What is asked of PostgreSQL's own user is asked of the test's cluster; apt-get is not run.
    "sudo": 'test "$1" = -u || exit 0\nshift 2\nPGUSER=flux2 exec "$@"\n',
    "pipx": 'mkdir -p ~/.local/bin && ln -s "$OURS" ~/.local/bin/flux2-mcp\n',
    "claude": "for word; do printf '%s\\n' \"$word\"; done\n",
}


def blocks(heading: str, language: str = "bash") -> list[str]:
    """The blocks of a section."""
    (section,) = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def shell(folder: Path, cluster: Cluster) -> dict[str, str]:
    """An environment for the page's commands: an empty home, the programs of this environment, and this cluster as the system's."""
    programs = folder / "programs"
    programs.mkdir()
    for name, text in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}")
        (programs / name).chmod(0o755)
    (folder / "user").mkdir()
    kept = {name: os.environ[name] for name in ("PYTHONPYCACHEPREFIX",) if name in os.environ}
    return kept | {
        "HOME": str(folder / "user"),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "OURS": str(Path(sys.executable).parent / "flux2-mcp"),
        "PGHOST": str(cluster.folder),
        "FLUX2_SANDBOX_SPEED": "1000",
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
