"""README and docs/ are held to the code (their lists: `test_packages.py`), every file of the repository to what may not stand in one."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection
from functools import cache
from pathlib import Path

import click
import pytest

from flux2_mcp import __main__ as entry
from flux2_mcp import __version__, errors, settings
from flux2_mcp.cli.main import flux2
from flux2_mcp.cli.project import SOMETHING_TO_DO
from flux2_mcp.domain import budget
from flux2_mcp.domain.variables import VARIABLES
from flux2_mcp.errors import Flux2Error
from flux2_mcp.hosts.entry import whole as entry_of
from flux2_mcp.hosts.table import host

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {path: path.read_text("utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
"""The README and the pages that it leads to."""
DOCUMENTS = "\n".join(PAGES.values())
LINES_MOST = 180
EXIT_CODES: dict[str, type[Flux2Error] | None] = {
    "success": None,
    "authentication": errors.AuthenticationError,
    "insufficient credits": errors.InsufficientCreditsError,
    "validation or not found": errors.InvalidRequestError,
    "timeout or network": errors.TransportError,
    "rate limit": errors.RateLimitedError,
    "the task failed": errors.TaskFailedError,
}


def commands() -> list[list[str]]:
    """The lines of the shell blocks that call us, and what stands so in the text, without what comes before our name."""
    blocks = [*re.findall(r"```sh\n(.*?)```", DOCUMENTS, re.DOTALL), *re.findall(r"`(flux2-mcp [^`]+)`", DOCUMENTS)]
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    called = [(line, word) for line in lines for word in line if word.rpartition("/")[2] == "flux2-mcp"]
    return [line[line.index(word) + 1 :] for line, word in called]


# --- the variables ----------------------------------------------------------------------------------------------------


def test_every_variable_that_is_read_is_documented() -> None:
    readers = Path(settings.__file__).read_text("utf-8") + Path(entry.__file__).read_text("utf-8")
    readers += Path(budget.__file__).read_text("utf-8")  # the caps
    assert set(re.findall(r'"((?:FLUX2|RUNAPI)_[A-Z_0-9]+)"', readers)) == {each.name for each in VARIABLES}


# --- the sentences ----------------------------------------------------------------------------------------------------


def test_the_commands_and_their_options_exist() -> None:
    named = DOCUMENTS.partition("\nAll of it: ")[2].partition(";")[0]
    assert set(re.findall(r"`?(\w+)`", named)) == set(flux2.list_commands(click.Context(flux2)))
    asked = commands()
    assert len(asked) >= 30
    for name, *arguments in asked:
        if name != "--help":
            found = flux2.get_command(click.Context(flux2), name)
            assert found is not None
            if arguments:  # a bare name in a text may be one that needs more
                found.make_context(name, arguments)


def test_the_exit_codes_are_the_errors_own() -> None:
    listed = DOCUMENTS.partition("Exit codes: ")[2].partition(".\n")[0].replace("\n", " ")
    told = {meaning: int(code) for code, meaning in re.findall(r"(\d) ([^,]+)", listed)}
    assert f"`plan` exits with {SOMETHING_TO_DO} where something is to do" in DOCUMENTS
    assert told == {meaning: 0 if kind is None else kind.exit_code for meaning, kind in EXIT_CODES.items()}
    coded = {
        kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Flux2Error)
    }
    assert coded == set(told.values()) - {0} | {1}


def test_the_pictures_are_there_small_and_not_in_the_package() -> None:
    found = {path: re.findall(r'<img src="([^"]+)"[^>]* alt="[^"]+">', text) for path, text in PAGES.items()}
    assert sum(map(len, found.values())) == DOCUMENTS.count("<img ") == 2
    for picture in (path.parent / picture for path, pictures in found.items() for picture in pictures):
        assert picture.parent == ROOT / "docs"
        assert picture.stat().st_size < 150_000


def test_make_has_what_is_asked_of_it() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|```sh\n|\n)make ([a-z-]+)(?:`|  )", DOCUMENTS)) <= targets


def test_the_readme_is_short_and_every_link_leads_to_a_file_and_a_heading() -> None:
    assert len(README.splitlines()) <= LINES_MOST
    for path, text in PAGES.items():
        for link in re.findall(r"\]\((?!https://)([^)]+)\)", text):
            name, _, anchor = link.partition("#")
            file = path.parent / name
            assert file.exists(), f"{path.name}: {link}"
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, link


def test_the_version_that_is_shown_has_its_section_in_the_changelog() -> None:
    sections = re.findall(
        r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert sections[:2] == ["Unreleased", __version__]


def test_the_readme_leads_to_every_page() -> None:
    linked = {link for text in PAGES.values() for link in re.findall(r"\]\((?:docs/)?([a-z-]+\.md)[)#]", text)}
    assert {path.name for path in PAGES} - linked == {"README.md"}


def test_the_entries_to_paste_are_what_install_writes_but_for_the_path() -> None:
    pasted = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL)]
    pasted += [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", README, re.DOTALL)]
    for name, whole in zip(("cursor", "vscode", "codex"), pasted, strict=True):
        row = host(name)
        assert whole[row.servers]["flux-2"].items() <= entry_of(row, ["/path/to/flux2-mcp"]).items(), name


# --- what stands in no file -------------------------------------------------------------------------------------------


@cache
def texts() -> dict[str, str]:
    """Every file that is tracked, or would be by `git add`, by its name; those that are not text are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout, so nobody can tell which files are the repository's")
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            found[name] = content.decode()
    assert "README.md" in found
    return found


def holding(*patterns: str, where: Collection[str] = ("",)) -> list[str]:
    """The files and what they hold of the patterns, as `name: match`. `where`: each match holds one of these, which are found sooner."""
    wanted = re.compile("|".join(patterns), re.IGNORECASE)
    files = {name: text for name, text in texts().items() if any(needle in text for needle in where)}
    return [f"{name}: {found[0]}" for name, text in files.items() for found in wanted.finditer(text)]


def registries() -> set[str]:
    """Host names of package registries: the well-known, and those that this machine is set up for."""
    known = (
        "gro.ipyp",
        "gro.detsohnohtyp",
        "gro.sjmpn",
        "moc.sjmpn",
        "moc.gkpnray",
    )  # backwards: this file is one of those
    homes = [Path("/etc"), Path.home(), Path.home() / ".config", Path.home() / ".pip", Path(sys.prefix)]
    files = [home / name for home in homes for name in ("pip.conf", "pip/pip.conf", "uv/uv.toml", ".npmrc")]
    lines = [line for path in files if path.is_file() for line in path.read_text("utf-8").splitlines()]
    lines += [f"{name}={value}" for name, value in os.environ.items()]
    told = [line for line in lines if re.search(r"(?i)(index|links|registry)\S*\s*=", line)]
    hosts = {host.lower() for line in told for host in re.findall(r"https?://(?:[^/@\s]*@)?([\w.-]+)", line)}
    return hosts | {name[::-1] for name in known}


def test_no_file_names_a_package_registry() -> None:
    assert holding(*(rf"\b{re.escape(host)}\b" for host in registries())) == []


def test_no_file_is_a_lock_file_or_says_where_packages_come_from() -> None:
    names = {"uv.lock", "poetry.lock", "pdm.lock", "package-lock.json", "yarn.lock", "pip.conf", "uv.toml", ".npmrc"}
    assert names & {Path(name).name for name in texts()} == set()
    assert (
        holding(r"(?:index-url|find-links|registry)\s*=\s*\S+://", where=["index-url", "find-links", "registry"]) == []
    )


def test_no_file_holds_a_path_of_this_machine() -> None:
    shared = {Path("/"), Path("/usr"), Path("/home"), Path("/Users"), Path(tempfile.gettempdir())}
    ours = {ROOT, ROOT.parent, Path.home(), Path(sys.prefix), Path(sys.base_prefix)} - shared
    own = [rf"(?<![\w.]){re.escape(str(path))}/" for path in ours]
    assert holding(*own, where=[f"{path}/" for path in ours]) == []
    # `ada` is the examples' user.
    assert holding(r"/(?:home|Users)/(?!ada\b|\W)\w+", where=["/home/", "/Users/"]) == []
