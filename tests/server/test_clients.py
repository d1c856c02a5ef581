"""What is known of each host's client, as it was measured with the real ones (November 2026)."""

from __future__ import annotations

from flux2_mcp.server.clients import client
from tests.support.rows import rows

# The name that a client gives itself: after how many seconds its host ends a call or takes it away, and what of a result
# reaches the model there: whether structured content may come with it, the type of small pictures, and links.
MEASURED = {
    "claude-code": (120, True, "WEBP", True),
    "codex-mcp-client": (300, False, "WEBP", False),
    "gemini-cli-mcp-client": (600, True, "WEBP", True),
    "opencode": (60, True, "JPEG", False),
    "github-copilot-cli": (150, False, None, False),
    "Codex": (300, False, "WEBP", False),
    "somebody-new": (60, True, "JPEG", True),
}


@rows("name", MEASURED)
def test_a_client_is_known_by_a_part_of_its_name_and_gets_what_reaches_its_model(name: str) -> None:
    limit, *form = MEASURED[name]
    row = client(name)
    assert [row.structured, row.preview, row.links] == form
    assert limit / 3 < row.wait_seconds < limit


def test_one_without_a_name_gets_what_every_host_bears() -> None:
    assert client(None) == client("") == client("somebody-new")
