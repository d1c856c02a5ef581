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

    `given` is its standard input.
    """
    logger = logging.getLogger("flux2_mcp")
    before = logger.level

    def run(*argv: str, given: str = "", **env: str) -> tuple[int, str, str]:
        told = clean_env | env
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(given.encode())))
        code = main.run(argv, told, key_file.read(config_file(told)), str(tmp_path))
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err or told.get("FLUX2_LOG") == "debug"
        return code, out, err

    yield run
    logger.setLevel(before)


@pytest.fixture(params=["early", pytest.param("late", marks=pytest.mark.deep)])
def served_env(request: pytest.FixtureRequest, clean_env: dict[str, str]) -> dict[str, str]:
    """An environment for a server: with its first answers given early, and without."""
    return clean_env | {"FLUX2_EARLY": "1" if request.param == "early" else "0"}
