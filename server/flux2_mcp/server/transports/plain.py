"""Where a server's journal is, and whether nothing but a request can give it work. For the process that sleeps.

`settings` knows what is allowed, and loading it costs more than all else that this process does. But most users set
nothing, or a key: what is plainly right is seen to be so here, and for all that is not, `settings` is asked. So this
knows less than `settings` and never anything else: a test holds the two together.
"""

from __future__ import annotations

import json
import os
import re
import sys

from flux2_mcp.domain.account_names import SANDBOX, account_name
from flux2_mcp.runapi.key_place import KEY_FIELDS, LISTEN_FIELD, URL_FIELDS, config_path
from flux2_mcp.system.environment import said, said_key

TYPE_CHECKING = False  # as in `early`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flux2_mcp.settings import Settings

SERVICE = "runapi.ai"
"""The service whose address is the default one."""
MAX_FILE_BYTES = 65_536
_OURS = ("FLUX2_", "RUNAPI_", "OTEL_")
_FOLDERS = {"linux": ".local/share", "darwin": "Library/Application Support"}
"""Where the systems keep user data, below the home."""
_DECIMAL = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_WHOLE = re.compile(r"[0-9]{1,6}")


class Place:
    """What the process that sleeps needs to know of the settings.

    Args:
        home: FLUX2_HOME, an absolute path.
        sandbox: Whether the sandbox draws the images.
        key: The key.
        service: RunAPI's host; None if it is not the default one.
    """

    __slots__ = ("_key", "_service", "home", "sandbox")

    def __init__(self, home: str, *, sandbox: bool, key: str | None, service: str | None) -> None:
        self.home = home
        self.sandbox = sandbox
        self._key = key
        self._service = service

    def account(self) -> str | None:
        """The name under which the journal files the tasks; None if this is not known here."""
        if self.sandbox:
            return SANDBOX
        return None if self._service is None else account_name(self._service, self._key)


def _one_of(*words: str) -> Callable[[str], bool]:
    return words.__contains__


def _between(low: float, high: float, form: re.Pattern[str] = _DECIMAL) -> Callable[[str], bool]:
    return lambda text: form.fullmatch(text) is not None and low <= float(text) <= high


def _is_key(text: str) -> bool:
    return (key := said_key(text)) is not None and key.isascii() and key.isprintable()


def _are_folders(text: str) -> bool:
    return not set(text) & set("{}$%~\"'") and all(map(os.path.isabs, text.split(os.pathsep)))


_USD = _between(0, 1e6)
PLAIN: Mapping[str, Callable[[str], bool]] = {
    "RUNAPI_API_KEY": _is_key,
    "RUNAPI_KEY": _is_key,
    "FLUX2_MODE": _one_of("auto", "live", "sandbox"),
    "FLUX2_HOME": os.path.isabs,
    "FLUX2_WORKSPACE": os.path.isabs,
    "FLUX2_ALLOWED_DIRS": _are_folders,
    "FLUX2_WAIT_SECONDS": _between(0, 900),
    "FLUX2_MAX_COST_USD": _USD,
    "FLUX2_SESSION_BUDGET_USD": _USD,
    "FLUX2_DAILY_BUDGET_USD": _USD,
    "FLUX2_CONFIRM_USD": lambda text: text == "off" or _USD(text),
    "FLUX2_RATE": _between(0.1, 1000),
    "FLUX2_MAX_IN_FLIGHT": _between(1, 10_000, _WHOLE),
    "FLUX2_SANDBOX_SPEED": _between(0.01, 10_000),
    "FLUX2_LOG": _one_of("debug", "info", "warning", "error"),
    "FLUX2_LISTEN": _one_of("0"),
    "FLUX2_EARLY": lambda _: True,
    "FLUX2_SLEEP": lambda _: True,
}
"""Which values of a variable are plainly right. A variable that is not here is never plain."""


def plain(env: Mapping[str, str]) -> Place | None:
    """Return the place; None if `settings` has to tell."""
    ours = {name: said(value) for name, value in env.items() if name.startswith(_OURS)}
    for name, value in ours.items():
        if value is not None and not (name in PLAIN and PLAIN[name](value)):
            return None
    stored = _stored(config_path(env))
    if stored is None or (home := _home(ours.get("FLUX2_HOME"), env)) is None:
        return None
    keys = (said_key(ours.get("RUNAPI_API_KEY")), stored, said_key(ours.get("RUNAPI_KEY")))
    key = next(filter(None, keys), None)
    mode = ours.get("FLUX2_MODE") or "auto"
    return Place(home, sandbox=mode == "sandbox" or (mode == "auto" and key is None), key=key, service=SERVICE)


def place_of(settings: Settings) -> Place | None:
    """Return the place; None if the server has work before any request."""
    if settings.unusable or settings.callback_url or settings.listen or settings.telemetry or settings.journal_url:
        return None  # a database tells of work only those that ask it, and the server does
    from flux2_mcp.settings import BASE_URL

    service = SERVICE if settings.base_url == BASE_URL else None
    return Place(str(settings.home), sandbox=settings.mode == "sandbox", key=settings.api_key, service=service)


def _home(given: str | None, env: Mapping[str, str]) -> str | None:
    if given is not None:
        return given
    base, user = env.get("XDG_DATA_HOME"), env.get("HOME", "")
    below = _FOLDERS.get(sys.platform)
    if base is not None or below is None or not os.path.isabs(user) or "ANDROID_DATA" in env:
        return None
    return os.path.join(user, below, "flux2-mcp")


def _stored(path: str | None) -> str | None:
    """Return the key in RunAPI's config file; "" without a file; None if the file is not plain."""
    try:
        with open(path or "", "rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError):
        return None
    try:
        fields = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or len(data) == MAX_FILE_BYTES:
        return None
    name, *others = (*KEY_FIELDS, *URL_FIELDS)
    key = fields.get(name)
    plain = isinstance(key, str) and _is_key(key) and not fields.keys() & {*others, LISTEN_FIELD}
    return said_key(key) if plain else None
