"""The command line as people meet it: real processes, real terminals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import click
import httpx2
import pytest
from mcp.client.client import Client
from msgspec.structs import replace
from PIL import Image
from runapi.core import AuthenticationError as VendorAuthenticationError
from runapi.core import PollingOptions
from runapi.flux_2 import Flux2Client

from flux2_mcp import __version__, errors
from flux2_mcp.cli import output
from flux2_mcp.cli.generate import AGAIN, AGAIN_PAID, generate
from flux2_mcp.cli.main import flux2
from flux2_mcp.cli.task_output import DRAWN_NOTICE, LATER, NO_CANCEL, WaitLine, bar, exit_code, waiting_on
from flux2_mcp.domain import catalog
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.models import Action
from flux2_mcp.engine.live_prices import PriceList
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import Outcome, Progress, TaskReport
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.app import build
from flux2_mcp.server.results import catalog as catalog_results
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.catalog import NO_MONEY
from flux2_mcp.server.results.tasks import JOINED_NOTICE
from flux2_mcp.settings import Settings, from_env
from tests.process.conftest import Here
from tests.support import forked
from tests.support.rows import rows
from tests.support.sandboxed import LOGO, TLS
from tests.support.stdio import patched
from tests.support.terminal import COMMAND, DEADLINE, Terminal, flux2_mcp, known, on_terminal, serving

SCREEN_LINES = 24
TALL = {"": 48, "generate": 40, "remix": 40, "serve": 40}
"""What has more to say than fits the smallest screen."""
PNG = r"\d{4}-\d{2}-\d{2}-[a-z-]+-[0-9a-f]{12}\.png"


def only_image(made: dict[str, Any]) -> dict[str, Any]:
    [[image]] = [task["images"] for task in made["tasks"]]
    assert isinstance(image, dict)
    return image


# --- generate: results ------------------------------------------------------------------------------------------------


def test_generate_prints_the_file_first_then_its_size_price_and_task(
    clean_env: dict[str, str], here: Here, tmp_path: Path
) -> None:
    done = flux2_mcp(clean_env, "generate", "a red fox in snow", "--aspect-ratio", "16:9")
    path, about, money, notice = done.stdout.splitlines()
    assert Path(path).parent == tmp_path / "home" / "images"
    assert re.fullmatch(PNG, Path(path).name)
    with Image.open(path) as picture:
        size = f"{picture.width} x {picture.height} px, {Path(path).stat().st_size / 1000:.0f} kB"
        assert picture.width * 9 == picture.height * 16
    [task] = json.loads(here("tasks", "--json")[1])["tasks"]
    assert about == f"  {size}, $0.05, task {task['task_id']}"
    assert (money, notice) == ("completed, quoted $0.05, would charge $0.05", DRAWN_NOTICE)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_url_is_shown_where_it_is_asked_for_and_never_the_sandboxes_own_that_dies_with_the_command(
    here: Here, tmp_path: Path
) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000) as runapi:
        env = {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        shown = [
            here("generate", "a red fox", "--save-to", "made/", *more, **env)[1].splitlines()
            for more in ((), ("--verbose",))
        ]
        saved, kept, _, url, _ = shown[1]
        assert only_image(json.loads(here("tasks", "--limit", "1", "--json", **env)[1]))["url"] == url.strip()
    assert [len(lines) for lines in shown] == [3, 5]
    assert shown[0][2] == "completed, quoted $0.05, charged $0.05"
    assert Path(saved).parent == tmp_path / "made"
    assert Path(kept).parent == tmp_path / "home/images"
    assert url.startswith(f"  {env['RUNAPI_BASE_URL']}/results/")
    for prompt in ("a red fox", "a red fox [sandbox:corrupt]"):  # with a file, and without
        assert "http" not in here("generate", prompt, "--verbose")[1] + here("tasks", "--json")[1]


def test_what_is_not_on_disk_is_shown_with_its_url_the_only_way_to_it(here: Here, tmp_path: Path) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000) as runapi:
        env = {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        code, out, _ = here("generate", "a red fox [sandbox:corrupt]", **env)
    assert code == 5
    assert out.startswith(f"  {env['RUNAPI_BASE_URL']}/results/")


LONG = "Generate a photorealistic studio portrait of an astronaut holding a cat, dramatic rim lighting, 8K detail."


def test_eight_images_are_twelve_lines_of_a_terminal_of_80_columns(clean_env: dict[str, str], here: Here) -> None:
    env = clean_env | {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    with on_terminal(env, "generate", LONG, "--count", "8", whole=True) as terminal:
        assert terminal.end() == (0, "")
    folder, *rows, money, notice = terminal.seen.rpartition("\r\x1b[K")[2].splitlines()
    # Two more are for the folder; how long its name is here depends on where the tests' files are.
    assert sum(-(-len(line) // 80) for line in (*rows, money, notice)) <= 10
    tasks = json.loads(here("tasks", "--json")[1])["tasks"]
    assert [row.split() for row in rows] == [
        [f"...{task['images'][0]['path'][-16:]}", "1024", "x", "1024", "$0.05", task["task_id"]]
        for task in reversed(tasks)
    ]
    assert {folder.removesuffix("...") + row.split()[0].removeprefix("...") for row in rows} == {
        task["images"][0]["path"] for task in tasks
    }
    assert (money, notice) == ("8 completed, quoted $0.40, would charge $0.40", DRAWN_NOTICE)


def test_names_that_fit_stand_whole_and_what_failed_stands_below_them(
    clean_env: dict[str, str], here: Here, tmp_path: Path
) -> None:
    foxes = json.loads(here("generate", "a red fox", "--count", "2", "--save-to", "made/fox.png", "--json")[1])
    failed = json.loads(here("generate", "a wolf [sandbox:moderation]", "--json")[1])
    ids = [task["task_id"] for made in (foxes, failed) for task in made["tasks"]]
    env = clean_env | {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    with on_terminal(env, "wait", *ids, whole=True) as terminal:
        assert terminal.end() == (7, "")
    assert terminal.seen.rpartition("\r\x1b[K")[2].splitlines() == [
        f"{tmp_path / 'made'}/",
        f"  fox-1.png  1024 x 1024  $0.05  {ids[0]}",
        f"  fox-2.png  1024 x 1024  $0.05  {ids[1]}",
        f"{ids[2]}: failed: The request was rejected by content moderation.",
        "2 completed, 1 failed, quoted $0.15, would charge $0.10",
        DRAWN_NOTICE,
    ]
    piped = here("wait", *ids)[1].splitlines()
    assert [line for line in piped if Path(line).is_file()] == [str(tmp_path / f"made/fox-{n}.png") for n in (1, 2)]


def test_json_is_the_tools_structured_form_and_the_same_key_is_the_same_task(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    # JSON is UTF-8, whatever the terminal speaks.
    env = clean_env | {"FLUX2_HOME": str(tmp_path / "zdjęcia é"), "PYTHONIOENCODING": "latin-1"}
    same = ("a red fox in snow", "--idempotency-key", "fox-1")
    done = flux2_mcp(env, "generate", *same, "--json", "--max-cost", "$0.05", encoding="utf-8")

    async def tool() -> object:
        async with Client(build(from_env(env))) as client:
            called = await client.call_tool("generate", {"prompt": same[0], "idempotency_key": same[2]})
            return called.structured_content

    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert known(printed) == known(anyio.run(tool))


def test_an_earlier_result_is_remixed_as_often_as_asked(here: Here) -> None:
    first = json.loads(here("generate", "a red fox in snow", "--json")[1])
    code, out, _ = here("generate", "at night", "--source", only_image(first)["path"], "--count", "2", "--json")
    made = json.loads(out)
    assert code == 0
    assert {(task["status"], task["model"]) for task in made["tasks"]} == {("completed", "flux-2-pro-remix-image")}
    files = {image["path"] for task in made["tasks"] for image in task["images"]}
    assert len({Path(path).read_bytes() for path in files}) == len({task["task_id"] for task in made["tasks"]}) == 2
    assert made["charged_usd"] == 0.1


def drawn(path: Path, color: str) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (256, 256), color).save(path)


def test_remix_takes_files_patterns_and_earlier_tasks_in_their_order(here: Here, tmp_path: Path) -> None:
    first = json.loads(here("generate", "a red fox in snow", "--json")[1])["tasks"][0]["task_id"]
    for name, color in (
        ("b.png", "red"),
        ("a.png", "blue"),
        ("1.png", "pink"),
        ("[1].png", "green"),
        ("more/c.png", "gray"),
    ):
        drawn(tmp_path / "cups" / name, color)
    code, out, err = here("remix", "at night", f"task:{first}", "cups/?.png", "cups/[1].png", "**/c.p*", "--json")
    [task] = json.loads(out)["tasks"]
    assert (code, err, task["status"], task["model"]) == (0, "", "completed", "flux-2-pro-remix-image")
    assert [source["source"] for source in task["sources"]] == [
        f"task:{first}", "cups/1.png", "cups/a.png", "cups/b.png", "cups/[1].png", "cups/more/c.png",
    ]  # fmt: skip


def test_remix_is_generate_by_another_spelling(here: Here, tmp_path: Path) -> None:
    drawn(tmp_path / "fox.png", "red")
    same = ("at night", "--count", "2", "--idempotency-key", "night", "--save-to", "made/", "--json")
    code, out, err = here("remix", *same, "fox.png")
    again = here("generate", *same, "--source", "fox.png")
    assert (code, err) == (0, "")
    made, joined = json.loads(out), json.loads(again[1])
    assert joined["tasks"] == made["tasks"]
    assert sorted(Path(task["images"][0]["saved"]).parent.name for task in made["tasks"]) == ["made", "made"]


def test_what_remix_can_not_use_is_told_by_its_own_words_and_is_4(here: Here, tmp_path: Path) -> None:
    drawn(tmp_path / "fox.png", "red")
    assert here("remix", "at night", "*.jpg", "fox.png", "http://a.example", "--aspect-ratio", "5:4") == (
        4,
        "",
        (
            'Error: --aspect-ratio: got "5:4"; allowed: 1:1, 4:3, 3:4, 16:9, 9:16, 3:2, 2:3, auto.\n'
            f"       FILE: item 1 ('*.jpg') can't be read: there is no such file in {tmp_path}.\n"
            "       FILE: item 3 ('http://a.example') is a URL that is not https, or not whole.\n"
            "Nothing was sent and nothing was charged.\n"
            "Next: Mend the arguments named above and run this again.\n"
        ),
    )


def test_what_can_not_be_shown_is_escaped_and_what_is_not_known_is_said_so(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    env = clean_env | {"FLUX2_HOME": str(tmp_path / "zdjęcia"), "PYTHONIOENCODING": "latin-1"}
    done = flux2_mcp(env, "generate", "a red fox [sandbox:no_usage]")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(str(tmp_path / r"zdj\u0119cia"))
    assert done.stdout.splitlines()[2] == "completed, quoted $0.05, charge not told by RunAPI"


# --- generate: what went wrong, and the exit code ---------------------------------------------------------------------


def test_a_wrong_key_is_2_and_is_shown_nowhere(here: Here, tmp_path: Path) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000) as runapi:
        code, out, err = here(
            "generate", "a red fox", RUNAPI_API_KEY="canary-5d1c9b7e", RUNAPI_BASE_URL=runapi.base_url
        )
    assert (code, out) == (2, "")
    assert err == (
        "Error: RunAPI answered 401: Invalid API key\n"
        "Nothing was charged.\n"
        "Next: Get a valid key: flux2-mcp login, or RUNAPI_API_KEY with a key from runapi.ai. Then run this again.\n"
    )


def test_insufficient_credits_are_3(here: Here) -> None:
    code, out, err = here("generate", "a red fox [sandbox:insufficient_credits]")
    assert (code, out) == (3, "")
    assert err == (
        "Error: RunAPI answered 402: Insufficient credits\n"
        "Nothing was charged.\n"
        "Next: Top up the RunAPI account, or choose a cheaper variant or resolution (flux2-mcp pricing).\n"
    )


def test_over_the_callers_own_cap_is_4_in_the_command_lines_words(here: Here) -> None:
    code, out, err = here("generate", "a red fox", "--max-cost", "0.04")
    assert (code, out) == (4, "")
    assert err == (
        "Error: The quote is $0.05 and --max-cost allows $0.04.\n"
        "Nothing was sent and nothing was charged.\n"
        "Next: Raise --max-cost, or ask for less.\n"
    )


def test_all_that_breaks_the_contract_is_told_at_once_and_is_4(here: Here, tmp_path: Path) -> None:
    broken = here("generate", "ox", "--variant", "max", "--output-resolution", "2k", "--source", "ox.png")
    remixes = [model for model in catalog.models().values() if model.action is Action.REMIX_IMAGE]
    in_2k = ", ".join(model.variant for model in remixes if "2k" in model.resolutions)
    assert broken == (
        4,
        "",
        (
            "Error: prompt: got 2 characters; max allows 3 to 5000.\n"
            "       --aspect-ratio: max needs it; allowed: 1:1, 4:3, 3:4, 16:9, 9:16, 3:2, 2:3.\n"
            f'       --output-resolution: got "2k"; allowed: 1k. Allowed by: {in_2k}.\n'
            f"       --source: item 1 ('ox.png') can't be read: there is no such file in {tmp_path}.\n"
            "Nothing was sent and nothing was charged.\n"
            "Next: Mend the arguments named above and run this again.\n"
        ),
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("generate", "Missing argument"),
        ("generate a-fox --foo", "No such option"),
        ("generate a lighthouse", "The prompt is one argument, in quotes: flux2-mcp generate"),
        ("generate a-fox --count 9", "'--count': 9 is not in the range"),
        ("generate a-fox --wait 901", "'--wait': 901.0 is not in the range"),
        ("generate a-fox --wait nan", "'--wait': that is not a number."),
        ("generate a-fox --max-cost nan", "'--max-cost': 'nan' is not an amount in USD"),
        ("generate a-fox --max-cost inf", "'--max-cost': 'inf' is not an amount in USD"),
        ("generate a-fox --max-cost -1", "'--max-cost': '-1' is not an amount in USD"),
        ("generate a-fox --max-cost 10001", "is not an amount in USD, such as 0.50, up to 10,000."),
        ("generate a-fox --max-cost much", "'--max-cost': 'much' is not an amount in USD"),
        ("generate a-fox --idempotency-key=", "'--idempotency-key': it must be 1 to 500 printable ASCII characters."),
        ("generate a-fox --idempotency-key=\xe9", "'--idempotency-key': it must be 1 to 500 printable ASCII"),
        (f"generate a-fox --idempotency-key={'k' * 501}", "'--idempotency-key': it must be 1 to 500 printable ASCII"),
        ("remix at-night", "Missing argument 'FILE...'"),
        ("remix at-night fox.png --source fox.png", "No such option '--source'"),
        ("pricing --action draw", "'draw' is not one of 'text_to_image', 'remix_image'"),
        ("sandbox --port 65536", "'--port': 65536 is not in the range"),
        ("--", "Missing command"),
    ],
)  # fmt: skip
def test_what_a_command_does_not_take_is_4_and_says_where_to_look(
    arguments: str, words: str, here: Here, tmp_path: Path
) -> None:
    code, out, err = here(*arguments.split(" "))
    assert (code, out, err.count("\n")) == (4, "", 2)
    command = "" if arguments == "--" else f" {arguments.partition(' ')[0]}"
    assert err.endswith(f"\nNext: flux2-mcp{command} --help shows what it takes.\n")
    assert err.startswith("Error: ")
    assert words in err
    assert not (tmp_path / "home").exists()


def test_an_unknown_command_is_4_and_coloured_on_terminals_alone(clean_env: dict[str, str], here: Here) -> None:
    code, out, err = here("generat")
    assert (code, out) == (4, "")
    assert err.startswith("Error: No such command 'generat'.")
    with on_terminal(clean_env | {"TERM": "xterm"}, "generat") as terminal:
        assert terminal.end() == (4, "")
    assert terminal.seen.startswith("\x1b[31m\x1b[1mError:\x1b[0m No such command 'generat'.")
    with on_terminal(clean_env | {"TERM": "xterm", "NO_COLOR": "1"}, "generat") as terminal:
        assert terminal.end() == (4, "")
    assert terminal.seen.replace("\r\n", "\n") == err


def test_a_wait_that_is_over_is_5_and_says_how_it_goes_on(here: Here) -> None:
    code, out, err = here("generate", "a red fox [sandbox:stuck]", FLUX2_WAIT_SECONDS="0")
    head, *rest = out.splitlines()
    assert (code, err) == (5, "")
    assert re.fullmatch(r"[0-9a-f-]{36}: pending", head)
    on = waiting_on(head.partition(":")[0])
    assert rest == ["processing, quoted $0.05, charge not known yet", LATER, on, AGAIN, DRAWN_NOTICE]
    code, out, err = here("generate", "a red fox [sandbox:stuck]", "--count", "2", "--wait", "0")
    assert (code, err) == (5, "")
    on = waiting_on(*(line.partition(":")[0] for line in out.splitlines()[:2]))
    assert out.splitlines()[2:] == [
        "2 pending, quoted $0.10, charge not known yet", LATER, on, AGAIN_PAID, DRAWN_NOTICE,
    ]  # fmt: skip


def test_nothing_listening_is_5(here: Here) -> None:
    code, out, err = here("generate", "a red fox", RUNAPI_API_KEY="k", RUNAPI_BASE_URL="http://127.0.0.1:9")
    assert (code, out) == (5, "")
    assert err.startswith("Error: RunAPI gave no answer: no connection")
    assert err.endswith("Next: Check the network and RUNAPI_BASE_URL, then run this again.\n")


def test_an_image_that_is_paid_but_not_on_disk_is_5(here: Here) -> None:
    code, out, _ = here("generate", "a red fox [sandbox:corrupt]")
    assert code == 5
    assert "its image can't be had: The image is broken: it can't be decoded to its end." in out
    assert "completed but not on disk, quoted $0.05, would charge $0.05" in out


def test_a_rate_limit_is_6_and_the_task_is_not_given_up(here: Here, tmp_path: Path) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000, rate=0.001, burst=0) as runapi:
        env = {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        code, out, err = here("generate", "a red fox", "--wait", "0", **env)
    head, *rest = out.splitlines()
    assert (code, err) == (6, "")
    assert head.endswith(": submitting: RunAPI answered 429: Too many requests")
    on = waiting_on(head.partition(":")[0])
    assert rest == ["processing, quoted $0.05, charged not known yet", LATER, on, AGAIN]


def test_a_failed_task_is_7_and_costs_nothing_and_a_dumb_terminal_is_not_written_on(clean_env: dict[str, str]) -> None:
    with on_terminal(clean_env | {"TERM": "dumb"}, "generate", "a red fox [sandbox:moderation]") as terminal:
        code, out = terminal.end()
    assert (code, terminal.seen) == (7, "")
    assert "failed: The request was rejected by content moderation." in out
    assert "failed, quoted $0.05, would charge $0.00" in out


BUSY = errors.RateLimitedError("Too many requests", status=429)


@rows(
    ("tasks", "code"),
    [
        ([(State.DELIVERED, None), (State.DELIVERED, None)], 0),
        ([(State.DELIVERED, None), (State.FAILED, None)], 7),
        ([(State.SUBMITTED, None), (State.FAILED, None)], 5),
        ([(State.SUBMITTED, BUSY), (State.FAILED, None)], 6),
        ([(State.REJECTED, None)], 7),
        ([(State.COMPLETED, None)], 5),
        ([(State.UNDELIVERED, None)], 5),
        ([(State.UNKNOWN, None)], 5),
    ],
)
def test_only_images_on_disk_are_0(tasks: list[tuple[State, errors.Flux2Error | None]], code: int) -> None:
    entry = TaskRecord(
        key="k", task_id="t", account="a", state=State.INTENT, request=catalog.request(prompt="a cat"),
        workspace=None, client=None, session="s", push_url=None, save=None, quoted_usd=Decimal("0.05"), charged_usd=None,
        error=None, image_urls=(), images=(), created_at=datetime(2026, 11, 20, tzinfo=UTC), submitted_at=None,
        completed_at=None, delivered_at=None, started=True, owner=None,
    )  # fmt: skip
    told = tuple(TaskReport(replace(entry, state=state), trouble) for state, trouble in tasks)
    assert exit_code(Outcome(tasks=told, sandbox=True)) == code


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_one_bar_to_the_end_of_the_wait_and_is_left_clean(clean_env: dict[str, str]) -> None:
    env = clean_env | {"TERM": "xterm", "FLUX2_SANDBOX_SPEED": "10"}
    with on_terminal(env, "generate", LOGO, "--count", "2") as terminal:
        code, out = terminal.end()
    shown = terminal.seen.split("\r\x1b[K")
    assert code == 0
    assert (shown[0], shown[1], shown[-1]) == ("", "starting", "")
    lines = [re.fullmatch(r"([━─]{20})  [012] of 2 done, \d+ s(?:, about \d+ s left)?", line) for line in shown[2:-1]]
    assert len(shown) > 4
    bars = [line[1].count("━") for line in lines if line is not None]
    assert len(bars) == len(lines)
    assert bars == sorted(bars)
    assert "\x1b" not in out
    assert re.search(PNG, out.splitlines()[0])


def test_the_bar_says_what_failed_beside_what_is_done() -> None:
    line, states = WaitLine(), (State.DELIVERED, State.FAILED, State.REJECTED, State.PROCESSING)
    assert line(Progress(elapsed=7.0, remaining=None, states=states)) == f"{bar(0.75)}  1 of 4 done, 2 failed, 7 s"
    assert line(Progress(elapsed=9.0, remaining=9.0, states=(State.DELIVERED,) * 3 + (State.COMPLETED,))) == (
        f"{bar(0.75)}  3 of 4 done, 9 s, about 9 s left"
    )


def test_ctrl_c_stops_the_waiting_not_the_task(
    clean_env: dict[str, str], sandbox_settings: Settings, here: Here, tmp_path: Path
) -> None:
    env = clean_env | {"TERM": "xterm"}
    with on_terminal(env, "generate", "a red fox [sandbox:stuck]", cwd=tmp_path) as terminal:
        terminal.until("pending, ")
        terminal.keys("\x03")
        assert terminal.end() == (130, "")
    assert terminal.seen.endswith(f"\r\x1b[K{NO_CANCEL}\r\n{AGAIN}\r\n")

    async def recent() -> Outcome:
        async with Service.opened(sandbox_settings) as service:
            return await service.recent(limit=5)

    [found] = task_results.generation(anyio.run(recent)).tasks
    assert found.status in {"pending", "processing"}
    code, out, _ = here("generate", "a red fox [sandbox:stuck]", "--wait", "0", "--json")
    again = json.loads(out)
    assert code == 5
    assert [task["task_id"] for task in again["tasks"]] == [found.task_id]
    assert JOINED_NOTICE in again["notice"]


@pytest.mark.parametrize("grouped", [False, True])
def test_ctrl_c_is_told_once_wherever_in_the_loop_it_lands(grouped: bool, capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        if not grouped:
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep(DEADLINE)
        async with anyio.create_task_group():
            raise KeyboardInterrupt

    with pytest.raises(click.exceptions.Exit) as ended:
        output.run(work, stopped="Stopped.")
    assert ended.value.exit_code == 130
    assert capsys.readouterr() == ("", "Stopped.\n")


def test_what_is_no_ctrl_c_comes_out_of_the_loop_as_it_is() -> None:
    async def work() -> None:
        async with anyio.create_task_group():
            raise GeneratorExit

    with pytest.raises(BaseExceptionGroup) as raised:
        output.run(work, stopped="Stopped.")
    assert raised.group_contains(GeneratorExit)


def test_ctrl_c_in_another_command_is_130_without_a_word(clean_env: dict[str, str]) -> None:
    code = "from flux2_mcp.server.results import catalog as catalog_results; catalog_results.variants = lambda **_: signal.raise_signal(signal.SIGINT)"
    done = ran(clean_env, code, "variants")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\n")


# --- what is free -----------------------------------------------------------------------------------------------------


def test_variants_tell_in_words_what_the_tool_tells_as_data(here: Here) -> None:
    result = catalog_results.variants(action=None, variant=None).model_dump(mode="json")
    code, data, err = here("variants", "--json")
    assert (code, json.loads(data), err) == (0, result, "")
    _, words, _ = here("variants", "--action", "remix_image")
    assert max(map(len, words.splitlines())) <= output.WIDTH_COLUMNS
    lines = words.splitlines()
    assert lines[:4] == [
        "pro, from $0.05",
        "  Start here: the cheapest, in 1k and 2k, with up to 8 source images.",
        "  flux-2-pro-remix-image, needs --source (1 to 8)",
        "    --aspect-ratio 1:1 4:3 3:4 16:9 9:16 3:2 2:3 auto; --output-resolution 1k 2k",
    ]
    of_max = lines.index("  flux-2-max-remix-image, needs --source (1), --aspect-ratio")
    assert lines[of_max + 1] == (
        "    --aspect-ratio 1:1 4:3 3:4 16:9 9:16 3:2 2:3; --output-resolution 1k; not --safety-checker"
    )
    assert lines[-1] == "Commercial use: included for every variant unless a model licence says otherwise."
    assert "max, price known only live" in lines
    assert "text-to-image" not in words


def test_pricing_tells_in_words_what_the_tool_tells_as_data(sandbox_settings: Settings, here: Here) -> None:
    async def tool() -> PriceList:
        async with Service.opened(sandbox_settings) as service:
            return await service.prices.listed(variant="flex", action=None, output_resolution="2k")

    found = catalog_results.price_list(anyio.run(tool), variant="flex", action=None, output_resolution="2k", count=4)
    wanted = ("--variant", "flex", "--output-resolution", "2k", "--count", "4")
    code, data, err = here("pricing", *wanted, "--json")
    assert (code, err) == (0, "")
    assert undated(json.loads(data)) == undated(found.model_dump(mode="json"))
    assert re.sub(r"\d{4}-\d\d-\d\d", "TODAY", here("pricing", *wanted)[1]) == (
        "MODEL                      SIZE  USD    SOURCE\n"
        "flux-2-flex-text-to-image  2k    $0.24  live, TODAY\n"
        "flux-2-flex-remix-image    2k    $0.24  live, TODAY\n"
        "Estimate: 4 x flux-2-flex-text-to-image at 2k: $0.96\n"
        f"Balance: $100.00\n{NO_MONEY}\n"
    )


def undated(result: dict[str, Any]) -> dict[str, Any]:
    return result | {"as_of": None}


def test_pricing_without_a_network_gives_what_is_published_and_invents_nothing(
    here: Here,
) -> None:
    wanted = ("--variant", "max", "--action", "text_to_image")
    done = here("pricing", *wanted, FLUX2_MODE="live", RUNAPI_BASE_URL="http://127.0.0.1:9")
    assert done == (
        0,
        (
            "MODEL                     SIZE  USD      SOURCE\n"
            "flux-2-max-text-to-image  1k    unknown  not published\n"
            "Estimate: 1 x flux-2-max-text-to-image at 1k: unknown\n"
            "Balance: unknown\n"
            "No published price: only RunAPI's live schedule knows it, so state --max-cost.\n"
        ),
        "",
    )


def test_a_setting_that_can_not_be_used_stands_only_before_what_needs_it(here: Here) -> None:
    for argument in ("version", "--version"):
        assert here(argument, FLUX2_MODE="lve") == (0, f"{__version__}\n", "")
    assert here("generate", "a red fox", FLUX2_MODE="lve") == (
        4,
        "",
        (
            "Error: FLUX2_MODE must be one of auto, live, sandbox.\n"
            "Nothing was sent and nothing was charged.\n"
            'Next: It says "lve". Mend that setting, then run this again.\n'
        ),
    )


def test_help_is_there_for_who_asks(here: Here) -> None:
    assert here("--help") == here("-h")


@pytest.mark.parametrize("command", ["", *flux2.list_commands(click.Context(flux2))])
def test_help_fits_a_screen_and_its_examples_are_real(
    command: str, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = here(*command.split(), "--help")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith(f"Usage: flux2-mcp{' ' * bool(command)}{command} [OPTIONS]")
    assert max(map(len, lines)) <= 100
    assert len(lines) <= TALL.get(command, SCREEN_LINES)
    examples = [
        shlex.split(re.split("[|>]", line)[0], comments=True) for line in lines if line.startswith("    flux2-mcp ")
    ]
    assert bool(examples) == (command != "version")
    for _, name, *arguments in examples:
        assert command in {"", name}
        found = flux2.get_command(click.Context(flux2), name)
        assert found is not None
        found.make_context(name, arguments)


def test_what_the_tools_call_so_the_command_line_calls_by_its_options() -> None:
    own = {"as_json", "no_picture"}  # no tool has those
    options = [(option.name, option.opts[0]) for option in generate.params if option.name not in own]
    named = {name: option for name, option in options if name and "_" in name}
    assert {name: output.NAMES[name] for name in named} == named


# --- the sandbox alone ------------------------------------------------------------------------------------------------


def test_the_sandbox_serves_the_vendors_sdk_and_no_other_key(
    clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runapi.core.resource.PollingOptions", lambda: PollingOptions(poll_interval=0.01, max_wait=30))  # type: ignore[arg-type]  # it sleeps floats too
    with serving(clean_env, "--port", "0", "--speed", "1000") as (process, told):
        assert sorted(told) == ["RUNAPI_API_KEY", "RUNAPI_BASE_URL"]
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", told["RUNAPI_BASE_URL"])
        with vendor(told, told["RUNAPI_API_KEY"]) as sdk:
            made = sdk.text_to_image.run(model="flux-2-pro-text-to-image", prompt="a red fox in snow")
        assert (made.status, made.usage.cost) == ("completed", 0.05)
        with vendor(told, "another") as sdk, pytest.raises(VendorAuthenticationError):
            sdk.text_to_image.create(model="flux-2-pro-text-to-image", prompt="a red fox in snow")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=DEADLINE) == ("", "")
        assert process.returncode == 0


@contextmanager
def vendor(told: dict[str, str], key: str) -> Iterator[Flux2Client]:
    client = Flux2Client(api_key=key, base_url=told["RUNAPI_BASE_URL"], max_retries=0)
    with closing(client._http):
        yield client


def test_with_its_switch_every_task_of_the_sandbox_is_hybrid(clean_env: dict[str, str]) -> None:
    with serving(clean_env, "--hybrid", "--speed", "1000") as (process, told):
        key, body = (
            {"Authorization": f"Bearer {told['RUNAPI_API_KEY']}"},
            {"model": "flux-2-pro-text-to-image", "prompt": "a fox"},
        )
        with httpx2.Client(base_url=told["RUNAPI_BASE_URL"], headers=key, verify=TLS, timeout=DEADLINE) as http:
            created = http.post("/api/v1/flux_2/text_to_image", json=body)
            assert (created.status_code, http.get(created.headers["Location"]).status_code) == (202, 200)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=DEADLINE) == ("", "")


def test_the_sandbox_ends_cleanly_by_ctrl_c_too(clean_env: dict[str, str]) -> None:
    with serving(clean_env) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=DEADLINE) == ("", "")
        assert process.returncode == 0


def test_the_sandbox_on_a_terminal_says_how_to_end_it(clean_env: dict[str, str]) -> None:
    with on_terminal(clean_env | {"TERM": "xterm"}, "sandbox") as terminal:
        terminal.until("Serving; Ctrl-C ends it.")
        terminal.keys("\x03")
        code, out = terminal.end()
    assert (code, out.count("\n")) == (0, 2)
    assert terminal.seen.endswith("\r\x1b[K")


def test_a_port_that_is_taken_is_told(here: Here, tmp_path: Path) -> None:
    with Sandbox(tmp_path / "elsewhere") as other:
        port = other.base_url.rpartition(":")[2]
        code, out, err = here("sandbox", "--port", port)
    assert (code, out) == (1, "")
    assert err == (
        f"Error: The sandbox can't listen on port {port} of 127.0.0.1.\n"
        "Nothing was sent and nothing was charged.\n"
        "Next: Choose another port, or 0 for any.\n"
    )


# --- never a stack trace ----------------------------------------------------------------------------------------------


def ran(env: Mapping[str, str], code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """A command in whose process something is broken first."""
    return forked.run(patched(code, *argv), env, timeout=DEADLINE)


def test_what_was_not_foreseen_is_told_in_words_and_whole_where_asked_for(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_results, "variants", None)
    code, out, err = here("variants")
    assert (code, out) == (1, "")
    assert err == (
        "Error: Unexpected error: TypeError.\n"
        "What RunAPI took, if anything, is in the journal and not lost.\n"
        "Next: Look closer with FLUX2_LOG=debug.\n"
    )
    *failed, whole = here("variants", FLUX2_LOG="debug")
    assert failed == [1, ""]
    assert whole.startswith("DEBUG flux2_mcp.cli unexpected error\nTraceback")
    assert whole.endswith(err)


def test_a_warning_comes_without_its_trace_and_in_place_of_the_progress_line(clean_env: dict[str, str]) -> None:
    code = (
        "import logging\n"
        "from flux2_mcp.server.results import catalog as catalog_results\n"
        "def noisy(well=catalog_results.variants, **asked):\n"
        "    logging.getLogger('flux2_mcp.tasks').warning('trouble', exc_info=ValueError())\n"
        "    return well(**asked)\n"
        "catalog_results.variants = noisy\n"
    )
    done = ran(clean_env, code, "variants")
    assert (done.returncode, done.stderr) == (0, "WARNING flux2_mcp.tasks trouble\n")
    with closing(Terminal(clean_env, patched(code, "variants"), typing=False)) as terminal:
        assert terminal.end() == (0, done.stdout)
    assert terminal.seen == "\r\x1b[KWARNING flux2_mcp.tasks trouble\r\n"


def test_a_full_disk_behind_the_output_is_told(clean_env: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = flux2_mcp(clean_env, "variants", stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The system refused to go on: No space left on device.\n")
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_has_gone_is_no_error_to_speak_of(clean_env: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = flux2_mcp(clean_env, "variants", stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


def test_output_that_was_closed_is_no_error_to_speak_of(clean_env: dict[str, str]) -> None:
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "version"]
    done = subprocess.run(closed, env=clean_env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_working_folder_that_was_deleted_changes_nothing(clean_env: dict[str, str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = ran(clean_env, f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})", "pricing")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Balance: $100.00" in done.stdout


def test_a_config_file_that_can_not_be_read_is_told_and_never_taken_for_none(here: Here, tmp_path: Path) -> None:
    config = tmp_path / "user" / ".config" / "runapi" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_bytes(b"\xff\xfe")
    code, out, err = here("generate", "a red fox")
    assert (code, out) == (4, "")
    assert f"RunAPI's config file ({config}) can't be read: it is not UTF-8 text.\n" in err
    assert "Mend the file, or set RUNAPI_API_KEY, or FLUX2_MODE=sandbox to try without a key" in err
    assert not (tmp_path / "home").exists()
    assert here("generate", "a red fox [sandbox:moderation]", FLUX2_MODE="sandbox")[0] == 7


def test_ctrl_c_while_it_loads_is_130_without_a_word(clean_env: dict[str, str]) -> None:
    code = (
        "class Loading:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'flux2_mcp.cli.main':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Loading())\n"
    )
    done = subprocess.run(patched(code, "version"), env=clean_env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# --- without a command ------------------------------------------------------------------------------------------------


def test_who_types_the_bare_name_is_told_what_it_is_and_can_leave(clean_env: dict[str, str]) -> None:
    with on_terminal(clean_env, typing=True) as terminal:
        for words in ("a server that an agent host starts", "flux2-mcp install ", "flux2-mcp --help "):
            terminal.until(words)
        terminal.keys("\x04")
        assert terminal.end() == (0, "")
    with on_terminal(clean_env, typing=True, loads=True) as terminal:  # while it starts
        terminal.until("Ctrl-C ends it.")
        terminal.keys("\x03")
        assert terminal.end() == (130, "")
    with on_terminal(clean_env, typing=True, whole=True) as terminal:  # when it serves
        terminal.until("Ctrl-C ends it.")
        terminal.keys('{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        terminal.until('"result":')
        terminal.keys("\x03")
        assert terminal.end()[0] == 130


@pytest.mark.parametrize(
    "typed", ["generate a fox", *(pytest.param(line, marks=pytest.mark.deep) for line in ("help", "{", "exit"))]
)
def test_a_typed_line_that_is_no_json_ends_the_server_with_advice(clean_env: dict[str, str], typed: str) -> None:
    with on_terminal(clean_env, typing=True) as terminal:
        terminal.until("flux2-mcp --help")
        terminal.keys(f"\n{typed}\n")
        assert terminal.end() == (4, "")
    assert terminal.seen.endswith("Run one of the commands above.\r\n")
