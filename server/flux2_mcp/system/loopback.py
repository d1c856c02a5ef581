"""The address on which local servers listen, and the spelling of its names."""

from __future__ import annotations

import re

HOST = "127.0.0.1"
_LAST_DOT = re.compile(r"(?<=[a-z])\.(?=(:\d+)?$)")


def named(address: str) -> str:
    """An IP address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def plain_name(name: str) -> str:
    """A `Host` or an `Origin` in one spelling, for comparison: names ignore case and may end in the root's dot."""
    return _LAST_DOT.sub("", name.lower())
