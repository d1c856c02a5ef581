"""What costs much is asked for on the command line too: on a terminal, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flux2_mcp.domain import pricing
from flux2_mcp.sandbox.server import Sandbox
from tests.process.conftest import Here
from tests.support.terminal import on_terminal

DEAR = ("generate", "a red fox [sandbox:stuck]", "--variant", "max", "--aspect-ratio", "1:1", "--count", "8")
NOW = (*DEAR, "--wait", "0")
UNASKED = "It would cost $2.40, and a call of more than $0.50 needs the user's yes (FLUX2_CONFIRM_USD)."
CHEAPER = "Cheaper: variant pro at 1k, count 8, for $0.40."


def made(home: Path) -> int:
    with Sandbox(home / "sandbox") as runapi:
        return len(runapi.tasks())


def test_without_a_terminal_it_is_refused_with_the_options_that_confirm_it(here: Here, tmp_path: Path) -> None:
    code, out, err = here(*NOW)
    assert (code, out) == (4, "")
    assert err.splitlines() == [
        f"Error: The user was not asked: there is no terminal. {UNASKED} {pricing.invented({'max'})}",
        "Nothing was sent and nothing was charged.",
        f"Next: To confirm it, run this again with --yes or --max-cost 2.4. {CHEAPER}",
    ]
    assert made(tmp_path / "home") == 0
    assert here(*NOW, "--max-cost", "2.39")[0] == 4
    assert here("generate", "two foxes [sandbox:stuck]", "--count", "8", "--wait", "0")[0] == 5  # $0.40
    assert here(*NOW, FLUX2_CONFIRM_USD="2.40")[0] == 5
    assert made(tmp_path / "home") == 16


@pytest.mark.parametrize("confirmed", [("--yes",), ("--max-cost", "2.40")])
def test_an_option_confirms_it(here: Here, tmp_path: Path, confirmed: tuple[str, ...]) -> None:
    code, out, _ = here(*NOW, *confirmed, "--json")
    assert code == 5  # they run on
    assert json.loads(out)["quoted_usd"] == 2.4
    assert made(tmp_path / "home") == 8


def test_a_remix_asks_too(here: Here, tmp_path: Path) -> None:
    code, _, err = here(
        "remix", "at night [sandbox:stuck]", "https://example.com/a.png", "--variant", "flex", "--count", "8"
    )
    assert code == 4
    assert "run this again with --yes or --max-cost 1.12" in err
    assert made(tmp_path / "home") == 0


def test_on_a_terminal_the_user_is_told_what_it_is_and_only_a_yes_sends_it(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    for answer, code, tasks in (("n\n", 4, 0), ("y\n", 5, 8)):
        with on_terminal(clean_env, *NOW, typing=True) as terminal:
            terminal.until("Spend it? [y/N]: ")
            assert "Make 8 images with flux-2-max-text-to-image at 1k for $2.40?" in terminal.seen
            assert CHEAPER in terminal.seen
            terminal.keys(answer)
            assert terminal.end()[0] == code
        assert ("The user declined." in terminal.seen) == (answer == "n\n")
        assert made(tmp_path / "home") == tasks


def test_a_lost_journal_closes_the_day_until_spend_is_told_what_is_missing(here: Here, tmp_path: Path) -> None:
    capped = {"FLUX2_DAILY_BUDGET_USD": "0.40"}
    assert here("generate", "a fox [sandbox:stuck]", "--wait", "0", **capped)[0] == 5
    (tmp_path / "home" / "journal.sqlite3").write_bytes(b"no database" * 100)
    code, _, err = here("generate", "a dog [sandbox:stuck]", "--wait", "0", **capped)
    assert code == 4
    assert "FLUX2_DAILY_BUDGET_USD is closed." in err
    assert "flux2-mcp spend --lost USD" in err
    assert "FLUX2_DAILY_BUDGET_USD is closed." in here("spend", **capped)[1]
    code, out, _ = here("spend", "--lost", "0.35", **capped)
    assert code == 0
    assert "FLUX2_DAILY_BUDGET_USD: $0.35 of $0.40 counted in the last 24 hours, over all keys." in out
    assert "is closed" not in out
    assert json.loads(here("spend", "--json")[1])["counted_usd"] == 0.35
    assert here("generate", "a dog [sandbox:stuck]", "--wait", "0", **capped)[0] == 5
    assert here("generate", "a cat [sandbox:stuck]", "--wait", "0", **capped)[0] == 4


def test_spend_says_at_once_that_the_journal_has_vanished(here: Here, tmp_path: Path) -> None:
    assert here("generate", "a red fox")[0] == 0
    for part in tmp_path.rglob("journal.sqlite3*"):
        part.unlink()
    code, out, _ = here("spend", FLUX2_DAILY_BUDGET_USD="1")
    assert code == 0
    for phrase in ("The journal has vanished", "journal.sqlite3 (begun ", "flux2-mcp spend --lost USD"):
        assert phrase in out


def test_doctor_salvages_a_broken_journal_with_its_log(here: Here, tmp_path: Path) -> None:
    assert here("generate", "a red fox")[0] == 0
    (path,) = tmp_path.rglob("journal.sqlite3")
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))
    err = here("doctor", "--salvage")[2]
    assert "The journal was broken. It was moved aside as journal-broken-" in err
    assert "sound" in here("doctor")[1]
    assert here("doctor", "--salvage")[2] == ""


def test_where_no_journal_was_lost_there_is_nothing_to_tell(here: Here) -> None:
    code, out, err = here("spend", "--lost", "1")
    assert (code, out) == (4, "")
    assert err.startswith("Error: --lost: no journal was lost here, so nothing is missing.\n")
    assert here("spend", "--lost", "much")[0] == 4
