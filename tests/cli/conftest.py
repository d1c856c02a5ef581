from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.support.services import Front, fronted


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    """The loop that RunAPI's place is served from, in a thread of its own: a command has a loop of its own."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def front(portal: BlockingPortal, tmp_path: Path) -> Iterator[Front]:
    with portal.wrap_async_context_manager(fronted(tmp_path)) as front:
        yield front
