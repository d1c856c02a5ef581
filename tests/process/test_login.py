"""`login` and `logout` as people meet them: real processes on real terminals, and the sandbox as the service."""

from __future__ import annotations

import json
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.system.logs import masked
from tests.process.conftest import Here
from tests.support.sandboxed import TLS
from tests.support.terminal import DEADLINE, Terminal, flux2_mcp, on_terminal

# A browser as far as a login needs one: it opens the address, presses the button, and goes where it is sent.
BROWSER = """
import pathlib, re, ssl, sys, httpx2
with httpx2.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), follow_redirects=True, timeout=60) as http:
    page = http.get(sys.argv[2])
    found = re.search(r'name="id" value="([^"]+)"', page.text)
    back = http.post(page.url.join("/cli/authorize"), data={"id": found[1], "answer": "allow"})
pathlib.Path(sys.argv[1]).write_text(back.text)
"""
EMAIL = "sandbox@example.invalid"


@pytest.fixture
def runapi(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "elsewhere", speed=1000) as sandbox:
        yield sandbox


@pytest.fixture
def env(clean_env: dict[str, str], runapi: Sandbox) -> dict[str, str]:
    """No key, RunAPI on loopback, a terminal, and the browser on another computer."""
    return clean_env | {
        "RUNAPI_BASE_URL": runapi.base_url,
        "TERM": "xterm",
        "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22",
    }


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "user" / ".config" / "runapi" / "config.json"


def written(config: Path, text: str) -> None:
    config.parent.mkdir(parents=True)
    config.write_text(text, "utf-8")


def address(terminal: Terminal) -> str:
    """The address that the terminal shows, once it waits."""
    terminal.until("Ctrl-C stops.")
    found = re.search(r"http://\S+/cli/authorize\?\S+", terminal.seen)
    assert found
    return found[0]


def allowed(url: str, answer: str = "allow") -> str:
    """Where the browser is sent back to, which it can't reach: it is on another computer."""
    with httpx2.Client(verify=TLS, timeout=DEADLINE) as http:
        page = http.get(url)
        found = re.search(r'name="id" value="([^"]+)"', page.text)
        assert found
        back = http.post(page.url.join("/cli/authorize"), data={"id": found[1], "answer": answer})
    return back.headers["Location"]


# --- the browser on this computer ---


def test_the_browser_opens_comes_back_and_the_key_is_saved_proven_and_shown_nowhere(
    env: dict[str, str], config: Path, runapi: Sandbox, tmp_path: Path
) -> None:
    script, page = tmp_path / "browser.py", tmp_path / "page.html"
    script.write_text(BROWSER)
    browser = shlex.join([sys.executable, str(script), str(page)]) + " %s"
    local = env | {"BROWSER": browser, "SSH_CONNECTION": "", "FLUX2_LOG": "debug"}
    with on_terminal(local, "login") as terminal:
        code, out = terminal.end()
    assert code == 0
    assert out == (f"Logged in as {EMAIL}: {masked(runapi.api_key)}, balance $100.00.\nSaved in {config}.\n")
    assert json.loads(config.read_text("utf-8")) == {"api_key": runapi.api_key}
    assert (config.stat().st_mode & 0o777, config.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert "You are logged in" in page.read_text("utf-8")
    assert runapi.api_key not in terminal.seen + out + page.read_text("utf-8")
    shown = parse_qs(urlsplit(address(terminal)).query)
    assert f"    \x1b[1m{shown['display_code'][0]}\x1b[0m\r\n" in terminal.seen
    assert shown["hostname"] == [socket.gethostname()]
    # The key is one of the service that the environment names, and the file does not.
    assert f"It is a key of {runapi.base_url}: keep RUNAPI_BASE_URL set" in terminal.seen


def test_a_browser_that_can_not_be_opened_is_told_and_waited_for_all_the_same(env: dict[str, str]) -> None:
    with on_terminal(env | {"BROWSER": "false %s", "SSH_CONNECTION": ""}, "login") as terminal:
        terminal.until("No browser could be opened here: open the address above yourself.")
        with httpx2.Client(verify=TLS, timeout=DEADLINE) as http:
            assert "You are logged in" in http.get(allowed(address(terminal))).text
        assert terminal.end()[0] == 0


# --- the browser on another one ---


@pytest.mark.parametrize(
    "pasted",
    [pytest.param("{url}", marks=pytest.mark.deep), "{code}", ' "{url}" '],
    ids=["address", "code", "quoted"],
)
def test_over_ssh_the_address_or_the_code_is_pasted_and_no_browser_opens(
    pasted: str, env: dict[str, str], config: Path, runapi: Sandbox, tmp_path: Path
) -> None:
    opened = tmp_path / "opened"
    with on_terminal(env | {"BROWSER": f"touch {opened} %s"}, "login", typing=True) as terminal:
        url = allowed(address(terminal))
        assert "A browser opens" not in terminal.seen
        terminal.keys("what is this?\n")
        terminal.until("That is not this login's address, nor a code.")
        terminal.keys(re.sub("state=[^&]+", "state=another", url) + "\n")
        terminal.until("Paste it again, whole:\r\nhttp")
        terminal.keys(pasted.format(url=url, code=parse_qs(urlsplit(url).query)["code"][0]) + "\n")
        code, out = terminal.end()
    assert (code, out.partition(":")[0]) == (0, f"Logged in as {EMAIL}")
    assert json.loads(config.read_text("utf-8")) == {"api_key": runapi.api_key}
    assert not opened.exists()


def test_a_code_that_opens_nothing_is_2_and_nothing_is_saved(env: dict[str, str], config: Path) -> None:
    with on_terminal(env, "login", typing=True) as terminal:
        terminal.keys(f"{parse_qs(urlsplit(allowed(address(terminal))).query)['code'][0]}x\n")
        assert terminal.end() == (2, "")
    assert "the code is spent or too old" in terminal.seen
    assert "Start again with flux2-mcp login" in terminal.seen
    assert not config.exists()


def test_a_refusal_is_2_in_words_that_can_do_nothing_to_the_terminal(env: dict[str, str], config: Path) -> None:
    with on_terminal(env, "login", typing=True) as terminal:
        terminal.keys(allowed(address(terminal), "deny") + "\n")
        assert terminal.end() == (2, "")
    assert "RunAPI did not give leave: The login was denied." in terminal.seen
    with on_terminal(env, "login") as terminal, httpx2.Client(verify=TLS, timeout=DEADLINE) as http:
        asked = parse_qs(urlsplit(address(terminal)).query)
        told = {"error": "x", "error_description": "\x1b[2Jgone\x07", "state": asked["state"][0]}
        http.get(f"http://127.0.0.1:{asked['redirect_port'][0]}/callback", params=told)
        assert terminal.end() == (2, "")
    assert "RunAPI did not give leave: [2Jgone\r\n" in terminal.seen
    assert not config.exists()


# --- when nobody comes ---


def test_a_browser_that_never_comes_back_is_5(here: Here, runapi: Sandbox, config: Path) -> None:
    code, out, err = here("login", "--no-browser", "--timeout", "1", RUNAPI_BASE_URL=runapi.base_url)
    assert (code, out) == (5, "")
    assert "Error: The browser did not come back within 1 seconds.\n" in err
    assert not config.exists()


def test_ctrl_c_stops_the_waiting_and_frees_the_port(env: dict[str, str], config: Path) -> None:
    with on_terminal(env, "login", typing=True) as terminal:
        port = int(parse_qs(urlsplit(address(terminal)).query)["redirect_port"][0])
        terminal.keys("\x03")
        assert terminal.end() == (130, "")
    assert terminal.seen.endswith("Stopped. Nobody waits for the browser any more.\r\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
    assert not config.exists()


def test_a_port_that_is_taken_is_told_and_one_that_is_free_is_used(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = flux2_mcp(env, "login", "--port", str(port))
    assert (done.returncode, done.stdout) == (4, "")
    assert f"Error: --port: {port} of 127.0.0.1 can't be listened on: Address already in use" in done.stderr
    with on_terminal(env, "login", "--port", str(port)) as terminal:
        assert f"redirect_port={port}&" in address(terminal)
        terminal.keys("\x03")
        assert terminal.end() == (130, "")


# --- from standard input ---


Given = Callable[..., tuple[int, str, str]]


@pytest.fixture
def given(here: Here, runapi: Sandbox) -> Given:
    def run(key: str, **env: str) -> tuple[int, str, str]:
        code, out, err = here("login", "--stdin", given=key, **{"RUNAPI_BASE_URL": runapi.base_url} | env)
        assert not key.strip() or key.strip() not in out + err
        return code, out, err

    return run


def test_listening_is_noted_beside_the_key_and_ends_with_the_login(
    env: dict[str, str], config: Path, runapi: Sandbox
) -> None:
    key = f"{runapi.api_key}\n"
    written(config, '{"theme": "dark"}')
    for argv, kept in ((["--listen"], {"flux2_listen": True}), ([], {})):
        assert flux2_mcp(env, "login", "--stdin", *argv, given=key).returncode == 0
        assert json.loads(config.read_text("utf-8")) == {"theme": "dark", "api_key": runapi.api_key} | kept
    flux2_mcp(env, "login", "--stdin", "--listen", given=key)
    assert flux2_mcp(env, "logout").returncode == 0
    assert json.loads(config.read_text("utf-8")) == {"theme": "dark"}


def test_a_key_from_standard_input_is_proven_and_then_saved(env: dict[str, str], config: Path, runapi: Sandbox) -> None:
    written(config, '{"theme": "dark", "apiKey": "older"}')
    done = flux2_mcp(env, "login", "--stdin", given=f"{runapi.api_key}\n")
    assert done.returncode == 0
    assert runapi.api_key not in done.stdout + done.stderr
    assert done.stdout == f"The key works: {masked(runapi.api_key)}, balance $100.00.\nSaved in {config}.\n"
    assert json.loads(config.read_text("utf-8")) == {"theme": "dark", "api_key": runapi.api_key}


@pytest.mark.parametrize(
    ("key", "code", "words"),
    [
        ("canary-5d1c9b7e\n", 2, "RunAPI answered 401: Invalid API key"),
        ("", 4, "standard input: holds no key"),
        ("one\ntwo\n", 4, "standard input: holds no key"),
        ("k" * 5000, 4, "standard input: holds no key"),
        ("ca\u00f1ary", 4, "standard input: holds no key"),
    ],
    ids=["wrong", "nothing", "two lines", "endless", "no ascii"],
)
def test_what_is_no_key_or_a_wrong_one_is_not_saved(
    key: str, code: int, words: str, given: Given, config: Path
) -> None:
    written(config, '{"api_key": "old"}')
    found, out, err = given(key)
    assert (found, out, words in err) == (code, "", True)
    assert config.read_text("utf-8") == '{"api_key": "old"}'


def test_a_key_that_is_typed_is_not_shown(env: dict[str, str], config: Path, runapi: Sandbox) -> None:
    with on_terminal(env, "login", "--stdin", typing=True) as terminal:
        terminal.until("The key (not shown): ")
        terminal.keys(f"{runapi.api_key}\n")
        assert terminal.end()[0] == 0
    assert runapi.api_key not in terminal.seen
    assert json.loads(config.read_text("utf-8")) == {"api_key": runapi.api_key}


# --- the file, and what goes before it ---


@pytest.mark.parametrize("command", [["login"], ["login", "--stdin"], ["logout"]])
@pytest.mark.parametrize("mode", ["auto", "sandbox"])
def test_a_file_that_does_not_parse_is_left_alone_and_named(
    command: list[str], mode: str, here: Here, config: Path
) -> None:
    written(config, '{"api_key": "canary-5d1c9b7e",')
    code, out, err = here(*command, FLUX2_MODE=mode)
    assert (code, out) == (4, "")
    assert f"Error: RunAPI's config file ({config}) is not valid JSON: line 1, column 31.\n" in err
    assert "canary" not in err
    assert config.read_text("utf-8") == '{"api_key": "canary-5d1c9b7e",'


def test_logging_out_removes_the_key_alone_and_says_what_is_left(here: Here, config: Path) -> None:
    written(config, '{"theme": "dark", "api_key": "new", "apiKey": "older", "base_url": "https://b"}')
    assert here("logout", RUNAPI_KEY="k") == (
        0,
        f"The key is removed from {config}.\n",
        "RUNAPI_KEY is still set, and its key is used.\n",
    )
    assert json.loads(config.read_text("utf-8")) == {"theme": "dark", "base_url": "https://b"}
    assert here("logout") == (0, f"There is no key in {config}.\n", "")


def test_what_stands_between_a_new_key_and_its_use_is_told(given: Given, runapi: Sandbox, config: Path) -> None:
    written(config, json.dumps({"base_url": runapi.base_url}))
    _, _, err = given(runapi.api_key, RUNAPI_API_KEY="another")
    assert err == "RUNAPI_API_KEY is set and goes before it: unset it to use this key.\n"
    _, _, err = given(runapi.api_key, FLUX2_MODE="sandbox")
    assert err == "FLUX2_MODE is sandbox: unset it to make real images.\n"
    assert given(runapi.api_key)[2] == ""


def test_without_a_home_there_is_no_place_for_a_key(env: dict[str, str]) -> None:
    homeless = {name: value for name, value in env.items() if name != "HOME"}
    done = flux2_mcp(homeless, "login")
    assert (done.returncode, done.stdout) == (4, "")
    assert "Next: Set HOME or XDG_CONFIG_HOME.\n" in done.stderr
    assert flux2_mcp(homeless, "logout").stdout == "There is no key in any config file.\n"
