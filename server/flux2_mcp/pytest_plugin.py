"""The pytest fixture `flux2_sandbox`. pytest finds it by the package's entry point; nothing else imports this module.

Every run of pytest where the package is installed imports this, so it loads nothing else before a test asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flux2_mcp.api.sync import Flux2Client
    from flux2_mcp.sandbox.server import Sandbox

SPEED = "1000"
"""How much faster than RunAPI its tasks run. From 100 on, their pictures are plain."""
OURS = ("FLUX2_", "RUNAPI_")
"""How the names of the variables begin that this package reads."""


class Flux2Sandbox:
    """A sandbox of one test. No key is used and no money moves, in this process and in those that it starts.

    `Flux2Client()`, `AsyncFlux2Client()`, the command `flux2-mcp` and its server find it by the environment.

    Attributes:
        home: FLUX2_HOME: the journal, the images, and what the sandbox itself writes down.
        workspace: FLUX2_WORKSPACE: where `save_to` puts files. It is the test's `tmp_path`.
        environ: The variables that lead there, as they stand in `os.environ` during the test.
    """

    def __init__(self, home: Path, workspace: Path, environ: Mapping[str, str]) -> None:
        self.home = home
        self.workspace = workspace
        self.environ = environ
        self._client: Flux2Client | None = None
        self._server: Sandbox | None = None

    @property
    def client(self) -> Flux2Client:
        """A client, made at its first use and closed after the test."""
        if self._client is None:
            from flux2_mcp import Flux2Client

            self._client = Flux2Client()
        return self._client

    @property
    def base_url(self) -> str:
        """RUNAPI_BASE_URL for another client of RunAPI: the same sandbox over HTTP, which starts at the first use."""
        return self._started.base_url

    @property
    def api_key(self) -> str:
        """RUNAPI_API_KEY for another client of RunAPI."""
        return self._started.api_key

    def creates(self) -> int:
        """Return how many creates the sandbox has received: in life, each new one of them is paid."""
        return self._started.creates()

    def close(self) -> None:
        """Close the client and the server. pytest does this after the test."""
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.close()

    @property
    def _started(self) -> Sandbox:
        if self._server is None:
            from flux2_mcp.sandbox.server import Sandbox

            self._server = Sandbox(self.home / "sandbox", speed=float(SPEED), rate=None).start()
        return self._server


@pytest.fixture
def flux2_sandbox(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flux2Sandbox]:
    """FLUX.2 without a key: during this test, the sandbox draws what any client of `flux2_mcp` asks for, at once."""
    home, project = tmp_path_factory.mktemp("flux2"), str(Path.cwd())
    environ = {
        "FLUX2_MODE": "sandbox",
        "FLUX2_HOME": str(home),
        "FLUX2_WORKSPACE": str(tmp_path),
        "FLUX2_SANDBOX_SPEED": SPEED,
        "FLUX2_RATE": SPEED,
    }
    if os.pathsep not in project:  # else the list could not name it
        # What the code under test remixes may be a file of the project.
        environ["FLUX2_ALLOWED_DIRS"] = project
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    sandbox = Flux2Sandbox(home, tmp_path, environ)
    yield sandbox
    sandbox.close()
