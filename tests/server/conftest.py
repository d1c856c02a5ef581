from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp.client.client import Client

from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings

ERAS = ("legacy", "auto")  # 2025-11-25 by initialize, 2026-07-28 by server/discover
BOTH_ERAS = pytest.mark.parametrize("era", ERAS, indirect=True)
"""For tests of what one era may do unlike the other. All others meet one era, and both in `make test-deep`."""


@pytest.fixture(scope="session", autouse=True)
def each_schema_is_checked_once() -> Iterator[None]:
    """Each of the SDK's clients checks the tools' output schemas, for 0.14 s: half of most of these tests."""
    checked, check = set[str](), Draft202012Validator.check_schema

    def once(schema: dict[str, Any], *given: Any, **more: Any) -> None:  # noqa: ANN401  # as `check_schema`
        if (text := json.dumps(schema)) not in checked:
            check(schema, *given, **more)
            checked.add(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draft202012Validator, "check_schema", once)
        yield


@pytest.fixture(params=["auto", pytest.param("legacy", marks=pytest.mark.deep)])
def era(request: pytest.FixtureRequest) -> str:
    era: str = request.param
    return era


@pytest.fixture
async def client(sandbox_settings: Settings, era: str) -> AsyncIterator[Client]:
    async with Client(build(sandbox_settings), mode=era) as client:
        yield client
