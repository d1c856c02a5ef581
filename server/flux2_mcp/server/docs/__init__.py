"""What a model is told beside the tools."""

from __future__ import annotations
