"""RunAPI's own config file, which its tools share: the key in it is read, set and removed, and nothing else is touched.

A change is written beside the file and takes its place at once: a reader sees the old or the new, and never half of one.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from flux2_mcp.config import KEY_FIELDS, ConfigText, Unreadable, config_fields
from flux2_mcp.errors import SettingsError


def read(path: Path | None) -> ConfigText:
    """The file's text. A file that can't be read is not the same as none: it may hold the key."""
    try:
        return None if path is None else path.read_text("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        return Unreadable(exc.strerror or type(exc).__name__)
    except UnicodeDecodeError:
        return Unreadable("it is not UTF-8 text")


def save(path: Path, key: str) -> None:
    """Put the key into the file; the file is made, for its owner alone, where there is none.

    Raises:
        SettingsError: What stands there can't be read, so it is left alone; or nothing can be written there.
    """
    kept = config_fields(read(path), path)
    name, *older = KEY_FIELDS
    _write(path, {field: value for field, value in kept.items() if field not in older} | {name: key})


def forget(path: Path) -> bool:
    """Remove the key from the file. True where there was one.

    Raises:
        SettingsError: As `save`.
    """
    kept = config_fields(read(path), path)
    rest = {field: value for field, value in kept.items() if field not in KEY_FIELDS}
    if rest != kept:
        _write(path, rest)
    return rest != kept


def _write(path: Path, fields: dict[str, object]) -> None:
    text = json.dumps(fields, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
        # A link stays one: people keep their settings elsewhere and link to them.
        target = path.resolve()
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=target.parent)  # 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            Path(beside).replace(target)
        finally:
            with suppress(FileNotFoundError):
                Path(beside).unlink()
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise SettingsError(
            f"RunAPI's config file ({path}) can't be written: {reason}.",
            next_step="Make its folder writable for you, then run this again.",
        ) from exc
