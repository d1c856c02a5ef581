"""`flux2-mcp team people`: whose caps it shows."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import anyio
import pytest

from flux2_mcp.cli import main
from flux2_mcp.domain.budget import Caps, as_texts
from flux2_mcp.domain.people import Person
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.team import CAPS_FACT
from flux2_mcp.journal import open_journal
from flux2_mcp.settings import Settings, from_env
from tests.support.journals import AT

ADA = Person(issuer="https://sso.example.com", subject="ada", name="Ada")
HERE = {"FLUX2_PERSON_DAILY_BUDGET_USD": "7"}
OF_THE_SERVER = {"at": AT.isoformat(), "usd": as_texts(Caps(person_monthly_usd=Decimal(30)))}
NOT_TOLD = (
    "No server has told its caps so far: caps are what FLUX2_PERSON_DAILY_BUDGET_USD and FLUX2_PERSON_MONTHLY_BUDGET_USD say"
    " here, and each person's own."
)
OF_LATER = [
    {"at": "soon", "usd": {}},
    {"usd": {}},
    {"at": AT.isoformat(), "usd": {next(iter(HERE)): "much"}},
    [],
    "caps",
]


@pytest.mark.parametrize("told", [None, OF_THE_SERVER, *OF_LATER])
def test_caps_are_those_that_a_server_told_or_the_output_says_whose_they_are(
    clean_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], told: object
) -> None:
    settings = from_env(clean_env, workspace=str(tmp_path))
    anyio.run(filled, settings, told)
    assert main.run(["team", "people"], clean_env | HERE, None, str(tmp_path)) == 0
    head, row, _, last = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-1].strip() == "SEEN"
    if told is OF_THE_SERVER:
        assert row.split()[3:7] == ["$0.00", "none", "$0.00", "$30.00"]
        assert last == "Caps are those of the server that started last, at 2026-11-20T10:00:00Z, and each person's own."
    else:
        assert row.split()[3:7] == ["$0.00", "$7.00", "$0.00", "none"]
        assert last == NOT_TOLD


async def filled(settings: Settings, told: object) -> None:
    journal = open_journal(settings.home, account_name(settings))
    await journal.people.meet(ADA, at=AT)
    if told is not None:
        await journal.facts.put(CAPS_FACT, json.dumps(told))
    await journal.close()
