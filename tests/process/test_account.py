"""`whoami`, `balance` and `spend` as people meet them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.results.account import SANDBOX_MONEY_NOTICE
from flux2_mcp.system.logs import masked
from tests.process.conftest import Here


def test_whoami_tells_whose_key_it_is_where_it_comes_from_and_never_the_key(here: Here, tmp_path: Path) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000) as runapi:
        env = {"RUNAPI_BASE_URL": runapi.base_url, "RUNAPI_KEY": runapi.api_key, "FLUX2_LOG": "debug"}
        words, data = here("whoami", **env), here("whoami", "--json", **env)
        shown = masked(runapi.api_key)
        assert words[1] == (
            "Account  Sandbox\n"
            "E-mail   sandbox@example.invalid\n"
            "Balance  $100.00\n"
            f"Key      {shown}, from RUNAPI_KEY\n"
            f"RunAPI   {runapi.base_url}\n"
        )
        assert json.loads(data[1]) == {
            "sandbox": False, "notice": None, "balance_usd": 100.0, "paid_usd": 100.0, "bonus_usd": 0.0,
            "spent_today_usd": 0.0, "spent_total_usd": 0.0, "name": "Sandbox", "email": "sandbox@example.invalid",
            "account": "Sandbox", "key": shown, "key_source": "RUNAPI_KEY", "base_url": runapi.base_url,
        }  # fmt: skip
        assert (words[0], data[0]) == (0, 0)
        assert runapi.api_key not in words[1] + words[2] + data[1] + data[2]
        code, out, err = here("whoami", **env | {"RUNAPI_API_KEY": "canary-5d1c9b7e"})
    assert (code, out) == (2, "")
    assert "RunAPI answered 401: Invalid API key" in err
    assert "canary" not in err


def test_whoami_without_a_key_is_the_sandbox_or_2(here: Here) -> None:
    code, out, err = here("whoami")
    assert (code, err) == (0, "")
    assert "Key      none: the sandbox needs none\n" in out
    assert out.endswith(f"{SANDBOX_MONEY_NOTICE}\n")
    code, out, err = here("whoami", FLUX2_MODE="live")
    assert (code, out) == (2, "")
    assert err.startswith("Error: There is no RunAPI key and FLUX2_MODE is live.\n")


def test_the_balance_is_what_is_left_and_what_was_spent(here: Here) -> None:
    here("generate", "a red fox", "--count", "2")
    assert here("balance") == (
        0,
        (
            "Balance       $99.90\n"
            "  paid        $99.90\n"
            "  bonus        $0.00\n"
            "Spent today    $0.10\n"
            "Spent in all   $0.10\n"
            f"{SANDBOX_MONEY_NOTICE}\n"
        ),
        "",
    )
    assert json.loads(here("balance", "--json")[1])["balance_usd"] == 99.9


def test_nothing_listening_is_5_and_the_past_is_told_all_the_same(here: Here) -> None:
    away = {"RUNAPI_API_KEY": "k", "RUNAPI_BASE_URL": "http://127.0.0.1:9"}
    for command in ("whoami", "balance"):
        assert here(command, **away)[0] == 5
    code, out, err = here("spend", **away)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"Nothing was asked for since \S+Z\.\n", out)


def test_spend_sets_what_was_charged_beside_what_was_quoted(here: Here, tmp_path: Path) -> None:
    here("generate", "a red fox", "--count", "2")
    here("generate", "the sign says OPEN [sandbox:moderation]", "--variant", "flex")
    here("generate", "a red fox [sandbox:no_usage]")
    note = "Of 1 the charge is not known: they run, or RunAPI never told.\n"
    code, out, err = here("spend")
    assert (code, err) == (0, "")
    assert re.sub(r"\d{4}-\d\d-\d\d", "TODAY-HERE", out) == (
        "DAY         TASKS  FAILED  QUOTED  WOULD CHARGE\n"
        "TODAY-HERE      4       1   $0.29         $0.10\n"
        "total           4       1   $0.29         $0.10\n"
        f"{note}{SANDBOX_MONEY_NOTICE}\n"
    )
    assert here("spend", "--by", "variant")[1].splitlines()[1:4] == [
        "pro          3       0   $0.15         $0.10",
        "flex         1       1   $0.14         $0.00",
        "total        4       1   $0.29         $0.10",
    ]
    data = json.loads(here("spend", "--by", "workspace", "--since", "1h", "--json")[1])
    found = {"tasks": 4, "failed": 1, "open": 1, "unquoted": 0, "quoted_usd": 0.29, "charged_usd": 0.1}
    assert (data["by"], data["groups"]) == ("workspace", [{"name": str(tmp_path)} | found])
    assert data["total"] == {"name": None} | found


@pytest.mark.parametrize("arguments", [("--since", "soon"), ("--by", "month")])
def test_what_spend_does_not_take_is_4(arguments: tuple[str, str], here: Here) -> None:
    code, out, err = here("spend", *arguments)
    assert (code, out) == (4, "")
    assert err.endswith("Next: flux2-mcp spend --help shows what it takes.\n")


def test_a_journal_that_was_broken_is_told(here: Here, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "journal.sqlite3").write_bytes(b"no database" * 100)
    code, out, _ = here("spend")
    assert code == 0
    assert "The journal was broken. It was moved aside as journal-broken-" in out
