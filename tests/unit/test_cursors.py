"""Cursors of the list of resources: only what a page gave leads on."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest

from flux2_mcp.context import resources
from flux2_mcp.errors import InvalidRequestError
from flux2_mcp.gateway import account
from flux2_mcp.lifecycle import Event
from flux2_mcp.service import Service
from flux2_mcp.settings import Settings
from tests.unit.journals import intent, new, opened, steps

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(sandbox_settings: Settings) -> AsyncIterator[Service]:
    """One that knows a page of tasks and one more, which all have failed."""
    async with opened(sandbox_settings.home) as home:
        journal = home.journal(account=account(sandbox_settings))
        for number in range(resources.PAGE + 1):
            await new(journal, intent(f"k{number}"))
            await steps(journal, f"k{number}", Event.ACCEPTED, Event.FAILED)
    async with Service.opened(sandbox_settings) as service:
        yield service


async def test_the_cursor_of_a_full_page_leads_to_the_rest_and_no_invented_one_leads_anywhere(service: Service) -> None:
    first = await resources.listed(service, None)
    assert first.next_cursor is not None
    second = await resources.listed(service, first.next_cursor)
    uris = [resource.uri for page in (first, second) for resource in page.resources if "/task-" in str(resource.uri)]
    assert uris == [f"flux2://tasks/task-k{number}" for number in reversed(range(resources.PAGE + 1))]
    assert second.next_cursor is None
    for invented in ("no such key", "task-k1", ""):
        with pytest.raises(InvalidRequestError, match="is none that a page gave"):
            await resources.listed(service, base64.urlsafe_b64encode(invented.encode()).decode())
