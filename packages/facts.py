"""What every package says of the server: who it is, how it is started, what it reads. Each stands once, here or in the code."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from flux2_mcp.hosts.entry import PROGRAM
from flux2_mcp.server.tools import REGISTRY

ROOT: Final = Path(__file__).parents[1]
NAME: Final = "flux-2"
"""The server's, the plugin's and the skill's."""
MARKETPLACE: Final = "flux2-mcp"
NAMESPACE: Final = "io.github.flux2-mcp"
"""Under which the MCP registry knows it: the account that publishes must own it, so it is settled with the first release."""
AUTHOR: Final = {"name": "The flux2-mcp contributors"}
TITLE: Final = "FLUX.2 images"
KEY: Final = {
    "title": "RunAPI key",
    "description": "From runapi.ai, API keys. Without one the embedded sandbox draws the images, and nothing is charged.",
}


@cache
def project() -> Mapping[str, Any]:
    """The `project` table of pyproject.toml."""
    found: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def start(*, published: bool) -> dict[str, Any]:
    """How a host starts the server: `command` and `args`.

    Before the release (`hosts/command.py`, PUBLISHED) that is the `flux2-mcp` which `install/install.sh` brought from a checkout
    or a git URL; from then on uv fetches it by its plain name.
    """
    return {"command": "uvx", "args": [PROGRAM]} if published else {"command": PROGRAM, "args": []}


def tools() -> dict[str, str]:
    """Each tool and what it does, as the model reads it."""
    return {entry.function.__name__: " ".join((entry.function.__doc__ or "").split()) for entry in REGISTRY}
