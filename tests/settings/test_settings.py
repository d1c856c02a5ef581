from __future__ import annotations

import json
import os
import re
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.urls import is_loopback
from flux2_mcp.domain.variables import VARIABLES, Variable
from flux2_mcp.errors import SettingsError
from flux2_mcp.runapi.key_file import ConfigText, UnreadableFile, config_file
from flux2_mcp.settings import BASE_URL, Settings, SignIn, from_env
from flux2_mcp.system.environment import said
from flux2_mcp.system.logs import masked
from tests.support.rows import rows

KEY = "sk-run-0123456789abcdef"
HOME = {"FLUX2_HOME": str(Path("/home/ada/flux2").absolute())}


def told(**env: str) -> Settings:
    return from_env(HOME | env)


@rows("row", [row for row in VARIABLES if row.default.startswith("`")], ids=lambda row: row.name)
def test_the_default_that_people_are_told_is_the_one_that_counts(row: Variable) -> None:
    assert told(**{row.name: row.default.strip("`")}) == told()


def refusal(config_text: str | None = None, **env: str) -> str:
    """What is said to settings that can't be used. Whatever is wrong, no error shows the key."""
    with pytest.raises(SettingsError) as caught:
        from_env(HOME | {"RUNAPI_API_KEY": KEY} | env, config_text)
    assert KEY not in caught.value.message + caught.value.next_step
    return caught.value.message


def test_an_empty_environment_gives_the_sandbox_and_the_documented_defaults() -> None:
    assert from_env(HOME, workspace="/work") == Settings(
        mode="sandbox",
        home=Path(HOME["FLUX2_HOME"]),
        base_url="https://runapi.ai",
        api_key=None,
        key_source=None,
        wait_seconds=None,
        caps=Caps(call_usd=None, session_usd=None, daily_usd=None),
        confirm_usd=Decimal("0.50"),
        rate=12.0,
        in_flight=32,
        callback_url=None,
        callback_port=None,
        sandbox_speed=1.0,
        log_level="warning",
        workspace="/work",
    )


def test_everything_that_can_be_said_is_heard() -> None:
    env = {
        "RUNAPI_API_KEY": KEY,
        "RUNAPI_BASE_URL": "https://api.example.com:8443/v/",
        "FLUX2_MODE": "live",
        "FLUX2_WAIT_SECONDS": "12.5",
        "FLUX2_MAX_COST_USD": "0.50",
        "FLUX2_SESSION_BUDGET_USD": "$5",
        "FLUX2_DAILY_BUDGET_USD": " 20.25 ",
        "FLUX2_CONFIRM_USD": "$2",
        "FLUX2_RATE": "2.5",
        "FLUX2_MAX_IN_FLIGHT": "4",
        "FLUX2_CALLBACK_URL": " https://example.com/flux2 ",
        "FLUX2_CALLBACK_PORT": "8765",
        "FLUX2_LISTEN": " 1 ",
        "FLUX2_SANDBOX_SPEED": "100",
        "FLUX2_LOG": "DEBUG",
        "FLUX2_WORKSPACE": " /home/ada/site ",
        "FLUX2_ALLOWED_DIRS": os.pathsep.join(["/home/ada/art", "", " /srv/shared "]),
        "FLUX2_JOURNAL_URL": " postgresql://ada:secret@db.example.com/flux2 ",
    }
    assert told(**env) == Settings(
        mode="live",
        home=Path(HOME["FLUX2_HOME"]),
        base_url="https://api.example.com:8443/v",
        api_key=KEY,
        key_source="RUNAPI_API_KEY",
        wait_seconds=12.5,
        caps=Caps(call_usd=Decimal("0.50"), session_usd=Decimal(5), daily_usd=Decimal("20.25")),
        confirm_usd=Decimal(2),
        rate=2.5,
        in_flight=4,
        callback_url="https://example.com/flux2",
        callback_port=8765,
        listen=True,
        sandbox_speed=100.0,
        log_level="debug",
        workspace="/home/ada/site",
        allowed_dirs=(Path("/home/ada/art"), Path("/srv/shared")),
        journal_url="postgresql://ada:secret@db.example.com/flux2",
    )


def test_nobody_is_asked_where_that_is_said_in_so_many_words() -> None:
    assert told(FLUX2_CONFIRM_USD="Off").confirm_usd is None
    assert told(FLUX2_CONFIRM_USD="0").confirm_usd == 0
    with pytest.raises(SettingsError, match="FLUX2_CONFIRM_USD must be an amount in USD"):
        told(FLUX2_CONFIRM_USD="never")


@pytest.mark.parametrize("name", ["FLUX2_HOME", "FLUX2_WORKSPACE", "FLUX2_ALLOWED_DIRS"])
def test_a_folder_is_named_from_the_root(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        told(**{name: "some/folder"})
    assert caught.value.message.startswith(f"{name} must be an absolute path")


def test_what_is_blank_is_as_if_it_were_not_there() -> None:
    names = [
        *("RUNAPI_API_KEY", "RUNAPI_BASE_URL", "RUNAPI_KEY", "FLUX2_MODE", "FLUX2_WAIT_SECONDS", "FLUX2_LOG"),
        *("FLUX2_MAX_COST_USD", "FLUX2_SESSION_BUDGET_USD", "FLUX2_DAILY_BUDGET_USD", "FLUX2_RATE"),
        *("FLUX2_MAX_IN_FLIGHT", "FLUX2_SANDBOX_SPEED", "FLUX2_CALLBACK_URL", "FLUX2_CALLBACK_PORT", "FLUX2_LISTEN"),
    ]
    for blank in ("", "  ", "\t"):
        assert told(**dict.fromkeys(names, blank)) == from_env(HOME)


# --- the key ---


@rows(
    ("env", "config", "key", "source"),
    [
        ({"RUNAPI_API_KEY": "a", "RUNAPI_KEY": "c"}, {"api_key": "b"}, "a", "RUNAPI_API_KEY"),
        ({"RUNAPI_KEY": "c"}, {"api_key": "b", "apiKey": "old"}, "b", "RunAPI's config file"),
        ({"RUNAPI_KEY": "c"}, {"apiKey": "old"}, "old", "RunAPI's config file"),
        ({"RUNAPI_KEY": "c"}, {"api_key": " ", "apiKey": "old"}, "old", "RunAPI's config file"),
        ({"RUNAPI_KEY": "c"}, {"api_key": 7}, "c", "RUNAPI_KEY"),
        ({"RUNAPI_KEY": "c"}, None, "c", "RUNAPI_KEY"),
        ({"RUNAPI_API_KEY": " ", "RUNAPI_KEY": " c\n"}, {}, "c", "RUNAPI_KEY"),
        ({}, {"name": "ada"}, None, None),
    ],
)
def test_the_key_is_the_first_of_variable_config_file_and_the_old_variable(
    env: dict[str, str], config: dict[str, object] | None, key: str | None, source: str | None
) -> None:
    found = from_env(HOME | env, None if config is None else json.dumps(config))
    assert (found.api_key, found.key_source) == (key, source)


@rows("bad", ["sk-\u00e9t\u00e9", "sk-\u2014", "sk-a\x00b", "sk-a\nb"])
@rows("name", ["RUNAPI_API_KEY", "RUNAPI_KEY"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(name: str, bad: str) -> None:
    with pytest.raises(SettingsError) as caught:
        told(**{name: bad})
    assert caught.value.message == f"{name} holds characters that no key has."


def test_a_placeholder_that_a_host_did_not_fill_in_is_no_key_and_hides_none() -> None:
    unfilled = {"RUNAPI_API_KEY": "${user_config.api_key}", "RUNAPI_KEY": " ${RUNAPI_KEY} "}
    assert told(**unfilled).mode == "sandbox"
    assert told(**unfilled | {"RUNAPI_KEY": KEY}).api_key == KEY


def test_a_bad_key_in_the_config_file_is_blamed_on_the_config_file() -> None:
    with pytest.raises(SettingsError) as caught:
        from_env(HOME, json.dumps({"api_key": "sk-\u00e9"}))
    assert caught.value.message == "RunAPI's config file holds characters that no key has."


def test_the_key_stands_in_no_repr() -> None:
    found = told(RUNAPI_API_KEY=KEY)
    assert found.api_key == KEY
    assert KEY not in repr(found)
    assert KEY not in str(found)


@rows(
    ("text", "why"),
    [
        ("{", "is not valid JSON: line 1, column 2."),
        (f'{{\n  "api_key": "{KEY}"', "is not valid JSON: line 2, column 39."),
        ("[]", "does not hold a JSON object."),
        (f'"{KEY}"', "does not hold a JSON object."),
        ("null", "does not hold a JSON object."),
        ("[" * 100_000, "is not valid JSON."),
    ],
)
def test_a_config_file_that_cannot_be_read_is_an_error_and_not_an_empty_one(text: str, why: str) -> None:
    assert refusal(text) == f"RunAPI's config file (runapi/config.json) {why}"


UNREADABLE = UnreadableFile("Permission denied")


@pytest.mark.parametrize(
    ("broken", "why"),
    [("{", "is not valid JSON: line 1, column 2."), (UNREADABLE, "can't be read: Permission denied.")],
)
def test_a_config_file_that_can_not_be_used_is_named_with_what_to_mend_and_nobody_draws_in_its_stead(
    broken: ConfigText, why: str
) -> None:
    for mode in ("", "auto", "live"):
        with pytest.raises(SettingsError) as caught:
            from_env(HOME | {"XDG_CONFIG_HOME": "/x", "RUNAPI_KEY": KEY, "FLUX2_MODE": mode}, broken)
        assert caught.value.message == f"RunAPI's config file ({Path('/x/runapi/config.json')}) {why}"
        assert caught.value.next_step.startswith("Mend the file, or set RUNAPI_API_KEY, or FLUX2_MODE=sandbox")


@pytest.mark.parametrize("broken", ["{", "[]", UNREADABLE])
def test_the_sandbox_that_was_asked_for_needs_no_config_file(broken: ConfigText) -> None:
    sandbox = {"FLUX2_MODE": "sandbox"}
    assert from_env(HOME | sandbox, broken) == from_env(HOME | sandbox)


def test_a_key_that_goes_before_the_config_file_does_not_need_to_read_it() -> None:
    assert from_env(HOME | {"RUNAPI_API_KEY": KEY}, UNREADABLE) == told(RUNAPI_API_KEY=KEY)


@rows(("key", "shown"), [(KEY, "****cdef"), ("0123456789ab", "****89ab"), ("0123456789a", "****"), ("", "****")])
def test_of_a_key_the_last_four_characters_are_shown_and_of_a_short_one_none(key: str, shown: str) -> None:
    assert masked(key) == shown


def test_an_empty_config_file_is_as_if_there_were_none() -> None:
    assert from_env(HOME, " \n") == from_env(HOME)


@rows(
    ("env", "path"),
    [
        ({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/runapi/config.json"),
        ({"XDG_CONFIG_HOME": " ", "HOME": "/h"}, "/h/.config/runapi/config.json"),
        ({"HOME": "", "USERPROFILE": "/u"}, "/u/.config/runapi/config.json"),
        ({}, None),
    ],
)
def test_the_config_file_is_where_runapis_own_tools_keep_it(env: dict[str, str], path: str | None) -> None:
    assert config_file(env) == (None if path is None else Path(path))


# --- the mode ---


@rows("key", [None, KEY])
@rows("mode", [None, "auto", "live", "sandbox", " SandBox "])
def test_the_sandbox_is_entered_when_forced_or_for_want_of_a_key_and_never_else(
    mode: str | None, key: str | None
) -> None:
    env = ({} if mode is None else {"FLUX2_MODE": mode}) | ({} if key is None else {"RUNAPI_API_KEY": key})
    expected = {
        (None, None): "sandbox",
        (None, KEY): "live",
        ("auto", None): "sandbox",
        ("auto", KEY): "live",
        ("live", None): "live",
        ("live", KEY): "live",
        ("sandbox", None): "sandbox",
        ("sandbox", KEY): "sandbox",
        (" SandBox ", None): "sandbox",
        (" SandBox ", KEY): "sandbox",
    }
    assert told(**env).mode == expected[mode, key]


def test_a_key_in_the_config_file_alone_is_enough_to_go_live() -> None:
    assert from_env(HOME, json.dumps({"api_key": KEY})).mode == "live"


@pytest.mark.parametrize(
    ("name", "allowed"), [("FLUX2_MODE", "auto, live, sandbox"), ("FLUX2_LOG", "debug, info, warning, error")]
)
def test_an_unknown_choice_is_refused_with_the_choices(name: str, allowed: str) -> None:
    assert refusal(**{name: "test"}) == f"{name} must be one of {allowed}."


# --- where RunAPI stands ---


@rows(
    ("text", "base_url"),
    [
        ("https://runapi.ai", "https://runapi.ai"),
        ("https://runapi.ai/", "https://runapi.ai"),
        (" https://api.example.com:8443/v1/ ", "https://api.example.com:8443/v1"),
        ("HTTPS://Example.com", "HTTPS://Example.com"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.8.9.10:1", "http://127.8.9.10:1"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("http://LOCALHOST", "http://LOCALHOST"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_base_url_is_https_anywhere_or_http_on_loopback(text: str, base_url: str) -> None:
    assert told(RUNAPI_BASE_URL=text).base_url == base_url


@rows(
    "text",
    [
        *("http://runapi.ai", "http://127.0.0.1.example.com", "http://localhost.example.com", "http://0.0.0.0"),
        *("ftp://runapi.ai", "runapi.ai", "//runapi.ai", "https://", "https:///path", "https:runapi.ai", "-"),
        *("https://ada@runapi.ai", "https://ada:pw@runapi.ai", "https://:pw@runapi.ai", "https://@runapi.ai"),
        *("https://runapi.ai?x=1", "https://runapi.ai/#f", "https://runapi.ai/?", "https://runapi.ai/#"),
        *("https://run api.ai", "https://runapi.ai/a b", "https://run\napi.ai", "https://runapi.ai/\x7f"),
    ],
)
def test_a_base_url_that_would_give_the_key_away_or_lead_nowhere_is_refused(text: str) -> None:
    assert refusal(RUNAPI_BASE_URL=text) == (
        "RUNAPI_BASE_URL must be https://host[:port][/path], or http:// on loopback: the key travels with each call."
    )


@pytest.mark.parametrize("text", ["https://runapi.ai:99999", "https://runapi.ai:x", "https://[::1"])
def test_what_cannot_even_be_taken_apart_is_no_url(text: str) -> None:
    assert refusal(RUNAPI_BASE_URL=text) == "RUNAPI_BASE_URL is not a URL."


@rows("text", ["http://runapi.ai", "runapi.ai", "https://runapi.ai:x", "https://ada:pw@runapi.ai"])
def test_an_address_of_the_config_file_that_can_not_be_used_names_the_file_and_shows_nothing_of_it(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_env(HOME, json.dumps({"api_key": KEY, "baseUrl": text}))
    assert caught.value.message.startswith("RunAPI's config file (")
    assert " has a base_url that can't be used: it must be https://host[:port][/path]" in caught.value.message
    assert "or set RUNAPI_BASE_URL" in caught.value.next_step
    assert text not in str(caught.value)
    assert caught.value.setting is None


def test_the_sandbox_that_was_asked_for_needs_no_address_of_runapis() -> None:
    sandbox = {"FLUX2_MODE": "sandbox"}
    assert from_env(HOME | sandbox | {"RUNAPI_BASE_URL": "runapi"}) == from_env(HOME | sandbox)
    assert from_env(HOME | sandbox, json.dumps({"base_url": "http://runapi.ai"})) == from_env(HOME | sandbox)


@rows(
    ("env", "config", "base_url"),
    [
        ({"RUNAPI_BASE_URL": "https://a"}, {"base_url": "https://b", "baseUrl": "https://c"}, "https://a"),
        ({}, {"base_url": "https://b", "baseUrl": "https://c"}, "https://b"),
        ({"RUNAPI_BASE_URL": " "}, {"baseUrl": "https://c"}, "https://c"),
        ({}, {"base_url": " "}, BASE_URL),
    ],
)
def test_the_environments_base_url_goes_before_the_config_files(
    env: dict[str, str], config: dict[str, str], base_url: str
) -> None:
    assert from_env(HOME | env, json.dumps(config)).base_url == base_url


def test_the_address_of_a_teams_server_goes_with_the_token_beside_it_and_with_no_other_key() -> None:
    config = json.dumps({"api_key": "flux2_token", "base_url": "https://team.example.com", "flux2_team": True})
    theirs, own = from_env(HOME, config), from_env(HOME | {"RUNAPI_API_KEY": "sk-run-own"}, config)
    assert (theirs.api_key, theirs.base_url) == ("flux2_token", "https://team.example.com")
    assert (own.api_key, own.base_url) == ("sk-run-own", BASE_URL)


@rows(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LocalHost.", True),
        ("localhost..", False),
        ("127.0.0.1", True),
        ("127.255.0.3", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104  # nothing listens here
        ("::", False),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("localhost.example.com", False),
        ("127.1", False),
        ("2130706433", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback_is_what_is_plainly_written_as_loopback(host: str | None, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


# --- the home ---


@rows("path", ["flux2", "./flux2", "~ada/flux2", "../x"])
def test_a_home_that_depends_on_where_the_process_starts_is_refused(path: str) -> None:
    assert refusal(FLUX2_HOME=path).startswith("FLUX2_HOME must be an absolute path")


def test_without_a_home_it_is_the_platforms_user_data_folder() -> None:
    default = Path(platformdirs.user_data_dir("flux2-mcp", appauthor=False))
    assert from_env({}).home == default
    assert from_env({"FLUX2_HOME": " "}).home == default
    assert default.is_absolute()


# --- numbers ---


@rows(
    ("name", "attribute", "low", "high", "shown"),
    [
        ("FLUX2_WAIT_SECONDS", "wait_seconds", 0.0, 900.0, "0 to 900"),
        ("FLUX2_RATE", "rate", 0.1, 1000.0, "0.1 to 1000"),
        ("FLUX2_MAX_IN_FLIGHT", "in_flight", 1, 10_000, "1 to 10000"),
        ("FLUX2_SANDBOX_SPEED", "sandbox_speed", 0.01, 10_000.0, "0.01 to 10000"),
    ],
)
def test_numbers_are_taken_within_their_bounds_and_refused_beyond(
    name: str, attribute: str, low: float, high: float, shown: str
) -> None:
    assert getattr(told(**{name: str(low)}), attribute) == low
    assert getattr(told(**{name: str(high)}), attribute) == high
    for text in (str(low - 0.001), str(high + 1), "-1", "nan", "inf", "-inf", "ten", "1,5", "0x10", "1e9", "5 s"):
        assert refusal(**{name: text}) == f"{name} must be a number from {shown}."


def test_a_wait_of_nothing_is_not_the_default_wait() -> None:
    assert told(FLUX2_WAIT_SECONDS="0").wait_seconds == 0.0


@pytest.mark.parametrize(
    ("name", "attribute"), [("FLUX2_MAX_IN_FLIGHT", "in_flight"), ("FLUX2_CALLBACK_PORT", "callback_port")]
)
def test_a_number_of_things_is_whole(name: str, attribute: str) -> None:
    env = {"FLUX2_CALLBACK_URL": "https://example.com"} if name == "FLUX2_CALLBACK_PORT" else {}
    assert refusal(**env, **{name: "2.5"}) == f"{name} must be a whole number."
    assert getattr(told(**env, **{name: "2.0"}), attribute) == 2


# --- callbacks ---


@pytest.mark.parametrize("url", ["https://example.com", "https://example.com:8443/a/b", "http://203.0.113.7/hook"])
def test_a_callback_address_is_any_web_address_with_a_port_of_ours_behind_it(url: str) -> None:
    found = told(FLUX2_CALLBACK_URL=url, FLUX2_CALLBACK_PORT="1")
    assert (found.callback_url, found.callback_port) == (url, 1)


@rows(
    "url",
    [
        *("example.com", "ftp://example.com", "https://", "https:///a", "https://[::1", "https://a:b", "https://a b/"),
        *("https://a:99999", "http://", "https://a/\x00", "//example.com"),
    ],
)
def test_a_callback_address_that_nobody_could_call_is_refused(url: str) -> None:
    assert refusal(FLUX2_CALLBACK_URL=url, FLUX2_CALLBACK_PORT="8765") == (
        "FLUX2_CALLBACK_URL must be an http or https URL that RunAPI can reach."
    )


@pytest.mark.parametrize("env", [{"FLUX2_CALLBACK_URL": "https://example.com"}, {"FLUX2_CALLBACK_PORT": "8765"}])
def test_a_callback_address_and_its_port_go_together(env: dict[str, str]) -> None:
    assert refusal(**env) == "FLUX2_CALLBACK_URL and FLUX2_CALLBACK_PORT go together: one leads to the other."


@rows("port", ["0", "65536", "-1", "http"])
def test_a_callback_port_is_a_port(port: str) -> None:
    assert refusal(FLUX2_CALLBACK_URL="https://example.com", FLUX2_CALLBACK_PORT=port) == (
        "FLUX2_CALLBACK_PORT must be a number from 1 to 65535."
    )


# --- caps ---

CAPS = {
    "FLUX2_MAX_COST_USD": "call_usd",
    "FLUX2_SESSION_BUDGET_USD": "session_usd",
    "FLUX2_DAILY_BUDGET_USD": "daily_usd",
    "FLUX2_MONTHLY_BUDGET_USD": "monthly_usd",
    "FLUX2_PERSON_DAILY_BUDGET_USD": "person_daily_usd",
    "FLUX2_PERSON_MONTHLY_BUDGET_USD": "person_monthly_usd",
}


@rows("name", CAPS)
@rows(("text", "usd"), [("0", "0"), ("0.50", "0.5"), ("$12.34", "12.34"), (".5", "0.5"), ("1e2", "100")])
def test_a_cap_is_an_exact_amount_and_nothing_is_a_cap_too(name: str, text: str, usd: str) -> None:
    assert told(**{name: text}).caps == Caps(**{CAPS[name]: Decimal(usd)})


@rows("name", CAPS)
@rows(
    "text", ["none", "off", "unlimited", "-1", "-0.01", "1,50", "5 USD", "€5", "$", "$$5", "nan", "sNaN", "inf", "--"]
)
def test_a_cap_that_cannot_be_read_is_never_a_cap_that_is_not_there(name: str, text: str) -> None:
    assert refusal(**{name: text}) == f"{name} must be an amount in USD, such as 0.50."


# --- anything at all ---

NAMES = st.sampled_from(
    [
        *("RUNAPI_API_KEY", "RUNAPI_KEY", "RUNAPI_BASE_URL", "FLUX2_HOME", "FLUX2_MODE", "FLUX2_LOG", *CAPS),
        *("FLUX2_WAIT_SECONDS", "FLUX2_RATE", "FLUX2_MAX_IN_FLIGHT", "FLUX2_SANDBOX_SPEED"),
        *("FLUX2_CALLBACK_URL", "FLUX2_CALLBACK_PORT"),
    ]
)
VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["auto", "live", "/tmp", "https://runapi.ai", "http://[", "https://[v1.x]", "http://127.0.0.1:0"]),  # noqa: S108  # a path as good as any
    st.decimals().map(str),
    st.floats().map(str),
    st.text("0123456789.eE+-_$ \u0663", max_size=12),
)


@rows(
    ("env", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, False),  # that one would write to stdout
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
    ],
)
def test_spans_are_sent_where_opentelemetrys_own_variables_ask_for_them(env: dict[str, str], *, wanted: bool) -> None:
    assert told(**env).telemetry is wanted


@settings(max_examples=4 * settings().max_examples)
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.none() | st.text(max_size=20))
def test_whatever_the_environment_holds_it_is_settings_or_a_settings_error(
    env: dict[str, str], config_text: str | None
) -> None:
    try:
        found = from_env(HOME | env, config_text)
    except SettingsError:
        return
    assert found.home.is_absolute()
    assert 0.1 <= found.rate <= 1000
    assert 1 <= found.in_flight <= 10_000
    if said(env.get("FLUX2_MODE")) is None:
        assert found.mode == ("sandbox" if found.api_key is None else "live")
    for name, attribute in CAPS.items():
        cap = getattr(found.caps, attribute)
        assert (cap is None) == (said(env.get(name)) is None)
        assert cap is None or (cap.is_finite() and cap >= 0)


@given(st.dictionaries(st.sampled_from(["api_key", "apiKey", "base_url", "baseUrl", "name"]), st.text(max_size=12)))
def test_whatever_the_config_file_holds_it_is_settings_or_a_settings_error(config: dict[str, str]) -> None:
    try:
        found = from_env(HOME, json.dumps(config))
    except SettingsError:
        return
    assert found.base_url.lower().startswith(("https://", "http://"))


def test_a_login_may_listen_while_its_own_key_is_used_and_the_variable_goes_before_it() -> None:
    text = json.dumps({"api_key": KEY, "flux2_listen": True})

    def listens(**env: str) -> bool:
        return from_env(HOME | env, text).listen

    assert listens()
    assert not listens(FLUX2_LISTEN="0")
    assert not listens(RUNAPI_API_KEY="another")
    assert listens(RUNAPI_API_KEY="another", FLUX2_LISTEN="1")
    for other in (json.dumps({"api_key": KEY}), json.dumps({"api_key": KEY, "flux2_listen": "yes"})):
        assert not from_env(HOME, other).listen
    assert refusal(FLUX2_LISTEN="yes") == "FLUX2_LISTEN must be one of 0, 1."


@rows(
    "url",
    [
        "mysql://ada:secret@db/flux2",
        "postgresql://ada:sec/ret@db/flux2",
        "postgresql://ada:sec@ret@db/flux2",
        "postgresql://ada:sec ret@db/flux2",
        "postgresql://ada:sec#ret@db/flux2",
        "secret",
    ],
)
def test_an_address_of_the_journal_in_which_a_part_of_a_password_could_be_shown_is_refused_unseen(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        told(FLUX2_JOURNAL_URL=url)
    assert caught.value.setting == "FLUX2_JOURNAL_URL"
    assert not {"secret", "sec", "ret"} & set(re.findall(r"\w+", f"{caught.value} {caught.value.next_step}"))


@pytest.mark.parametrize(
    "url",
    ["postgresql:///flux2", "postgres://db", "postgresql://ada:a%40b@[::1]:5432,db2:5433/flux2?sslmode=verify-full"],
)
def test_the_address_of_the_journal_is_any_that_postgresql_itself_reads_and_stands_in_no_repr(url: str) -> None:
    assert told(FLUX2_JOURNAL_URL=url).journal_url == url
    assert url not in repr(told(FLUX2_JOURNAL_URL=url))


@rows(
    "url",
    [
        "s3://ada:secret@pictures",
        "s3://pictures?secret=1",
        "s3://pictures/#secret",
        "s3://pictures/../secret",
        "s3://pictures//secret",
        "s3://",
        "https://secret.example.com/pictures",
        "file://secret/pictures",
        "secret/pictures",
        "secret",
    ],
)
def test_a_store_of_images_that_is_none_or_holds_a_key_is_refused_unseen(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        told(FLUX2_IMAGES_URL=url)
    assert caught.value.setting == "FLUX2_IMAGES_URL"
    assert "secret" not in f"{caught.value} {caught.value.next_step}"


@rows(
    ("url", "wanted"),
    [
        ("s3://my.pictures/team/one/", None),
        ("gs://pictures", None),
        ("az://pictures/team", None),
        ("/srv/pictures", "/srv/pictures"),
        ("file:///srv/my%20pictures", "/srv/my pictures"),
        ("file://localhost/srv/pictures", "/srv/pictures"),
        ("~/pictures", "/home/ada/pictures"),
    ],
)
def test_the_store_of_images_is_a_bucket_with_a_prefix_or_a_folder(url: str, wanted: str | None) -> None:
    assert told(HOME="/home/ada", FLUX2_IMAGES_URL=url).images_url == (wanted or url)


@rows(
    ("scheme", "name"),
    [
        ("s3", "AWS_ENDPOINT_URL"),
        ("s3", "AWS_ENDPOINT_URL_S3"),
        ("s3", "AWS_ENDPOINT"),
        ("s3", "AWS_ENDPOINT_URL_STS"),
        ("gs", "GOOGLE_BASE_URL"),
        ("az", "AZURE_STORAGE_ENDPOINT"),
        ("az", "AZURITE_BLOB_STORAGE_URL"),
    ],
)
def test_a_store_of_images_is_reached_by_plain_http_on_loopback_alone(scheme: str, name: str) -> None:
    url = f"{scheme}://pictures"
    assert told(FLUX2_IMAGES_URL=url, **{name: "http://127.0.0.1:9000"}).images_over_http
    assert not told(FLUX2_IMAGES_URL=url, **{name: "https://store.example.com"}).images_over_http
    with pytest.raises(SettingsError, match=f"^{name} must be https") as caught:
        told(FLUX2_IMAGES_URL=url, **{name: "http://ada:secret@store.example.com"})
    assert caught.value.setting == name
    assert "secret" not in f"{caught.value} {caught.value.next_step}"
    # Without a store, or with another, what other programs are told is no business of ours.
    other = "gs" if scheme == "s3" else "s3"
    for more in ({}, {"FLUX2_IMAGES_URL": "/srv/pictures"}, {"FLUX2_IMAGES_URL": f"{other}://pictures"}):
        assert not told(**more, **{name: "http://store.example.com"}).images_over_http


def test_a_team_is_told_whom_to_let_in_and_one_person_has_no_team() -> None:
    assert (told().sign_in, told().trusted_proxies, told().seal_keys) == (None, (), ())
    assert told(FLUX2_OIDC_GROUP="designers").sign_in is None
    assert told(FLUX2_OIDC_ISSUER="https://sso.example.com/").sign_in == SignIn(issuer="https://sso.example.com/")
    found = told(
        FLUX2_OIDC_ISSUER="http://127.0.0.1:8080/realms/team",
        FLUX2_OIDC_AUDIENCE="api://flux2",
        FLUX2_OIDC_SCOPES=" flux2  flux2:spend ",
        FLUX2_OIDC_GROUP="designers",
        FLUX2_OIDC_ADMIN_GROUP="admins",
        FLUX2_OIDC_GROUPS_CLAIM="roles",
        FLUX2_TRUSTED_PROXIES="10.0.0.1, 192.168.0.0/16 2001:db8::/32",
        FLUX2_SEAL_KEY=f"{'n' * 32} {'o' * 40}",
    )
    assert found.sign_in == SignIn(
        issuer="http://127.0.0.1:8080/realms/team",
        audience="api://flux2",
        scopes=("flux2", "flux2:spend"),
        group="designers",
        admin_group="admins",
        groups_claim="roles",
    )
    assert found.trusted_proxies == tuple(map(ip_network, ("10.0.0.1/32", "192.168.0.0/16", "2001:db8::/32")))
    assert found.seal_keys == ("n" * 32, "o" * 40)
    assert "nnnn" not in repr(found)


@rows(
    "issuer",
    ["http://sso.example.com", "sso.example.com", "https://sso.example.com?a=1", "https://a:b@sso.example.com"],
)
def test_an_issuer_whose_keys_could_be_forged_on_the_way_is_refused(issuer: str) -> None:
    assert refusal(FLUX2_OIDC_ISSUER=issuer).startswith("FLUX2_OIDC_ISSUER must be https://")


def test_what_a_team_can_not_use_is_refused_by_name_and_no_secret_is_shown() -> None:
    assert "must list addresses" in refusal(FLUX2_TRUSTED_PROXIES="10.0.0.0/33")
    assert "at least 32 characters" in (said := refusal(FLUX2_SEAL_KEY="short-secret"))
    assert "short-secret" not in said
    assert "must list scopes" in refusal(FLUX2_OIDC_ISSUER="https://sso.example.com", FLUX2_OIDC_SCOPES='a"b')
