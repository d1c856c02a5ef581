"""RunAPI over HTTP. Import `flux2_mcp.runapi.transport` at first use: it brings httpx with it."""

from __future__ import annotations
