"""A server that was given what it can't use goes on serving: a host that was answered would show it as dead."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tests.support.deep import thin
from tests.support.stdio import ERAS, LEGACY, MODERN, Host
from tests.support.terminal import on_terminal

BROKEN = "RunAPI's config file ({}) can't be read: it is not UTF-8 text."


def broken_file(env: dict[str, str]) -> str:
    config = Path(env["HOME"]) / ".config" / "runapi" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_bytes(b"\xff\xfe")
    return BROKEN.format(config)


def setting(name: str, value: str, words: str) -> Callable[[dict[str, str]], str]:
    def put(env: dict[str, str]) -> str:
        env[name] = value
        return words

    return put


UNUSABLE = {
    "rate": setting("FLUX2_RATE", "fast", "FLUX2_RATE must be a number from 0.1 to 1000."),
    "mode": setting("FLUX2_MODE", "lve", "FLUX2_MODE must be one of auto, live, sandbox."),
    "file": broken_file,
}


@pytest.mark.parametrize(("era", "what"), thin(product(ERAS, UNUSABLE), kept=[(MODERN, "rate"), (LEGACY, "file")]))
def test_tools_are_listed_and_the_one_that_needs_it_says_which_setting(
    era: str, what: str, served_env: dict[str, str], tmp_path: Path
) -> None:
    said = UNUSABLE[what](served_env)
    with Host(served_env, era, cwd=str(tmp_path)) as host:
        assert len(host.request("tools/list")["tools"]) == 4
        refused = host.call("generate", prompt="a red fox in snow")
        assert (refused["isError"], refused["content"][0]["text"].splitlines()[0]) == (True, said)
        assert not host.call("list_variants").get("isError")
        errors = host.close()
    assert (host.process.returncode, errors.splitlines()[0]) == (0, said)
    assert not (tmp_path / "home").exists()


def test_a_person_who_types_the_bare_name_is_told_and_has_the_code(clean_env: dict[str, str]) -> None:
    with on_terminal(clean_env | {"FLUX2_RATE": "fast"}, typing=True) as terminal:
        terminal.until("FLUX2_RATE must be a number")
        assert terminal.end()[0] == 4


@pytest.mark.parametrize(
    "env",
    [
        {"FLUX2_HOME": "/" + "/".join(["x" * 200] * 30)},  # the system itself refuses so long a path
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"},
    ],
)
def test_what_the_system_or_a_library_can_not_use_does_not_end_it_either(
    env: dict[str, str], clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Host(clean_env | env, LEGACY, cwd=str(tmp_path)) as host:
        assert not host.call("list_variants").get("isError")
        made = host.call("generate", prompt="a red fox in snow")
        assert made.get("isError", False) == ("FLUX2_HOME" in env)
        assert "FLUX2_HOME" not in env or "Make FLUX2_HOME a writable folder" in made["content"][0]["text"]
        errors = host.close()
    assert (host.process.returncode, "Traceback" in errors) == (0, False)
