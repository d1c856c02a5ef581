from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from flux2_mcp.cli import main
from flux2_mcp.runapi import key_file
from flux2_mcp.runapi.key_file import config_file
from tests.support.deep import deep_but

Here = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C works here and in what is started here, also where whoever runs the tests has switched it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def here(
    clean_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Here]:
    """A command in this process: what a process would show is shown above, and starting one costs half a second.

    `given` is its standard input, `folder` where it runs.
    """
    logger = logging.getLogger("flux2_mcp")
    before = logger.level

    def run(*argv: str, given: str = "", folder: Path = tmp_path, **env: str) -> tuple[int, str, str]:
        told = clean_env | env
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(given.encode())))
        code = main.run(argv, told, key_file.read(config_file(told)), str(folder))
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err or told.get("FLUX2_LOG") == "debug"
        return code, out, err

    yield run
    logger.setLevel(before)


@pytest.fixture(params=deep_but(("asleep", "early", "late"), "asleep"))
def served_env(request: pytest.FixtureRequest, clean_env: dict[str, str]) -> dict[str, str]:
    """An environment for a server: one that sleeps until it is needed, one with early answers alone, and one without."""
    return clean_env | {"FLUX2_EARLY": f"{request.param != 'late':d}", "FLUX2_SLEEP": f"{request.param == 'asleep':d}"}
