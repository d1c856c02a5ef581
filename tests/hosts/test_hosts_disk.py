"""Hosts' files on disk: links, modes, owners, backups, and what other programs do meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts import files
from flux2_mcp.hosts import plan as host_plan
from tests.hosts.test_hosts_merge import COMMAND, LENIENT, install, machine, on_disk, uninstall
from tests.support.host_files import OURS


def test_a_link_stays_a_link_and_its_target_is_edited(tmp_path: Path) -> None:
    path = on_disk(tmp_path, LENIENT, b"{}")
    real = tmp_path / "dotfiles" / "vscode.json"
    real.parent.mkdir()
    path.rename(real)
    path.symlink_to(real)
    install(tmp_path, LENIENT)
    assert path.is_symlink()
    assert OURS in real.read_text()
    assert files.backup(files.read(path)) == real.with_name("vscode.json.flux2-backup")
    uninstall(tmp_path, LENIENT)
    assert (path.is_symlink(), real.read_text()) == (True, "{}")


def test_a_link_to_nothing_makes_its_target(tmp_path: Path) -> None:
    [path] = machine(tmp_path).files(LENIENT, "user")
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "new.json")
    install(tmp_path, LENIENT)
    assert OURS in (tmp_path / "new.json").read_text()


def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    path = on_disk(tmp_path, LENIENT, b"{}")
    path.chmod(0o444)
    with pytest.raises(HostFileError, match="read-only"):
        install(tmp_path, LENIENT)
    assert (path.read_bytes(), [each.name for each in path.parent.iterdir()]) == (b"{}", [path.name])


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = on_disk(tmp_path, LENIENT, b"{}")
    os.truncate(path, files.MAX_FILE_BYTES + 1)
    with pytest.raises(HostFileError, match="more than 16,777,216 are not read"):
        install(tmp_path, LENIENT)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, make: Any) -> None:  # noqa: ANN401  # either of two
    [path] = machine(tmp_path).files(LENIENT, "user")
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(HostFileError, match="not a plain file"):
        install(tmp_path, LENIENT)


def test_a_file_that_was_not_there_is_the_users_alone_and_goes_again(tmp_path: Path) -> None:
    install(tmp_path, LENIENT)
    [path] = machine(tmp_path).files(LENIENT, "user")
    assert path.stat().st_mode & 0o777 == 0o600
    uninstall(tmp_path, LENIENT)
    assert list(path.parent.iterdir()) == []


def test_a_file_that_others_filled_since_stays_without_the_entry(tmp_path: Path) -> None:
    install(tmp_path, LENIENT)
    [path] = machine(tmp_path).files(LENIENT, "user")
    path.write_text(path.read_text().replace('"servers"', '"inputs": [],\n  "servers"'))
    uninstall(tmp_path, LENIENT)
    assert json.loads(path.read_text()) == {"inputs": [], "servers": {}}


def test_what_another_program_wrote_between_reading_and_writing_is_not_lost(tmp_path: Path) -> None:
    path = on_disk(tmp_path, LENIENT, b"{}")
    plan = host_plan.to_install(machine(tmp_path), LENIENT, "user", OURS, COMMAND)
    read = files.read(path)
    path.write_bytes(b'{"a": 1}')
    with pytest.raises(HostFileError, match="just changed"):
        files.replace(read, plan.after)
    assert path.read_bytes() == b'{"a": 1}'
    host_plan.carry_out(plan, machine(tmp_path))  # which reads again
    assert json.loads(path.read_text())["a"] == 1


def test_a_file_that_another_program_made_meanwhile_is_not_lost(tmp_path: Path) -> None:
    plan = host_plan.to_install(machine(tmp_path), LENIENT, "user", OURS, COMMAND)
    path = on_disk(tmp_path, LENIENT, b'{"a": 1}')
    with pytest.raises(HostFileError, match="just changed"):
        files.replace(plan.file, plan.after)
    host_plan.carry_out(plan, machine(tmp_path))
    plan = host_plan.to_remove(machine(tmp_path), LENIENT, "user", OURS)
    path.write_text(path.read_text().replace("1", "2"))
    host_plan.carry_out(plan, machine(tmp_path))
    assert json.loads(path.read_text()) == {"a": 2, "servers": {}}


@pytest.mark.parametrize("wreck", [b"\xff", b"{"])
def test_a_backup_that_can_not_be_read_is_done_without(tmp_path: Path, wreck: bytes) -> None:
    path = on_disk(tmp_path, LENIENT, b'{"a": 1}')
    install(tmp_path, LENIENT)
    files.backup(files.read(path)).write_bytes(wreck)
    uninstall(tmp_path, LENIENT)
    assert json.loads(path.read_text()) == {"a": 1, "servers": {}}


def test_where_writing_fails_midway_the_file_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = on_disk(tmp_path, LENIENT, b"{}")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostFileError, match="No space left on device"):
        install(tmp_path, LENIENT)
    assert (path.read_bytes(), [each.name for each in path.parent.iterdir()]) == (b"{}", [path.name])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_stays(tmp_path: Path) -> None:
    path = on_disk(tmp_path, LENIENT, b"{}")
    os.chown(path, 1234, 2345)
    install(tmp_path, LENIENT)
    kept = files.backup(files.read(path))
    assert {(each.stat().st_uid, each.stat().st_gid) for each in (path, kept)} == {(1234, 2345)}


def test_a_backup_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    path = on_disk(tmp_path, LENIENT, b"{}")
    (tmp_path / "precious").write_text("precious")
    path.with_name(path.name + files.BACKUP_SUFFIX).symlink_to(tmp_path / "precious")
    with pytest.raises(HostFileError, match="its backup is no plain file"):
        install(tmp_path, LENIENT)
    assert (path.read_bytes(), (tmp_path / "precious").read_text()) == (b"{}", "precious")
