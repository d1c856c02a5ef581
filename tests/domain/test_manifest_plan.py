"""What is to do, from flux2.toml, flux2.lock and the files on disk; and the lock through merges."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from flux2_mcp.domain.manifest import digests, lock, reading
from flux2_mcp.domain.manifest.entries import Entry, Manifest
from flux2_mcp.domain.manifest.lock import LockedImage
from flux2_mcp.domain.manifest.plan import Plan, PlannedImage, contents_of, looked_at, plan
from flux2_mcp.errors import ManifestError

STYLE = '[style]\nprompt = "flat"\n'


def entry(path: str, prompt: str = "a fox", *more: str) -> str:
    return "\n".join([f'[images."{path}"]', f'prompt = "{prompt}"', *more, ""])


def copies(one: Entry) -> list[str]:
    return [f"{one.path.rpartition('.')[0]}-{width}.webp" for width in one.widths]


def sha(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()


def read(text: str) -> Manifest:
    return reading.read(text.encode(), derive=copies)


def locked(made: Manifest, one: Entry, disk: Mapping[str, str], task: str = "t1") -> LockedImage:
    contents = contents_of(made, one, disk)
    assert contents is not None
    parts = digests.parts(made, one, contents)
    return LockedImage(
        path=one.path, request=digests.request(parts), parts={name: each[:12] for name, each in parts.items()}, model="m",
        task=task, charged_usd="0.05", sha256=sha(one.path), size=(1024, 1024),
        derived=digests.derivation(made, one) if one.derives else "", files={path: sha(path) for path in copies(one)},
    )  # fmt: skip


class Project:
    """A project in memory, whose pictures are all made."""

    def __init__(self, text: str, **sources: str) -> None:
        self.text = text
        self.disk = {name.replace("_", "."): value for name, value in sources.items()}
        made = read(text)
        self.disk |= {path: sha(path) for path in made.outputs}
        self.lock = {path: locked(made, one, self.disk) for path, one in made.entries.items()}

    def plan(self) -> Plan:
        there = lock.read(lock.text(self.lock.values()).encode())
        made = read(self.text)
        seen = looked_at(made, there)
        return plan(made, there, {path: each for path, each in self.disk.items() if path in seen}, derive=copies)

    def told(self) -> dict[str, str]:
        return {each.path: " ".join([each.standing, *each.changed]) for each in self.plan().images}

    def of(self, path: str) -> PlannedImage:
        return next(each for each in self.plan().images if each.path == path)


def eight() -> Project:
    return Project(
        STYLE + entry("a.png") + entry("b.png", "a dog", "widths = [64]") + entry("c.png", "a cat", "style = false")
        + entry("d.png", "at night", 'sources = ["a.png"]') + entry("e.png", "by day", 'sources = ["photo.jpg", "b-64.webp"]'),
        photo_jpg="1",
    )  # fmt: skip


def test_what_was_made_and_not_touched_is_current() -> None:
    project = eight()
    assert project.told() == dict.fromkeys(["a.png", "b.png", "c.png", "d.png", "e.png"], "current")
    assert project.plan().done


def test_without_a_lock_everything_is_new_and_what_needs_another_waits() -> None:
    project = eight()
    project.lock, project.disk = {}, {"photo.jpg": "1"}
    assert set(project.told().values()) == {"new"}
    assert (project.of("d.png").waits_for, project.of("d.png").request) == (("a.png",), None)
    assert (project.of("e.png").waits_for, project.of("b.png").derive) == (("b.png",), ("b-64.webp",))


def test_another_style_changes_what_has_it_and_what_is_made_from_that() -> None:
    project = eight()
    project.text = project.text.replace("flat", "bold")
    assert project.told() == {
        "a.png": "changed style", "b.png": "changed style", "c.png": "current",
        "d.png": "changed style sources", "e.png": "changed style sources",
    }  # fmt: skip


def test_sources_count_by_content_and_not_by_name() -> None:
    project = eight()
    project.disk["photo.jpg"] = "2"
    assert project.told()["e.png"] == "changed sources"
    project.disk |= {"renamed.jpg": "1"}
    project.text = project.text.replace("photo.jpg", "renamed.jpg")
    assert project.plan().done


def test_a_file_that_is_gone_edited_moved_or_no_longer_named_is_told_so() -> None:
    project = eight()
    del project.disk["a.png"]
    project.disk["c.png"] = "by hand"
    project.text = project.text.replace('"b.png"', '"art/b.png"').replace('"b-64.webp"', '"art/b-64.webp"')
    assert project.told() == {
        "a.png": "missing", "art/b.png": "moved", "c.png": "edited", "d.png": "current", "e.png": "current",
    }  # fmt: skip
    assert (project.of("art/b.png").moved_from, project.of("art/b.png").derive) == ("b.png", ("art/b-64.webp",))
    project.text = STYLE + entry("a.png")
    assert project.told() == {"a.png": "missing"} | dict.fromkeys(["b.png", "c.png", "d.png", "e.png"], "unnamed")


def test_one_edited_picture_is_another_source_for_those_made_from_it() -> None:
    project = eight()
    project.disk["a.png"] = "by hand"
    assert (project.told()["a.png"], project.told()["d.png"]) == ("edited", "changed sources")


def test_a_file_that_no_lock_knows_is_in_the_way() -> None:
    project = eight()
    del project.lock["a.png"]
    assert (project.of("a.png").standing, project.of("a.png").edited) == ("new", True)


def test_copies_are_made_anew_where_they_are_missing_or_others_are_wanted() -> None:
    project = eight()
    del project.disk["b-64.webp"]
    assert (project.told()["b.png"], project.of("b.png").derive) == ("derive", ("b-64.webp",))
    project = eight()
    project.text = project.text.replace("[64]", "[64, 32]")
    assert (project.told()["b.png"], project.of("b.png").derive) == ("derive", ("b-64.webp", "b-32.webp"))
    project = eight()
    project.text = project.text.replace("widths = [64]", "").replace(', "b-64.webp"', "")
    assert project.told()["b.png"] == "derive"  # the lock forgets the copy
    project = eight()
    project.disk["b-64.webp"] = "by hand"
    assert (project.told()["b.png"], project.of("b.png").edited_files) == ("edited", ("b-64.webp",))


def test_entries_that_ask_for_the_same_get_a_picture_each() -> None:
    made = read(entry("b.png") + entry("a.png") + entry("c.png", "a dog"))
    found = plan(made, {}, {})
    assert {each.path: each.number for each in found.images} == {"a.png": 1, "b.png": 2, "c.png": 1}


def test_a_source_that_is_not_there_and_a_width_above_the_originals_are_refused() -> None:
    with pytest.raises(ManifestError) as found:
        plan(read('[style]\nsources = ["s.png"]\n' + entry("a.png", "fox", 'sources = ["b.png"]')), {}, {})
    assert [each.field for each in found.value.problems] == [
        'flux2.toml:5:12 images."a.png".sources[0]', "flux2.toml:2:12 style.sources[0]",
    ]  # fmt: skip
    project = Project(entry("a.png", "fox", 'aspect_ratio = "16:9"', "widths = [1300]"))
    with pytest.raises(ManifestError, match=r'4:11 images."a.png".widths\[0\]: is 1,300, and the original is 1,024'):
        project.plan()


def test_the_lock_is_toml_with_one_text_for_the_same_pictures() -> None:
    project = eight()
    text = lock.text(project.lock.values())
    assert text == lock.text(reversed(project.lock.values()))
    assert tomllib.loads(text)["images"]["b.png"]["files"] == {"b-64.webp": sha("b-64.webp")}
    assert lock.read(text.encode()) == {path: [one] for path, one in project.lock.items()}
    odd = LockedImage(path="ä #=x.png", request="r", parts=dict.fromkeys(digests.PARTS, "p"), model="m", task="t",
                      charged_usd="", sha256="s", size=(1, 2))  # fmt: skip
    assert lock.read(lock.text([odd]).encode()) == {odd.path: [odd]}


def test_a_lock_of_a_later_version_or_with_strange_lines_is_refused() -> None:
    for text, place, why in (
        ("version = 2\n", "flux2.lock:1:1", "update flux2-mcp"),
        ("[images]\n\nwhat?\n", "flux2.lock:3:1", "can't be read"),
        ('[images]\n"a.png".request = "x"\n', "flux2.lock:2:1", "lacks a line of a.png"),
        ("images = 3", "flux2.lock:1:1", "does not write"),
    ):
        with pytest.raises(ManifestError) as found:
            lock.read(text.encode())
        assert str(found.value).startswith(place)
        assert why in str(found.value)


def test_a_lock_that_flux2_mcp_never_wrote_is_refused_before_its_files_are_looked_at() -> None:
    fine = lock.text(eight().lock.values())
    lines = len(fine.split("\n"))
    names = "names {!r}, which is no path of a picture in the project"
    for path in ("../a.png", "/etc/a.png", "a/../../b.png", "src/main.py", "con.png", "x" * 250 + ".png"):
        for line in (f'"{path}".request = "x"', f'"a.png".files."{path}" = "x"'):
            expected = "names 'xxxxx" if len(path) > 100 else names.format(path)
            assert_refused(fine + line + "\n", f"flux2.lock:{lines}:1", expected)
    assert_refused(fine + '"a\\u001b[31m.png".sha256 = "x"\n', "flux2.lock:", r"names 'a\x1b[31m.png'")
    assert_refused(fine + '"a\\u0000.png".sha256 = "x"\n', "flux2.lock:", r"names 'a\x00.png'")
    assert_refused('version = "\\u001b[31m"', "flux2.lock:1:1", r"is of version '\x1b[31m'")
    assert_refused("a" + ".a" * 300_000 + " = 1", "flux2.lock:1:1", "does not write")
    assert_refused("a = " + "[" * 100_000, "flux2.lock:1:1", "does not write")
    assert_refused(fine + '"a.png".sha256 = "x"\n' * 20_000, "flux2.lock:", "has too many lines of 'a.png'")
    many = "".join(f'"a.png".files."{n}.png" = "x"\n' for n in range(20_000))
    assert_refused(fine + many, "flux2.lock:", "has too many lines of 'a.png'")
    many = "".join(f'"{n}.png".sha256 = "x"\n' for n in range(20_000))
    assert_refused(fine + many, "flux2.lock:1:1", "at most 4,000 are read")
    assert_refused(fine + "\n" * 200_000, "flux2.lock:200001:1", "is one line too many")


def assert_refused(text: str, place: str, why: str) -> None:
    with pytest.raises(ManifestError) as found:
        lock.read(text.encode())
    assert str(found.value).startswith(place)
    assert why in str(found.value)


def merged(folder: Path, base: str, ours: str, theirs: str, *, union: bool) -> str:
    for name, text in (("base", base), ("ours", ours), ("theirs", theirs)):
        (folder / name).write_text(text, "utf-8")
    how = ["--union"] if union else []
    command = ["git", "merge-file", "-p", *how, "ours", "base", "theirs"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
@pytest.mark.parametrize("union", [True, False], ids=["union", "conflict marks"])
def test_the_locks_of_two_branches_merge_and_the_plan_is_right(tmp_path: Path, union: bool) -> None:
    base = Project(STYLE + entry("a.png") + entry("z.png"))
    ours = Project(base.text + entry("b.png", "a boat"))
    theirs = Project(
        base.text.replace('"z.png"]\nprompt = "a fox"', '"z.png"]\nprompt = "a bear"') + entry("c.png", "a cow")
    )
    texts = [lock.text(each.lock.values()) for each in (base, ours, theirs)]
    both = Project(theirs.text + entry("b.png", "a boat"))
    for one, other in ((texts[1], texts[2]), (texts[2], texts[1])):
        found = lock.read(merged(tmp_path, texts[0], one, other, union=union).encode())
        assert plan(read(both.text), found, both.disk, derive=copies).done


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
@pytest.mark.parametrize("union", [True, False], ids=["union", "conflict marks"])
def test_of_a_picture_that_both_branches_made_the_one_that_is_there_counts(tmp_path: Path, union: bool) -> None:
    base, ours, theirs = (Project(entry("a.png", prompt, "widths = [64]")) for prompt in ("a fox", "a dog", "a cow"))
    for each, name in ((ours, "ours"), (theirs, "theirs")):
        each.lock = {"a.png": LockedImage(**{field: getattr(each.lock["a.png"], field) for field in LockedImage.__struct_fields__}
                                          | {"task": name, "sha256": name})}  # fmt: skip
    text = merged(tmp_path, *(lock.text(each.lock.values()) for each in (base, ours, theirs)), union=union)
    for each, name in ((ours, "ours"), (theirs, "theirs")):
        found = plan(read(each.text), lock.read(text.encode()), each.disk | {"a.png": name}, derive=copies)
        assert (found.done, found.images[0].locked and found.images[0].locked.task) == (True, name)
