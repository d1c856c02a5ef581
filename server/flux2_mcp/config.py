"""RunAPI's own config file, which its tools share (`api/runapi.md`, base): where it is, what it says. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from flux2_mcp.errors import SettingsError

MEND_FILE = "Mend the file, or set RUNAPI_API_KEY, or FLUX2_MODE=sandbox to try without a key; it was left as it is."
HIDDEN = "••••"
SHOWABLE = 12
"""Characters of a key, at least, for its last four to give nothing away."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for a config file that is there and can't be read. `reason` is in the system's words."""

    reason: str


ConfigText: TypeAlias = "str | Unreadable | None"
"""What a config file holds; None: there is none."""


def config_file(env: Mapping[str, str]) -> Path | None:
    """Where RunAPI's own tools keep the key (`api/runapi.md`, base); None where there is no home."""
    if base := env.get("XDG_CONFIG_HOME", "").strip():
        return Path(base) / "runapi" / "config.json"
    if home := (env.get("HOME") or env.get("USERPROFILE") or "").strip():
        return Path(home) / ".config" / "runapi" / "config.json"
    return None


def config_fields(text: ConfigText, path: Path | None) -> dict[str, object]:
    """What the config file says, as it stands there; nothing where there is none, or an empty one.

    Raises:
        SettingsError: It can't be read, or is not a JSON object. It names the file and shows nothing of it.
    """
    named = f"RunAPI's config file ({path or 'runapi/config.json'})"
    if isinstance(text, Unreadable):
        raise SettingsError(f"{named} can't be read: {text.reason}.", next_step=MEND_FILE)
    if text is None or not text.strip():
        return {}
    try:
        loaded: object = json.loads(text)
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise SettingsError(f"{named} is not valid JSON: {where}.", next_step=MEND_FILE) from exc
    except (ValueError, RecursionError) as exc:
        raise SettingsError(f"{named} is not valid JSON.", next_step=MEND_FILE) from exc
    if not isinstance(loaded, dict):
        raise SettingsError(f"{named} does not hold a JSON object.", next_step=MEND_FILE)
    return loaded


def redact(text: str, *keys: str) -> str:
    """The text with every echo of a key, plain or percent-encoded, replaced by dots."""
    for form in {form for key in keys if key for form in (key, quote(key, safe=""))}:
        text = text.replace(form, HIDDEN)
    return text


def masked(key: str) -> str:
    """A key as it may be shown: its last four characters."""
    return f"****{key[-4:] if len(key) >= SHOWABLE else ''}"
