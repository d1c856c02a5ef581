"""What RunAPI says reaches a terminal as it was said."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux2_mcp.cli import main
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
