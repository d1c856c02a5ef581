"""The login in the browser: what it is recognised by, where the browser comes back to, what it is shown there."""

from __future__ import annotations
