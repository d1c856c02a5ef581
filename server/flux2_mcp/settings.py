"""Settings: the environment and the key file, merged and validated. Pure: `__main__` reads, this decides.

| variable | meaning | default |
| --- | --- | --- |
| RUNAPI_API_KEY | the key; else `api_key` in `~/.config/runapi/config.json`; else `RUNAPI_KEY` | |
| RUNAPI_BASE_URL | where RunAPI stands; https, or http on loopback | `https://runapi.ai` |
| FLUX2_MODE | `auto` (live with a key, else the sandbox), `live`, `sandbox` | `auto` |
| FLUX2_HOME | folder of the journal and the images | the platform's user data folder |
| FLUX2_WORKSPACE | folder that `save_to` and relative paths are in, where the host names none | the working directory |
| FLUX2_ALLOWED_DIRS | more folders whose images may be sent as sources, separated as in PATH | none |
| FLUX2_WAIT_SECONDS | how long `generate` and `check_task` wait by default | by host, else 45 |
| FLUX2_MAX_COST_USD | the most one call may cost | none |
| FLUX2_SESSION_BUDGET_USD | the most one server process may spend | none |
| FLUX2_DAILY_BUDGET_USD | the most all processes may spend in any 24 hours | none |
| FLUX2_CONFIRM_USD | what a call may cost without the user being asked; off: anything | 0.50 |
| FLUX2_RATE | requests a second to RunAPI, all processes together | 12 |
| FLUX2_MAX_IN_FLIGHT | tasks under way at once, all processes together | 32 |
| FLUX2_CALLBACK_URL | a public address that leads to `FLUX2_CALLBACK_PORT`: RunAPI calls it when a task ends | none |
| FLUX2_CALLBACK_PORT | port on 127.0.0.1 that listens for those calls | none |
| FLUX2_SANDBOX_SPEED | how many times faster than life the embedded sandbox's tasks run | 1 |
| FLUX2_EARLY | `0`: the first answers wait for the whole server | `1` |
| FLUX2_LOG | `debug`, `info`, `warning`, `error`; logs go to stderr | `warning` |

OpenTelemetry's own variables (OTEL_*) decide whether spans are sent.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from flux2_mcp.budget import Caps
from flux2_mcp.config import ConfigText, Unreadable, config_fields, config_file
from flux2_mcp.errors import SettingsError

BASE_URL = "https://runapi.ai"
Mode = Literal["live", "sandbox"]
MODES = ("auto", "live", "sandbox")
LEVELS = ("debug", "info", "warning", "error")
CONFIRM_USD = Decimal("0.50")
LONGEST_WAIT = 900.0
"""Seconds. The vendor's SDK gives up after as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the process was told. `api_key` is never shown; `key_source` names where it came from."""

    mode: Mode
    home: Path
    base_url: str = BASE_URL
    api_key: str | None = field(default=None, repr=False)
    key_source: str | None = None
    config_path: Path | None = None
    wait_seconds: float | None = None
    caps: Caps = field(default_factory=Caps)
    confirm_usd: Decimal | None = CONFIRM_USD
    rate: float = 12.0
    in_flight: int = 32
    callback_url: str | None = None
    callback_port: int | None = None
    sandbox_speed: float = 1.0
    log_level: str = "warning"
    telemetry: bool = False
    workspace: str | None = None
    allowed_dirs: tuple[Path, ...] = ()


def from_env(env: Mapping[str, str], config_text: ConfigText = None, *, workspace: str | None = None) -> Settings:
    """Merge and validate.

    Args:
        env: The environment.
        config_text: What stands in `config_file(env)`.
        workspace: The folder that the process works in, where it is one that was chosen to be worked in.

    Raises:
        SettingsError: Naming the variable, or the file, and what it may be. Never shows a key.
    """
    mode = _choice(env, "FLUX2_MODE", MODES, "auto")
    config = _config(env, config_text, mode)
    candidates = {
        "RUNAPI_API_KEY": env.get("RUNAPI_API_KEY"),
        "RunAPI's config file": _first(config.get("api_key"), config.get("apiKey")),
        "RUNAPI_KEY": env.get("RUNAPI_KEY"),
    }
    key = _first(*candidates.values())
    source = next((name for name, value in candidates.items() if _first(value)), None)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{source} holds characters that no key has.")
    callback_url, callback_port = _callback(env)
    unasked = env.get("FLUX2_CONFIRM_USD", "").strip().lower() == "off"
    base = _first(env.get("RUNAPI_BASE_URL"), config.get("base_url"), config.get("baseUrl")) or BASE_URL
    return Settings(
        mode="sandbox" if mode == "sandbox" or (mode == "auto" and key is None) else "live",
        home=_home(env),
        base_url=_base_url(base),
        api_key=key,
        key_source=source,
        config_path=config_file(env),
        wait_seconds=_number(env, "FLUX2_WAIT_SECONDS", 0, LONGEST_WAIT, None),
        caps=Caps(
            call_usd=_usd(env, "FLUX2_MAX_COST_USD"),
            session_usd=_usd(env, "FLUX2_SESSION_BUDGET_USD"),
            daily_usd=_usd(env, "FLUX2_DAILY_BUDGET_USD"),
        ),
        confirm_usd=None if unasked else _usd(env, "FLUX2_CONFIRM_USD", CONFIRM_USD),
        rate=_number(env, "FLUX2_RATE", 0.1, 1000, 12.0) or 12.0,
        in_flight=_whole(env, "FLUX2_MAX_IN_FLIGHT", 1, 10_000, 32) or 32,
        callback_url=callback_url,
        callback_port=callback_port,
        sandbox_speed=_number(env, "FLUX2_SANDBOX_SPEED", 0.01, 10_000, 1.0) or 1.0,
        workspace=_folder("FLUX2_WORKSPACE", env.get("FLUX2_WORKSPACE")) or workspace,
        allowed_dirs=tuple(
            Path(folder)
            for text in env.get("FLUX2_ALLOWED_DIRS", "").split(os.pathsep)
            if (folder := _folder("FLUX2_ALLOWED_DIRS", text)) is not None
        ),
        log_level=_choice(env, "FLUX2_LOG", LEVELS, "warning"),
        telemetry=_telemetry(env),
    )


def is_loopback(host: str | None) -> bool:
    """True for localhost and the loopback addresses, whichever way they are written plainly."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _first(*texts: str | None) -> str | None:
    """The first that says something, without the blanks around it. A host's placeholder that nothing was put into does not."""
    told = (text.strip() for text in texts if text)
    return next((text for text in told if text and not (text.startswith("${") and text.endswith("}"))), None)


def _config(env: Mapping[str, str], text: ConfigText, mode: str) -> dict[str, str]:
    if isinstance(text, Unreadable) and _first(env.get("RUNAPI_API_KEY")):
        return {}  # the key that goes before it is at hand
    try:
        fields = config_fields(text, config_file(env))
    except SettingsError:
        if mode != "sandbox":  # which needs nothing of it
            raise
        return {}
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as exc:
        raise SettingsError("RUNAPI_BASE_URL is not a URL.") from exc
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    # Paths of calls are appended, so nothing may stand after the base's own; no part of it is a password.
    plain = text.isprintable() and "@" not in parts.netloc and not set(text) & set(" ?#")
    if not (secure and parts.hostname and plain):
        raise SettingsError(
            "RUNAPI_BASE_URL must be https://host[:port][/path], or http:// on loopback: the key travels with each call."
        )
    return text.rstrip("/")


def _callback(env: Mapping[str, str]) -> tuple[str | None, int | None]:
    url = _first(env.get("FLUX2_CALLBACK_URL"))
    port = _whole(env, "FLUX2_CALLBACK_PORT", 1, 65535, None)
    if (url is None) != (port is None):
        raise SettingsError("FLUX2_CALLBACK_URL and FLUX2_CALLBACK_PORT go together: one leads to the other.")
    if url is not None and not _is_web(url):
        raise SettingsError("FLUX2_CALLBACK_URL must be an http or https URL that RunAPI can reach.")
    return url, port


def _is_web(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"https", "http"} and bool(parts.hostname) and text.isprintable() and " " not in text


def _home(env: Mapping[str, str]) -> Path:
    if told := _folder("FLUX2_HOME", env.get("FLUX2_HOME")):
        return Path(told)
    import platformdirs

    return Path(platformdirs.user_data_dir("flux2-mcp", appauthor=False))


def _folder(name: str, text: str | None) -> str | None:
    if (told := _first(text)) is not None and not Path(told).is_absolute():
        raise SettingsError(f"{name} must be an absolute path: hosts start servers in folders of their own.")
    return told


def _telemetry(env: Mapping[str, str]) -> bool:
    """Whether spans are asked for, in OpenTelemetry's own variables: an OTLP endpoint or exporter, and no switch off."""
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    named = exporter == "otlp" or (not exporter and any(env.get(name, "").strip() for name in endpoints))
    return named and env.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"


def _choice(env: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = env.get(name, "").strip().lower() or default
    if value not in allowed:
        raise SettingsError(f"{name} must be one of {', '.join(allowed)}.")
    return value


def _usd(env: Mapping[str, str], name: str, default: Decimal | None = None) -> Decimal | None:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        value = Decimal(text.removeprefix("$"))
    except ArithmeticError:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        # A cap that can't be read must not be a cap that isn't there.
        raise SettingsError(f"{name} must be an amount in USD, such as 0.50.")
    return value


def _number(env: Mapping[str, str], name: str, low: float, high: float, default: float | None) -> float | None:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:  # NaN is in no range
        raise SettingsError(f"{name} must be a number from {low:g} to {high:g}.")
    return value


def _whole(env: Mapping[str, str], name: str, low: int, high: int, default: int | None) -> int | None:
    value = _number(env, name, low, high, default)
    if value is not None and value != int(value):
        raise SettingsError(f"{name} must be a whole number.")
    return None if value is None else int(value)
