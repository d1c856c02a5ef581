"""`flux2-mcp team audit`, over a journal with people in it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from flux2_mcp.cli import main
from flux2_mcp.domain.audit import AuditEntry
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.people import Person
from flux2_mcp.engine.backend import account_name
from flux2_mcp.journal import open_journal
from flux2_mcp.journal.contract import Journal
from flux2_mcp.settings import from_env
from tests.support.journals import AT, intend, intent, new, steps

ADA = Person(issuer="https://sso.example.com", subject="ada", name="Ada Lovelace")
BEN = Person(issuer="https://sso.example.com", subject="ben-0f3c\x1b[31m")
NOBODY = "ffff0000" * 4
TABLE = """\
WHEN                 WHO            CLIENT             ADDRESS          WHAT      TASK      COST
2026-11-20 10:04:00  ffff0000                                           list
2026-11-20 10:03:00  Ada Lovelace   claude-code 2.1.0  203.100.113.117  image     task-k
  of ben-0f3c\ufffd[31m
2026-11-20 10:02:00  this machine                                       caps
  of Ada Lovelace, FLUX2_PERSON_MONTHLY_BUDGET_USD is now the one of everybody
2026-11-20 10:01:00  this machine                                       caps
  of Ada Lovelace, FLUX2_PERSON_MONTHLY_BUDGET_USD is now $60.00
2026-11-20 10:00:00  Ada Lovelace   claude-code 2.1.0  203.100.113.117  generate          $20.00
  refused by FLUX2_PERSON_DAILY_BUDGET_USD
2026-11-20 10:00:00  ben-0f3c\ufffd[31m  a very long name\u2026                   generate  task-k   $0.05
"""

Run = Callable[[str], int]


async def filled(journal: Journal) -> None:
    for person in (ADA, BEN):
        await journal.people.meet(person, at=AT)
    await new(journal.of(BEN.key, client="a very long name of a client 1"), intent("k"))
    await steps(journal, "k", Event.ACCEPTED)
    ada: dict[str, Any] = {"client": "claude-code 2.1.0", "address": "203.100.113.117"}
    await intend(
        journal.of(ADA.key, **ada), intent("k2", usd="20"), caps=Caps(person_daily_usd=intent(usd="0.10").quoted_usd)
    )
    for minutes, usd in ((1, intent(usd="60").quoted_usd), (2, None)):
        at = AT + timedelta(minutes=minutes)
        await journal.people.cap(ADA.key, daily_usd=None, monthly_usd=usd, at=at)
    looked = AuditEntry(at=AT + timedelta(minutes=3), what="image", person=ADA.key, task="k", whose=BEN.key, **ada)
    await journal.audit.note([looked, AuditEntry(at=AT + timedelta(minutes=4), what="list", person=NOBODY)])
    await journal.close()


@pytest.fixture
def run(clean_env: dict[str, str], tmp_path: Path) -> Run:
    settings = from_env(clean_env, workspace=str(tmp_path))
    anyio.run(filled, open_journal(settings.home, account_name(settings)))
    return lambda line: main.run(shlex.split(line), clean_env, None, str(tmp_path))


def test_the_table_has_a_row_for_each_entry_within_a_hundred_columns(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("team audit") == 0
    out = capsys.readouterr().out
    assert out == TABLE
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("options", "whats"),
    [
        ("--limit 2", ["list", "image"]),
        ("--since 2026-11-20T10:02:00Z", ["list", "image", "caps"]),
        ("--person 'Ada Lovelace'", ["image", "caps", "caps", "generate"]),
        (f"--person {BEN.key[:8]}", ["image", "generate"]),
        ("--task task-k", ["image", "generate"]),
        ("--task k", ["image", "generate"]),
        ("--task nobodys", []),
        ("--refused", ["generate"]),
        ("--refused --person ben-0f3c", []),
    ],
)
def test_it_is_cut_to_what_is_wanted(
    run: Run, capsys: pytest.CaptureFixture[str], options: str, whats: list[str]
) -> None:
    options = options.replace("ben-0f3c", BEN.key)
    assert run(f"team audit --json {options}") == 0
    assert [entry["what"] for entry in json.loads(capsys.readouterr().out)["entries"]] == whats
    assert run(f"team audit {options}") == 0
    assert bool(whats) == (capsys.readouterr().out != "The audit has no such entry.\n")


def test_as_json_each_entry_has_all_that_is_known(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("team audit --json --task k") == 0
    assert json.loads(capsys.readouterr().out)["entries"][0] == {
        "at": "2026-11-20T10:03:00Z",
        "what": "image",
        "outcome": "allowed",
        "cap": None,
        "usd": None,
        "person": ADA.key,
        "name": "Ada Lovelace",
        "client": "claude-code 2.1.0",
        "address": "203.100.113.117",
        "task_key": "k",
        "task_id": "task-k",
        "whose": BEN.key,
        "whose_name": BEN.subject,
    }


def test_without_a_journal_there_is_nothing_and_none_is_made(
    clean_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["team", "audit", "--task", "k"], clean_env, None, str(tmp_path)) == 0
    assert capsys.readouterr().out == "The audit has no such entry.\n"
    assert main.run(["team", "audit", "--person", "ada"], clean_env, None, str(tmp_path)) == 4
    assert "nobody who has called" in capsys.readouterr().err
    assert not from_env(clean_env, workspace=str(tmp_path)).home.exists()


def test_whoever_takes_the_key_of_another_as_their_name_gets_nobody_out_of_a_cap(
    run: Run, clean_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = from_env(clean_env, workspace=str(tmp_path))

    async def called() -> None:
        journal = open_journal(settings.home, account_name(settings))
        await journal.people.meet(Person(issuer="https://sso.example.com", subject="eve", name=ADA.key), at=AT)
        await journal.close()

    anyio.run(called)
    assert run(f"team caps {ADA.key} --daily 1 --json") == 0
    assert json.loads(capsys.readouterr().out)["subject"] == "ada"
