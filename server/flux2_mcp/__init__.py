"""flux2-mcp: FLUX.2 images for coding agents, over the RunAPI HTTP API."""

from __future__ import annotations

__version__ = "0.1.0"
