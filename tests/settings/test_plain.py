"""What the process that sleeps takes as plainly right is right, and means what the settings make of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec.structs import replace

from flux2_mcp.domain.variables import VARIABLES
from flux2_mcp.engine.backend import account_name
from flux2_mcp.runapi import key_file
from flux2_mcp.server.transports import plain
from flux2_mcp.settings import Settings, serving
from tests.support.rows import rows

VALUES = (
    *(
        "0",
        "1",
        "0.05",
        "900",
        "901",
        "1000",
        "10001",
        "1e3",
        "-1",
        "nan",
        "inf",
        "\u0661",
        "1_0",
        " 7 ",
        "off",
        "OFF",
        "",
    ),
    *("auto", "live", "sandbox", "Live", "debug", "INFO", "$5", "5.", ".5", "999999.999999", "1234567"),
    *("/srv/flux2", "srv", "~", "~/x", "/a:/b", "/a::/b", "/a:b", "/a:${x}", "'/a'", '"/a b"', "/a:'/b'", "%HOME%"),
    *("sk-run-0123456789abcdef", "Bearer sk-run-0123", "Bearer ", "sk é", "a b", "${KEY}", "{env:KEY}", "$KEY"),
    *("https://runapi.ai", "https://x.example/hook", "8080", "true", "postgresql:///flux2"),
)
NAMES = (
    *(variable.name for variable in VARIABLES),
    *("FLUX2_SOMETHING", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"),
)
FILES = (
    *("{}", "", "null", "[]", "{", '{"api_key": "sk-run-x"}', '{"api_key": "Bearer sk-run-x", "other": [1]}'),
    *(
        '{"api_key": "${X}"}',
        '{"api_key": 7}',
        '{"apiKey": "sk"}',
        '{"api_key": "sk", "base_url": "https://x.example"}',
    ),
    *(
        '{"api_key": "sk", "flux2_listen": true}',
        '{"key": "sk"}',
        '{"api_key": "sk", "baseUrl": null}',
        '{"api_key": "é"}',
    ),
    *('\ufeff{"api_key": "sk"}', '{"api_key": "sk", "base_url": 7}', '{"api_key": "a", "api_key": "b"}'),
)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder. Where nothing else names a home, the settings ask the system, which asks the environment."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("XDG_DATA_HOME", raising=False)
        yield folder


def held_together(env: dict[str, str], user: Path) -> plain.Place | None:
    """What `plain` says of this environment, after a check that the settings say the same."""
    place = plain.plain(env)
    if place is not None:
        told = serving(env, key_file.read(key_file.config_file(env)), workspace=str(user))
        assert isinstance(told, Settings)
        assert [told.unusable, told.callback_url, told.listen, told.telemetry] == [(), None, False, False]
        assert told.journal_url is None
        assert Path(place.home) == told.home
        assert place.sandbox == (told.mode == "sandbox")
        assert place.account() == account_name(told)
    return place


@given(
    given_=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=3),
    home=st.booleans(),
    file=st.none() | st.sampled_from(FILES),
)
@hypothesis_settings(max_examples=300)
def test_what_is_plain_is_what_the_settings_say(
    given_: dict[str, str], home: bool, file: str | None, user: Path
) -> None:
    config = user / ".config" / "runapi" / "config.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.unlink(missing_ok=True)
    if file is not None:
        config.write_text(file, "utf-8")
    env = {"HOME": str(user)} | ({"FLUX2_HOME": str(user / "home")} if home else {}) | given_
    held_together(env, user)


@rows("name", NAMES)
def test_whatever_a_variable_says_alone_is_plain_only_where_the_settings_take_it(name: str, user: Path) -> None:
    (user / ".config" / "runapi" / "config.json").unlink(missing_ok=True)
    for value in VALUES:
        held_together({"HOME": str(user), "FLUX2_HOME": str(user / "home"), name: value}, user)


USUAL: dict[str, dict[str, str]] = {
    "nothing": {},
    "no home": {"FLUX2_HOME": ""},
    "a key": {"RUNAPI_API_KEY": "sk-run-0123456789abcdef"},
    "a key that nobody filled in": {"RUNAPI_API_KEY": "${RUNAPI_API_KEY}"},
    "quotes": {"RUNAPI_API_KEY": "'sk-run-0123'", "FLUX2_MODE": '"live"'},
    "caps": {"FLUX2_DAILY_BUDGET_USD": "5", "FLUX2_MAX_COST_USD": "0.5", "FLUX2_CONFIRM_USD": "off"},
    "limits": {"FLUX2_RATE": "3", "FLUX2_MAX_IN_FLIGHT": "4", "FLUX2_WAIT_SECONDS": "30", "FLUX2_LOG": "debug"},
    "folders": {"FLUX2_ALLOWED_DIRS": f"/a{os.pathsep}/b", "FLUX2_WORKSPACE": "/a", "FLUX2_HOME": "/a"},
}


@pytest.mark.skipif(os.name != "posix", reason="no server sleeps there")
@rows("what", USUAL)
def test_what_most_users_set_is_plain(what: str, user: Path) -> None:
    assert held_together({"HOME": str(user), "FLUX2_HOME": str(user), **USUAL[what]}, user) is not None


@pytest.mark.skipif(os.name != "posix", reason="no server sleeps there")
def test_the_key_that_a_login_stored_is_plain(tmp_path: Path) -> None:
    path = tmp_path / ".config" / "runapi" / "config.json"
    key_file.save(path, "sk-run-0123456789abcdef")
    env = {"HOME": str(tmp_path), "FLUX2_HOME": str(tmp_path)}
    place = held_together(env, tmp_path)
    assert place is not None
    assert not place.sandbox
    path.write_text(json.dumps({"api_key": "sk", "more": "x" * plain.MAX_FILE_BYTES}), "utf-8")
    assert held_together(env, tmp_path) is None


def test_a_server_whose_journal_is_a_database_does_not_sleep() -> None:
    settings = Settings(mode="sandbox", home=Path("/home"))
    assert plain.place_of(settings) is not None
    assert plain.place_of(replace(settings, journal_url="postgresql:///flux2")) is None
