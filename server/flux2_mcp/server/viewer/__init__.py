"""The gallery for people at a terminal: on loopback, behind a token, the same page over the same tools."""

from __future__ import annotations
