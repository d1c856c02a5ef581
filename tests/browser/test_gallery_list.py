"""The gallery as a list of what was made: days, rows, search, filters, and what opens over it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from playwright.async_api import FrameLocator, Locator, expect

from flux2_mcp.domain.lifecycle import TaskStatus
from flux2_mcp.server.results.tasks import TaskResult
from flux2_mcp.server.tools.answers import REQUESTS_KEY
from tests.browser.conftest import Open, Shot
from tests.browser.host import Answer, Host, RefusedError
from tests.support.canned import PROMPTS, picture, price, result, task

pytestmark = pytest.mark.anyio

RATIOS = ("1:1", "3:2", "9:16", "16:9", "3:4", "4:3", "2:3", "16:9")
"""Of task n, the n-th, over and over."""
NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
VARIANTS = ("pro", "pro", "flex", "max")
FOLDERS = ("/home/ada/site", "/home/ada/site", "/home/ada/book")
WIDTHS = (390, 768, 1280, 1920)


@pytest.fixture
def answers(answers: dict[str, Answer]) -> dict[str, Answer]:
    async def pictures(params: dict[str, Any]) -> dict[str, Any]:
        number = int(params["uri"].split("task-")[1].split("?")[0])
        return {"contents": [picture(number, RATIOS[number % 8])]}

    async def tool(params: dict[str, Any]) -> dict[str, Any]:
        if params["name"] == "check_task":
            return listing([made(0, "processing"), made(1, "pending")])
        return price(0.07 if params["arguments"].get("output_resolution") == "2k" else 0.05)

    return answers | {"resource": pictures, "tool": tool}


def made(number: int, status: TaskStatus = "completed", *, at: datetime | None = None) -> TaskResult:
    """Task n, in its ratio and variant; each is five hours older than the one before."""
    at = at or NOON - timedelta(hours=5) * number
    stamp = at.isoformat().replace("+00:00", "Z")
    one = task(number, status, ratio=RATIOS[number % 8], variant=VARIANTS[number % 4])
    return one.model_copy(update={"created_at": stamp})


def listing(tasks: Sequence[TaskResult]) -> dict[str, Any]:
    """What check_task answers, with what was asked of each."""
    numbers = [int(each.task_id.removeprefix("task-")) for each in tasks]
    answer = result(tasks, prompts=[PROMPTS[number % 8] for number in numbers])
    for number, asked in zip(numbers, answer["_meta"][REQUESTS_KEY].values(), strict=True):
        asked |= {"aspect_ratio": RATIOS[number % 8], "workspace": FOLDERS[number % 3]}
    return answer


async def opened(host: Host, tasks: Sequence[TaskResult], **context: Any) -> None:  # noqa: ANN401  # JSON
    await host.page.clock.set_system_time(NOON)
    await host.open(**context)
    await host.input(limit=50)
    await host.result(listing(tasks))


def mixed(count: int) -> list[TaskResult]:
    """So many tasks, of which the first run and one failed where they are many."""
    states: dict[int, TaskStatus] = {0: "processing", 1: "pending", 4: "failed"} if count > 6 else {}
    return [
        made(number, states.get(number, "completed")).model_copy(
            update={"error": "The prompt was refused by moderation."} if states.get(number) == "failed" else {}
        )
        for number in range(count)
    ]


@pytest.mark.deep  # for the pictures; what it holds at these widths, `test_rows_are_as_wide...` holds too
@pytest.mark.parametrize("count", [1, 6, 60])
async def test_one_six_and_sixty_images_are_drawn_at_four_widths(
    hosting: Open, answers: dict[str, Answer], count: int, shot: Shot
) -> None:
    async with hosting(answers, viewport=(1280, 844), clock=True) as host:
        await opened(host, mixed(count), displayMode="fullscreen")
        for width in WIDTHS:
            await host.page.set_viewport_size({"width": width, "height": 844})
            for theme in ("light", "dark"):
                await host.page.evaluate("theme => set_theme(theme)", theme)
                await expect(host.view.locator("html")).to_have_attribute("data-theme", theme)
                await expect(host.view.locator(".pic.load")).to_have_count(0) if count < 60 else None
                await shot(host.page, f"list-{count}-{width}-{theme}")
        if count == 6:
            await host.page.set_viewport_size({"width": 1280, "height": 844})
            await cards(host).nth(1).hover()
            await shot(host.page, "list-hover")
            await button(cards(host).nth(1), "Request").click()
            await expect(host.view.locator("#panel")).to_have_css("opacity", "1")
            await shot(host.page, "list-request")
            await host.page.keyboard.press("Escape")
            await host.view.locator(".pic").nth(1).click()
            await expect(host.view.get_by_role("dialog")).to_be_visible()
            await shot(host.page, "list-large")
            await host.page.set_viewport_size({"width": 390, "height": 844})
            await shot(host.page, "list-large-narrow")
            await button(host.view, "Remix").last.click()
            await expect(host.view.locator("#panel")).to_have_css("opacity", "1")
            await shot(host.page, "list-remix-narrow")
        assert host.wrong == []


# --- days and rows ---


def cards(host: Host) -> Locator:
    return host.view.get_by_role("listitem")


def button(within: FrameLocator | Locator, name: str) -> Locator:
    return within.get_by_role("button", name=name)


async def boxes(host: Host) -> list[dict[str, float]]:
    """Where each tile's picture is, in the frame."""
    found: list[dict[str, float]] = await host.view.locator("body").evaluate(
        "body => [...body.querySelectorAll('.pic')].map(el => el.getBoundingClientRect().toJSON())"
    )
    return found


async def test_images_stand_under_their_days_with_their_times(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers, clock=True) as host:
        await opened(host, mixed(20), displayMode="fullscreen")
        days = host.view.get_by_role("heading", level=2)
        await expect(days).to_have_text(
            [
                "Today3 images",
                "Yesterday5 images",
                "Wednesday 25 November5 images",
                "Tuesday 24 November4 images",
                "Monday 23 November3 images",
            ]
        )
        await expect(cards(host).nth(2)).to_contain_text("02:00 · flex")
        # A day ends where its reader is.
        await host.page.evaluate("bridge.setHostContext({ ...context, timeZone: 'Asia/Tokyo' })")
        await host.result(listing(mixed(20)))
        await expect(days.first).to_have_text("Today5 images")
        await expect(cards(host).nth(2)).to_contain_text("11:00 · flex")
        # A locale and a zone that no browser knows change nothing.
        await host.page.evaluate("bridge.setHostContext({ ...context, locale: 'en_US', timeZone: 'Mars/Olympus' })")
        await host.result(listing(mixed(21)))
        await expect(cards(host)).to_have_count(21)
        await expect(days.nth(2)).to_contain_text("Wednesday 25 November")
        assert host.wrong == []


async def test_rows_are_as_wide_as_the_page_and_pictures_fill_their_tiles(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers, viewport=(1280, 900)) as host:
        await host.open(displayMode="fullscreen")
        await host.input(limit=50)
        await host.result(listing([made(number, at=NOON) for number in range(20)]))
        for width in (WIDTHS[0], WIDTHS[-1]):
            await host.page.set_viewport_size({"width": width, "height": 900})
            room = await host.view.locator("#days").evaluate(
                "async el => { for (const _ of [1, 2, 3]) await new Promise(requestAnimationFrame); return el.clientWidth; }"
            )
            rows: dict[int, list[dict[str, float]]] = {}
            for number, box in enumerate(await boxes(host)):
                w, h = map(int, RATIOS[number % 8].split(":"))
                assert box["width"] / box["height"] == pytest.approx(w / h, rel=0.02)
                rows.setdefault(round(box["top"]), []).append(box)
            *full, _last = rows.values()
            assert len(full) >= 2
            for row in full:
                assert len({round(box["height"]) for box in row}) == 1
                assert row[-1]["right"] - row[0]["left"] == pytest.approx(room, abs=2)
        assert host.wrong == []


async def test_a_narrow_screen_shows_at_least_two_images(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers, viewport=(390, 844), clock=True) as host:
        await opened(host, mixed(20), displayMode="fullscreen")
        assert sum(box["bottom"] <= 844 for box in await boxes(host)) >= 2
        wide = "html => [...html.querySelectorAll('*')].filter(el => el.getBoundingClientRect().right > innerWidth).map(el => el.outerHTML.slice(0, 99))"
        assert await host.view.locator("html").evaluate(wide) == []


async def test_a_tile_has_its_size_and_its_state_before_its_picture_is_there(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    held = anyio.Event()
    pictures = answers["resource"]

    async def later(params: dict[str, Any]) -> dict[str, Any]:
        await held.wait()
        return await pictures(params)

    async with hosting(answers | {"resource": later}, reduced_motion="no-preference", clock=True) as host:
        await opened(host, mixed(7))
        await expect(host.view.locator(".pic.load")).to_have_count(4)
        await expect(host.view.locator(".pic.load").first).to_contain_text("Loading")
        await expect(cards(host).nth(0)).to_contain_text("Painting")
        await expect(cards(host).nth(1)).to_contain_text("Queued")
        moving = "el => getComputedStyle(el, '::before').animationName"
        for at in (0, 2):
            assert await host.view.locator(".pic").nth(at).evaluate(moving) == "sheen"
        before = await boxes(host)
        held.set()
        await expect(host.view.locator(".pic.has")).to_have_count(4)
        assert await boxes(host) == before
        assert await host.view.locator(".pic.has").first.evaluate(moving) == "none"
        assert host.wrong == []


# --- search and filters ---


async def test_images_are_found_by_words_state_variant_and_workspace(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers, clock=True) as host:
        await opened(host, mixed(16), displayMode="fullscreen")
        view, states = host.view, host.view.get_by_role("group", name="By state")
        await expect(states.get_by_role("button")).to_have_text(["All 16", "Running 2", "Ready 13", "Failed 1"])
        await view.get_by_role("searchbox", name="Search prompts").fill("BOOKSHOP")
        await expect(cards(host)).to_have_count(2)
        await expect(cards(host).first).to_contain_text("A cat asleep in a bookshop window")
        await expect(states.get_by_role("button")).to_have_text(["All 2", "Running 0", "Ready 2", "Failed 0"])
        await view.get_by_role("searchbox").fill("")
        await button(states, "Failed").click()
        await expect(cards(host)).to_have_count(1)
        assert await button(states, "Failed").get_attribute("aria-pressed") == "true"
        await button(states, "All").click()
        await view.get_by_role("combobox", name="Variant").select_option("max")
        await expect(cards(host)).to_have_count(4)
        await view.get_by_role("combobox", name="Workspace").select_option(label="book")
        await expect(cards(host)).to_have_count(1)
        await view.get_by_role("searchbox").fill("no such words")
        await expect(view.get_by_text("No image matches.")).to_be_visible()
        await button(view, "Show all images").click()
        await expect(cards(host)).to_have_count(16)
        for name in ("Variant", "Workspace"):
            await expect(view.get_by_role("combobox", name=name)).to_have_value("")
        assert [args for args in host.tools("check_task") if "task_ids" not in args] == []  # all of it was here
        assert host.wrong == []


async def test_where_the_server_has_more_it_is_searched_and_goes_on_behind_the_last(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    whole = {"count": 24, "shown": 8, "by_status": {"completed": 23, "failed": 1}, "charged_usd": 1.15}

    def part(numbers: range | list[int], before: str | None) -> dict[str, Any]:
        answer = listing([made(number) for number in numbers])
        answer["structuredContent"]["matched"] = whole | {"before": before}
        return answer

    async def tool(params: dict[str, Any]) -> dict[str, Any]:
        if params["name"] != "check_task":
            return price(0.05)
        if "query" in params["arguments"]:
            return part([20], None)
        return part(range(8, 16), "k16") if params["arguments"]["before"] == "k8" else part(range(16, 24), None)

    async with hosting(answers | {"tool": tool}, clock=True) as host:
        await host.page.clock.set_system_time(NOON)
        await host.open(displayMode="fullscreen")
        await host.input(limit=8)
        await host.result(part(range(8), "k8"))
        await expect(host.view.locator("#sum")).to_have_text("8 of 24 images · $1.15")
        states = host.view.get_by_role("group", name="By state")
        await expect(states.get_by_role("button")).to_have_text(["All 24", "Ready 23", "Failed 1"])
        await host.view.get_by_role("searchbox").fill("something it knows")
        await expect(host.view.get_by_text("No image matches.")).to_be_visible()
        await host.page.clock.run_for(1000)
        await expect(cards(host)).to_have_count(1)  # what the server found is shown, whatever it found it by
        await host.view.get_by_role("searchbox").fill("")
        await expect(cards(host)).to_have_count(9)
        for count in (17, 24):
            await button(host.view, "Show older ones").click()
            await expect(cards(host)).to_have_count(count)
        await expect(button(host.view, "Show older ones")).to_be_hidden()
        assert host.tools("check_task") == [
            {"limit": 50, "query": "something it knows"},
            {"limit": 50, "before": "k8"},
            {"limit": 50, "before": "k16"},
        ]
        assert host.wrong == []


async def test_a_list_that_was_asked_for_by_words_and_a_file_goes_on_with_them_and_keeps_its_note(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    own = {"limit": 50, "query": "fox", "file": "a.png"}
    down = True

    def part(numbers: range, before: str | None, **more: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
        answer = listing([made(number) for number in numbers])
        answer["structuredContent"] |= {"matched": {"count": 10, "before": before}} | more
        return answer

    async def tool(params: dict[str, Any]) -> dict[str, Any]:
        if params["name"] != "check_task":
            return price(0.05)
        if down:
            raise RefusedError(-32000, "Not now.")
        return part(range(5, 10), "k10") if "before" in params["arguments"] else part(range(0), None, notice="No task.")

    async with hosting(answers | {"tool": tool}, clock=True) as host:
        await host.page.clock.set_system_time(NOON)
        await host.open(displayMode="fullscreen")
        await host.input(query="fox", file="a.png")
        await host.result(listing([]))
        await expect(host.view.get_by_role("heading")).to_have_text("No such images")
        await host.result(part(range(5), "k5", notice="SANDBOX: no money moved."))
        older, note, words = (
            button(host.view, "Show older ones"),
            host.view.locator("#note"),
            host.view.get_by_role("searchbox"),
        )
        await older.click()
        await expect(host.view.locator("#trouble")).to_contain_text("Not now.")
        down = False
        await older.click()  # one failure is not the end of the list
        await expect(cards(host)).to_have_count(10)
        await expect(host.view.locator("#trouble")).to_be_hidden()
        await words.fill("zzz")
        await host.page.clock.run_for(1000)
        await expect(older).to_be_hidden()
        await words.fill("")
        await expect(cards(host)).to_have_count(10)
        await expect(older).to_be_visible()
        await expect(note).to_have_text("SANDBOX: no money moved.")
        older_ones = own | {"before": "k5"}
        assert host.tools("check_task") == [older_ones, older_ones, own | {"query": "zzz"}]
        assert host.wrong == []


async def test_what_an_image_costs_is_asked_anew_and_never_taken_from_a_list(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    usd = 0.30

    async def tool(_: dict[str, Any]) -> dict[str, Any]:
        return price(usd, "invented")

    aged = [made(number, at=NOON).model_copy(update={"quoted_usd": 0.05 + number}) for number in range(2)]
    failed = made(2, "failed").model_copy(update={"error": "Refused by moderation."})
    async with hosting(answers | {"tool": tool}, clock=True) as host:
        answer = listing([*aged, failed])
        answer["structuredContent"]["sandbox"] = True
        await host.open()
        await host.input(limit=50)
        await host.result(answer)
        vary = cards(host).nth(0).locator('[data-kind="vary"]')
        await expect(vary).to_have_text("Vary ")
        for usd in (0.30, 0.35):  # `tool` reads it
            cost = f"${usd:.2f}"
            await vary.dispatch_event("click")
            panel = host.view.get_by_role("dialog", name="One more like this")
            await expect(panel).to_be_visible()  # what waits for the clock is set now
            await host.page.clock.run_for(1000)
            await expect(button(panel, f"Vary for {cost}")).to_be_enabled()
            await expect(panel.get_by_role("status")).to_have_text(
                f"Costs {cost}, and never more. The sandbox made this price up."
            )
            await host.page.keyboard.press("Escape")
            await expect(panel).to_be_hidden()
        # Where no money moves, nothing is charged.
        await expect(cards(host).nth(2)).to_contain_text("Refused by moderation. Would not be charged.")
        await button(cards(host).nth(0), "Request").click()
        await expect(host.view.get_by_role("dialog")).to_contain_text("quoted $0.05, would charge $0.05")
        assert host.wrong == []


async def test_a_prompt_that_only_the_task_tells_is_shown_and_never_asked_for_again(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers, clock=True) as host:
        answer = listing([made(0), made(1)])
        del answer["_meta"]
        for one in answer["structuredContent"]["tasks"]:
            one["prompt"] = "A lighthouse at dusk, shortened …"
            del one["images"][0]["url"]
        await host.open()
        await host.input(limit=50)
        await host.result(answer)
        await expect(cards(host).first).to_contain_text("A lighthouse at dusk, shortened …")
        await expect(button(host.view, "Remix")).to_have_count(2)
        await expect(button(host.view, "Vary")).to_have_count(0)
        assert host.wrong == []


async def test_a_generation_that_failed_is_a_tile_also_where_its_result_is_an_error(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers, clock=True) as host:
        await host.open()
        await host.input(prompt=PROMPTS[0])
        failed = made(0, "failed").model_copy(update={"error": "Refused by moderation."})
        await host.result(listing([failed]) | {"isError": True})
        await expect(cards(host)).to_contain_text("FailedRefused by moderation. Not charged.")
        await expect(host.view.locator("#trouble")).to_be_hidden()


# --- what opens over it ---


async def test_remix_and_request_open_over_the_rows_and_move_nothing(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers, viewport=(800, 700), clock=True) as host:
        await opened(host, mixed(12))
        before = await boxes(host)
        await button(cards(host).nth(2), "Remix").click()
        panel = host.view.get_by_role("dialog", name="Remix this image")
        await expect(panel.get_by_role("textbox", name="What should change?")).to_be_focused()
        assert await boxes(host) == before
        await host.page.keyboard.press("Escape")
        await expect(button(cards(host).nth(2), "Remix")).to_be_focused()
        await button(cards(host).nth(3), "Request").click()
        await expect(host.view.get_by_role("dialog", name="Request of image 4")).to_contain_text("/home/ada/site")
        assert await boxes(host) == before
        assert host.wrong == []


async def test_a_panel_is_whole_in_a_frame_that_is_lower_than_it(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers, clock=True) as host:
        await host.open()
        await host.input(prompt=PROMPTS[0], aspect_ratio="16:9")
        await host.result(listing([made(7, "failed").model_copy(update={"error": "Refused."}), made(3, "failed")]))
        await button(host.view, "Make an image").click()
        panel = host.view.get_by_role("dialog", name="Make an image")
        await expect(panel).to_be_visible()
        go = button(panel, "Make it for $0.05")
        await host.page.clock.run_for(1000)
        await panel.get_by_role("textbox").fill("A lighthouse at dusk")
        await expect(go).to_be_enabled()
        frame, edge = await panel.evaluate("el => [innerHeight, el.getBoundingClientRect().bottom]")
        assert edge <= frame


@pytest.mark.deep  # with none and with failed ones it is shown below and in test_nothing_made_yet_is_a_place_to_begin
@pytest.mark.parametrize("count", [1, 2, 6])
async def test_an_image_can_be_made_whatever_is_shown(hosting: Open, answers: dict[str, Answer], count: int) -> None:
    async with hosting(answers, clock=True) as host:
        await opened(host, mixed(count))
        await button(host.view, "Make an image").click()
        await expect(host.view.get_by_role("dialog", name="Make an image")).to_be_visible()
        assert host.wrong == []


async def test_the_large_view_has_the_actions_too_and_a_panel_over_it_closes_first(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers, viewport=(800, 800), clock=True) as host:
        await opened(host, mixed(6))
        await host.view.locator(".pic").nth(1).click()
        large = host.view.get_by_role("dialog", name="Image, large")
        await expect(large.get_by_role("group", name="Actions").get_by_role("button")).to_have_text(
            ["Remix ", "Vary $0.05", "Upscale to 2k $0.07", "Copy path", "Request"]
        )
        await button(large, "Vary $0.05").click()
        panel = host.view.get_by_role("dialog", name="One more like this")
        await expect(panel).to_be_visible()
        await host.page.keyboard.press("Escape")
        await expect(panel).to_be_hidden()
        await expect(large).to_be_visible()
        await expect(button(large, "Vary $0.05")).to_be_focused()
        assert host.tools("generate") == []
        assert host.wrong == []


async def test_the_larger_size_says_what_it_does_and_costs(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers, clock=True) as host:
        await opened(host, mixed(6))
        await cards(host).nth(0).hover()
        larger = cards(host).nth(0).get_by_role("button", name="Upscale to 2k $0.07", exact=True)
        await expect(larger).to_be_visible()
        assert "Draws this image again at 2k" in (await larger.get_attribute("title") or "")
        # Asked once for each kind of image, not once an image.
        await cards(host).nth(1).hover()
        asked = [(args["action"], args["output_resolution"]) for args in host.tools("check_pricing")]
        assert asked == [("text_to_image", "1k"), ("remix_image", "2k")]
        assert host.wrong == []


async def test_the_bar_is_there_while_something_runs_and_counts_no_more_than_that(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers | {"tool": answers["message"]}, clock=True) as host:
        await opened(host, mixed(12))
        bar = host.view.get_by_role("progressbar")
        await expect(bar).to_have_attribute("aria-valuemax", "2")
        await expect(bar).to_have_attribute("aria-valuenow", "0")
        await host.result(listing([made(0), made(1, "pending")]))
        await expect(bar).to_have_attribute("aria-valuenow", "1")
        await host.result(listing([made(1)]))
        await expect(bar).to_be_hidden()
