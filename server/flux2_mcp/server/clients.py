"""The form of results for each client: one row for each, measured with real clients in November 2026.

An unknown client gets STANDARD. Clients pass different parts of a result to the model: Claude Code drops the text,
Codex drops all but the structured content, Gemini CLI and opencode drop the structured content, Copilot CLI the image.
So the text and the structured content each have all about the tasks, and each once; only the text says what a model
should not do. A client that would lose the picture to structured content, or show the same twice, gets the data as text
instead.
"""

from __future__ import annotations

from msgspec import Struct

from flux2_mcp.images.preview import Picture


class Client(Struct, frozen=True, kw_only=True):
    """One client.

    Attributes:
        part: A part of the client's name, in lower case.
        wait_seconds: The default wait of a call, well below the client's own limit.
        structured: False if the client hides the rest of a result that has structured content, or shows both.
        preview: The type of small pictures; None if images in a result never reach the model. WebP is a third smaller,
            and is sent to clients that are known to pass it to a model that reads it. Every client takes JPEG.
        links: False if resource links never reach the model.
    """

    part: str
    wait_seconds: float = 45.0
    structured: bool = True
    preview: Picture | None = "JPEG"
    links: bool = True


STANDARD = Client(part="")
"""Every host accepts a call of 45 seconds."""

CLIENTS = (
    # Moves calls of over 2 minutes to the background. Keeps the image unchanged and the links; drops the text.
    Client(part="claude-code", wait_seconds=110.0, preview="WEBP"),
    # Ends calls at 300 s. If there is structured content, the model sees nothing else. Without it, the model sees the
    # text and the unchanged image. Links are always dropped.
    Client(part="codex", wait_seconds=240.0, structured=False, preview="WEBP", links=False),
    # Ends calls at 600 s; shows text, image and link.
    Client(part="gemini", wait_seconds=240.0, preview="WEBP"),
    # Shows text and image.
    Client(part="opencode", links=False),
    # Accepts calls of 150 s; shows text and structured content, the same twice, and never the image.
    Client(part="copilot", wait_seconds=120.0, structured=False, preview=None, links=False),
    # Ours, for `flux2-mcp gallery`: reads the data, and each picture as a resource when it becomes visible.
    Client(part="flux2-mcp-gallery", preview=None, links=False),
)


def client(name: str | None) -> Client:
    """Return the row for a client's name; STANDARD for an unknown one."""
    lower = (name or "").lower()
    return next((row for row in CLIENTS if row.part in lower), STANDARD)
