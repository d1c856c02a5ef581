"""`flux2-mcp wait`: as `check_task` does, with the exit codes of the vendor's CLI."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import pytest
from mcp.client.client import Client

from flux2_mcp.cli.task_output import DRAWN_NOTICE, LATER, NO_CANCEL, waiting_on
from flux2_mcp.server.app import build
from flux2_mcp.settings import from_env
from tests.process.conftest import Here
from tests.support.terminal import known, on_terminal


def begun(here: Here, prompt: str) -> str:
    """A task that was only just asked for."""
    made = json.loads(here("generate", prompt, "--wait", "0", "--json")[1])
    return str(made["tasks"][0]["task_id"])


def test_who_waits_gets_the_files_of_what_was_asked_for_before(clean_env: dict[str, str], here: Here) -> None:
    first, second = begun(here, "a red fox"), begun(here, "a blue fox")
    code, out, err = here("wait", first, second)
    assert (code, err) == (0, "")
    paths = [line for line in out.splitlines() if Path(line).is_file()]
    assert len(paths) == 2
    assert out.splitlines()[-2:] == ["2 completed, quoted $0.10, would charge $0.10", DRAWN_NOTICE]

    async def tool() -> object:
        async with Client(build(from_env(clean_env))) as client:
            return (await client.call_tool("check_task", {"task_ids": [first]})).structured_content

    assert known(json.loads(here("wait", first, "--json")[1])) == known(anyio.run(tool))


def test_a_wait_that_is_over_is_5_and_says_how_to_wait_on(here: Here) -> None:
    ident = begun(here, "a red fox [sandbox:stuck]")
    # The limiter stays below the sandbox's own rate: a thousand times faster than life, a stuck task is asked about that often.
    code, out, err = here("wait", ident, "--timeout", "0.2", FLUX2_RATE="12")
    assert (code, err) == (5, "")
    assert re.fullmatch(rf"{ident}: (pending|processing)", out.splitlines()[0])
    assert out.splitlines()[2:] == [LATER, waiting_on(ident), DRAWN_NOTICE]


def test_a_failed_task_is_7_and_an_unknown_one_4(here: Here) -> None:
    code, out, _ = here("wait", begun(here, "a red fox [sandbox:moderation]"))
    assert code == 7
    assert "failed: The request was rejected by content moderation." in out
    code, out, err = here("wait", "nobody-knows")
    assert (code, out) == (4, "")
    assert err.startswith("Error: Neither the journal nor RunAPI knows the task 'nobody-knows'.\n")


def test_ctrl_c_stops_the_waiting_and_says_how_to_go_on(clean_env: dict[str, str], here: Here) -> None:
    ident = begun(here, "a red fox [sandbox:stuck]")
    with on_terminal(clean_env | {"TERM": "xterm"}, "wait", ident) as terminal:
        terminal.until(" s")
        terminal.keys("\x03")
        assert terminal.end() == (130, "")
    assert terminal.seen.endswith(f"\r\x1b[K{NO_CANCEL}\r\n{waiting_on(ident)}\r\n")


# --- pictures in the terminal ---

SHOWS = {"TERM": "xterm-kitty"}
DRAWN = "\x1b_Ga=T,f=100,q=2,"


def test_a_terminal_that_can_shows_the_picture_above_its_path(clean_env: dict[str, str]) -> None:
    with on_terminal(clean_env | SHOWS, "generate", "a red fox", "--count", "2", whole=True) as terminal:
        assert terminal.end() == (0, "")
    after = terminal.seen.split(DRAWN)[1:]
    assert [re.search(r"\x1b\\\r\n(/\S+\.png)\r\n", each) is not None for each in after] == [True, True]


@pytest.mark.parametrize(
    ("env", "options", "whole"),
    [
        (SHOWS, [], False),
        pytest.param(SHOWS, ["--no-picture"], True, marks=pytest.mark.deep),
        pytest.param(SHOWS, ["--json"], True, marks=pytest.mark.deep),
        pytest.param({"TERM": "xterm"}, [], True, marks=pytest.mark.deep),
        (SHOWS | {"TMUX": "1"}, [], True),
    ],
)
def test_no_picture_goes_where_it_is_not_wanted_or_can_not_be_shown(
    env: dict[str, str], options: list[str], clean_env: dict[str, str], here: Here, *, whole: bool
) -> None:
    ident = begun(here, "a red fox")
    with on_terminal(clean_env | env, "wait", ident, *options, whole=whole) as terminal:
        code, out = terminal.end()
    assert code == 0
    assert ".png" in out + terminal.seen
    assert "\x1b_G" not in out + terminal.seen
