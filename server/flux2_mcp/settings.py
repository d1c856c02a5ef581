"""Settings: merges and validates the environment and the key file. Pure: `__main__` reads both.

`domain.variables` lists the variables, with their meanings and defaults.

A placeholder that a host has not filled in, in any dialect, counts as no value. Quotes around a value are removed, and
`~` before a path means the user's home. OpenTelemetry's own variables (OTEL_*) decide whether spans are sent.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from flux2_mcp.domain import budget
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.domain.urls import is_loopback, is_url
from flux2_mcp.errors import SettingsError
from flux2_mcp.runapi.key_file import (
    ConfigText,
    UnreadableFile,
    config_fields,
    config_file,
    config_key,
    config_url,
    listens,
    unusable_url,
    without_team,
)
from flux2_mcp.system.environment import cleaned, said_key, said_path

BASE_URL = "https://runapi.ai"
Mode = Literal["live", "sandbox"]
STORED = "RunAPI's config file"
MODES = ("auto", "live", "sandbox")
LEVELS = ("debug", "info", "warning", "error")
DEFAULT_CONFIRM_USD = Decimal("0.50")
MAX_WAIT_SECONDS = 900.0
"""The maximum wait of a call. The vendor's SDK gives up after the same time."""
MAX_SHOWN_CHARS = 60
"""The maximum number of characters of a setting's value that a message shows."""
OPTIONAL_VARIABLES = frozenset(
    {
        *("FLUX2_WORKSPACE", "FLUX2_ALLOWED_DIRS", "FLUX2_WAIT_SECONDS", "FLUX2_RATE", "FLUX2_MAX_IN_FLIGHT"),
        *budget.VARIABLES,
        "FLUX2_CONFIRM_USD",
        *("FLUX2_CALLBACK_URL", "FLUX2_CALLBACK_PORT", "FLUX2_LISTEN", "FLUX2_SANDBOX_SPEED", "FLUX2_LOG"),
        *("FLUX2_OIDC_ISSUER", "FLUX2_OIDC_SCOPES", "FLUX2_TRUSTED_PROXIES", "FLUX2_SEAL_KEY"),
    }
)
"""If one of these settings is unusable, the server still looks after earlier tasks. The others name the journal and the
account of these tasks, so the server needs them."""


MIN_SEAL_CHARS = 32
"""The minimum length of a sealing key."""
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class SignIn(Struct, frozen=True, kw_only=True):
    """How people sign in to a team's server: whose tokens count, and what they must say.

    `audience`: None means the address of the server. `group`: None lets everyone in who has a token. `admin_group`: None
    makes nobody an admin. `login_days`: how long a token of `flux2-mcp login --team` is in force; 0: nobody gets one.
    """

    issuer: str
    audience: str | None = None
    scopes: tuple[str, ...] = ()
    group: str | None = None
    admin_group: str | None = None
    groups_claim: str = "groups"
    login_days: int = 30


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of the process. `api_key` is never shown; `key_source` names the source of the key.

    `journal_url` may hold a password, and is never shown either. `images_url` is an absolute path, or an address with a
    scheme of `IMAGE_STORES`; `images_over_http`: its endpoint is plain HTTP on loopback. `unusable` has an error for each unusable setting. Then its field has the default, and no money may be spent.
    """

    mode: Mode
    home: Path
    base_url: str = BASE_URL
    api_key: str | None = None
    key_source: str | None = None
    config_path: Path | None = None
    wait_seconds: float | None = None
    caps: Caps = field(default_factory=Caps)
    confirm_usd: Decimal | None = DEFAULT_CONFIRM_USD
    rate: float = 12.0
    in_flight: int = 32
    callback_url: str | None = None
    callback_port: int | None = None
    listen: bool = False
    sandbox_speed: float = 1.0
    log_level: str = "warning"
    telemetry: bool = False
    workspace: str | None = None
    allowed_dirs: tuple[Path, ...] = ()
    journal_url: str | None = None
    images_url: str | None = None
    images_over_http: bool = False
    sign_in: SignIn | None = None
    trusted_proxies: tuple[Network, ...] = ()
    seal_keys: tuple[str, ...] = ()
    unusable: tuple[SettingsError, ...] = ()

    __repr__ = repr_without("api_key", "journal_url", "seal_keys")

    def need(self, *names: str) -> None:
        """Check that these settings are usable; without names, all settings that are needed for spending.

        Raises:
            SettingsError: The error of the first unusable one.
        """
        for error in self.unusable:
            if error.setting in names or not (names or error.setting == "FLUX2_LOG"):
                raise error.with_traceback(None)  # without this, each raise would add its frames


def from_env(env: Mapping[str, str], config_text: ConfigText = None, *, workspace: str | None = None) -> Settings:
    """Merge and validate the settings.

    Args:
        env: The environment.
        config_text: The content of `config_file(env)`.
        workspace: The working directory, if the user or the host has chosen it.

    Raises:
        SettingsError: It names the variable or the file, and the allowed values. It never shows a key.
    """
    env = cleaned(env)
    mode = _choice(env, "FLUX2_MODE", MODES, "auto")
    key, source, base_url = _runapi(env, config_text, mode)
    callback_url, callback_port = _callback(env)
    images_url = _images_url(env)
    unasked = env.get("FLUX2_CONFIRM_USD", "").lower() == "off"
    return Settings(
        mode="sandbox" if mode == "sandbox" or (mode == "auto" and key is None) else "live",
        home=home_of(env),
        base_url=base_url,
        api_key=key,
        key_source=source,
        config_path=config_file(env),
        wait_seconds=_number(env, "FLUX2_WAIT_SECONDS", 0, MAX_WAIT_SECONDS, None),
        caps=Caps(**{field: _usd(env, name) for name, field in budget.VARIABLES.items()}),
        confirm_usd=None if unasked else _usd(env, "FLUX2_CONFIRM_USD", DEFAULT_CONFIRM_USD),
        rate=_number(env, "FLUX2_RATE", 0.1, 1000, 12.0) or 12.0,
        in_flight=_whole(env, "FLUX2_MAX_IN_FLIGHT", 1, 10_000, 32) or 32,
        callback_url=callback_url,
        callback_port=callback_port,
        listen=_listen(env, config_text, source),
        sandbox_speed=_number(env, "FLUX2_SANDBOX_SPEED", 0.01, 10_000, 1.0) or 1.0,
        workspace=_folder(env, "FLUX2_WORKSPACE", env.get("FLUX2_WORKSPACE")) or workspace,
        allowed_dirs=tuple(
            Path(folder)
            for text in _LISTED.findall(env.get("FLUX2_ALLOWED_DIRS", ""))
            if (folder := _folder(env, "FLUX2_ALLOWED_DIRS", text)) is not None
        ),
        sign_in=_sign_in(env),
        trusted_proxies=_networks(env, "FLUX2_TRUSTED_PROXIES"),
        seal_keys=_seal_keys(env),
        log_level=_choice(env, "FLUX2_LOG", LEVELS, "warning"),
        telemetry=_telemetry(env),
        journal_url=_journal_url(env),
        images_url=images_url,
        images_over_http=images_url is not None and _over_http(env, images_url),
    )


def serving(
    env: Mapping[str, str], config_text: ConfigText = None, *, workspace: str | None = None
) -> Settings | SettingsError:
    """Return the settings for a server, which also runs if an optional setting is unusable: see `Settings.unusable`.

    Args:
        env: As in `from_env`.
        config_text: As in `from_env`.
        workspace: As in `from_env`.

    Returns:
        The settings; or an error if a setting is unusable that is not in `OPTIONAL_VARIABLES`.
    """
    left, unusable = dict(env), list[SettingsError]()
    while True:
        try:
            settings = from_env(left, config_text, workspace=workspace)
        except SettingsError as exc:
            if exc.setting not in OPTIONAL_VARIABLES:
                return exc
            del left[exc.setting]
            unusable.append(exc)
        else:
            return replace(settings, unusable=tuple(unusable))


def _runapi(env: Mapping[str, str], text: ConfigText, mode: str) -> tuple[str | None, str | None, str]:
    """Return the key, the source of the key, and the base URL of RunAPI."""
    first, last = said_key(env.get("RUNAPI_API_KEY")), said_key(env.get("RUNAPI_KEY"))
    stored, base = None, env.get("RUNAPI_BASE_URL")
    path = config_file(env)
    if first is None or not isinstance(text, UnreadableFile):  # with RUNAPI_API_KEY, an unreadable file is not needed
        try:
            fields = config_fields(text, path)
            stored = None if first else config_key(fields, path, required=last is None)
            # The address of a team's server goes with the token beside it: no other key is for that server.
            base = base or config_url(without_team(fields) if stored is None else fields, path)
        except SettingsError:
            if mode != "sandbox":  # the sandbox does not use this file
                raise
    candidates = {"RUNAPI_API_KEY": first, STORED: stored, "RUNAPI_KEY": last}
    source, key = next(((name, key) for name, key in candidates.items() if key), (None, None))
    if key is not None and not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{source} holds characters that no key has.", setting=source if source in env else None)
    try:
        return key, source, _base_url(base or BASE_URL)
    except SettingsError as exc:
        if mode == "sandbox":  # the sandbox does not call this URL
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
    # The paths of calls are appended, so the URL must end with its path; and it must not contain a password.
    plain = text.isprintable() and "@" not in parts.netloc and not set(text) & set(" ?#")
    if not (secure and parts.hostname and plain):
        raise SettingsError(
            "RUNAPI_BASE_URL must be https://host[:port][/path], or http:// on loopback: the key travels with each call.",
            setting="RUNAPI_BASE_URL",
            says=_shown_url(parts.scheme, parts.hostname),
        )
    return text.rstrip("/")


def _shown_url(scheme: str, host: str | None) -> str | None:
    """Return the part of a URL that may be shown: the rest may hold a password, and a value that is no URL a key."""
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


def _journal_url(env: Mapping[str, str]) -> str | None:
    """Return the address of the journal's database. It may hold a password, so no message shows any of it."""
    if (url := env.get("FLUX2_JOURNAL_URL")) is None:
        return None
    if not _DATABASE.fullmatch(url):
        raise SettingsError(
            "FLUX2_JOURNAL_URL must be postgresql://user:password@host:port/database, with special characters in its parts"
            " percent-encoded, such as @ as %40.",
            setting="FLUX2_JOURNAL_URL",
        )
    _needs("psycopg", "FLUX2_JOURNAL_URL")
    return url


def _needs(package: str, name: str) -> None:
    from importlib.util import find_spec  # few settings need it

    if find_spec(package) is None:
        raise SettingsError(
            f"{name} needs a package that is not installed: pip install 'flux2-mcp[team]'.", setting=name
        )


_DATABASE = re.compile(r"postgres(ql)?://([^@/?#\s]*@)?[^@?#\s]*(\?[^@#\s]*)?")
"""Matches an address in which no part of a password can be taken for a host or a name, and so be shown."""


IMAGE_STORES: Mapping[str, tuple[str, ...]] = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_STS"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURITE_BLOB_STORAGE_URL"),
}
"""The schemes of stores of images, and the variables that say where such a store stands, where that is not the usual place."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,62}(/[\w.=+-]+)*/?", re.ASCII)
"""Matches a bucket and a prefix. Nothing in it can be taken for a key."""


def _images_url(env: Mapping[str, str]) -> str | None:
    """Return the address of the store of images; a folder as its path."""
    name = "FLUX2_IMAGES_URL"
    if (text := env.get(name)) is None:
        return None
    scheme, _, rest = text.partition("://")
    if scheme == "file":
        rest = unquote(rest.removeprefix("localhost"))
    elif scheme == text:
        rest = said_path(text, env) or text
    usual = scheme in IMAGE_STORES and _BUCKET.fullmatch(rest) and not {".", ".."} & set(rest.split("/"))
    folder = scheme in {"file", text} and Path(rest).is_absolute() and rest.isprintable()
    if not (usual or folder):
        raise SettingsError(
            f"{name} must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or a folder as file:///path or as"
            " its absolute path. The keys of a store have variables of their own.",
            setting=name,
        )
    _needs("obstore", name)
    return rest if folder else text


def _over_http(env: Mapping[str, str], url: str) -> bool:
    """Whether the store of images is reached by plain HTTP, which is for loopback alone: what it signs in with travels, too."""
    said = [(name, env[name]) for name in IMAGE_STORES.get(url.partition("://")[0], ()) if name in env]
    for name, endpoint in said:
        if not is_url(endpoint, local=True):
            raise SettingsError(f"{name} must be https://host[:port][/path], or http:// on loopback.", setting=name)
    return any(endpoint.startswith("http:") for _, endpoint in said)


def _listen(env: Mapping[str, str], text: ConfigText, source: str | None) -> bool:
    """Whether to listen for callbacks: `FLUX2_LISTEN`, else what the login said of the key in the file, if that is used."""
    stored = source == STORED and listens(config_fields(text, config_file(env)))
    return _choice(env, "FLUX2_LISTEN", ("0", "1"), "1" if stored else "0") == "1"


def _sign_in(env: Mapping[str, str]) -> SignIn | None:
    if (issuer := env.get("FLUX2_OIDC_ISSUER")) is None:
        return None
    # It is compared letter by letter with `iss`, so it stays as it is, also with a slash at its end.
    if not is_url(issuer, local=True) or set(issuer) & set("?#"):
        raise SettingsError(
            "FLUX2_OIDC_ISSUER must be https://host[:port][/path], or http:// on loopback.",
            setting="FLUX2_OIDC_ISSUER",
        )
    scopes = tuple(env.get("FLUX2_OIDC_SCOPES", "").split())
    if not all(map(_SCOPE.fullmatch, scopes)):
        raise _refused("FLUX2_OIDC_SCOPES", "must list scopes, separated by blanks", env["FLUX2_OIDC_SCOPES"])
    return SignIn(
        issuer=issuer,
        audience=env.get("FLUX2_OIDC_AUDIENCE"),
        scopes=scopes,
        group=env.get("FLUX2_OIDC_GROUP"),
        admin_group=env.get("FLUX2_OIDC_ADMIN_GROUP"),
        groups_claim=env.get("FLUX2_OIDC_GROUPS_CLAIM", "groups"),
        login_days=30 if (days := _whole(env, "FLUX2_LOGIN_DAYS", 0, 365, 30)) is None else days,
    )


_SCOPE = re.compile(r"[!#-\[\]-~]+")
"""Matches a scope: the characters that OAuth allows."""


def _networks(env: Mapping[str, str], name: str) -> tuple[Network, ...]:
    found = []
    for text in env.get(name, "").replace(",", " ").split():
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as exc:
            raise _refused(name, "must list addresses or networks, such as 10.0.0.0/8", text) from exc
    return tuple(found)


def _seal_keys(env: Mapping[str, str]) -> tuple[str, ...]:
    keys = tuple(env.get("FLUX2_SEAL_KEY", "").split())
    if any(len(key) < MIN_SEAL_CHARS for key in keys):
        raise SettingsError(f"FLUX2_SEAL_KEY must have at least {MIN_SEAL_CHARS} characters.", setting="FLUX2_SEAL_KEY")
    return keys


def _is_web(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"https", "http"} and bool(parts.hostname) and text.isprintable() and " " not in text


def home_of(env: Mapping[str, str]) -> Path:
    """Return FLUX2_HOME, or the system's place for it.

    Raises:
        SettingsError: FLUX2_HOME is no usable path.
    """
    if home := _folder(env, "FLUX2_HOME", env.get("FLUX2_HOME")):
        return Path(home)
    data = said_path(env.get("XDG_DATA_HOME"), env)
    if os.name == "posix" and data is not None and Path(data).is_absolute():
        return Path(data) / "flux2-mcp"
    import platformdirs

    return Path(platformdirs.user_data_dir("flux2-mcp", appauthor=False))


def _folder(env: Mapping[str, str], name: str, text: str | None) -> str | None:
    if (folder := said_path(text, env)) is not None and not Path(folder).is_absolute():
        raise _refused(name, "must be an absolute path: hosts start servers in folders of their own", folder)
    return folder


_LISTED = re.compile(rf"(?:\$?\{{[^}}]*\}}|[^{re.escape(os.pathsep)}])+")
"""Matches one folder of a list. A placeholder may contain the separator, too."""


def _telemetry(env: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables turn spans on: an OTLP endpoint or exporter, and no OTEL_SDK_DISABLED."""
    exporter = env.get("OTEL_TRACES_EXPORTER", "").lower()
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    named = exporter == "otlp" or (not exporter and any(name in env for name in endpoints))
    return named and env.get("OTEL_SDK_DISABLED", "").lower() != "true"


_LIKE_A_KEY = re.compile(r"[\w.-]{20,}")
"""A value that may be a key in the wrong variable, so no message shows it."""


def _refused(name: str, must: str, value: str) -> SettingsError:
    """Return the error for a setting with a value that is not allowed."""
    says = None if _LIKE_A_KEY.fullmatch(value) else value[:MAX_SHOWN_CHARS]
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
        # An unreadable cap must not count as no cap.
        raise _refused(name, "must be an amount in USD, such as 0.50", text)
    return value


def _number(env: Mapping[str, str], name: str, low: float, high: float, default: float | None) -> float | None:
    if (text := env.get(name)) is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:  # also true for NaN
        raise _refused(name, f"must be a number from {low:g} to {high:g}", text)
    return value


def _whole(env: Mapping[str, str], name: str, low: int, high: int, default: int | None) -> int | None:
    value = _number(env, name, low, high, default)
    if value is not None and value != int(value):
        raise _refused(name, "must be a whole number", env[name])
    return None if value is None else int(value)
