"""Settings: the environment and the key file, merged and validated. Pure: `__main__` reads, this decides.

The variables, what each means and its default: `domain.variables`.

A placeholder that a host left unfilled, in any dialect, is as good as no value; quotes around a value are taken off, and `~`
before a path is the user's home. OpenTelemetry's own variables (OTEL_*) decide whether spans are sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.urls import is_loopback
from flux2_mcp.errors import SettingsError
from flux2_mcp.runapi.key_file import (
    ConfigText,
    UnreadableFile,
    config_fields,
    config_file,
    config_key,
    config_url,
    unusable_url,
)
from flux2_mcp.system.environment import cleaned, said_key, said_path

BASE_URL = "https://runapi.ai"
Mode = Literal["live", "sandbox"]
MODES = ("auto", "live", "sandbox")
LEVELS = ("debug", "info", "warning", "error")
DEFAULT_CONFIRM_USD = Decimal("0.50")
MAX_WAIT_SECONDS = 900.0
"""Seconds. The vendor's SDK gives up after as many."""
MAX_SHOWN_CHARS = 60
"""Characters of what a setting says that are shown."""
OPTIONAL_VARIABLES = frozenset(
    {
        *("FLUX2_WORKSPACE", "FLUX2_ALLOWED_DIRS", "FLUX2_WAIT_SECONDS", "FLUX2_RATE", "FLUX2_MAX_IN_FLIGHT"),
        *("FLUX2_MAX_COST_USD", "FLUX2_SESSION_BUDGET_USD", "FLUX2_DAILY_BUDGET_USD", "FLUX2_CONFIRM_USD"),
        *("FLUX2_CALLBACK_URL", "FLUX2_CALLBACK_PORT", "FLUX2_SANDBOX_SPEED", "FLUX2_LOG"),
    }
)
"""Settings without which what was made before can still be looked after; the others say where that is and whose it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the process was told. `api_key` is never shown; `key_source` names where it came from.

    `unusable` has an error for each setting that can't be used: the fields hold the defaults then, and nothing may be spent.
    """

    mode: Mode
    home: Path
    base_url: str = BASE_URL
    api_key: str | None = field(default=None, repr=False)
    key_source: str | None = None
    config_path: Path | None = None
    wait_seconds: float | None = None
    caps: Caps = field(default_factory=Caps)
    confirm_usd: Decimal | None = DEFAULT_CONFIRM_USD
    rate: float = 12.0
    in_flight: int = 32
    callback_url: str | None = None
    callback_port: int | None = None
    sandbox_speed: float = 1.0
    log_level: str = "warning"
    telemetry: bool = False
    workspace: str | None = None
    allowed_dirs: tuple[Path, ...] = ()
    unusable: tuple[SettingsError, ...] = ()

    def need(self, *names: str) -> None:
        """See that these settings can be used; without names, all that spending needs.

        Raises:
            SettingsError: The first that can't.
        """
        for error in self.unusable:
            if error.setting in names or not (names or error.setting == "FLUX2_LOG"):
                raise error.with_traceback(None)  # it is raised many times, and would collect the frames of each


def from_env(env: Mapping[str, str], config_text: ConfigText = None, *, workspace: str | None = None) -> Settings:
    """Merge and validate.

    Args:
        env: The environment.
        config_text: What stands in `config_file(env)`.
        workspace: The folder that the process works in, where it is one that was chosen to be worked in.

    Raises:
        SettingsError: Naming the variable, or the file, and what it may be. Never shows a key.
    """
    env = cleaned(env)
    mode = _choice(env, "FLUX2_MODE", MODES, "auto")
    key, source, base_url = _runapi(env, config_text, mode)
    callback_url, callback_port = _callback(env)
    unasked = env.get("FLUX2_CONFIRM_USD", "").lower() == "off"
    return Settings(
        mode="sandbox" if mode == "sandbox" or (mode == "auto" and key is None) else "live",
        home=_home(env),
        base_url=base_url,
        api_key=key,
        key_source=source,
        config_path=config_file(env),
        wait_seconds=_number(env, "FLUX2_WAIT_SECONDS", 0, MAX_WAIT_SECONDS, None),
        caps=Caps(
            call_usd=_usd(env, "FLUX2_MAX_COST_USD"),
            session_usd=_usd(env, "FLUX2_SESSION_BUDGET_USD"),
            daily_usd=_usd(env, "FLUX2_DAILY_BUDGET_USD"),
        ),
        confirm_usd=None if unasked else _usd(env, "FLUX2_CONFIRM_USD", DEFAULT_CONFIRM_USD),
        rate=_number(env, "FLUX2_RATE", 0.1, 1000, 12.0) or 12.0,
        in_flight=_whole(env, "FLUX2_MAX_IN_FLIGHT", 1, 10_000, 32) or 32,
        callback_url=callback_url,
        callback_port=callback_port,
        sandbox_speed=_number(env, "FLUX2_SANDBOX_SPEED", 0.01, 10_000, 1.0) or 1.0,
        workspace=_folder(env, "FLUX2_WORKSPACE", env.get("FLUX2_WORKSPACE")) or workspace,
        allowed_dirs=tuple(
            Path(folder)
            for text in _LISTED.findall(env.get("FLUX2_ALLOWED_DIRS", ""))
            if (folder := _folder(env, "FLUX2_ALLOWED_DIRS", text)) is not None
        ),
        log_level=_choice(env, "FLUX2_LOG", LEVELS, "warning"),
        telemetry=_telemetry(env),
    )


def serving(
    env: Mapping[str, str], config_text: ConfigText = None, *, workspace: str | None = None
) -> Settings | SettingsError:
    """The same for a server, which goes on without the settings that it can do without: see `Settings.unusable`.

    Args:
        env: As in `from_env`, as are the others.
        config_text: As in `from_env`.
        workspace: As in `from_env`.

    Returns:
        An error where a setting can't be used that says where everything is, or whose.
    """
    left, unusable = dict(env), list[SettingsError]()
    while True:
        try:
            found = from_env(left, config_text, workspace=workspace)
        except SettingsError as exc:
            if exc.setting not in OPTIONAL_VARIABLES:
                return exc
            del left[exc.setting]
            unusable.append(exc)
        else:
            return replace(found, unusable=tuple(unusable))


def _runapi(env: Mapping[str, str], text: ConfigText, mode: str) -> tuple[str | None, str | None, str]:
    """The key, where it came from, and where RunAPI stands."""
    told, old = said_key(env.get("RUNAPI_API_KEY")), said_key(env.get("RUNAPI_KEY"))
    kept, base = None, env.get("RUNAPI_BASE_URL")
    path = config_file(env)
    if told is None or not isinstance(text, UnreadableFile):  # the key that goes before it is at hand
        try:
            fields = config_fields(text, path)
            base = base or config_url(fields, path)
            kept = None if told else config_key(fields, path, required=old is None)
        except SettingsError:
            if mode != "sandbox":  # which needs nothing of it
                raise
    candidates = {"RUNAPI_API_KEY": told, "RunAPI's config file": kept, "RUNAPI_KEY": old}
    source, key = next(((name, key) for name, key in candidates.items() if key), (None, None))
    if key is not None and not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{source} holds characters that no key has.", setting=source if source in env else None)
    try:
        return key, source, _base_url(base or BASE_URL)
    except SettingsError as exc:
        if mode == "sandbox":  # as above: it calls nobody
            return key, source, BASE_URL
        if "RUNAPI_BASE_URL" in env:
            raise
        raise unusable_url(path) from exc


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as exc:
        raise SettingsError("RUNAPI_BASE_URL is not a URL.", setting="RUNAPI_BASE_URL") from exc
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    # Paths of calls are appended, so nothing may stand after the base's own; no part of it is a password.
    plain = text.isprintable() and "@" not in parts.netloc and not set(text) & set(" ?#")
    if not (secure and parts.hostname and plain):
        raise SettingsError(
            "RUNAPI_BASE_URL must be https://host[:port][/path], or http:// on loopback: the key travels with each call.",
            setting="RUNAPI_BASE_URL",
            says=_shown_url(parts.scheme, parts.hostname),
        )
    return text.rstrip("/")


def _shown_url(scheme: str, host: str | None) -> str | None:
    """So much of a URL as may be shown: the rest may hold a password, and what is no URL at all may be a key."""
    return f"{scheme}://{host}"[:MAX_SHOWN_CHARS] if scheme and host else None


def _callback(env: Mapping[str, str]) -> tuple[str | None, int | None]:
    url = env.get("FLUX2_CALLBACK_URL")
    port = _whole(env, "FLUX2_CALLBACK_PORT", 1, 65535, None)
    if (url is None) != (port is None):
        raise SettingsError(
            "FLUX2_CALLBACK_URL and FLUX2_CALLBACK_PORT go together: one leads to the other.",
            setting="FLUX2_CALLBACK_PORT" if url is None else "FLUX2_CALLBACK_URL",
        )
    if url is not None and not _is_web(url):
        raise SettingsError(
            "FLUX2_CALLBACK_URL must be an http or https URL that RunAPI can reach.", setting="FLUX2_CALLBACK_URL"
        )
    return url, port


def _is_web(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"https", "http"} and bool(parts.hostname) and text.isprintable() and " " not in text


def _home(env: Mapping[str, str]) -> Path:
    if told := _folder(env, "FLUX2_HOME", env.get("FLUX2_HOME")):
        return Path(told)
    data = said_path(env.get("XDG_DATA_HOME"), env)
    if os.name == "posix" and data is not None and Path(data).is_absolute():
        return Path(data) / "flux2-mcp"
    import platformdirs

    return Path(platformdirs.user_data_dir("flux2-mcp", appauthor=False))


def _folder(env: Mapping[str, str], name: str, text: str | None) -> str | None:
    if (told := said_path(text, env)) is not None and not Path(told).is_absolute():
        raise _refused(name, "must be an absolute path: hosts start servers in folders of their own", told)
    return told


_LISTED = re.compile(rf"(?:\$?\{{[^}}]*\}}|[^{re.escape(os.pathsep)}])+")
"""One folder of several; what separates them may stand in a placeholder, too."""


def _telemetry(env: Mapping[str, str]) -> bool:
    """Whether spans are asked for, in OpenTelemetry's own variables: an OTLP endpoint or exporter, and no switch off."""
    exporter = env.get("OTEL_TRACES_EXPORTER", "").lower()
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    named = exporter == "otlp" or (not exporter and any(name in env for name in endpoints))
    return named and env.get("OTEL_SDK_DISABLED", "").lower() != "true"


_LIKE_A_KEY = re.compile(r"[\w.-]{20,}")
"""What may have been put into the wrong variable."""


def _refused(name: str, must: str, told: str) -> SettingsError:
    """The error for a setting that says something it can't."""
    says = None if _LIKE_A_KEY.fullmatch(told) else told[:MAX_SHOWN_CHARS]
    return SettingsError(f"{name} {must}.", setting=name, says=says)


def _choice(env: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    text = env.get(name, default)
    if (value := text.lower()) not in allowed:
        raise _refused(name, f"must be one of {', '.join(allowed)}", text)
    return value


def _usd(env: Mapping[str, str], name: str, default: Decimal | None = None) -> Decimal | None:
    if (text := env.get(name)) is None:
        return default
    try:
        value = Decimal(text.removeprefix("$"))
    except ArithmeticError:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        # A cap that can't be read must not be a cap that isn't there.
        raise _refused(name, "must be an amount in USD, such as 0.50", text)
    return value


def _number(env: Mapping[str, str], name: str, low: float, high: float, default: float | None) -> float | None:
    if (text := env.get(name)) is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:  # NaN is in no range
        raise _refused(name, f"must be a number from {low:g} to {high:g}", text)
    return value


def _whole(env: Mapping[str, str], name: str, low: int, high: int, default: int | None) -> int | None:
    value = _number(env, name, low, high, default)
    if value is not None and value != int(value):
        raise _refused(name, "must be a whole number", env[name])
    return None if value is None else int(value)
