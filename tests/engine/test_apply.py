"""A plan is made through the one service: each picture is paid once, whatever ends in between, and the lock is right."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.manifest import lock
from flux2_mcp.engine.applied import Applied
from flux2_mcp.engine.project import Project
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import BudgetError, InvalidRequestError, ManifestError
from flux2_mcp.server.results import apply as apply_results
from flux2_mcp.server.results.apply import applied as answer
from flux2_mcp.settings import Settings
from tests.support import forked
from tests.support.contract_api import KEY, SMALL_PX, contract_api
from tests.support.services import CREATE, FETCH, PATIENCE, Front, Reply, Seen, fronted, opened, through

pytestmark = pytest.mark.anyio

TWO = '[style]\nprompt = "flat"\n\n[images."a.png"]\nprompt = "a fox"\n\n[images."art/b.webp"]\nprompt = "a dog"\n'
REMIX = TWO + '\n[images."c.png"]\nprompt = "at night"\nsources = ["a.png"]\n'


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        front.rule = pictures
        yield front


async def pictures(seen: Seen) -> Reply | None:
    """Each result is a picture of its own."""
    if not seen.is_(FETCH):
        return await through(seen)
    out = BytesIO()
    colour = hashlib.sha256(seen.what.encode()).digest()[:3]
    Image.new("RGB", (64, 64), (colour[0], colour[1], colour[2])).save(out, "PNG")
    return Reply(200, out.getvalue(), {"Content-Type": "image/png"})


class Site:
    """A project's folder, and the service that makes its pictures."""

    def __init__(self, front: Front, folder: Path, **settings: Any) -> None:  # noqa: ANN401  # fields of Settings
        self.front = front
        self.folder = folder / "site"
        self.folder.mkdir(exist_ok=True)
        self.settings = front.settings(folder, workspace=str(self.folder), **settings)

    def write(self, text: str) -> None:
        (self.folder / "flux2.toml").write_text(text, "utf-8")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Service]:
        with anyio.fail_after(PATIENCE):
            async with opened(self.settings) as service:
                yield service

    async def apply(self, *paths: str, overwrite: bool = False, approved: bool = True, **more: Any) -> Applied:  # noqa: ANN401  # arguments of quote
        async with self.opened() as service:
            quote = await service.manifests.quote(self.project, paths=paths, overwrite=overwrite, **more)
            return await service.manifests.apply(quote, approved=approved)

    @property
    def project(self) -> Project:
        return Project(self.folder, live=True)

    def standings(self) -> dict[str, str]:
        return {image.path: str(image.standing) for image in self.project.plan().images}

    def lock(self) -> str:
        return (self.folder / "flux2.lock").read_text("utf-8")

    def creates(self) -> int:
        """How many tasks were asked for; one that is sent again has its key."""
        return len({seen.key for seen in self.front.seen if seen.is_(CREATE)})


@pytest.fixture
def site(front: Front, tmp_path: Path) -> Site:
    site = Site(front, tmp_path)
    site.write(TWO)
    return site


def results(applied: Applied) -> dict[str, str]:
    return {image.path: str(image.result) for image in applied.images}


async def test_what_is_new_is_made_and_noted_and_then_nothing_is_to_do(site: Site) -> None:
    async with site.opened() as service:
        quote = await service.manifests.quote(site.project)
        assert (quote.usd, len(quote.paid)) == (Decimal("0.10"), 2)
        applied = await service.manifests.apply(quote, approved=True)
    assert results(applied) == {"a.png": "made", "art/b.webp": "made"}
    assert site.standings() == {"a.png": "current", "art/b.webp": "current"}
    with Image.open(site.folder / "art/b.webp") as picture:
        assert picture.format == "WEBP"
    held = lock.read(site.lock().encode())
    assert {path: (each[0].model, each[0].charged_usd, each[0].size) for path, each in held.items()} == dict.fromkeys(
        ["a.png", "art/b.webp"], ("flux-2-pro-text-to-image", "0.05", (64, 64))
    )
    assert str(site.folder) not in site.lock()
    before = site.lock()
    again = await site.apply()
    assert (results(again), site.lock(), site.creates()) == ({"a.png": "current", "art/b.webp": "current"}, before, 2)


async def test_the_journal_knows_the_copies_by_their_content(site: Site) -> None:
    await site.apply()
    async with site.opened() as service:
        for path in ("a.png", "art/b.webp"):
            found = await service.recent(limit=5, file=path, folders=[site.folder])
            assert [report.record.images[0].saved for report in found.tasks] == [str(site.folder / path)]


async def test_a_picture_that_is_gone_comes_back_for_nothing(site: Site) -> None:
    await site.apply()
    before = site.lock()
    for path in ("a.png", "art/b.webp"):
        (site.folder / path).unlink()
    assert set(site.standings().values()) == {"missing"}
    applied = await site.apply()
    assert results(applied) == {"a.png": "restored", "art/b.webp": "restored"}
    assert (site.lock(), site.creates()) == (before, 2)


@pytest.mark.deep  # the lock is not what a picture is restored from
async def test_without_the_lock_too(site: Site) -> None:
    await site.apply()
    before = site.lock()
    (site.folder / "flux2.lock").unlink()
    (site.folder / "a.png").unlink()
    assert set(results(await site.apply()).values()) == {"restored"}
    assert (site.lock(), site.creates()) == (before, 2)


async def test_a_picture_that_is_gone_here_is_fetched_once_more_from_runapi(site: Site) -> None:
    await site.apply()
    (site.folder / "a.png").unlink()
    for image in (site.settings.home / "images").iterdir():
        image.unlink()
    assert results(await site.apply())["a.png"] == "restored"
    assert site.creates() == 2


async def test_another_machine_takes_the_picture_that_the_lock_names_from_runapi(front: Front, tmp_path: Path) -> None:
    site = Site(front, tmp_path)
    site.write(TWO)
    await site.apply()
    before = site.lock()
    (site.folder / "a.png").unlink()
    site.settings = front.settings(tmp_path / "other", workspace=str(site.folder))
    assert results(await site.apply())["a.png"] == "restored"
    assert (site.lock(), site.creates()) == (before, 2)


async def test_a_request_that_was_had_before_is_not_paid_again(site: Site) -> None:
    await site.apply()
    before = site.lock()
    site.write(TWO.replace("fox", "bear"))
    assert results(await site.apply()) == {"a.png": "made", "art/b.webp": "current"}
    site.write(TWO)
    assert results(await site.apply()) == {"a.png": "restored", "art/b.webp": "current"}
    assert (site.lock(), site.creates()) == (before, 3)


async def test_what_was_edited_by_hand_stays_unless_the_user_says_so(site: Site) -> None:
    await site.apply()
    before = (site.folder / "a.png").read_bytes()
    (site.folder / "a.png").write_bytes(b"mine")
    assert results(await site.apply())["a.png"] == "kept"
    site.write(TWO.replace("fox", "bear"))
    assert results(await site.apply())["a.png"] == "kept"
    assert ((site.folder / "a.png").read_bytes(), site.creates()) == (b"mine", 2)
    site.write(TWO)
    assert results(await site.apply(overwrite=True))["a.png"] == "restored"
    assert ((site.folder / "a.png").read_bytes(), site.creates()) == (before, 2)


async def test_what_is_made_from_a_picture_that_stays_waits_and_costs_nothing(site: Site) -> None:
    site.write(REMIX)
    await site.apply()
    (site.folder / "a.png").write_bytes(b"mine")
    site.write(REMIX.replace("a fox", "a bear"))
    async with site.opened() as service:
        quote = await service.manifests.quote(site.project)
        assert (quote.usd, [image.planned.path for image in quote.images if image.blocked]) == (Decimal(0), ["c.png"])
        assert results(await service.manifests.apply(quote, approved=False)) == {
            "a.png": "kept", "art/b.webp": "current", "c.png": "waiting",
        }  # fmt: skip
    assert site.creates() == 3


async def test_a_file_that_comes_while_its_picture_is_made_stays(site: Site) -> None:
    async def edit(seen: Seen) -> Reply | None:
        if seen.is_(FETCH):
            (site.folder / "a.png").write_bytes(b"mine")
        return await pictures(seen)

    site.front.rule = edit
    assert results(await site.apply())["a.png"] == "kept"
    assert (site.folder / "a.png").read_bytes() == b"mine"


async def test_a_picture_with_a_new_name_is_moved_for_nothing(site: Site) -> None:
    await site.apply()
    content = (site.folder / "a.png").read_bytes()
    site.write(TWO.replace('"a.png"', '"new/place.png"'))
    assert results(await site.apply()) == {"new/place.png": "moved", "art/b.webp": "current"}
    assert (site.folder / "new/place.png").read_bytes() == content
    assert not (site.folder / "a.png").exists()
    assert (set(site.standings().values()), site.creates()) == ({"current"}, 2)
    (site.folder / "new/place.png").rename(site.folder / "a.png")  # the user was first, and back
    site.write(TWO)
    assert results(await site.apply())["a.png"] == "moved"


async def test_what_is_no_longer_named_is_forgotten_and_its_file_stays(site: Site) -> None:
    await site.apply()
    site.write(TWO.partition('\n[images."art')[0])
    assert results(await site.apply()) == {"a.png": "current", "art/b.webp": "forgotten"}
    assert (site.folder / "art/b.webp").is_file()
    assert site.standings() == {"a.png": "current"}


async def test_a_picture_made_from_another_waits_for_it_and_follows_its_changes(site: Site) -> None:
    site.write(REMIX)
    assert set(results(await site.apply()).values()) == {"made"}
    assert (set(site.standings().values()), site.creates()) == ({"current"}, 3)
    site.write(REMIX.replace("a fox", "a bear"))
    assert site.standings() == {"a.png": "changed", "art/b.webp": "current", "c.png": "changed"}
    assert results(await site.apply("c.png")) == {"a.png": "made", "c.png": "made"}
    assert (set(site.standings().values()), site.creates()) == ({"current"}, 5)


async def test_one_that_fails_stops_no_other_and_is_tried_under_a_new_key(site: Site) -> None:
    site.write(REMIX.replace("a fox", "[sandbox:fail] a fox"))
    applied = await site.apply()
    assert results(applied) == {"a.png": "failed", "art/b.webp": "made", "c.png": "waiting"}
    assert applied.images[0].error is not None
    assert results(await site.apply()) == {"a.png": "failed", "art/b.webp": "current", "c.png": "waiting"}
    assert site.creates() == 3


CHAIN = '[images."logo.png"]\nprompt = "a flat fox logo"\nbackground = "transparent"\nupscale = 2\n'
FLUX, CUT, LARGER = "flux-2-pro-text-to-image", "recraft-remove-background", "topaz-upscale-image"


async def test_a_picture_whose_later_step_failed_goes_on_from_the_earlier_one_and_pays_what_is_missing(
    tmp_path: Path,
) -> None:
    (tmp_path / "flux2.toml").write_text(CHAIN, "utf-8")
    cents = {FLUX: 5, CUT: 1, LARGER: 4}
    project = Project(tmp_path, live=True)
    with contract_api() as api:
        api.side_px = SMALL_PX
        api.cents |= cents
        api.schedules |= cents
        told = Settings(
            mode="live", home=tmp_path / "home", base_url=api.url, api_key=KEY, workspace=str(tmp_path),
            rate=1000.0, caps=Caps(call_usd=Decimal("0.10")),
        )  # fmt: skip

        async def apply(price: str) -> Applied:
            with anyio.fail_after(PATIENCE):
                async with opened(told, speed=50.0) as service:
                    quote = await service.manifests.quote(project)
                    assert quote.usd == Decimal(price)
                    return await service.manifests.apply(quote, approved=True)

        charged = []
        for failing, price in ((CUT, "0.10"), (CUT, "0.05"), (LARGER, "0.05"), ("", "0.04")):
            api.failing = {failing}
            applied = await apply(price)
            charged.append(apply_results.applied(applied).charged_usd)
            assert results(applied) == {"logo.png": "failed" if failing else "made"}
        assert charged == [0.05, 0.0, 0.01, 0.04]
        assert [len(api.made(model)) for model in (FLUX, CUT, LARGER)] == [1, 3, 2]
        assert set(api.creates.values()) == {1}
        [locked] = lock.read((tmp_path / "flux2.lock").read_bytes())["logo.png"]
        assert (locked.model, locked.charged_usd) == (f"{FLUX}+{CUT}+{LARGER}", "0.1")
        (tmp_path / "logo.png").unlink()
        assert results(await apply("0")) == {"logo.png": "restored"}  # what it went on to is found again
        (tmp_path / "flux2.lock").unlink()
        (tmp_path / "logo.png").unlink()
        assert results(await apply("0")) == {"logo.png": "restored"}
        assert len(api.tasks) == 6


async def test_pictures_that_ask_for_the_same_are_two(site: Site) -> None:
    site.write('[images."a.png"]\nprompt = "a fox"\n[images."b.png"]\nprompt = "a fox"\n')
    await site.apply()
    assert (site.folder / "a.png").read_bytes() != (site.folder / "b.png").read_bytes()


async def test_a_new_entry_that_asks_for_the_same_gets_no_picture_of_another_entry(site: Site) -> None:
    site.write('[images."a.png"]\nprompt = "a fox"\n[images."c.png"]\nprompt = "a fox"\n')
    await site.apply()
    site.write(
        '[images."a.png"]\nprompt = "a fox"\n[images."b.png"]\nprompt = "a fox"\n[images."c.png"]\nprompt = "a fox"\n'
    )
    assert results(await site.apply()) == {"a.png": "current", "b.png": "made", "c.png": "current"}
    assert len({(site.folder / name).read_bytes() for name in ("a.png", "b.png", "c.png")}) == 3
    assert (set(site.standings().values()), site.creates()) == ({"current"}, 3)


async def test_a_run_that_was_ended_at_any_line_goes_on_without_paying_twice(site: Site) -> None:
    """The service ends as a killed process does, with its tasks open; a bench kills real ones."""
    site.write(REMIX)
    for stop in (CREATE, "GET /api/v1/flux_2/", FETCH):
        at, over = anyio.Event(), anyio.Event()

        async def hold(seen: Seen, stop: str = stop, at: anyio.Event = at, over: anyio.Event = over) -> Reply | None:
            if not seen.is_(stop):
                return await pictures(seen)
            at.set()
            await over.wait()
            return None

        site.front.rule = hold
        async with site.opened() as service:
            quote = await service.manifests.quote(site.project)
            async with anyio.create_task_group() as group:
                group.start_soon(partial(service.manifests.apply, quote, approved=True))
                await at.wait()
                group.cancel_scope.cancel()
        over.set()
    site.front.rule = pictures
    await site.apply()
    assert (set(site.standings().values()), site.creates()) == ({"current"}, 3)


async def test_of_a_picture_that_two_branches_made_the_lines_of_the_other_branch_go(site: Site) -> None:
    await site.apply()
    before = site.lock()
    theirs = re.sub(r'(?<=sha256 = ").', "x", re.sub(r'(?<=request = ").', "x", before))
    both = "".join(dict.fromkeys((theirs + before).splitlines(keepends=True)))
    (site.folder / "flux2.lock").write_text(both, "utf-8")
    assert results(await site.apply()) == {"a.png": "current", "art/b.webp": "current"}
    assert (site.lock(), site.creates()) == (before, 2)


NOTES = """
import sys
from pathlib import Path
from flux2_mcp.domain.manifest.digests import PARTS
from flux2_mcp.domain.manifest.lock import LockedImage
from flux2_mcp.engine.project import Project

project = Project(Path.cwd())
for number in range(40):
    project.note(LockedImage(
        path=f"{sys.argv[1]}/{number}.png", request="ab", parts=dict.fromkeys(PARTS, "cd"), model="", task="",
        charged_usd="", sha256="ef", size=(1, 1),
    ))
"""


async def test_two_processes_that_write_the_lock_lose_no_line_of_each_other(
    tmp_path: Path, clean_env: dict[str, str]
) -> None:
    both = [
        forked.begin([sys.executable, "-c", NOTES, name], clean_env | {"FLUX2_HOME": str(tmp_path)}, cwd=tmp_path)
        for name in ("a", "b")
    ]
    assert [process.wait(60) for process in both] == [0, 0]
    held = lock.read((tmp_path / "flux2.lock").read_bytes())
    assert set(held) == {f"{name}/{number}.png" for name in ("a", "b") for number in range(40)}
    assert [path.name for path in tmp_path.iterdir()] == ["flux2.lock"]


async def test_what_killed_runs_left_unfinished_is_removed_and_nothing_else(site: Site) -> None:
    old, new = site.folder / ".a.png.0123456789ab.flux2-part", site.folder / ".a.png.ba9876543210.flux2-part"
    of_lock, other = site.folder / ".flux2.lock.0123456789ab", site.folder / ".mine.png.0123456789ab.flux2-part"
    for path in (old, new, of_lock, other):
        path.write_bytes(b"half")
    for path in (old, of_lock, other):
        os.utime(path, (1, 1))
    await site.apply()
    assert [path.exists() for path in (old, new, of_lock, other)] == [False, True, False, True]


async def test_the_caps_hold_for_a_plan_as_a_whole(front: Front, tmp_path: Path) -> None:
    for caps, name in (
        (Caps(call_usd=Decimal("0.07")), "FLUX2_MAX_COST_USD"),
        (Caps(daily_usd=Decimal("0.07")), "FLUX2_DAILY_BUDGET_USD"),
    ):
        site = Site(front, tmp_path, caps=caps)
        site.write(TWO)
        with pytest.raises(BudgetError, match=name):
            await site.apply()
        assert results(await site.apply("a.png"))["a.png"] in {"made", "current"}
    with pytest.raises(BudgetError, match="allows"):
        await Site(front, tmp_path).apply(stated_usd=Decimal("0.01"))
    assert front.count(CREATE) == 1


async def test_a_dear_plan_is_asked_about_once(front: Front, tmp_path: Path) -> None:
    site = Site(front, tmp_path, confirm_usd=Decimal("0.08"))
    site.write(TWO)
    with pytest.raises(BudgetError, match="would cost"):
        await site.apply(approved=False)
    async with site.opened() as service:
        quote = await service.manifests.quote(site.project)
        assert quote.confirmation is not None
        assert quote.confirmation.question == (
            "Make 2 pictures of flux2.toml for $0.10?\n2 x flux-2-pro-text-to-image at 1k"
        )
    assert set(results(await site.apply(approved=False, stated_usd=Decimal("0.10"))).values()) == {"made"}


async def test_a_source_that_changes_after_the_plan_is_not_sent(site: Site) -> None:
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    (site.folder / "s.png").write_bytes(buffer.getvalue())
    site.write('[images."a.png"]\nprompt = "at night"\nsources = ["s.png"]\n')
    async with site.opened() as service:
        quote = await service.manifests.quote(site.project)
        (site.folder / "s.png").write_bytes(buffer.getvalue() + b" ")
        applied = await service.manifests.apply(quote, approved=True)
    assert results(applied) == {"a.png": "failed"}
    assert "changed after the plan" in str(applied.images[0].error)
    assert site.creates() == 0


async def test_a_source_that_is_no_picture_is_not_sent_and_its_line_is_named(site: Site) -> None:
    (site.folder / ".env").write_text("KEY=private", "utf-8")
    site.write('[images."a.png"]\nprompt = "at night"\nsources = [".env"]\n')
    [image] = (await site.apply()).images
    assert str(image.error).startswith("flux2.toml:3:11 images.\"a.png\".sources: item 1 ('.env') is no PNG")
    assert site.creates() == 0
    assert not any("file" in seen.what for seen in site.front.seen)


async def test_a_folder_that_becomes_a_link_gets_nothing_and_what_was_paid_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    async with site.opened() as service:
        quote = await service.manifests.quote(site.project)
        (site.folder / "art").symlink_to(tmp_path / "outside")
        applied = await service.manifests.apply(quote, approved=True)
    assert results(applied) == {"a.png": "made", "art/b.webp": "failed"}
    assert "a link on the way leads outside" in str(applied.images[1].error)
    assert [*(tmp_path / "outside").iterdir()] == []
    assert answer(applied).charged_usd == 0.1
    (site.folder / "art").unlink()
    again = await site.apply()
    assert (results(again)["art/b.webp"], answer(again).charged_usd, site.creates()) == ("restored", None, 2)


async def test_hostile_places_are_refused_before_anything_is_sent(site: Site, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.png").write_bytes(b"private")
    (site.folder / "out").symlink_to(tmp_path / "outside")
    (site.folder / "link.png").symlink_to(tmp_path / "outside/a.png")
    (site.folder / "folder.png").mkdir()
    for path in ("out/a.png", "out/new.png", "link.png", "folder.png"):
        site.write(f'[images."{path}"]\nprompt = "a fox"\n')
        with pytest.raises(ManifestError, match=re.escape(f'flux2.toml:1:9 images."{path}": {path} can\'t be used')):
            await site.apply()
    for source in ("out/a.png", "link.png", "folder.png"):
        site.write(f'[images."a.png"]\nprompt = "a fox"\nsources = ["{source}"]\n')
        with pytest.raises(
            ManifestError, match=re.escape(f'flux2.toml:3:12 images."a.png".sources[0]: {source} can\'t be used')
        ):
            await site.apply()
    site.write(TWO)
    with pytest.raises(InvalidRequestError, match=r"is no picture of flux2\.toml"):
        await site.apply("b.png")
    assert site.creates() == 0


async def test_a_plan_of_what_the_sandbox_drew_is_made_anew_for_money(site: Site) -> None:
    await site.apply()
    text = re.sub(r'("[^"]*")\.model = .*', r'\g<0>\n\1.made_by = "sandbox"', site.lock())
    (site.folder / "flux2.lock").write_text(text, "utf-8")
    assert set(site.standings().values()) == {"changed"}
    assert Project(site.folder).plan().done


async def test_a_plan_tells_the_price_and_the_balance_and_sends_nothing_paid(site: Site) -> None:
    async with opened(site.settings, keep=False) as service:
        quote = await service.manifests.quote(site.project, balance=True)
        assert (quote.usd, quote.balance is not None) == (Decimal("0.10"), True)
    assert site.creates() == 0


async def sharp(seen: Seen) -> Reply | None:
    """Pictures that are large enough for icons."""
    if not seen.is_(FETCH):
        return await through(seen)
    out = BytesIO()
    colour = hashlib.sha256(seen.what.encode()).digest()[:3]
    Image.new("RGB", (1280, 720), (colour[0], colour[1], colour[2])).save(out, "PNG")
    return Reply(200, out.getvalue(), {"Content-Type": "image/png"})


HERO = '[images."art/hero.png"]\nprompt = "a lighthouse"\naspect_ratio = "16:9"\nwidths = [320]\nformats = ["webp", "png"]\n'


async def test_sizes_and_formats_are_made_noted_and_made_anew_with_their_picture(site: Site) -> None:
    site.front.rule = sharp
    site.write(HERO)
    assert site.project.plan().images[0].derive == ("art/hero-320.webp", "art/hero-320.png")
    assert results(await site.apply()) == {"art/hero.png": "made"}
    assert site.standings() == {"art/hero.png": "current"}
    small = site.folder / "art/hero-320.webp"
    with Image.open(small) as picture:
        assert (picture.format, picture.size) == ("WEBP", (320, 180))
    before, content = site.lock(), small.read_bytes()
    small.unlink()
    assert site.standings() == {"art/hero.png": "derive"}
    assert results(await site.apply()) == {"art/hero.png": "derived"}
    assert (small.read_bytes(), site.lock()) == (content, before)

    site.write(HERO.replace("lighthouse", "boat"))
    assert results(await site.apply()) == {"art/hero.png": "made"}
    assert small.read_bytes() != content
    small.write_bytes(b"mine")
    assert site.standings() == {"art/hero.png": "edited"}
    assert results(await site.apply()) == {"art/hero.png": "kept"}
    site.write(HERO.replace("lighthouse", "fox"))
    assert results(await site.apply()) == {"art/hero.png": "made"}
    assert (small.read_bytes(), site.standings()) == (b"mine", {"art/hero.png": "edited"})
    assert (site.folder / "art/hero-320.png").is_file()


async def test_a_picture_that_is_moved_takes_its_copies_along(site: Site) -> None:
    site.front.rule = sharp
    site.write(HERO)
    await site.apply()
    content = (site.folder / "art/hero-320.webp").read_bytes()
    site.write(HERO.replace("art/hero.png", "new/hero.png"))
    assert results(await site.apply()) == {"new/hero.png": "moved"}
    assert (site.folder / "new/hero-320.webp").read_bytes() == content
    assert [path.name for path in (site.folder / "art").iterdir()] == []
    assert (site.standings(), site.creates()) == ({"new/hero.png": "current"}, 1)


async def test_a_picture_that_came_too_small_is_kept_and_its_copy_is_refused_with_its_line(site: Site) -> None:
    site.write(HERO)  # of 64 pixels
    applied = await site.apply()
    assert results(applied) == {"art/hero.png": "failed"}
    assert str(applied.images[0].error).startswith(
        'flux2.toml:4:10 images."art/hero.png".widths: 320: the original has 64x64'
    )
    assert (site.folder / "art/hero.png").is_file()
    with pytest.raises(ManifestError, match=r"flux2\.toml:4:11 .* is 320, and the original is 64 pixels wide"):
        await site.apply()
    assert site.creates() == 1
    site.write(HERO.replace("320", "32"))
    assert results(await site.apply()) == {"art/hero.png": "derived"}
