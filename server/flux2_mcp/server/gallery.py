"""The gallery: a page that hosts with MCP Apps show for the results of `generate` and `check_task`.

The page is made of the files in `gallery_page`, without a build step. It loads nothing: its styles and scripts are put
inline here, and images come through the host as `data:` URLs, as the extension's default policy requires (MCP Apps
2026-01-26, "Host Behavior"). Hosts without the extension never read it.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from mcp.server.apps import Apps, ResourceCsp, ResourcePermissions
from mcp.server.mcpserver.resources import FunctionResource

URI: Final = "ui://flux-2/gallery.html"
TOOLS: Final = frozenset({"generate", "check_task"})
"""The tools whose results it shows."""
CSP: Final = ResourceCsp(connect_domains=[], resource_domains=[], frame_domains=[], base_uri_domains=[])
"""Allows no outside address: none to connect to, to load from, or to frame."""
SCRIPTS: Final = ("host.js", "data.js", "plan.js", "actions.js", "view.js")
"""The parts of the one script, in order: each uses the names of those before it."""
PERMISSIONS: Final = ResourcePermissions(clipboard_write={})
"""For "Copy path"."""


def tool_meta(name: str) -> dict[str, Any] | None:
    """Return the `_meta` of a tool with the URI of the gallery; None for a tool without a gallery."""
    return {"ui": {"resourceUri": URI}} if name in TOOLS else None


def extension() -> Apps:
    """Make the MCP Apps extension for `MCPServer(extensions=[...])`. The page is loaded when a host reads it."""
    apps = Apps()
    apps.add_resource(
        FunctionResource(
            uri=URI,
            name="gallery",
            title="FLUX.2 gallery",
            description="Images side by side with what was asked, their size, price and state.",
            mime_type="text/html;profile=mcp-app",
            meta={
                "ui": {
                    "csp": CSP.model_dump(by_alias=True),
                    "permissions": PERMISSIONS.model_dump(by_alias=True, exclude_none=True),
                    "prefersBorder": True,
                }
            },
            fn=html,
        )
    )
    return apps


def html() -> str:
    """Return the page."""
    parts = resources.files("flux2_mcp.server").joinpath("gallery_page")

    def read(name: str) -> str:
        return parts.joinpath(name).read_text(encoding="utf-8")

    # In a function, the names of the script do not meet those of the browser's window.
    script = "\n".join(map(read, SCRIPTS))
    page = read("page.html").replace("<style></style>", f"<style>\n{read('style.css')}</style>")
    return page.replace("<script></script>", f'<script>\n"use strict";\n(() => {{\n{script}}})();\n</script>')
