"""The journal: what was asked for, what it cost and what became of it, on disk before money moves."""

from __future__ import annotations
