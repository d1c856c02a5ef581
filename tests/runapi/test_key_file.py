"""The config file that RunAPI's tools share: a real file, its mode, its folder, and what else stands in it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from flux2_mcp.errors import SettingsError
from flux2_mcp.runapi import key_file
from flux2_mcp.runapi.key_file import UnreadableFile

KEY = "sk-run-0123456789abcdef"
OTHERS = {"base_url": "https://b", "theme": {"dark": [1, 2.5, None, True]}, "na\u00efve": "\u00e9"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".config" / "runapi" / "config.json"


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_first_key_makes_a_file_and_a_folder_for_their_owner_alone(path: Path) -> None:
    key_file.save(path, KEY)
    assert json.loads(path.read_text("utf-8")) == {"api_key": KEY}
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert [each.name for each in path.parent.iterdir()] == ["config.json"]


def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    written(path, "{}").chmod(0o644)
    path.parent.chmod(0o755)
    key_file.save(path, KEY)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


@pytest.mark.parametrize("old", [{}, {"apiKey": "older"}, {"api_key": "old"}, {"api_key": "old", "apiKey": "older"}])
def test_the_key_takes_the_place_of_the_old_ones_and_all_else_is_kept_in_its_order(
    path: Path, old: dict[str, str]
) -> None:
    written(path, json.dumps(OTHERS | old))
    key_file.save(path, KEY)
    assert list(json.loads(path.read_text("utf-8")).items()) == [*OTHERS.items(), ("api_key", KEY)]
    assert key_file.forget(path) is True
    assert list(json.loads(path.read_text("utf-8")).items()) == list(OTHERS.items())


@pytest.mark.parametrize("text", [None, "{}", json.dumps(OTHERS)])
def test_where_there_is_no_key_nothing_is_forgotten_and_nothing_is_written(path: Path, text: str | None) -> None:
    if text is not None:
        written(path, text)
    assert key_file.forget(path) is False
    assert path.exists() == (text is not None)
    assert text is None or path.read_text("utf-8") == text


@pytest.mark.parametrize("broken", [f'{{"apiKey": "{KEY}",', "[]", b"\xff\xfe"], ids=["cut", "list", "not text"])
def test_a_file_that_can_not_be_read_is_left_as_it_is_and_named(path: Path, broken: str | bytes) -> None:
    before = written(path, broken).read_bytes()
    for change in (lambda: key_file.save(path, "new"), lambda: key_file.forget(path)):
        with pytest.raises(SettingsError) as caught:
            change()
        assert str(path) in caught.value.message
        assert KEY not in caught.value.message
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["config.json"]


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles" / "runapi.json"
    written(kept, "{}")
    path.parent.mkdir(parents=True)
    path.symlink_to(kept)
    key_file.save(path, KEY)
    assert path.is_symlink()
    assert json.loads(kept.read_text("utf-8")) == {"api_key": KEY}
    assert mode(kept) == 0o600


def test_what_windows_puts_before_text_is_no_part_of_it(path: Path) -> None:
    written(path, b'\xef\xbb\xbf{"name": "x"}')
    assert key_file.read(path) == '{"name": "x"}'
    key_file.save(path, KEY)
    assert json.loads(path.read_text("utf-8")) == {"name": "x", "api_key": KEY}


def test_no_file_is_none_and_one_that_can_not_be_read_is_not(path: Path, tmp_path: Path) -> None:
    assert key_file.read(None) is None
    assert key_file.read(path) is None
    (tmp_path / "file").touch()
    assert key_file.read(tmp_path / "file" / "config.json") is None
    path.mkdir(parents=True)
    assert key_file.read(path) == UnreadableFile("Is a directory")


def test_a_full_disk_costs_the_new_key_and_not_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(path, json.dumps(OTHERS)).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError) as caught:
        key_file.save(path, KEY)
    assert caught.value.message == f"RunAPI's config file ({path}) can't be written: No space left on device."
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["config.json"]
