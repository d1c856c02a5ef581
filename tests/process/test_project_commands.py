"""The commands over flux2.toml, as a user has them: plan, apply, adopt, schema."""

from __future__ import annotations

import json
import socket
import tomllib
from pathlib import Path

import jsonschema
import pytest

from flux2_mcp.domain.manifest.schema import schema
from tests.domain.test_manifest import HOSTILE, PROJECT
from tests.process.conftest import Here

TWO = '# pictures\n[style]\nprompt = "flat"\n\n[images."a.png"]\nprompt = "[sandbox:instant] a fox"\n\n[images."art/b.png"]\nprompt = "[sandbox:instant] a dog"\nstyle = false\n'  # fmt: skip
LONG_CHARS = 5000
FAST = {"FLUX2_SANDBOX_SPEED": "1000", "FLUX2_MODE": "sandbox"}


def test_a_project_from_nothing_to_a_chat_that_becomes_code(here: Here, tmp_path: Path) -> None:
    toml = tmp_path / "flux2.toml"
    toml.write_text(TWO, "utf-8")
    code, out, _ = here("plan", **FAST)
    assert (code, out.splitlines()[:4]) == (
        8,
        ["  new  a.png      $0.05", "  new  art/b.png  $0.05", "", "2 new: $0.10."],
    )
    code, out, _ = here("apply", "art/b.png", **FAST)
    assert (code, out.splitlines()[0]) == (0, "  made  art/b.png  $0.05")
    code, out, _ = here("apply", "--json", **FAST)
    assert (code, [each["result"] for each in json.loads(out)["images"]]) == (0, ["made"])
    assert here("plan", **FAST)[:2] == (0, "Nothing to do: 2 pictures are as flux2.toml says.\n")

    (tmp_path / "a.png").write_bytes(b"by hand")
    (tmp_path / "art/b.png").unlink()
    code, out, _ = here("plan", "--check")
    assert (code, out.splitlines()[0].split()[:2], out.splitlines()[1].split()[:2]) == (8, ["edited", "a.png"], ["missing", "art/b.png"])  # fmt: skip
    assert out.splitlines()[-1] == "Next: flux2-mcp apply"
    code, out, _ = here("apply", **FAST)
    assert (code, out.splitlines()[0], out.splitlines()[2]) == (8, "  kept      a.png", "  restored  art/b.png")
    assert here("plan", **FAST)[1].splitlines()[-1].startswith("Next: nothing, or flux2-mcp apply --overwrite")
    assert (tmp_path / "a.png").read_bytes() == b"by hand"
    assert here("apply", "--overwrite", **FAST)[0] == 0

    # A picture made in a chat gets an entry, and no byte of what was there changes.
    before = toml.read_bytes()
    code, _, err = here(
        "generate", "[sandbox:instant] a boat", "--aspect-ratio", "16:9", "--save-to", "boat.png", **FAST
    )
    assert code == 0, err
    code, out, err = here("adopt", "boat.png", **FAST)
    assert code == 0, err
    added = '\n[images."boat.png"]\nprompt = "[sandbox:instant] a boat"\naspect_ratio = "16:9"\nstyle = false\n'
    assert toml.read_bytes() == before + added.encode()
    assert here("plan", "--check")[0] == 0
    (tmp_path / "boat.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert here("plan", "--check")[0] == 8
    assert here("adopt", "boat.png", **FAST)[0] == 0  # the user prefers it
    assert here("plan", "--check")[0] == 0
    (tmp_path / "unknown.png").write_bytes(b"mine")
    code, _, err = here("adopt", "unknown.png", **FAST)
    assert (code, "no task that the journal of this machine knows" in err) == (4, True)


def test_a_remix_is_adopted_with_its_source_and_a_file_of_windows_keeps_its_lines(here: Here, tmp_path: Path) -> None:
    assert here("generate", "[sandbox:instant] a fox", "--save-to", "fox.png", **FAST)[0] == 0
    assert (
        here("generate", "[sandbox:instant] at night", "--source", "fox.png", "--save-to", "night.png", **FAST)[0] == 0
    )
    assert here("adopt", "fox.png", **FAST)[0] == 0
    toml = tmp_path / "flux2.toml"
    toml.write_bytes(toml.read_bytes().replace(b"\n", b"\r\n"))
    assert here("adopt", "night.png", **FAST)[0] == 0
    assert b"\n" not in toml.read_bytes().replace(b"\r\n", b"")
    assert tomllib.loads(toml.read_text("utf-8"))["images"]["night.png"] == {"prompt": "[sandbox:instant] at night", "sources": ["fox.png"]}  # fmt: skip
    assert here("plan", "--check")[0] == 0


def test_a_check_needs_no_key_no_home_and_no_network(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a check asks nobody")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "flux2.toml").write_text(TWO, "utf-8")
    env = {"FLUX2_MODE": "live", "FLUX2_HOME": str(tmp_path / "none")}
    code, out, err = here("plan", "--check", "--json", **env)
    assert (code, json.loads(out)["counts"], json.loads(out)["usd"], err) == (8, {"new": 2}, None, "")
    assert not (tmp_path / "none").exists()


def test_a_manifest_above_counts_in_the_same_repository_alone(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flux2.toml").write_text(TWO, "utf-8")
    (below := tmp_path / "site/public").mkdir(parents=True)
    code, _, err = here("plan", "--check", folder=below)
    assert (code, "flux2.toml: is not in" in err) == (4, True)  # it may be a stranger's, as in /tmp
    (tmp_path / ".git").mkdir()
    assert here("plan", "--check", folder=below)[0] == 8
    (tmp_path / "site/.git").write_text("gitdir: elsewhere", "utf-8")
    assert here("plan", "--check", folder=below)[0] == 4


def test_a_wrong_manifest_is_refused_with_its_line_and_exit_code_4(here: Here, tmp_path: Path) -> None:
    code, _, err = here("plan", **FAST)
    assert (code, "flux2.toml: is not in" in err) == (4, True)
    (tmp_path / "flux2.toml").write_text('[images."a.png"]\npromt = "x"\n', "utf-8")
    for command in ("plan", "apply"):
        code, _, err = here(command, **FAST)
        assert (code, err.splitlines()[0].partition(";")[0]) == (
            4,
            'Error: flux2.toml:2:1 images."a.png".promt: is no key here (did you mean prompt?)',
        )
    code, _, err = here("apply", "../a.png", **FAST)
    assert (code, "outside the project" in err) == (4, True)


def test_the_schema_takes_what_the_reader_takes(here: Here) -> None:
    code, out, _ = here("schema")
    assert (code, json.loads(out)) == (0, schema())
    jsonschema.Draft202012Validator.check_schema(schema())
    check = jsonschema.Draft202012Validator(schema())
    assert [*check.iter_errors(tomllib.loads(PROJECT))] == []
    told_by_schema = 0
    for text, _, _ in HOSTILE:
        if len(text) > LONG_CHARS:  # thousands of tables in one another are more than this validator can take
            continue
        try:
            held = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, ValueError, RecursionError):
            continue
        told_by_schema += not check.is_valid(held)
    assert told_by_schema >= 20  # the rest (two entries of one file, circles, ...) no schema can tell


def test_derive_makes_the_copies_again_from_the_picture_alone(here: Here, tmp_path: Path) -> None:
    text = TWO.replace('a fox"', 'a fox"\nwidths = [64]\nformats = ["webp"]').partition('\n[images."art')[0]
    (tmp_path / "flux2.toml").write_text(text, "utf-8")
    code, out, _ = here("derive", **FAST)
    assert (code, out) == (8, "")
    assert here("apply", **FAST)[0] == 0
    content = (tmp_path / "a-64.webp").read_bytes()
    (tmp_path / "a-64.webp").unlink()
    assert here("derive", FLUX2_MODE="live", FLUX2_HOME=str(tmp_path / "none"))[:2] == (0, "a-64.webp\n")
    assert ((tmp_path / "a-64.webp").read_bytes(), here("plan", "--check")[0]) == (content, 0)
    (tmp_path / "a-64.webp").write_bytes(b"mine")
    assert here("derive")[0] == 8
    assert (tmp_path / "a-64.webp").read_bytes() == b"mine"
    assert here("derive", "a.png", "--overwrite")[0] == 0
    assert (tmp_path / "a-64.webp").read_bytes() == content
