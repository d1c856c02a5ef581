"""What others wrote reaches a terminal as it was written, but for what would steer the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flux2_mcp.cli import main, output
from tests.support.services import CREATE, Front, Reply, always

SAID = "save_to and max_cost_usd are odd: start the server again, then call again (check_pricing)"


def test_an_error_of_runapis_is_shown_word_for_word(
    front: Front, clean_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front.rule = always(CREATE, Reply(422, f'{{"error": "{SAID}"}}'.encode()))
    env = clean_env | {"RUNAPI_API_KEY": front.sandbox.api_key, "RUNAPI_BASE_URL": front.base_url, "FLUX2_MODE": "live"}
    assert main.run(["generate", "a red fox"], env, None, str(tmp_path)) == 4
    assert capsys.readouterr().err == (
        f"Error: RunAPI answered 422: {SAID}\nNothing was charged.\n"
        "Next: Change the request as the message says and run this again.\n"
    )


STEERS = "fox\x1b[31m\x1b]0;title\a\x9b2J\u202e\bx"


def test_a_prompt_and_an_error_steer_no_terminal_in_any_command(
    clean_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = clean_env | {"FLUX2_MODE": "sandbox", "FLUX2_SANDBOX_SPEED": "1000", "FLUX2_HOME": str(tmp_path / "home")}
    for argv in (
        ["generate", f"{STEERS} \U0001f468\u200d\U0001f33e"],
        ["tasks"],
        ["generate", "x", "--variant", STEERS],
    ):
        main.run(argv, env, None, str(tmp_path))
        shown = "".join(capsys.readouterr())
        assert not {char for char in shown if not char.isprintable()} - {"\n", "\u200d"}
    main.run(["tasks", "--json"], env, None, str(tmp_path))
    assert json.loads(capsys.readouterr().out)["tasks"][0]["prompt"].startswith(STEERS)
    main.run(["tasks"], env, None, str(tmp_path))
    assert (
        "fox\ufffd[31m\ufffd]0;title\ufffd\ufffd2J\ufffd\ufffdx \U0001f468\u200d\U0001f33e" in capsys.readouterr().out
    )


def test_a_text_in_colour_can_not_bring_a_sequence_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    output.echo(f"{output.style(STEERS, fg='red')} {STEERS}", color=True)
    assert capsys.readouterr().out.count("\x1b") == 2  # on, off
