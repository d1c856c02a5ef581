"""The desktop bundle's entry: the same server, run where the bundle was unpacked (`manifest.json` names this file)."""

from __future__ import annotations

from flux2_mcp.__main__ import main

main()
