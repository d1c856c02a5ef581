"""The command line: one command a file, over the same service as the tools."""

from __future__ import annotations
