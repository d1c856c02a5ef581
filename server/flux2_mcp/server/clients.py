"""How each client wants its results. One row a client, measured with real ones in November 2026; unknown ones get STANDARD.

What reaches the model from a result that has text, image, link and structured content differs: Claude Code drops the text,
Codex everything but the structured content, Gemini CLI and opencode the structured content, Copilot CLI the image. So text
and structured content each carry all that matters, and a client that would lose the picture gets no structured content.
"""

from __future__ import annotations

from dataclasses import dataclass

from flux2_mcp.images.preview import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One row.

    `part` is found in the name that the client gives, in lower case. `wait_seconds` is how long a call waits by default,
    well below the client's own limit. `structured` is False where structured content hides the rest; `preview` is the type
    of small pictures, None where an image in a result never reaches the model; `links` is False where resource links never do.
    WebP, a third smaller, goes to who is known to pass it on to a model that reads it; JPEG everybody takes.
    """

    part: str
    wait_seconds: float = 45.0
    structured: bool = True
    preview: Picture | None = "JPEG"
    links: bool = True


STANDARD = Client(part="")
"""45 seconds is what every host bears."""

CLIENTS = (
    # Sends calls of over 2 minutes to the background; keeps the image, as it is sent, and the links, drops the text.
    Client(part="claude-code", wait_seconds=110.0, preview="WEBP"),
    # Ends calls at 300 s. With structured content the model sees nothing else, without it text and image,
    # as it is sent; links are dropped either way.
    Client(part="codex", wait_seconds=240.0, structured=False, preview="WEBP", links=False),
    # Ends calls at 600 s; shows text, image and link.
    Client(part="gemini", wait_seconds=240.0, preview="WEBP"),
    # Shows text and image.
    Client(part="opencode", links=False),
    # Bears 150 s; shows text and JSON, never the image.
    Client(part="copilot", wait_seconds=120.0, preview=None, links=False),
    # Ours, for `flux2-mcp gallery`: reads the data, and the pictures as resources when they come into sight.
    Client(part="flux2-mcp-gallery", preview=None, links=False),
)


def client(name: str | None) -> Client:
    """The row for a client's own name; STANDARD for one that is not known."""
    lower = (name or "").lower()
    return next((row for row in CLIENTS if row.part in lower), STANDARD)
