"""Where RunAPI's own config file stands, and its fields. `key_file` reads and writes it, and loads more."""

from __future__ import annotations

import os

from flux2_mcp.system.environment import home_of, said_path

TYPE_CHECKING = False  # typing is not imported here: the server that sleeps has no use for it
if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_FIELDS, URL_FIELDS = ("api_key", "apiKey"), ("base_url", "baseUrl")
"""The fields with the key and with RunAPI's address, the present names first (`api/runapi.md`, base)."""
LISTEN_FIELD, TEAM_FIELD = "flux2_listen", "flux2_team"
"""The field in which `flux2-mcp login --listen` says that this key may listen. It is ours; other tools keep it."""


def config_path(env: Mapping[str, str]) -> str | None:
    """The file in which RunAPI's own tools keep the key (`api/runapi.md`, base); None if there is no home folder."""
    base = said_path(env.get("XDG_CONFIG_HOME"), env)
    # A relative path is ignored (XDG Base Directory Specification).
    if base is not None and os.path.isabs(base):
        return os.path.join(base, "runapi", "config.json")
    home = home_of(env)
    return None if home is None else os.path.join(home, ".config", "runapi", "config.json")
