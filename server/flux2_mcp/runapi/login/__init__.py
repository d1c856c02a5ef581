"""The login in the browser: its secrets, the callback to which the browser returns, and the page shown there."""

from __future__ import annotations
