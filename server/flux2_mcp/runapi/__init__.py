"""RunAPI over HTTP. Import `flux2_mcp.runapi.client` at first use: the first client brings httpx with it."""

from __future__ import annotations
