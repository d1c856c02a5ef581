"""Reads RunAPI's own config file, which its tools share (`api/runapi.md`, base), and sets or removes the key in it.

Nothing else in it is changed. The new file is written beside the old one and then replaces it: a reader sees the old or
the new, never half of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct

from flux2_mcp.errors import SettingsError, Wording
from flux2_mcp.runapi.key_place import KEY_FIELDS, LISTEN_FIELD, TEAM_FIELD, URL_FIELDS, config_path
from flux2_mcp.system.environment import said, said_key
from flux2_mcp.system.files import write_atomically

KEY_NAMES = frozenset(
    {
        *("key", "apikey", "xapikey", "runapikey", "runapiapikey", "secret", "secretkey", "apisecret"),
        *("token", "apitoken", "accesstoken", "authtoken", "bearertoken", "runapitoken", "bearer", "authorization"),
    }
)
"""Names that people give to a key elsewhere in the file, in lower case, letters only."""
MEND_FILE = "Mend the file, or set RUNAPI_API_KEY, or FLUX2_MODE=sandbox to try without a key; it was left as it is."
_KINDS: Mapping[type, str] = {bool: "true or false", dict: "an object", list: "a list"}


class UnreadableFile(Struct, frozen=True):
    """A config file that exists and can't be read. `reason` is the system's text."""

    reason: str


ConfigText: TypeAlias = "str | UnreadableFile | None"
"""A config file's text; None: there is no file."""


def config_file(env: Mapping[str, str]) -> Path | None:
    """The file in which RunAPI's own tools keep the key (`api/runapi.md`, base); None if there is no home folder."""
    path = config_path(env)
    return None if path is None else Path(path)


def config_fields(text: ConfigText, path: Path | None) -> dict[str, object]:
    """The config file's fields, unchanged; empty if there is no file, or an empty one.

    Raises:
        SettingsError: The file can't be read, or is no JSON object. The error names the file and shows none of its
            text.
    """
    named = _named(path)
    if isinstance(text, UnreadableFile):
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


def config_key(fields: Mapping[str, object], path: Path | None, *, required: bool) -> str | None:
    """The key in the config file, or None.

    Args:
        fields: See `config_fields`.
        path: The file.
        required: Whether there is no other key. Then a key that can't be used is an error: otherwise the sandbox would
            silently draw instead.

    Raises:
        SettingsError: A key is required, and the file has one that is no text, or has it in a wrong place.
    """
    if not required:
        fields = {name: value for name, value in fields.items() if isinstance(value, str)}
    if (key := said_key(_text(fields, KEY_FIELDS, path))) is not None or not required:
        return key
    if (place := _misplaced(fields)) is not None:
        raise SettingsError(
            f"{_named(path)} has a key at {place}, where none is looked for.",
            next_step=Wording(
                "Put it at the top of the file as {field}, or set RUNAPI_API_KEY; then {name:start the server again}.",
                field=KEY_FIELDS[0],
            ),
        )
    return None


def config_url(fields: Mapping[str, object], path: Path | None) -> str | None:
    """RunAPI's address in the config file, or None.

    Raises:
        SettingsError: The address is no text.
    """
    return said(_text(fields, URL_FIELDS, path))


def unusable_url(path: Path | None) -> SettingsError:
    """The error for an address in the config file that can't be used. It does not show the address."""
    return SettingsError(
        f"{_named(path)} has a {URL_FIELDS[0]} that can't be used: it must be https://host[:port][/path], or http:// on"
        " loopback, since the key travels with each call.",
        next_step=Wording(
            "Mend {field} there, or set RUNAPI_BASE_URL; then {name:start the server again}.", field=URL_FIELDS[0]
        ),
    )


def _text(fields: Mapping[str, object], names: tuple[str, ...], path: Path | None) -> str | None:
    """The first of these fields that has a value by `said`."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str | None):
            if (found := said(value)) is not None:
                return found
            continue
        kind = _KINDS.get(type(value), "a number")
        raise SettingsError(
            f"{_named(path)} has {kind} as {name}, which must be text.",
            next_step=Wording('Write it in quotes, "{field}": "...", then {name:start the server again}.', field=name),
        )
    return None


def _misplaced(fields: Mapping[str, object]) -> str | None:
    """Where a key of any type stands that is never read there, such as `profiles.default.api_key`; or None."""
    left = [(name, value, _names_key(name)) for name, value in fields.items()]
    while left:
        place, value, is_key = left.pop(0)
        says = said_key(value) if isinstance(value, str) else value if isinstance(value, int | float) else None
        if is_key and says is not None and says is not False:
            return place
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        left += [(f"{place}.{name}", held, is_key or _names_key(str(name))) for name, held in inside]
    return None


def _names_key(name: str) -> bool:
    return re.sub(r"[^a-z]", "", name.lower()) in KEY_NAMES


def _named(path: Path | None) -> str:
    return f"RunAPI's config file ({path or 'runapi/config.json'})"


def read(path: Path | None) -> ConfigText:
    """The file's text. A file that can't be read differs from no file: it may hold the key."""
    try:
        return None if path is None else path.read_text("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        return UnreadableFile(exc.strerror or type(exc).__name__)
    except UnicodeDecodeError:
        return UnreadableFile("it is not UTF-8 text")


def listens(fields: Mapping[str, object]) -> bool:
    """Whether the login whose key stands in the file may listen for callbacks."""
    return fields.get(LISTEN_FIELD) is True


def set_listening(path: Path, *, on: bool) -> None:
    """Note whether the login may listen; raises as `save`."""
    fields = config_fields(read(path), path)
    if listens(fields) is not on:
        rest = {field: value for field, value in fields.items() if field != LISTEN_FIELD}
        _write(path, rest | ({LISTEN_FIELD: True} if on else {}))


def without_team(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields without the address that `save` has written for a team's server."""
    gone = {TEAM_FIELD, *URL_FIELDS} if fields.get(TEAM_FIELD) is True else set[str]()
    return {field: value for field, value in fields.items() if field not in gone}


def check_team(path: Path, url: str) -> None:
    """Check that the address of a team's server can stand in the file.

    Raises:
        SettingsError: The file names another address, which somebody has written by hand; or it can't be read.
    """
    kept = without_team(config_fields(read(path), path))
    if config_url(kept, path) not in {None, url}:
        raise SettingsError(
            f"{_named(path)} has a {URL_FIELDS[0]} of its own, which would be lost.",
            next_step=f"Remove {URL_FIELDS[0]} there, then run this again.",
        )


def save(path: Path, key: str, *, team: str | None = None) -> None:
    """Put the key into the file. A missing file is made, readable by its owner alone.

    Args:
        path: The file.
        key: The key.
        team: The address of the team's server whose key it is; None: it is RunAPI's.

    Raises:
        SettingsError: The present file can't be read, and stays unchanged; or the new one can't be written.
    """
    kept = without_team(config_fields(read(path), path))
    name, *older = KEY_FIELDS
    told: dict[str, object] = {} if team is None else {URL_FIELDS[0]: team, TEAM_FIELD: True}
    _write(path, {field: value for field, value in kept.items() if field not in older} | {name: key} | told)


def forget(path: Path) -> bool:
    """Remove the key from the file, and the address of the team's server whose key it was. Returns whether there was a key.

    Raises:
        SettingsError: As `save`.
    """
    kept = config_fields(read(path), path)
    rest = {field: value for field, value in without_team(kept).items() if field not in {*KEY_FIELDS, LISTEN_FIELD}}
    if rest != kept:
        _write(path, rest)
    return any(field in kept for field in KEY_FIELDS)


def _write(path: Path, fields: dict[str, object]) -> None:
    text = json.dumps(fields, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
        # A link stays a link: people keep their settings elsewhere and link to them.
        write_atomically(path, text.encode(), follow=True)
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise SettingsError(
            f"RunAPI's config file ({path}) can't be written: {reason}.",
            next_step="Make its folder writable for you, then run this again.",
        ) from exc
