"""What hosts and shells leave around a value: placeholders in every dialect, quotes, `Bearer`, `~`. And RunAPI's file."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from flux2_mcp.errors import SettingsError
from flux2_mcp.hosts.table import SYSTEM_VARIABLES, VARIABLES
from flux2_mcp.runapi.key_file import config_file
from flux2_mcp.settings import Settings, from_env
from tests.support.rows import rows

KEY = "sk-run-0123456789abcdef"
HOME = {"HOME": "/home/ada", "FLUX2_HOME": "/srv/flux2"}
DIALECTS = (
    *("${{{}}}", "${{env:{}}}", "${{input:{}}}", "${{user_config.{}}}", "${{{}:-}}", "{{env:{}}}", "%{}%", "${}"),
    *("$env:{}", '"${{{}}}"', "' ${} '", '"{{env:{}}}"'),
)
"""`NAME` in each, as format strings."""


def told(config: object = None, **env: str) -> Settings:
    return from_env(HOME | env, None if config is None else json.dumps(config))


def refused(config: object, **env: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        told(config, **env)
    assert KEY not in caught.value.message + caught.value.next_step
    return caught.value


@rows("dialect", DIALECTS)
def test_a_placeholder_counts_as_unset_in_every_dialect_and_for_every_variable(dialect: str) -> None:
    unset = from_env({"HOME": HOME["HOME"]})
    for name in (*VARIABLES, *SYSTEM_VARIABLES):
        assert from_env({"HOME": HOME["HOME"], name: dialect.format(name)}) == unset, name


@rows("dialect", DIALECTS)
def test_a_placeholder_hides_neither_the_key_in_the_file_nor_the_file(dialect: str) -> None:
    unfilled = {name: dialect.format(name) for name in ("RUNAPI_API_KEY", "XDG_CONFIG_HOME", "RUNAPI_BASE_URL")}
    found = told({"api_key": KEY, "base_url": "https://runapi.example"}, **unfilled)
    assert (found.mode, found.api_key, found.key_source) == ("live", KEY, "RunAPI's config file")
    assert found.base_url == "https://runapi.example"
    assert found.config_path == Path("/home/ada/.config/runapi/config.json")
    assert told({"api_key": dialect.format("RUNAPI_API_KEY")}, RUNAPI_KEY=KEY).key_source == "RUNAPI_KEY"


def test_an_amount_in_dollars_is_no_placeholder_and_a_cap_that_can_not_be_read_is_refused() -> None:
    assert told(FLUX2_MAX_COST_USD="$5").caps.call_usd == Decimal(5)
    for text in ("$", "$five dollars", "5$", "%", "{5}"):
        with pytest.raises(SettingsError, match="FLUX2_MAX_COST_USD must be an amount"):
            told(FLUX2_MAX_COST_USD=text)


@rows("key", [f'"{KEY}"', f"'{KEY}'", f"Bearer {KEY}", f" bearer  {KEY} ", f'"Bearer {KEY}"'])
def test_a_key_is_read_without_quotes_and_without_bearer_wherever_it_stands(key: str) -> None:
    assert told(RUNAPI_API_KEY=key).api_key == KEY
    assert told(RUNAPI_KEY=key).api_key == KEY
    assert told({"api_key": key}).api_key == KEY


@rows("key", ["Bearer", "Bearer ${RUNAPI_API_KEY}", '"Bearer $RUNAPI_API_KEY"', "''"])
def test_bearer_alone_is_no_key(key: str) -> None:
    assert told(RUNAPI_API_KEY=key).mode == "sandbox"


def test_quotes_are_taken_off_every_value() -> None:
    env = {
        "RUNAPI_BASE_URL": "https://runapi.example",
        "FLUX2_MODE": "live",
        "FLUX2_HOME": "/srv/other",
        "FLUX2_WORKSPACE": "/home/ada/site",
        "FLUX2_ALLOWED_DIRS": "/home/ada/art",
        "FLUX2_WAIT_SECONDS": "12.5",
        "FLUX2_MAX_COST_USD": "0.5",
        "FLUX2_CONFIRM_USD": "off",
        "FLUX2_RATE": "3",
        "FLUX2_CALLBACK_URL": "https://hooks.example",
        "FLUX2_CALLBACK_PORT": "8080",
        "FLUX2_LOG": "info",
        "OTEL_TRACES_EXPORTER": "otlp",
    }
    for quote in "\"'":
        assert told(**{name: f"{quote}{value}{quote}" for name, value in env.items()}) == told(**env)


def test_a_tilde_is_the_users_home_in_every_path() -> None:
    found = told(FLUX2_HOME="~/flux2", FLUX2_WORKSPACE="~", FLUX2_ALLOWED_DIRS=os.pathsep.join(["~/art", "/srv/art"]))
    assert found.home == Path("/home/ada/flux2")
    assert found.workspace == "/home/ada"
    assert found.allowed_dirs == (Path("/home/ada/art"), Path("/srv/art"))
    assert from_env({"HOME": "/home/ada", "XDG_DATA_HOME": "~/data"}).home == Path("/home/ada/data/flux2-mcp")
    assert config_file({"HOME": "/home/ada", "XDG_CONFIG_HOME": "~/conf"}) == Path("/home/ada/conf/runapi/config.json")
    with pytest.raises(SettingsError, match="FLUX2_HOME must be an absolute path"):
        told(FLUX2_HOME="~bob/flux2")


def test_of_several_folders_those_that_were_not_filled_in_are_left_out() -> None:
    listed = os.pathsep.join(["/srv/art", "${env:MORE}", "$MORE", "{env:MORE}", "/srv/more"])
    assert told(FLUX2_ALLOWED_DIRS=listed).allowed_dirs == (Path("/srv/art"), Path("/srv/more"))


def test_a_config_folder_that_depends_on_where_the_process_started_is_none() -> None:
    assert config_file({"HOME": "/home/ada", "XDG_CONFIG_HOME": "${HOME}/conf"}) == Path(
        "/home/ada/.config/runapi/config.json"
    )


# --- RunAPI's own file ---


@rows(
    ("config", "kind"),
    [
        ({"api_key": 7}, "a number as api_key"),
        ({"api_key": True}, "true or false as api_key"),
        ({"api_key": [KEY]}, "a list as api_key"),
        ({"api_key": {"value": KEY}}, "an object as api_key"),
        ({"api_key": None, "apiKey": {"value": KEY}}, "an object as apiKey"),
    ],
)
def test_a_key_of_another_type_is_told_and_nobody_draws_in_its_stead(config: object, kind: str) -> None:
    for mode in ("auto", "live"):
        error = refused(config, FLUX2_MODE=mode)
        assert (
            error.message
            == f"RunAPI's config file (/home/ada/.config/runapi/config.json) has {kind}, which must be text."
        )
        assert error.next_step.startswith("Write it in quotes, ")
    assert told(config, RUNAPI_API_KEY=KEY).api_key == KEY
    assert told(config, FLUX2_MODE="sandbox").mode == "sandbox"


@rows(
    ("config", "place"),
    [
        ({"auth": {"api_key": KEY}}, "auth.api_key"),
        ({"profiles": {"default": {"apiKey": KEY}}}, "profiles.default.apiKey"),
        ({"accounts": [{"name": "ada"}, {"api-key": KEY}]}, "accounts.1.api-key"),
        ({"RUNAPI_API_KEY": KEY}, "RUNAPI_API_KEY"),
        ({"env": {"RUNAPI_KEY": KEY}}, "env.RUNAPI_KEY"),
        ({"API_KEY": KEY, "name": "ada"}, "API_KEY"),
        ({"apikey": KEY}, "apikey"),
        ({"key": KEY}, "key"),
        ({"auth": {"key": KEY}}, "auth.key"),
        ({"token": KEY}, "token"),
        ({"accounts": [{"access_token": KEY}]}, "accounts.0.access_token"),
        ({"headers": {"Authorization": f"Bearer {KEY}"}}, "headers.Authorization"),
        ({"secret": KEY}, "secret"),
        ({"auth": {"api_key": 7}}, "auth.api_key"),
        ({"auth": {"api_key": True}}, "auth.api_key"),
        ({"auth": {"api_key": [KEY]}}, "auth.api_key.0"),
        ({"auth": {"api_key": {"value": KEY}}}, "auth.api_key.value"),
        ({"token": 7}, "token"),
    ],
)
def test_a_key_in_another_place_is_told_with_where_it_belongs(config: object, place: str) -> None:
    error = refused(config)
    assert error.message.endswith(f" has a key at {place}, where none is looked for.")
    assert error.next_step.startswith("Put it at the top of the file as api_key, or set RUNAPI_API_KEY")
    assert told(config, RUNAPI_KEY="other").api_key == "other"


@rows(
    "config",
    [
        *({"name": "ada", "user": {"email": "a"}}, {"api_key": None}, {"api_key": " "}, {"auth": {"api_key": ""}}),
        *({"auth": {"key": {}}}, {"token": []}, {"hotkey": "k", "token": False}, {"tokens_used": 7}, {"token": None}),
        {"auth": {"token": "${TOKEN}", "api_key": None}},
    ],
)
def test_a_file_without_a_key_is_no_error(config: object) -> None:
    assert told(config).mode == "sandbox"


def test_an_address_of_another_type_is_told_for_the_key_must_not_go_elsewhere() -> None:
    error = refused({"api_key": KEY, "base_url": ["https://runapi.example"]})
    assert "has a list as base_url" in error.message
    assert told({"api_key": KEY, "base_url": 7}, RUNAPI_BASE_URL="https://runapi.example").mode == "live"


# --- what is said ---


@rows(
    ("name", "value"),
    [
        *(("FLUX2_MODE", "lve"), ("FLUX2_RATE", "ten"), ("FLUX2_HOME", "some/folder"), ("FLUX2_MAX_COST_USD", "5 USD")),
        *(("FLUX2_MAX_IN_FLIGHT", "2.5"), ("FLUX2_LOG", "loud"), ("RUNAPI_BASE_URL", "http://runapi.example")),
    ],
)
def test_a_setting_that_can_not_be_used_is_told_with_what_it_says_and_what_to_do(name: str, value: str) -> None:
    error = refused(None, **{name: value})
    assert (error.setting, error.message.startswith(f"{name} ")) == (name, True)
    assert error.next_step == f'It says "{value}". Mend that setting, then start the server again.'


@pytest.mark.parametrize("value", [KEY, f"https://ada:{KEY}@runapi.example", f"http://x.example/?k={KEY}"])
def test_what_may_be_a_secret_is_not_shown(value: str) -> None:
    refused(None, RUNAPI_BASE_URL=value)
    refused(None, FLUX2_MODE=KEY)
    refused(None, FLUX2_HOME=KEY)
    refused(None, FLUX2_CALLBACK_URL=value.replace("http", "ftp"), FLUX2_CALLBACK_PORT="1")
