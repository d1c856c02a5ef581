"""The gallery in a real browser, shown by a real bridge."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from playwright.async_api import FrameLocator, Locator, expect

from flux2_mcp.server import gallery
from flux2_mcp.server.results.tasks import SourceResult, StepResult, TaskResult
from tests.browser.conftest import Open, Shot
from tests.browser.host import EVERYTHING, Answer, Host, RefusedError, fetched
from tests.support.canned import FETCHING, PATH, PROMPTS, TIMES, picture, price, refusal, result, task
from tests.support.deep import deep_but

pytestmark = pytest.mark.anyio

PROMPT = PROMPTS[0]
SAVED = "/home/ada/site/public/hero.png"
ODD = "16:9 was asked for, and 1:1 came."
KEY = re.compile(r"gallery-[0-9a-f]{24}")
SVG = base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>').decode()


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in EVERYTHING.items() if name not in names}


async def pictures(params: dict[str, Any]) -> dict[str, Any]:
    return {"contents": [picture(int(params["uri"].split("task-")[1].split("?")[0]))]}


@pytest.fixture
def answers(answers: dict[str, Answer]) -> dict[str, Answer]:
    return answers | {"resource": pictures, "tool": tools()}


def tools(
    generate: Callable[[dict[str, Any]], dict[str, Any]] | None = None, *later: dict[str, Any], usd: float | None = 0.05
) -> Answer:
    """What the server's tools answer: check_pricing a price (2k is dearer), check_task each of `later`, the last again."""
    rest = list(later)

    async def answer(params: dict[str, Any]) -> dict[str, Any]:
        name, arguments = params["name"], params["arguments"]
        if name == "check_pricing":
            return price(0.07 if usd and arguments["output_resolution"] == "2k" else usd)
        if name == "generate" and generate is not None:
            return generate(arguments)
        if name == "check_task" and rest:
            return rest.pop(0) if len(rest) > 1 else rest[0]
        raise RefusedError(-32000, "Not allowed by the user.")

    return answer


async def shown(host: Host, count: int = 1, *, ratio: str = "1:1", **options: Any) -> None:  # noqa: ANN401  # JSON
    """The gallery with `count` finished images of one call."""
    await host.open(**options)
    await host.input(prompt=PROMPT, aspect_ratio=ratio, count=count)
    await host.result(result([task(number, ratio=ratio) for number in range(count)]))


def odd(task: TaskResult, why: str | None) -> TaskResult:
    """The task with an image that is not what was asked for."""
    image = task.images[0].model_copy(update={"matches_request": False, "mismatch": why})
    return task.model_copy(update={"images": [image]})


def cards(host: Host) -> Locator:
    return host.view.get_by_role("listitem")


def button(within: FrameLocator | Locator, name: str) -> Locator:
    return within.get_by_role("button", name=name)


async def loaded(host: Host, count: int) -> None:
    await expect(host.view.locator(".pic.has")).to_have_count(count)


async def focused(host: Host) -> str:
    """The accessible name of what has the focus in the gallery."""
    name: str = await host.view.locator(":focus").evaluate("el => el.getAttribute('aria-label') || el.textContent")
    return name


# --- the page itself ---


def test_the_page_is_one_small_file_which_loads_nothing() -> None:
    html = gallery.html()
    assert len(html.encode()) < 78_000
    assert (
        re.findall(r"""(?:src|href)\s*=|https?://(?!www\.w3\.org/2000/svg)|@import|url\(|\beval\(|innerHTML""", html)
        == ["src ="] * 3
    )
    assert "default-src 'none'" in html


# --- what is shown ---


async def test_one_image_is_one_large_picture_beside_what_was_asked(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers) as host:
        await shown(host)
        await loaded(host, 1)
        image = host.view.get_by_role("img")
        assert await image.get_attribute("alt") == f"{PROMPT}, 1024 {TIMES} 1024 pixels"
        assert await image.evaluate("img => img.naturalWidth") == 768
        box = await image.bounding_box()
        assert box is not None
        assert box["width"] > 360
        await expect(host.view.get_by_role("heading")).to_have_text(PROMPT)
        await expect(cards(host)).to_contain_text(f"1024 {TIMES} 1024 · pro$0.05")
        await expect(cards(host)).to_contain_text(PATH.format(number=0))
        assert host.reads() == ["flux2://images/task-0?max=768"]
        assert host.wrong == []


async def test_a_call_for_eight_shows_eight_places_and_then_eight_pictures(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers, viewport=(800, 1400)) as host:
        await host.open()
        await host.input(prompt=PROMPT, count=8, aspect_ratio="3:2")
        await expect(cards(host)).to_have_count(8)
        await host.result(result([task(number, ratio="3:2") for number in range(8)]))
        await expect(cards(host)).to_have_count(8)
        await loaded(host, 8)
        await expect(host.view.locator("#sum")).to_have_text("8 images · $0.40")
        assert sorted(host.reads()) == [f"flux2://images/task-{number}?max=768" for number in range(8)]
        assert host.wrong == []


async def test_fifty_images_are_read_as_they_come_into_sight(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers) as host:
        await host.open()
        await host.input(limit=50)
        asked = [PROMPTS[number % 8] for number in range(50)]
        await host.result(result([task(number) for number in range(50)], prompts=asked))
        await expect(cards(host)).to_have_count(12)
        await button(host.view, "Show all 50").click()
        await expect(cards(host)).to_have_count(50)
        assert len(set(host.reads())) < 30
        await cards(host).nth(49).scroll_into_view_if_needed()
        await expect(cards(host).nth(49).locator(".pic.has")).to_be_visible()
        assert len(set(host.reads())) < 50
        await expect(cards(host).nth(11)).to_contain_text(PROMPTS[3])
        assert host.wrong == []


async def test_the_result_is_read_from_the_text_where_the_host_drops_the_structured_form(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers) as host:
        await host.open()
        await host.input(prompt=PROMPT)
        await host.result({"content": result([task(0)])["content"]})
        await loaded(host, 1)
        assert host.wrong == []


async def test_a_refusal_a_cancelled_call_and_an_empty_list_are_said_in_words(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers) as host:
        await host.open()
        await host.input(prompt=PROMPT)
        await host.result(refusal("The cap of $1 a day is reached."))
        await expect(host.view.locator("#trouble")).to_contain_text("The cap of $1 a day is reached.")
    async with hosting(answers) as host:
        await host.open()
        await host.input(prompt=PROMPT)
        await host.page.evaluate("bridge.sendToolCancelled({ reason: 'user action' })")
        await expect(host.view.locator("#trouble")).to_contain_text("cancelled (user action)")
        await expect(cards(host)).to_have_count(0)
    async with hosting(answers) as host:
        await host.open()
        await host.input()
        await host.result(result([]))
        await expect(host.view.get_by_role("heading")).to_have_text("No images yet")


async def test_an_image_that_is_not_what_was_asked_for_says_so_with_its_reason(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers) as host:
        await host.open()
        await host.input(prompt=PROMPT, count=3, aspect_ratio="16:9")
        await host.result(result([odd(task(0), ODD), odd(task(1), None), task(2), task(3)]))
        await loaded(host, 4)
        said = "Not as asked. 16:9 was asked for, and 1:1 came."
        assert await host.view.locator(".card .warn:visible").all_text_contents() == [said, "Not as asked."]
        await host.view.locator(".pic").first.click()
        large = host.view.get_by_role("dialog")
        await expect(large.get_by_text(said)).to_be_visible()
        for _ in range(2):
            await host.page.keyboard.press("ArrowRight")
        await expect(large).to_contain_text("3 of 4")
        await expect(large.get_by_text("Not as asked.")).to_have_count(0)
        assert host.wrong == []


async def test_nothing_made_yet_is_a_place_to_begin(hosting: Open, answers: dict[str, Answer]) -> None:
    made = tools(lambda _: result([task(7)]))
    async with hosting(answers | {"tool": made}) as host:
        await host.open()
        await host.input(limit=50)
        await expect(host.view.get_by_role("heading")).to_have_text("Images")
        await host.result(result([]))
        await expect(host.view.get_by_role("heading")).to_have_text("No images yet")
        await button(host.view, "Make an image").click()
        await host.page.keyboard.press("Escape")
        await expect(host.view.get_by_role("dialog")).to_have_count(0)  # a late Escape would close the next
        await expect(button(host.view, "Make an image")).to_be_focused()
        await host.page.keyboard.press("Enter")
        await host.view.get_by_role("textbox", name="What should it show?").fill("A lighthouse at dusk")
        assert host.tools("generate") == []
        await button(host.view, "Make it for $0.05").click()
        await loaded(host, 1)
        await expect(host.view.get_by_role("heading")).to_have_text("A lighthouse at dusk")
        (arguments,) = host.tools("generate")
        assert KEY.fullmatch(arguments.pop("idempotency_key"))
        once = {"count": 1, "wait_seconds": 0, "max_cost_usd": 0.05}
        assert arguments == {"prompt": "A lighthouse at dusk", "variant": "pro"} | once
        assert host.wrong == []


@pytest.mark.deep  # test_a_list_that_was_asked_for_by_words_and_a_file_... begins with one
async def test_a_list_that_was_filtered_to_nothing_does_not_say_that_nothing_was_made(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers) as host:
        await host.open()
        await host.input(status="failed")
        await host.result(result([]))
        await expect(host.view.get_by_role("heading")).to_have_text("No such images")


@pytest.mark.deep  # the tests of the list fill the window
async def test_a_full_window_shows_all_images_at_once(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers) as host:
        await host.open(displayMode="fullscreen")
        await host.input(limit=50)
        await host.result(result([task(number) for number in range(50)]))
        await expect(cards(host)).to_have_count(50)
        assert host.wrong == []


async def test_text_from_the_network_stays_text_and_odd_pictures_are_not_shown(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async def odd(params: dict[str, Any]) -> dict[str, Any]:
        mime = "image/svg+xml" if "task-0" in params["uri"] else "image/png"
        blob = SVG if "task-0" in params["uri"] else '"><script>alert(1)</script>'
        return {"contents": [{"uri": params["uri"], "mimeType": mime, "blob": blob}]}

    async with hosting(answers | {"resource": odd}) as host:
        words = "<img src=x onerror=alert(1)><script>alert(2)</script>"
        await host.open(styles={"variables": {"--color-text-primary": "rgb(1, 2, 3)", "position": "fixed"}})
        await host.input(prompt=words, aspect_ratio="</style>")
        tasks = [task(0), task(1), task(2, "failed", error=words)]
        bad = tasks[0].images[0].model_copy(update={"url": "javascript:alert(3)", "path": words})
        await host.result(result([tasks[0].model_copy(update={"images": [bad]}), *tasks[1:]], notice=words))
        await expect(host.view.get_by_role("heading")).to_have_text(words)
        await expect(host.view.locator("#note")).to_have_text(words)
        await expect(cards(host).nth(2)).to_contain_text(words)
        await expect(host.view.get_by_text("No preview")).to_have_count(2)
        await expect(button(host.view, "Open").filter(has_text=re.compile("^Open$"))).to_have_count(1)
        assert await host.view.locator("img[src], script").count() == 1
        assert await host.view.locator("html").evaluate("el => el.style.position") == ""
        assert host.wrong == []


# --- buttons: what they ask of the server, and that money takes two steps ---


@pytest.mark.parametrize("press", deep_but(("click", "dblclick", "Enter"), "dblclick"))
async def test_vary_asks_once_more_and_then_calls_generate_with_the_same_request(
    hosting: Open, answers: dict[str, Answer], press: str
) -> None:
    made = tools(lambda _: result([task(7, "pending")]), result([task(7)]))
    async with hosting(answers | {"tool": made}) as host:
        await shown(host, 2, ratio="16:9")
        first = button(cards(host).nth(0), "Vary $0.05")
        if press == "Enter":
            await first.focus()
            for _ in range(3):
                await host.page.keyboard.press("Enter")
        else:
            await getattr(first, press)()
        go = button(host.view, "Vary for $0.05")
        await expect(go).to_be_enabled()
        assert host.tools("generate") == []
        await go.click()
        await expect(cards(host)).to_have_count(3)
        (arguments,) = host.tools("generate")
        assert KEY.fullmatch(arguments.pop("idempotency_key"))
        assert arguments == {
            "prompt": PROMPT,
            "variant": "pro",
            "aspect_ratio": "16:9",
            "count": 1,
            "wait_seconds": 0,
            "max_cost_usd": 0.05,
        }
        assert "Image 1 of 3" in await focused(host)
        await loaded(host, 3)
        told = [params["content"][0]["text"] for kind, params in host.calls if kind == "context"]
        assert f"task-7: completed, {PATH.format(number=7)}" in told[-1]
        assert host.wrong == []


async def test_remix_wants_words_and_sends_the_image_as_its_source(hosting: Open, answers: dict[str, Answer]) -> None:
    made = tools(lambda _: result([task(7)]))
    async with hosting(answers | {"tool": made}) as host:
        await shown(host, 2)
        await button(cards(host).nth(1), "Remix").click()
        go = button(host.view, "Remix for $0.05")
        await expect(go).to_be_disabled()
        await host.view.get_by_role("textbox", name="What should change?").fill("  Make it winter  ")
        await expect(go).to_be_enabled()
        assert host.tools("generate") == []
        await go.click()
        await expect(cards(host)).to_have_count(3)
        (arguments,) = host.tools("generate")
        assert KEY.fullmatch(arguments.pop("idempotency_key"))
        assert arguments == {
            "prompt": "Make it winter",
            "variant": "pro",
            "source_images": ["task:task-1"],
            "aspect_ratio": "auto",
            "output_resolution": "1k",
            "count": 1,
            "wait_seconds": 0,
            "max_cost_usd": 0.05,
        }
        asked = {"variant": "pro", "action": "remix_image"}
        assert host.tools("check_pricing") == [asked | {"output_resolution": size} for size in ("2k", "1k")]
        assert host.wrong == []


@pytest.mark.deep  # test_max_is_remixed_in_the_nearest_ratio_it_has_and_upscaled_by_pro
async def test_upscale_shows_the_price_of_2k_and_asks_for_2k(hosting: Open, answers: dict[str, Answer]) -> None:
    made = tools(lambda _: result([task(7, resolution="2k")]))
    async with hosting(answers | {"tool": made}) as host:
        await shown(host)
        await button(host.view, "Upscale to 2k").click()
        await button(host.view, "Upscale for $0.07").click()
        await expect(cards(host)).to_have_count(2)
        (arguments,) = host.tools("generate")
        assert arguments["prompt"].endswith(f"It shows: {PROMPT}")
        assert {
            name: arguments[name] for name in ("source_images", "output_resolution", "max_cost_usd", "variant")
        } == {
            "source_images": ["task:task-0"],
            "output_resolution": "2k",
            "max_cost_usd": 0.07,
            "variant": "pro",
        }
        await expect(button(cards(host).nth(0), "Upscale to 2k")).to_have_count(0)
        assert host.wrong == []


async def test_a_button_that_is_pressed_while_its_price_comes_does_what_it_says(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    pressed, told = anyio.Event(), tools()

    async def tool(params: dict[str, Any]) -> dict[str, Any]:
        await pressed.wait()
        return await told(params)

    async with hosting(answers | {"tool": tool}) as host:
        await host.open()
        await host.input(limit=1)
        await host.result(result([task(0)], prompts=PROMPTS))
        box = await button(host.view, "Vary").bounding_box()
        assert box is not None
        await host.page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)
        await host.page.mouse.down()
        pressed.set()
        await expect(button(host.view, "Vary $0.05")).to_be_visible()
        await host.page.mouse.up()
        await expect(host.view.get_by_role("dialog", name="One more like this")).to_be_visible()


async def test_max_is_remixed_in_the_nearest_ratio_it_has_and_upscaled_by_pro(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    made = tools(lambda _: result([task(7)]), usd=None)
    async with hosting(answers | {"tool": made}) as host:
        await host.open()
        await host.input(prompt=PROMPT, variant="max", aspect_ratio="16:9")
        await host.result(result([task(0, variant="max", ratio="16:9").model_copy(update={"quoted_usd": None})]))
        await button(host.view, "Remix").click()
        await host.view.get_by_role("textbox").fill("at night")
        # Nobody publishes its price: then the user says the most that it may be, or nothing is spent.
        most = host.view.get_by_role("spinbutton", name="The most it may cost, in USD")
        for nothing_to_pay in ("", "0", "-1", "1e9"):
            await most.fill(nothing_to_pay)
            await expect(host.view.locator(".sheet .go")).to_be_disabled()
        await most.fill("0.3")
        await button(host.view, "Remix for at most $0.30").click()
        await expect(cards(host)).to_have_count(2)
        await button(cards(host).nth(1), "Upscale to 2k").click()
        await most.fill("0.5")
        await button(host.view, "Upscale for at most $0.50").click()
        await host.until(lambda: len(host.tools("generate")) == 2)
        remix, large = host.tools("generate")
        assert (remix["variant"], remix["aspect_ratio"], "output_resolution" in remix) == ("max", "16:9", False)
        assert (large["variant"], large["aspect_ratio"], large["output_resolution"]) == ("pro", "auto", "2k")
        assert (remix["max_cost_usd"], large["max_cost_usd"]) == (0.3, 0.5)


async def test_a_refused_wish_shows_the_reason_and_is_sent_again_under_the_same_key(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    said = iter([refusal("Insufficient credits"), result([task(7)])])
    async with hosting(answers | {"tool": tools(lambda _: next(said))}) as host:
        await shown(host)
        await button(host.view, "Vary").click()
        await button(host.view, "Vary for $0.05").click()
        await expect(host.view.get_by_role("alert")).to_have_text("Insufficient credits")
        await button(host.view, "Vary for $0.05").click()
        await expect(cards(host)).to_have_count(2)
        first, second = host.tools("generate")
        assert first == second
        assert [kind for kind, _ in host.calls if kind == "message"] == []


async def test_where_the_host_calls_no_tools_the_wish_goes_into_the_chat(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers) as host:
        await shown(host, capabilities=without("serverTools"))
        await button(host.view, "Vary").click()
        await button(host.view, "Vary for $0.05").click()
        await expect(cards(host)).to_contain_text("Asked in the chat")
        ((_, message),) = [call for call in host.calls if call[0] == "message"]
        text = message["content"][0]["text"]
        assert message["role"] == "user"
        assert "call generate of the server flux-2" in text
        assert f'"prompt":"{PROMPT}","variant":"pro","aspect_ratio":"1:1","count":1' in text
        assert KEY.search(text)
        assert host.tools("generate") == []
        assert host.wrong == []


async def test_where_the_host_refuses_a_call_the_chat_is_offered_and_never_used_unasked(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers) as host:
        await shown(host)
        await button(host.view, "Vary").click()
        await button(host.view, "Vary for $0.05").click()
        await expect(host.view.get_by_role("alert")).to_contain_text("Not allowed by the user.")
        assert [kind for kind, _ in host.calls if kind == "message"] == []
        await button(host.view, "Ask in the chat instead").click()
        await expect(cards(host)).to_contain_text("Asked in the chat")
        ((_, message),) = [call for call in host.calls if call[0] == "message"]
        assert host.tools("generate")[0]["idempotency_key"] in message["content"][0]["text"]


@pytest.mark.deep  # one way or the other is shown above
async def test_where_the_host_takes_neither_it_says_so(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers) as host:
        await shown(host, capabilities=without("serverTools", "message"))
        await button(host.view, "Vary").click()
        await button(host.view, "Vary for $0.05").click()
        await expect(host.view.get_by_role("alert")).to_contain_text("neither call tools nor write in the chat")


async def test_a_failed_image_can_be_asked_for_again_and_an_open_one_not(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    made = tools(lambda _: result([task(7)]))
    async with hosting(answers | {"tool": made}) as host:
        await host.open()
        await host.input(prompt=PROMPT, count=2)
        await host.result(result([task(0, "failed", error="Refused by moderation."), task(1, "unknown")]))
        await expect(cards(host).nth(0)).to_contain_text("FailedRefused by moderation. Not charged.")
        await expect(button(cards(host).nth(1), "Try again")).to_have_count(0)
        await button(cards(host).nth(0), "Try again").click()
        await button(host.view, "Try again for $0.05").click()
        await expect(cards(host)).to_have_count(3)
        assert host.tools("generate")[0]["prompt"] == PROMPT


async def test_the_path_is_copied_and_the_request_is_shown(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers) as host:
        await shown(host, 2)
        await button(cards(host).nth(1), "Copy path").click()
        await expect(cards(host).nth(1)).to_contain_text("Path copied")
        await host.page.evaluate("document.body.tabIndex = 0; document.body.focus(); window.focus()")
        assert await host.page.evaluate("navigator.clipboard.readText()") == PATH.format(number=1)
        info = button(cards(host).nth(0), "Request")
        await info.click()
        told = host.view.get_by_role("dialog", name="Request of image 1")
        await expect(told.locator("dl")).to_contain_text(f"Asked{PROMPT}Modelflux-2-pro-text-to-image")
        await expect(told.locator("dl")).to_contain_text("27 Nov 2026")
        await button(told, "Close").click()
        await expect(info).to_be_focused()
        assert host.wrong == []


async def test_the_copy_in_the_workspace_is_the_path_that_is_copied(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers) as host:
        await host.open()
        await host.input(prompt=PROMPT)
        sources = [
            SourceResult(source="photos/harbour.jpg", sent="uploaded"),
            SourceResult(source="task:1", sent="its address"),
        ]
        image = task(0).images[0].model_copy(update={"saved": SAVED, "note": "hero.png was there."})
        await host.result(result([task(0).model_copy(update={"images": [image], "sources": sources})]))
        await expect(cards(host)).to_contain_text(f"Saved{SAVED}Notehero.png was there.File{image.path}")
        await expect(cards(host)).to_contain_text("Sourcesphotos/harbour.jpg: uploaded\ntask:1: its address")
        await button(host.view, "Copy path").click()
        await expect(cards(host)).to_contain_text("Path copied")
        await host.page.evaluate("document.body.tabIndex = 0; document.body.focus(); window.focus()")
        assert await host.page.evaluate("navigator.clipboard.readText()") == SAVED


async def test_a_finished_picture_says_what_it_was_made_by_and_what_all_of_it_cost(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    made = tools(lambda _: result([task(7)]))
    async with hosting(answers | {"tool": made}) as host:
        await host.open()
        await host.input(prompt=PROMPT, background="transparent")
        image = task(0).images[0].model_copy(update={"transparent_share": 0.6213})
        step = StepResult(
            task_id="task-9", status="completed", model="flux-2-pro-text-to-image", quoted_usd=0.05, charged_usd=0.05
        )
        cut_out = {
            "variant": "recraft-remove-background",
            "model": "recraft-remove-background",
            "action": "remove_background",
            "images": [image],
            "steps": [step],
            "quoted_usd": 0.02,
            "charged_usd": 0.02,
        }
        await host.result(result([task(0).model_copy(update=cut_out)], prompts=[PROMPT]))
        await loaded(host, 1)
        await expect(cards(host)).to_contain_text("Modelflux-2-pro-text-to-image, then recraft-remove-background")
        await expect(cards(host)).to_contain_text("1.2 MB, 62 % transparent")
        await expect(cards(host)).to_contain_text("quoted $0.07, charged $0.07")
        # A variant that only finishes makes nothing from words.
        await expect(button(cards(host), "Vary")).to_have_count(0)
        await expect(button(cards(host), "Upscale")).to_have_count(0)
        await button(cards(host), "Remix").click()
        await host.view.get_by_role("textbox", name="What should change?").fill("Make it blue")
        await button(host.view, "Remix for $0.05").click()
        await expect(cards(host)).to_have_count(2)
        assert host.tools("generate")[0]["variant"] == "pro"
        assert host.wrong == []


async def test_where_no_picture_can_be_read_the_url_opens_through_the_host(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers) as host:
        await shown(host, capabilities=without("serverResources"))
        await expect(host.view.get_by_text("The file is on disk.")).to_be_visible()
        await host.view.locator('[data-kind="open"]').click()
        await host.until(lambda: ("link", {"url": "https://images.example.com/0.png"}) in host.calls)
        assert host.reads() == []
        assert host.wrong == []


# --- live ---


async def test_open_tasks_are_looked_after_until_they_end_and_no_longer(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    told = tools(None, result([task(1, "processing")]), result([task(1)]))
    turns = [anyio.Event(), anyio.Event()]

    async def tool(params: dict[str, Any]) -> dict[str, Any]:
        await turns[len(host.tools("check_task")) - 1].wait()
        return await told(params)

    async with hosting(answers | {"tool": tool}, clock=True) as host:
        await host.open()
        await host.input(prompt=PROMPT, count=2)
        await host.result(result([task(0), task(1, "pending")]))
        await expect(cards(host).nth(1)).to_contain_text("Queued")
        bar = host.view.get_by_role("progressbar")
        assert await bar.get_attribute("aria-valuenow") == "1"
        turns[0].set()
        await expect(cards(host).nth(1)).to_contain_text("Painting")
        await host.page.clock.run_for(5_000)
        turns[1].set()
        await loaded(host, 2)
        await expect(bar).to_be_hidden()
        await expect(host.view.locator("#said")).to_have_text("Image 2 of 2: Ready.")
        assert host.tools("check_task") == [{"task_ids": ["task-1"], "wait_seconds": 5}] * 2
        await host.passed(seconds=60)
        assert len(host.tools("check_task")) == 2
        assert host.wrong == []


async def test_what_is_done_but_not_on_disk_yet_is_waited_for(hosting: Open, answers: dict[str, Answer]) -> None:
    fetching = task(0).model_copy(update={"images": [FETCHING]})
    before, after, landed = tools(None, result([fetching])), tools(None, result([task(0)])), False

    async def tool(params: dict[str, Any]) -> dict[str, Any]:
        return await (after if landed else before)(params)

    async with hosting(answers | {"tool": tool}, clock=True) as host:
        await host.open()
        await host.input(prompt=PROMPT)
        await host.result(result([fetching]))
        await expect(cards(host)).to_contain_text("Fetching")
        landed = True
        await host.page.clock.run_for(5_000)
        await loaded(host, 1)
        assert host.reads() == ["flux2://images/task-0?max=768"]
        assert host.wrong == []


async def test_what_was_made_meanwhile_comes_first_and_nothing_that_is_done_opens_again(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers) as host:
        await host.open()
        await host.input(limit=50)
        await host.result(result([task(1), task(0)], prompts=PROMPTS))
        await loaded(host, 2)
        asked = [PROMPTS[2], *PROMPTS[:2]]
        await host.result(result([task(2), task(1, "processing"), task(0)], prompts=asked))
        await loaded(host, 3)
        assert await cards(host).locator(".what").all_text_contents() == asked
        assert host.tools("check_task") == []
        assert host.wrong == []


async def test_looking_stops_after_three_failures_and_goes_on_when_asked(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    down = tools()

    async def tool(params: dict[str, Any]) -> dict[str, Any]:
        return await (tools(None, result([task(0)])) if up else down)(params)

    up = False
    async with hosting(answers | {"tool": tool}, clock=True) as host:
        await host.open()
        await host.input(prompt=PROMPT)
        await host.result(result([task(0, "processing")]))
        for _ in range(10):
            await host.page.clock.run_for(10_000)
        await expect(host.view.locator("#trouble")).to_contain_text("can't reach the server now")
        assert len(host.tools("check_task")) == 3
        up = True
        await button(host.view, "Check again").click()
        await loaded(host, 1)
        await expect(host.view.locator("#trouble")).to_be_hidden()


async def test_a_torn_down_gallery_answers_and_asks_no_more(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers | {"tool": tools(None, result([task(0, "processing")]))}, clock=True) as host:
        await host.open()
        await host.input(prompt=PROMPT)
        await host.result(result([task(0, "processing")]))
        await host.until(lambda: len(host.tools("check_task")) == 1)
        assert await host.page.evaluate("bridge.teardownResource({})") == {}
        await host.passed(seconds=60)
        assert len(host.tools("check_task")) == 1


# --- looks ---


async def test_the_theme_and_the_colours_are_the_hosts(hosting: Open, answers: dict[str, Answer]) -> None:
    async def colours(host: Host) -> tuple[str, str]:
        style = "el => [getComputedStyle(el).backgroundColor, getComputedStyle(el).color]"
        back, ink = await host.view.locator("body").evaluate(style)
        return back, ink

    async with hosting(answers) as host:
        await shown(host, theme="light")
        # What is transparent in a picture shows squares, as in the small copies that the server makes.
        grounds = await host.view.locator(".pic.has img").evaluate("one => getComputedStyle(one).backgroundImage")
        assert "conic-gradient" in grounds
        light = await colours(host)
        assert light == ("rgb(255, 254, 251)", "rgb(35, 34, 30)")
        await host.page.evaluate("set_theme('dark')")
        await expect(host.view.locator("html")).to_have_attribute("data-theme", "dark")
        assert await colours(host) == ("rgb(28, 28, 27)", "rgb(241, 239, 232)")
        await host.page.evaluate("set_theme('light')")
        await expect(host.view.locator("html")).to_have_attribute("data-theme", "light")
        assert await colours(host) == light
        assert host.wrong == []
    variables = {
        "--color-background-primary": "light-dark(rgb(250, 240, 230), rgb(10, 20, 30))",
        "--color-text-primary": "light-dark(rgb(1, 2, 3), rgb(200, 210, 220))",
    }
    async with hosting(answers) as host:
        await shown(host, theme="dark", styles={"variables": variables})
        assert await colours(host) == ("rgb(10, 20, 30)", "rgb(200, 210, 220)")


@pytest.mark.deep  # each other test waits until it has it
async def test_the_frame_is_told_its_height(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers) as host:
        await shown(host, 4)
        await loaded(host, 4)
        sizes = "el => [innerHeight, document.body.getBoundingClientRect().height]"
        frame, body = await host.view.locator("html").evaluate(sizes)
        assert abs(frame - body) <= 1


async def test_nothing_moves_where_less_motion_is_wanted(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers, reduced_motion="reduce") as host:
        await host.open()
        await host.input(prompt=PROMPT)
        moving = "el => getComputedStyle(el, '::before').animationName"
        assert await host.view.locator(".pic").evaluate(moving) == "none"
        light = "el => getComputedStyle(el, '::before').content"
        assert await host.view.locator(".pic").evaluate(light) == "none"  # nor does it stand still in the middle
    async with hosting(answers, reduced_motion="no-preference") as host:
        await host.open()
        await host.input(prompt=PROMPT)
        assert await host.view.locator(".pic").evaluate(moving) == "sheen"


# --- keyboard and screen reader ---


async def test_the_gallery_is_walked_with_the_keyboard(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers, viewport=(800, 1400)) as host:
        await shown(host, 8)
        await loaded(host, 8)
        press = host.page.keyboard.press
        await host.view.locator(".pic").nth(0).focus()
        walk = []
        for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "End", "ArrowUp", "Home"):
            await press(key)
            walk.append((await focused(host)).split(":")[0])
        assert walk == [f"Image {number} of 8" for number in (2, 6, 5, 8, 4, 1)]
        stops = []
        for _ in range(5):
            await press("Tab")
            stops.append(await focused(host))
        assert stops == [
            "Remix ",
            "Vary $0.05",
            "Upscale to 2k $0.07",
            "Copy path",
            "Request",
        ]
        ring = await host.view.locator(":focus").evaluate("el => getComputedStyle(el).outlineStyle")
        assert ring == "solid"
        await press("Tab")  # out of the grid, past the other seven
        assert await host.view.locator(".card :focus").count() == 0


async def test_enter_opens_a_large_view_arrows_turn_it_and_escape_closes_it(
    hosting: Open, answers: dict[str, Answer]
) -> None:
    async with hosting(answers, viewport=(800, 700)) as host:
        await shown(host, 8)
        await cards(host).nth(7).scroll_into_view_if_needed()
        await loaded(host, 8)
        await host.view.locator(".pic").nth(6).focus()
        await host.page.keyboard.press("Enter")
        large = host.view.get_by_role("dialog")
        await expect(large).to_be_visible()
        box = await large.bounding_box()
        assert box is not None
        assert box["y"] > -2
        assert box["y"] + box["height"] <= 701  # laid over what is seen of a frame much taller than the window
        await expect(large).to_contain_text(f"7 of 8 · 1024 {TIMES} 1024 · $0.05")
        await host.until(lambda: "flux2://images/task-6?max=1536" in host.reads())
        await host.page.keyboard.press("ArrowRight")
        await expect(large).to_contain_text("8 of 8")
        await host.page.keyboard.press("Escape")
        await expect(large).to_be_hidden()
        await expect(host.view.locator(".pic").nth(7)).to_be_focused()
        assert host.wrong == []


@pytest.mark.deep  # test_the_large_view_has_the_actions_too_and_a_panel_over_it_closes_first
async def test_escape_leaves_the_second_step_without_spending(hosting: Open, answers: dict[str, Answer]) -> None:
    async with hosting(answers) as host:
        await shown(host, 2)
        await button(cards(host).nth(0), "Remix").click()
        asked = host.view.get_by_role("dialog", name="Remix this image")
        await expect(asked).to_be_visible()
        await host.page.keyboard.press("Escape")
        await expect(asked).to_have_count(0)
        assert (await focused(host)).startswith("Remix")
        assert host.tools("generate") == []


# --- every state: drawn in both themes and in a narrow frame, kept as pictures, and judged by axe's rules ---


async def one(host: Host) -> None:
    await shown(host)
    await loaded(host, 1)


async def several(host: Host) -> None:
    await shown(host, 8)
    await loaded(host, 8)


async def fifty(host: Host) -> None:
    await host.open()
    await host.input(limit=50)
    await host.result(result([task(number) for number in range(50)], prompts=[PROMPTS[n % 8] for n in range(50)]))
    await expect(cards(host).nth(8).locator(".pic.has")).to_be_visible()


async def asked(host: Host) -> None:
    await host.open()
    await host.input(prompt=PROMPT, count=4, aspect_ratio="16:9")
    await expect(cards(host)).to_have_count(4)


async def running(host: Host) -> None:
    await host.open()
    await host.input()
    states = [
        task(0, ratio="3:2"),
        task(1, "processing"),
        task(2, "pending"),
        task(3, "failed", error="The prompt was refused by moderation."),
        task(4, "unknown", error="RunAPI never answered; whether it was charged is not known."),
        task(5, "submitting"),
    ]
    await host.result(result(states, prompts=PROMPTS, notice="SANDBOX: drawn on this machine to try things out."))
    await loaded(host, 1)


async def failed(host: Host) -> None:
    await host.open()
    await host.input(prompt=PROMPT)
    await host.result(result([task(0, "failed", error="The prompt was refused by moderation.")]))
    await expect(cards(host)).to_contain_text("Failed")


async def otherwise(host: Host) -> None:
    await host.open()
    await host.input(prompt=PROMPT, count=3, aspect_ratio="16:9")
    await host.result(result([odd(task(0), ODD), task(1), task(2)]))
    await loaded(host, 3)


async def none(host: Host) -> None:
    await host.open()
    await host.input()
    await host.result(result([], notice="SANDBOX: drawn on this machine to try things out."))
    await expect(host.view.get_by_role("heading")).to_have_text("No images yet")


async def armed(host: Host) -> None:
    await shown(host, 2)
    await loaded(host, 2)
    await button(cards(host).nth(1), "Remix").click()
    await expect(button(host.view, "Remix for $0.05")).to_be_visible()


async def unpriced(host: Host) -> None:
    host.answers["tool"] = tools(usd=None)
    await host.open()
    await host.input(prompt=PROMPT, variant="max", aspect_ratio="1:1")
    await host.result(result([task(0, variant="max").model_copy(update={"quoted_usd": None})]))
    await loaded(host, 1)
    await button(host.view, "Upscale to 2k").click()
    await expect(host.view.get_by_role("spinbutton")).to_be_visible()


async def large(host: Host) -> None:
    await shown(host, 2)
    await loaded(host, 2)
    await host.view.locator(".pic").nth(1).click()
    await expect(host.view.get_by_role("dialog")).to_be_visible()


async def planned(host: Host) -> None:
    """Below the answer of a `generate` over a manifest stands what is left to do."""
    images = [
        {"path": "public/hero.png", "standing": "changed", "changed": ["style"], "derive": ["a.webp"] * 6, "usd": 0.05},
        {"path": "public/a-folder-with-a-long-name/fox-at-night.png", "standing": "new", "waits_for": ["public/fox.png"], "usd": 0.05},
        {"path": "public/boats.png", "standing": "edited", "kept": True, "usd": 0},
        {"path": "public/brand/logo.png", "standing": "moved", "moved_from": "public/logo.png", "usd": 0},
    ]  # fmt: skip
    plan = {"manifest": "flux2.toml", "counts": {"new": 1, "changed": 1, "edited": 1, "moved": 1}, "current": 7}

    of_a_button = host.answers["tool"]

    async def tool(params: dict[str, Any]) -> dict[str, Any]:
        if (params["name"], params["arguments"]) != ("check_pricing", {"manifest": "flux2.toml"}):
            return await of_a_button(params)  # the pointer may rest on one, which asks for its price
        return {"content": [], "structuredContent": {"prices": [], "plan": plan | {"images": images, "usd": 0.1}}}

    host.answers["tool"] = tool
    await host.open()
    await host.input(manifest="flux2.toml")
    await host.result(result([task(0), task(1)]))
    await loaded(host, 2)
    await expect(host.view.locator("#plan-sum")).to_have_text("1 new, 1 changed, 1 edited, 1 moved · 7 current · $0.10")


STATES = [running]
"""It shows the most of what a gallery is made of."""
OTHERS = [one, several, fifty, asked, failed, otherwise, none, armed, unpriced, large, planned]
LABELS = '{ "label-content-name-mismatch": { enabled: true } }'
"""Rules that axe has and leaves out unless named: what a button shows is part of its name (WCAG 2.5.3)."""
RULES = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.mark.parametrize(
    "state",
    [*STATES, *(pytest.param(state, marks=pytest.mark.deep) for state in OTHERS)],
    ids=lambda state: state.__name__,
)
async def test_every_state_is_drawn_for_everybody(
    hosting: Open, answers: dict[str, Answer], state: Callable[[Host], Awaitable[None]], shot: Shot
) -> None:
    packages = fetched()
    assert isinstance(packages, Path)
    axe = (packages / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    async with hosting(answers, viewport=(800, 1100)) as host:
        await state(host)
        frame = host.page.frames[1]
        await frame.evaluate(axe)
        # All rules once; another theme changes nothing but colours.
        for theme, rules in (("light", RULES), ("dark", ["color-contrast"])):
            await host.page.evaluate("theme => set_theme(theme)", theme)
            await expect(host.view.locator("html")).to_have_attribute("data-theme", theme)
            found = await frame.evaluate(
                "runOnly => axe.run({ runOnly, rules: LABELS })".replace("LABELS", LABELS), rules
            )
            wrong = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]
            assert wrong == []
            await shot(host.page, f"{state.__name__}-{theme}")
        await host.page.set_viewport_size({"width": 360, "height": 1100})
        await expect(host.view.locator("html")).to_have_js_property("scrollWidth", 336)  # as wide as the frame: no more
        await host.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        await shot(host.page, f"{state.__name__}-narrow")
        assert host.wrong == []
