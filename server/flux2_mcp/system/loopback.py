"""Where local servers listen, and how a name for that is spelled."""

from __future__ import annotations

import re

HOST = "127.0.0.1"
_LAST_DOT = re.compile(r"(?<=[a-z])\.(?=(:\d+)?$)")


def plain_name(name: str) -> str:
    """A `Host` or an `Origin` in the spelling that is compared: names have no case, and may end in the dot of the root."""
    return _LAST_DOT.sub("", name.lower())
