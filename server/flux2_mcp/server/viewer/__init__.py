"""The gallery for people at a terminal: the page that hosts show, over the same tools, on loopback and with a token."""

from __future__ import annotations
