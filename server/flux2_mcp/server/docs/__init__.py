"""The documents that the server offers to models as resources."""

from __future__ import annotations
