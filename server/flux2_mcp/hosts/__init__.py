"""Agent hosts, as data: what each does with results and how long it waits."""

from __future__ import annotations
