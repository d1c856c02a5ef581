"""What a log says of a journal that can't be used: why, and no path of the user's."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flux2_mcp.engine.service import Service
from flux2_mcp.errors import NOTHING_SENT, JournalError, SettingsError, before_sending
from tests.support.services import Front, fronted, made, until

pytestmark = pytest.mark.anyio

PERIODIC = ("leases not renewed", "callbacks not looked for")


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def test_a_folder_in_the_journals_place_is_logged_without_the_users_path(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = front.settings(tmp_path, callback_url="https://a.example.com", callback_port=free_port())
    (settings.home / "journal.sqlite3").mkdir(parents=True)

    def lines() -> dict[str, object]:
        ours = [record for record in caplog.records if record.name.startswith("flux2_mcp")]
        return {record.getMessage(): vars(record).get("fields") for record in ours}

    async with Service.opened(settings) as service:
        with pytest.raises(JournalError, match="is a folder") as caught:
            await made(service)
        await until(lambda: set(PERIODIC) <= set(lines()))
    assert str(settings.home) in caught.value.message
    assert [lines()[line] for line in PERIODIC] == [{"reason": "journal.sqlite3 is a folder"}] * 2
    assert str(tmp_path) not in str(lines())


def test_an_error_has_a_reason_for_logs_which_is_its_code_where_nothing_else_is_said() -> None:
    assert SettingsError("/home/ada/x can't be read.").reason == "settings"
    with pytest.raises(JournalError) as caught, before_sending():
        raise JournalError("/home/ada is a folder.", reason="a folder")
    assert (caught.value.reason, caught.value.cost) == ("a folder", NOTHING_SENT)
