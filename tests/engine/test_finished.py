"""Pictures that are cut out and enlarged: a chain of paid tasks, against an API that knows only the contract."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from PIL import Image

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.models import RequestArgs
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.submission import Terms
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.errors import BudgetError, InvalidRequestError
from flux2_mcp.images.size_check import mismatch
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.settings import Settings
from tests.support.contract_api import KEY, NEXT_KEY, SMALL_PX, ContractApi, contract_api
from tests.support.deep import deep_but
from tests.support.services import PATIENCE, journal_of, opened, until

pytestmark = pytest.mark.anyio
FLUX, CUT, LARGER = "flux-2-pro-text-to-image", "recraft-remove-background", "topaz-upscale-image"
LOGO: dict[str, Any] = {"prompt": "a flat fox logo", "background": "transparent"}
BOTH = LOGO | {"upscale": 2}
CENTS = {FLUX: 5, CUT: 1, LARGER: 4}


@pytest.fixture
def api() -> Iterator[ContractApi]:
    with contract_api() as api:
        api.cents |= CENTS
        api.side_px = SMALL_PX
        yield api


def settings(api: ContractApi, folder: Path, **more: Any) -> Settings:  # noqa: ANN401  # fields of Settings
    given: dict[str, Any] = {"rate": 1000.0, "in_flight": 100, "workspace": str(folder)} | more
    return Settings(mode="live", home=folder / "home", base_url=api.url, api_key=KEY, **given)


async def asked(service: Service, wait: float = PATIENCE, **more: Any) -> Outcome:  # noqa: ANN401  # arguments of generate
    """One call as the faces make it, which its user agrees to."""
    names = ("count", "max_cost_usd", "idempotency_key", "save_to")
    terms = {name: more.pop(name) for name in names if name in more}
    folders = [Path(service.settings.workspace or "")]
    with anyio.fail_after(wait + PATIENCE):
        checked = await service.request(RequestArgs(**more), folders=folders, terms=Terms(**terms))
        save_to = terms.pop("save_to", None)
        offer = await service.offer(checked, **terms)
        return await service.generate(
            offer, approved=True, wait_seconds=wait, workspace=folders[0], save_to=save_to, report_refusal=True
        )


def models(report: TaskReport) -> list[tuple[str, State]]:
    return [(each.record.request.model, each.record.state) for each in (*report.steps, report)]


def fits(report: TaskReport) -> bool:
    (image,) = report.record.images
    return mismatch(report.record.request, image.width, image.height, image.transparent_share) is None


async def test_a_logo_is_made_cut_out_and_enlarged_each_by_a_task_of_its_own(api: ContractApi, tmp_path: Path) -> None:
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        outcome = await asked(service, **BOTH, save_to="logo.png")
        (report,) = outcome.tasks
        assert models(report) == [(model, State.DELIVERED) for model in (FLUX, CUT, LARGER)]
        assert fits(report)
        assert all(map(fits, report.steps))
        result = task_results.generation(outcome)
        assert (result.status, result.charged_usd) == ("completed", 0.10)
        assert [step.charged_usd for step in result.tasks[0].steps or ()] == [0.05, 0.01]
        assert result.tasks[0].prompt == LOGO["prompt"]
        # A later look at the picture tells its steps, too.
        (again,) = (await service.check([report.record.task_id or ""], wait_seconds=0)).tasks
        assert models(again) == models(report)
    with Image.open(tmp_path / "logo.png") as saved:
        assert (saved.mode, saved.size) == ("RGBA", (1440, 1440))
    assert [path.name for path in tmp_path.glob("*.png")] == ["logo.png"]
    assert len(api.tasks) == 3
    # Each step works on the checked file of the one before.
    assert all(task.body["source_image_url"].startswith(f"{api.url}/store/") for task in [*api.tasks.values()][1:])
    assert set(api.creates.values()) == {1}


@pytest.mark.parametrize("source", deep_but(["file", "task"], "task"))
async def test_an_existing_picture_is_finished_alone(api: ContractApi, tmp_path: Path, source: str) -> None:
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        (first,) = (await asked(service, prompt="a fox", save_to="fox.png")).tasks
        given = "fox.png" if source == "file" else f"task:{first.record.task_id}"
        (report,) = (await asked(service, source_images=[given], upscale=2)).tasks
        assert models(report) == [(LARGER, State.DELIVERED)]
        assert fits(report)
        (both,) = (await asked(service, source_images=[given], upscale=2, background="transparent")).tasks
        assert models(both) == [(CUT, State.DELIVERED), (LARGER, State.DELIVERED)]
        assert fits(both)
    assert len(api.made(FLUX)) == 1


async def test_a_step_that_fails_keeps_what_is_there_and_the_same_call_goes_on_from_it(
    api: ContractApi, tmp_path: Path
) -> None:
    api.failing.add(CUT)
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        (report,) = (outcome := await asked(service, **BOTH)).tasks
        assert models(report) == [(FLUX, State.DELIVERED), (CUT, State.FAILED), (LARGER, State.REJECTED)]
        result = task_results.generation(outcome)
        assert (result.status, result.charged_usd) == ("partial", 0.05)
        path = (result.tasks[0].steps or [])[0].path
        assert path is not None
        assert Path(path).is_file()
        words = task_words.words(result)
        assert path in words
        assert "The model could not do it." in words
        assert "only the missing steps are made and paid" in words
        api.failing.clear()
        again = await service.offer(await service.request(RequestArgs(**BOTH)))
        assert [task.request.model for task in again.pictures[0]] == [CUT, LARGER]
        (report,) = (await asked(service, **BOTH)).tasks
        assert models(report) == [(model, State.DELIVERED) for model in (FLUX, CUT, LARGER)]
        # What is complete is not gone on from: the next call makes a picture of its own.
        (other,) = (await asked(service, **BOTH)).tasks
        assert other.steps[0].record.key != report.steps[0].record.key
    assert len(api.made(FLUX)) == 2
    assert set(api.creates.values()) == {1}


@pytest.mark.deep  # one picture is gone on with above
async def test_of_several_pictures_each_that_broke_off_is_gone_on_with(api: ContractApi, tmp_path: Path) -> None:
    api.failing.add(CUT)
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        await asked(service, **LOGO, count=2)
        api.failing.clear()
        outcome = await asked(service, **LOGO, count=3)
        assert [models(report)[-1] for report in outcome.tasks] == [(CUT, State.DELIVERED)] * 3
    assert len(api.made(FLUX)) == 3
    assert len(api.made(CUT)) == 5


@pytest.mark.deep  # tests/api/test_finished_pictures.py calls twice under a key
async def test_under_one_key_the_whole_chain_is_paid_once(api: ContractApi, tmp_path: Path) -> None:
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        for _ in range(2):
            (report,) = (await asked(service, **BOTH, idempotency_key="logo")).tasks
            assert [each.record.key for each in (*report.steps, report)] == ["logo", "logo.1", "logo.1.1"]
        with pytest.raises(InvalidRequestError, match="idempotency_key"):
            await asked(service, **(BOTH | {"upscale": 4}), idempotency_key="logo")
    assert len(api.tasks) == 3


async def test_an_identical_call_under_way_is_joined_with_all_its_steps(api: ContractApi, tmp_path: Path) -> None:
    api.polls_needed = 10**6
    async with opened(settings(api, tmp_path)) as service:
        await asked(service, wait=0, **BOTH)
        joined = await asked(service, wait=0, **BOTH)
        assert joined.joined
        assert [model for model, _ in models(joined.tasks[0])] == [FLUX, CUT, LARGER]
        other = await asked(service, wait=0, **LOGO)
        assert not other.joined
    assert len(api.tasks) == 2


async def test_the_price_of_a_call_is_that_of_its_steps_and_each_is_named(api: ContractApi, tmp_path: Path) -> None:
    async with opened(settings(api, tmp_path, confirm_usd=Decimal("0.06"))) as service:
        offer = await service.offer(await service.request(RequestArgs(**BOTH)))
        assert offer.to_ask is not None
        assert "a price that is not published" in offer.to_ask.question
        for label in (f"{FLUX} at 1k ($0.05)", f"{CUT} (not published)", f"{LARGER} at 2x (not published)"):
            assert label in offer.to_ask.question
    api.schedules |= CENTS
    async with opened(settings(api, tmp_path, confirm_usd=Decimal("0.06"))) as service:
        offer = await service.offer(await service.request(RequestArgs(**BOTH)))
        assert offer.to_ask is not None
        assert offer.to_ask.quoted_usd == Decimal("0.10")
        assert [task.quoted_usd for task in offer.pictures[0]] == [Decimal("0.05"), Decimal("0.01"), Decimal("0.04")]


async def test_a_cap_that_the_whole_call_does_not_fit_refuses_it_before_anything_is_made(
    api: ContractApi, tmp_path: Path
) -> None:
    api.schedules |= CENTS
    async with opened(settings(api, tmp_path, caps=Caps(daily_usd=Decimal("0.09")))) as service:
        with pytest.raises(BudgetError, match=r"would cost \$0\.10"):
            await asked(service, **BOTH)
    assert not api.tasks


async def test_without_a_price_the_most_is_stated_and_shared_by_the_steps_that_have_none(
    api: ContractApi, tmp_path: Path
) -> None:
    async with opened(settings(api, tmp_path, caps=Caps(daily_usd=Decimal(1))), speed=50.0) as service:
        with pytest.raises(BudgetError, match="Nobody publishes a price"):
            await asked(service, **BOTH)
        with pytest.raises(BudgetError, match="nothing is left for the step"):
            await asked(service, **BOTH, max_cost_usd=Decimal("0.05"))
        offer = await service.offer(await service.request(RequestArgs(**BOTH)), max_cost_usd=Decimal("0.25"))
        assert [task.reserved_usd for task in offer.pictures[0]] == [Decimal("0.05"), Decimal("0.10"), Decimal("0.10")]
        (report,) = (await asked(service, **BOTH, max_cost_usd=Decimal("0.25"))).tasks
        assert fits(report)


@pytest.mark.parametrize(
    ("caps", "stated", "made"),
    [
        (Caps(daily_usd=Decimal("0.12")), None, 1),
        pytest.param(Caps(session_usd=Decimal("0.12")), None, 1, marks=pytest.mark.deep),
        pytest.param(Caps(call_usd=Decimal("0.12")), None, 2, marks=pytest.mark.deep),
        (Caps(), Decimal("0.12"), 2),
    ],
)
async def test_a_step_that_was_charged_more_than_was_said_stops_those_after_it(
    api: ContractApi, tmp_path: Path, caps: Caps, stated: Decimal | None, made: int
) -> None:
    api.schedules |= CENTS
    api.cents[FLUX] = 9
    async with opened(settings(api, tmp_path, caps=caps), speed=50.0) as service:
        (report,) = (outcome := await asked(service, **BOTH, max_cost_usd=stated)).tasks
        assert [state for _, state in models(report)] == [State.DELIVERED] * made + [State.REJECTED] * (3 - made)
        words = task_words.words(task_results.generation(outcome))
        assert f"{(FLUX, CUT, LARGER)[made]} was not sent" in words
        spent = await journal_of(service).money.spent(at=datetime.now(UTC), session=None)
        assert spent.daily_usd == Decimal("0.09") + (made - 1) * Decimal("0.01")
    assert len(api.tasks) == made
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        (report,) = (await asked(service, **BOTH)).tasks
        assert models(report)[-1] == (LARGER, State.DELIVERED)
    assert len(api.made(FLUX)) == 1


async def test_another_process_goes_on_where_one_has_ended(api: ContractApi, tmp_path: Path) -> None:
    api.polls_needed = 10**6
    async with opened(settings(api, tmp_path)) as service:
        (report,) = (await asked(service, wait=0, **BOTH)).tasks
    assert len(api.tasks) == 1
    api.polls_needed = 1
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        outcome = await service.check([report.record.key], wait_seconds=PATIENCE)
        assert models(outcome.tasks[0]) == [(model, State.DELIVERED) for model in (FLUX, CUT, LARGER)]
    assert set(api.creates.values()) == {1}


async def test_who_hands_over_sends_the_first_step_and_leaves_the_others(api: ContractApi, tmp_path: Path) -> None:
    folder = settings(api, tmp_path)
    async with Service.opened(folder, hand_over=True) as service:
        (report,) = (await asked(service, wait=0, **LOGO)).tasks
        async with opened(folder, speed=50.0) as keeper:
            await until(lambda: len(api.made(CUT)) == 1)
            (report,) = (await keeper.check([report.record.key], wait_seconds=PATIENCE)).tasks
            assert models(report) == [(FLUX, State.DELIVERED), (CUT, State.DELIVERED)]


async def test_a_picture_whose_file_is_gone_is_taken_from_runapi(api: ContractApi, tmp_path: Path) -> None:
    api.failing.add(CUT)
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        (report,) = (await asked(service, **LOGO)).tasks
        api.failing.clear()
        Image.new("RGB", (1024, 1024), "blue").save(report.steps[0].record.images[0].path)
        (report,) = (await asked(service, **LOGO)).tasks
        assert report.record.state is State.DELIVERED
    assert api.made(CUT)[-1].body["source_image_url"].startswith(f"{api.url}/results/")


@pytest.mark.deep  # the enlarged one below tells the same
async def test_a_result_without_transparency_is_told(api: ContractApi, tmp_path: Path) -> None:
    api.opaque = True
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        result = task_results.generation(await asked(service, **LOGO))
    (image,) = result.tasks[0].images
    assert (image.matches_request, image.mismatch) == (False, "It has no transparent ground.")


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"save_to": "logo.jpg"}, "save_to"),
        ({"save_to": "LOGO.JPEG"}, "save_to"),
        ({"prompt": None, "count": 2, "source_images": ["https://example.com/a.png"]}, "count"),
    ],
)
async def test_what_a_finished_picture_can_not_be_is_refused_by_name(
    api: ContractApi, tmp_path: Path, more: dict[str, Any], field: str
) -> None:
    async with opened(settings(api, tmp_path)) as service:
        with pytest.raises(InvalidRequestError) as caught:
            await asked(service, **(LOGO | more))
    assert [problem.field for problem in caught.value.problems] == [field]
    assert not api.tasks


async def test_a_picture_that_would_be_too_large_to_be_checked_is_refused(api: ContractApi, tmp_path: Path) -> None:
    Image.new("1", (2400, 2000)).save(tmp_path / "large.png")
    async with opened(settings(api, tmp_path)) as service:
        with pytest.raises(InvalidRequestError, match=r"upscale: would make 19200x16000; at most 300 megapixels"):
            await asked(service, source_images=["large.png"], upscale=8)
        assert (await service.request(RequestArgs(source_images=["large.png"], upscale=4), folders=[tmp_path])).found
    assert not api.tasks


async def test_a_task_of_another_line_that_was_made_elsewhere_is_found(api: ContractApi, tmp_path: Path) -> None:
    async with opened(settings(api, tmp_path / "one"), speed=50.0) as service:
        (tmp_path / "one").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), "red").save(tmp_path / "one" / "a.png")
        (report,) = (await asked(service, source_images=["a.png"], upscale=4)).tasks
    async with opened(settings(api, tmp_path / "two"), speed=50.0) as other:
        (found,) = (await other.check([report.record.task_id or ""], wait_seconds=PATIENCE)).tasks
        assert (found.record.request.model, found.record.state) == (LARGER, State.DELIVERED)


async def test_what_a_call_may_cost_is_not_used_up_by_the_steps_of_an_earlier_one(
    api: ContractApi, tmp_path: Path
) -> None:
    api.schedules |= CENTS
    api.failing.add(CUT)
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        await asked(service, **BOTH, max_cost_usd=Decimal("0.10"))
        api.failing.clear()
        (report,) = (await asked(service, **BOTH, max_cost_usd=Decimal("0.05"))).tasks
        assert models(report) == [(model, State.DELIVERED) for model in (FLUX, CUT, LARGER)]


async def test_what_a_call_may_cost_is_for_all_its_pictures_together(api: ContractApi, tmp_path: Path) -> None:
    api.schedules |= CENTS
    api.cents[FLUX] = 8
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        outcome = await asked(service, **BOTH, count=3, max_cost_usd=Decimal("0.32"))
        result = task_results.generation(outcome)
        words = task_words.words(result)
    assert 0.24 <= (result.charged_usd or 0) <= 0.32
    assert len(api.made(LARGER)) < 3
    assert "was not sent: with it, the call would cost more than it may." in words


async def test_a_key_that_is_the_id_of_another_task_gives_no_step_the_wrong_picture(
    api: ContractApi, tmp_path: Path
) -> None:
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        (first,) = (await asked(service, prompt="a fox")).tasks
        ident = first.record.task_id or ""
        more: dict[str, Any] = {"source_images": [f"task:{ident}"], "background": "transparent", "upscale": 2}
        (report,) = (await asked(service, **more, idempotency_key=ident)).tasks
        assert models(report) == [(CUT, State.DELIVERED), (LARGER, State.DELIVERED)]
        assert report.record.images[0].transparent_share
        assert report.record.request.sources[0].given == f"task:{report.steps[0].record.task_id}"


@pytest.mark.parametrize("key", [None, pytest.param("logo", marks=pytest.mark.deep)])
async def test_the_call_that_makes_what_is_missing_is_the_one_that_the_result_names(
    api: ContractApi, tmp_path: Path, key: str | None
) -> None:
    api.failing.add("task-3")
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        outcome = await asked(service, **LOGO, count=2, idempotency_key=key)
        assert sorted(models(report)[-1][1] for report in outcome.tasks) == [State.DELIVERED, State.FAILED]
        words = task_words.words(task_results.generation(outcome))
        assert "the same arguments, but count 1 and without idempotency_key: only the missing steps" in words
        (report,) = (await asked(service, **LOGO, count=1)).tasks
        assert models(report) == [(FLUX, State.DELIVERED), (CUT, State.DELIVERED)]
    assert len(api.made(FLUX)) == 2


async def test_an_enlarged_picture_whose_ground_was_not_removed_is_not_what_was_asked_for(
    api: ContractApi, tmp_path: Path
) -> None:
    api.opaque = True
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        result = task_results.generation(await asked(service, **BOTH))
    (image,) = result.tasks[0].images
    assert (image.matches_request, image.mismatch) == (False, "It has no transparent ground.")


async def test_a_wait_goes_on_through_a_passing_fault_of_an_upload(api: ContractApi, tmp_path: Path) -> None:
    api.busy_uploads = 3
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        (report,) = (await asked(service, **BOTH)).tasks
        assert models(report) == [(model, State.DELIVERED) for model in (FLUX, CUT, LARGER)]
    assert not api.busy_uploads


async def test_of_several_pictures_a_wait_for_the_first_ends_with_a_picture_not_with_a_step(
    api: ContractApi, tmp_path: Path
) -> None:
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        (one,) = (await asked(service, wait=0, **BOTH)).tasks
        (two,) = (await asked(service, wait=0, **(BOTH | {"prompt": "a flat owl logo"}))).tasks
        keys = [one.record.key, two.record.key]
        outcome = await service.check(keys, wait_seconds=PATIENCE, first=True)
        assert State.DELIVERED in {report.record.state for report in outcome.tasks}


@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        (FLUX, "The step before this one made no picture, so this was not sent: The model could not do it."),
        (None, "The picture of the step before could not be given to RunAPI, so this was not sent:"),
    ],
)
async def test_why_a_step_was_not_sent_is_said_once(
    api: ContractApi, tmp_path: Path, fails: str | None, reason: str
) -> None:
    api.failing |= {fails} if fails else set()
    api.no_uploads = fails is None
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        words = task_words.words(task_results.generation(await asked(service, **BOTH)))
    assert words.count("was not sent") == words.count(reason) == 1


async def test_a_refused_call_without_a_prompt_is_not_priced_as_an_image(api: ContractApi, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    async with opened(settings(api, tmp_path)) as service:
        with pytest.raises(InvalidRequestError) as caught:
            await asked(service, source_images=["a.png"], upscale=3, max_cost_usd=Decimal("0.01"))
    assert [problem.field for problem in caught.value.problems] == ["upscale"]


async def test_a_refused_chain_is_not_said_to_have_nothing_cheaper(api: ContractApi, tmp_path: Path) -> None:
    api.schedules |= CENTS
    async with opened(settings(api, tmp_path, caps=Caps(daily_usd=Decimal("0.09")))) as service:
        with pytest.raises(BudgetError) as caught:
            await asked(service, **BOTH)
    assert caught.value.next_step == "Fewer pictures or steps cost less. Or raise FLUX2_DAILY_BUDGET_USD."


@pytest.mark.deep  # after one step: above
async def test_a_call_that_goes_on_after_two_steps_tells_all_of_them(api: ContractApi, tmp_path: Path) -> None:
    api.failing.add(LARGER)
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        await asked(service, **BOTH)
        api.failing.clear()
        (report,) = (outcome := await asked(service, **BOTH)).tasks
        assert models(report) == [(model, State.DELIVERED) for model in (FLUX, CUT, LARGER)]
        assert task_results.generation(outcome).charged_usd == 0.10
    assert (len(api.made(FLUX)), len(api.made(CUT)), len(api.made(LARGER))) == (1, 1, 2)


async def test_nobody_is_sent_to_look_again_for_a_picture_whose_step_before_can_not_be_fetched(
    api: ContractApi, tmp_path: Path
) -> None:
    api.gone.add("task-1")
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        result = task_results.generation(await asked(service, **BOTH))
    assert result.next_action is None
    assert "its image can't be had" in ((result.tasks[0].steps or [])[0].error or "")


@pytest.mark.deep  # test_rotated_key.py has the keys of an account
async def test_a_new_key_of_the_account_goes_on_from_what_the_old_one_has_paid(
    api: ContractApi, tmp_path: Path
) -> None:
    api.failing.add(CUT)
    async with opened(settings(api, tmp_path), speed=50.0) as service:
        await asked(service, **LOGO)
    api.failing.clear()
    async with opened(replace(settings(api, tmp_path), api_key=NEXT_KEY), speed=50.0) as service:
        (report,) = (await asked(service, **LOGO)).tasks
        assert models(report) == [(FLUX, State.DELIVERED), (CUT, State.DELIVERED)]
    assert len(api.made(FLUX)) == 1
