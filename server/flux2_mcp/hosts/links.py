"""Links that open a host, which then asks the user whether to install the server. Pure."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from urllib.parse import quote

from flux2_mcp.hosts.editors.jsonc import Object


def cursor(name: str, entry: Object) -> str:
    """Cursor's: the entry as JSON in base64 (cursor.com/docs, MCP install links)."""
    config = b64encode(_compact(entry).encode()).decode()
    return f"cursor://anysphere.cursor-deeplink/mcp/install?name={quote(name, safe='')}&config={quote(config, safe='')}"


def vscode(name: str, entry: Object) -> str:
    """VS Code's: name and entry as one JSON object (code.visualstudio.com, MCP servers)."""
    whole: Object = {"name": name}
    return f"vscode:mcp/install?{quote(_compact(whole | entry), safe='')}"


LINKS: Mapping[str, Callable[[str, Object], str]] = {"cursor": cursor, "vscode": vscode}


def _compact(value: Object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
