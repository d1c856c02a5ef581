"""A cap of a team's server, which answers in RunAPI's place: its own words, and nothing about RunAPI's account."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import cast

from flux2_mcp.errors import InsufficientCreditsError, TeamCapError
from flux2_mcp.runapi.responses import Response, failure
from tests.support.rows import rows

NOW = datetime(2026, 11, 29, 8, 0, tzinfo=UTC)
SAID = "The call would cost $0.05; FLUX2_PERSON_DAILY_BUDGET_USD is $1 and $0.01 of it is left."
NEXT = "Nothing of this kind fits any more. Or wait: it counts the last 24 hours."


def refused(body: object, status: int = 402) -> InsufficientCreditsError:
    answer = Response(status, {"content-type": "application/json"}, json.dumps(body).encode())
    return cast("InsufficientCreditsError", failure(answer, now=NOW, key="flux2_key"))


def test_what_a_teams_server_refuses_for_a_cap_is_told_in_its_own_words_and_with_its_next_step() -> None:
    error = refused({"error": {"code": "cap", "message": f"{SAID} {NEXT}", "next_step": NEXT}})
    assert isinstance(error, TeamCapError)
    assert (error.message, error.next_step, error.exit_code) == (f"The team's server refused it: {SAID}", NEXT, 3)


def test_a_server_that_says_no_next_step_has_one_of_ours() -> None:
    error = refused({"error": {"code": "cap", "message": f"{SAID} flux2_key"}})
    assert isinstance(error, TeamCapError)
    assert error.next_step == TeamCapError.default_next
    assert "flux2_key" not in error.message


@rows(
    ("body", "status"),
    [
        ({"error": {"code": "insufficient_credits", "message": "No money."}}, 402),
        ({"error": "cap"}, 402),
        (["cap"], 402),
        ({"error": {"code": "cap", "message": "No."}}, 422),
    ],
)
def test_all_else_is_what_runapi_answered(body: object, status: int) -> None:
    error = refused(body, status)
    assert not isinstance(error, TeamCapError)
    assert error.message.startswith(f"RunAPI answered {status}: ")
