from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from flux2_mcp.settings import Settings, from_env
from tests.support import forked

# The same examples on every machine, and no clock in the verdict: these machines are shared and slow at times.
hypothesis_settings.register_profile("ci", deadline=None, derandomize=True, max_examples=30)
# `make fuzz`: more of them, and others each time.
hypothesis_settings.register_profile("fuzz", deadline=None, derandomize=False, max_examples=1000, print_blob=True)
hypothesis_settings.load_profile("fuzz" if os.environ.get("FLUX2_TESTS_FUZZ") else "ci")

# Until all is collected, next to nothing is garbage, and each search for it would look through all that is there.
gc.disable()

SEED_PROMPT = (
    "Generate a photorealistic studio portrait of an astronaut holding a cat, dramatic rim lighting, 8K detail."
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With FLUX2_TESTS_NO_SKIP, which CI sets, a test that is skipped is a test that failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("FLUX2_TESTS_NO_SKIP"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"FLUX2_TESTS_NO_SKIP is set, and this was to be skipped. {why}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Big files come first: they are about those that take long, and none of these is left to a worker alone at the end."""
    sizes = {path: path.stat().st_size for path in {item.path for item in items}}
    items.sort(key=lambda item: (-sizes[item.path], item.path))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no search for garbage has to look through it each time."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:  # noqa: ANN401  # xdist's
    if config.getoption("dist") != "loadfile":
        return None
    from tests.support.scheduling import Scheduling

    return Scheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        forked.share()


def pytest_sessionfinish() -> None:
    forked.end()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def environment(folder: Path) -> dict[str, str]:
    """An environment for a process of ours: an empty home, the sandbox a thousand times faster than life, no key.

    At that speed the sandbox's pictures are plain. What they look like otherwise is for tests/sandbox/test_drawing.py.

    What it runs is not measured: that took a third of a process's start, and starts are a third of the suite.
    """
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "PYTHONPYCACHEPREFIX") if name in os.environ}
    return kept | {
        "HOME": str(folder / "user"),
        "FLUX2_HOME": str(folder / "home"),
        "FLUX2_SANDBOX_SPEED": "1000",
        "FLUX2_RATE": "1000",
    }


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


@pytest.fixture
def sandbox_settings(clean_env: dict[str, str], tmp_path: Path) -> Settings:
    return from_env(clean_env, workspace=str(tmp_path))


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What a command sets up for its own process must not outlive its test: the stream it logs to is closed then."""
    root, ours = logging.getLogger(), logging.getLogger("flux2_mcp")
    before = (root.level, ours.level, sys.excepthook, threading.excepthook)
    handlers = list(root.handlers)
    yield
    for handler in [each for each in root.handlers if type(each) is logging.StreamHandler and each not in handlers]:
        root.removeHandler(handler)
    for logger, level in zip((root, ours), before[:2], strict=True):
        if logger.level != level:  # to set it clears the caches of all loggers
            logger.setLevel(level)
    sys.excepthook, threading.excepthook = before[2:]
