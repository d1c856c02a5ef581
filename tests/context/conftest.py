from __future__ import annotations

from tests.tools.conftest import client, era

__all__ = ["client", "era"]
