"""Entries go into files and come out again with nothing else changed: over a corpus, and over files that nobody wrote."""

from __future__ import annotations

import json
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts import entry, files
from flux2_mcp.hosts import plan as host_plan
from flux2_mcp.hosts.editors import json_edit, jsonc, toml_edit
from flux2_mcp.hosts.plan import Machine
from flux2_mcp.hosts.table import Host, host
from tests.support.deep import few
from tests.support.host_files import (
    BROKEN_JSON,
    BROKEN_TOML,
    JSON,
    JSONC,
    OURS,
    STRICTLY_BROKEN,
    TOML,
    thin,
)
from tests.support.rows import each_row, rows

COMMAND = ["/opt/flux 2/bin/flux2-mcp", "--é\\\"'"]
NEWER = ["/opt/flux2-mcp/bin/flux2-mcp"]
# One host for each way of reading; without its own command line, which is another matter.
STRICT, LENIENT, TABLES = replace(host("claude-code"), own=None), host("vscode"), host("codex")
CORPUS = [(STRICT, JSON), (LENIENT, JSONC), (TABLES, TOML)]
EVERY_FILE = pytest.mark.parametrize(
    ("row", "corpus"),
    [pytest.param(row, thin(corpus), id=row.format) for row, corpus in CORPUS]
    + [pytest.param(row, corpus, id=f"{row.format}, all", marks=pytest.mark.deep) for row, corpus in CORPUS],
)
BROKEN = [
    pytest.param(row, text.replace("MAP", row.servers), line, id=f"{row.format}: {name}")
    for row, corpus in (
        (STRICT, BROKEN_JSON | STRICTLY_BROKEN),
        (LENIENT, BROKEN_JSON),
        (TABLES, BROKEN_TOML),
    )
    for name, (text, line) in corpus.items()
]


def parsed(row: Host, text: str) -> Any:  # noqa: ANN401  # whatever a file holds
    """Read by somebody else than the editors, where somebody else can."""
    if row.format == "toml":
        return tomllib.loads(text.removeprefix("\ufeff"), parse_float=str)
    if row.format == "json":
        return json.loads(text.removeprefix("\ufeff"), parse_float=str)
    root = jsonc.scan(text)
    return {} if root is None else deepcopy(root.value)


def kept_in(before: str, after: str) -> bool:
    """True where `after` is `before` with something put in, at however many places."""
    rest = iter(after)
    return all(character in rest for character in before)


def machine(tmp_path: Path) -> Machine:
    return Machine(system="Linux", env={"HOME": str(tmp_path)}, workspace=None)


def on_disk(tmp_path: Path, row: Host, content: bytes) -> Path:
    [path] = machine(tmp_path).files(row, "user")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o640)
    return path


def install(tmp_path: Path, row: Host, command: list[str] = COMMAND) -> host_plan.HostPlan:
    plan = host_plan.to_install(machine(tmp_path), row, "user", OURS, command)
    if plan.changes:
        host_plan.carry_out(plan, machine(tmp_path))
    return plan


def uninstall(tmp_path: Path, row: Host) -> None:
    plan = host_plan.to_remove(machine(tmp_path), row, "user", OURS)
    host_plan.carry_out(plan, machine(tmp_path))


# --- the corpus -------------------------------------------------------------------------------------------------------


def test_the_corpus_has_at_least_sixty_files_of_each_family() -> None:
    assert min(len(JSON), len(JSONC), len(TOML)) >= 60
    assert all(set(parsed(row, text)) is not None for row, corpus in CORPUS for text in corpus.values())


@EVERY_FILE
def test_only_the_entry_is_added_and_the_same_bytes_come_back(
    tmp_path: Path, row: Host, corpus: dict[str, str]
) -> None:
    path = on_disk(tmp_path, row, b"")
    with each_row() as this:
        for name, text in corpus.items():
            with this(name):
                path.write_bytes(text.encode())
                install(tmp_path, row)
                after = path.read_bytes().decode()
                held = parsed(row, after)
                assert held[row.servers].pop(OURS) == entry.whole(row, COMMAND)
                before = parsed(row, text)
                assert held == before | ({} if row.servers in before else {row.servers: {}})
                assert kept_in(text, after)
                assert ("\r\n" in text) == ("\r\n" in after)
                assert "\n" not in after.replace("\r\n", "") or "\r\n" not in text

                written = path.stat().st_mtime_ns
                assert not install(tmp_path, row).changes
                assert (path.read_bytes().decode(), path.stat().st_mtime_ns) == (after, written)
                assert files.backup(files.read(path)).read_bytes() == text.encode()

                uninstall(tmp_path, row)
                assert path.read_bytes() == text.encode()
                assert [each.name for each in path.parent.iterdir()] == [path.name]
                assert path.stat().st_mode & 0o777 == 0o640


@EVERY_FILE
def test_without_a_backup_only_a_map_that_is_empty_may_be_left(row: Host, corpus: dict[str, str]) -> None:
    with each_row() as this:
        for name, text in corpus.items():
            with this(name):
                after = entry.removed(row, entry.installed(row, text, OURS, COMMAND), OURS, None)
                before = parsed(row, text)
                if before.get(row.servers) or row.format == "toml":
                    assert after == text
                else:
                    assert parsed(row, after) == before | {row.servers: {}}


@EVERY_FILE
def test_an_upgrade_changes_the_entry_where_it_stands(tmp_path: Path, row: Host, corpus: dict[str, str]) -> None:
    path = on_disk(tmp_path, row, b"")
    with each_row() as this:
        for name, text in corpus.items():
            with this(name):
                path.write_bytes(text.encode())
                install(tmp_path, row)
                install(tmp_path, row, NEWER)
                assert path.read_bytes().decode() == entry.installed(row, text, OURS, NEWER)
                uninstall(tmp_path, row)
                assert path.read_bytes() == text.encode()


@EVERY_FILE
def test_what_others_do_meanwhile_stays(row: Host, corpus: dict[str, str]) -> None:
    editor = entry.EDITORS[row.format]
    with each_row() as this:
        for name, text in corpus.items():
            with this(name):
                installed = entry.installed(row, text, OURS, COMMAND)
                theirs = editor.put(installed, row.servers, "other-2", {"command": "other"})
                after = entry.removed(row, theirs, OURS, text)
                assert after == editor.put(text, row.servers, "other-2", {"command": "other"})


@pytest.mark.parametrize(("row", "corpus"), [CORPUS[0], CORPUS[2]], ids=["json", "toml"])
def test_a_large_file_takes_an_entry_and_gives_itself_back(row: Host, corpus: dict[str, str]) -> None:
    text = corpus["large, as it is"]
    after = entry.installed(row, text, OURS, COMMAND)
    assert entry.standing(row, after, OURS) == entry.whole(row, COMMAND)
    assert entry.removed(row, after, OURS, text) == text


# --- what the user added to the entry ---------------------------------------------------------------------------------


@EVERY_FILE
def test_what_the_user_added_to_the_entry_stays_and_higher_limits_too(row: Host, corpus: dict[str, str]) -> None:
    editor = entry.EDITORS[row.format]
    for name, text in corpus.items():
        installed = entry.installed(row, text, OURS, COMMAND)
        added: dict[str, Any] = {"cwd": "/x", **dict.fromkeys(row.limits, 2_000_000)}
        changed = editor.put(installed, row.servers, OURS, added)
        newer = entry.installed(row, changed, OURS, NEWER)
        assert parsed(row, newer)[row.servers][OURS] == entry.whole(row, NEWER) | added, name
        lowered = editor.put(newer, row.servers, OURS, dict.fromkeys(row.limits, 5))
        assert entry.installed(row, lowered, OURS, NEWER) == entry.installed(
            row, editor.put(newer, row.servers, OURS, dict(row.limits)), OURS, NEWER
        ), name


ENTRY = '"flux-2": {"command": "/old/flux2-mcp"}'


@rows(
    ("before", "after"),
    [
        ('{"servers": {' + ENTRY + "}}", '{"servers": {}}'),
        ('{"servers": {"a": 1, ' + ENTRY + "}}", '{"servers": {"a": 1}}'),
        ('{"servers": {' + ENTRY + ', "a": 1}}', '{"servers": {"a": 1}}'),
        ('{"servers": {\n  "a": 1,\n  ' + ENTRY + ', // ours\n  "b": 2\n}}', '{"servers": {\n  "a": 1,\n  // ours\n  "b": 2\n}}'),
        ('{"servers": {\n  // a\n  ' + ENTRY + "\n}}", '{"servers": {\n  // a\n}}'),
        ('{"servers": {\n  "a": 1, // a\n  ' + ENTRY + " }}", '{"servers": {\n  "a": 1 // a\n  }}'),
        ('{"servers": {\n  "a": 1,\n  ' + ENTRY + "}}", '{"servers": {\n  "a": 1}}'),
        ('{"servers": {\n  ' + ENTRY + ', "b": 2\n}}', '{"servers": {\n  "b": 2\n}}'),
    ],
)  # fmt: skip
def test_an_entry_that_others_wrote_goes_without_harm_to_its_line(before: str, after: str) -> None:
    assert entry.removed(LENIENT, before, OURS, None) == after


@rows(
    ("before", "after"),
    [
        ('[mcp_servers."flux-2"]\ncommand = "flux2-mcp"\n[a]\n', "[a]\n"),
        ('[a]\n[mcp_servers.flux-2] # x\ncommand = "flux2-mcp" # y\n# z\n[b]\n', "[a]\n# z\n[b]\n"),
        ('[mcp_servers.flux-2]\ncommand = "flux2-mcp"\n\n[b]\n\n[mcp_servers.flux-2.env]\nA = "1"\n', "[b]\n"),
        ('[mcp_servers]\n[mcp_servers.flux-2]\ncommand = "flux2-mcp"', "[mcp_servers]"),
    ],
)
def test_a_table_that_others_wrote_goes_with_the_tables_below_it(before: str, after: str) -> None:
    assert entry.removed(TABLES, before, OURS, None) == after


@pytest.mark.parametrize("row", [STRICT, LENIENT, TABLES], ids=lambda row: row.format)
def test_an_entry_of_another_server_is_neither_replaced_nor_removed(row: Host) -> None:
    editor = entry.EDITORS[row.format]
    text = editor.put("", row.servers, OURS, {"command": "npx", "args": ["-y", "flux-2", "/home/ada/flux2-mcp"]})
    with pytest.raises(HostFileError, match="another server"):
        entry.installed(row, text, OURS, COMMAND)
    with pytest.raises(HostFileError, match="another server"):
        entry.removed(row, text, OURS, None)


@rows(
    "run",
    [
        {"command": "flux2-mcp"},
        {"command": "/a/flux2-mcp", "args": []},
        {"command": "C:\\Users\\ada\\Scripts\\FLUX2-MCP.EXE"},
        {"command": ["/a/flux2-mcp"]},
        {"command": "/a/python", "args": ["-P", "-m", "flux2_mcp"]},
        {"command": "uvx", "args": ["--from", "git+https://example.com/x", "flux2-mcp"]},
    ],
)
def test_an_entry_that_starts_this_server_is_known_however_it_does(run: dict[str, Any]) -> None:
    assert entry.ours(run)


# --- files that can't be edited ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "text", "line"), BROKEN)
def test_a_file_that_does_not_parse_is_left_alone_and_the_line_named(
    tmp_path: Path, row: Host, text: str, line: int
) -> None:
    path = on_disk(tmp_path, row, text.encode())
    for plan in (host_plan.to_install, host_plan.to_remove):
        arguments = (COMMAND,) if plan is host_plan.to_install else ()
        if plan is host_plan.to_remove and entry_is_absent(row, text):
            continue
        with pytest.raises(HostFileError) as caught:
            plan(machine(tmp_path), row, "user", OURS, *arguments)
        assert caught.value.message.startswith(f"{path}, line {line}: ")
    assert path.read_bytes() == text.encode()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def entry_is_absent(row: Host, text: str) -> bool:
    """Where the file has no entry, or breaks and speaks of none, there is nothing to take out and nothing to complain of."""
    try:
        return entry.standing(row, text, OURS) is None
    except HostFileError:
        return OURS not in text


@pytest.mark.parametrize(
    ("content", "line"),
    [(b'{\n "a": "\xff"\n}\n', 2), ('{"a": 1}\n'.encode("utf-16"), 1), (b"{}\n\n\xe9", 3)],
)
def test_what_is_not_utf_8_is_left_alone(tmp_path: Path, content: bytes, line: int) -> None:
    path = on_disk(tmp_path, LENIENT, content)
    with pytest.raises(HostFileError, match=f"line {line}: this is not UTF-8"):
        install(tmp_path, LENIENT)
    assert path.read_bytes() == content


def test_the_message_shows_nothing_of_what_stands_there(tmp_path: Path) -> None:
    on_disk(tmp_path, LENIENT, b'{"servers": {"x": {"env": {"KEY": "canary-1" "canary-2"}}}}')
    with pytest.raises(HostFileError) as caught:
        install(tmp_path, LENIENT)
    assert "canary" not in caught.value.message


@pytest.mark.parametrize(("row", "module"), [(LENIENT, json_edit), (TABLES, toml_edit)], ids=["jsonc", "toml"])
def test_an_edit_that_would_break_a_file_is_refused(row: Host, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401  # a module
    before = {"jsonc": '{"a": 1, "servers": {"x": {}}}', "toml": '[a]\nb = 1\n[mcp_servers.x]\ncommand = "x"\n'}[
        row.format
    ]
    after = entry.installed(row, before, OURS, COMMAND)
    cut = "_applied" if row is LENIENT else "_appended"
    for wrong in ("{}", before.replace("1", "2"), after.replace("flux 2", "flux 3"), "{"):
        monkeypatch.setattr(module, cut, lambda *_, wrong=wrong: wrong)
        with pytest.raises(HostFileError, match="can't be edited safely"):
            entry.installed(row, before, OURS, COMMAND)


# --- files that nobody wrote ------------------------------------------------------------------------------------------

KEYS = st.one_of(st.sampled_from(["servers", OURS, "a", "command", ""]), st.text(max_size=6))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just({}) | st.just([]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
FLAGS: st.SearchStrategy[bool] = st.booleans()
SPACE = st.lists(
    st.sampled_from([" ", "\t", "\n", "\r\n", "// x\n", '// "{,\r\n', "/* y */", "/*\n*/"]), max_size=3
).map("".join)  # fmt: skip


@st.composite
def jsonc_texts(draw: st.DrawFn) -> str:
    """Any JSONC: values, with anything between tokens that may stand there."""

    def written(value: object) -> str:
        if isinstance(value, dict | list):
            pairs = (
                [f"{json.dumps(key)}{draw(SPACE)}:{draw(SPACE)}{written(one)}" for key, one in value.items()]
                if isinstance(value, dict)
                else [written(one) for one in value]
            )
            inner = ",".join(f"{draw(SPACE)}{pair}{draw(SPACE)}" for pair in pairs)
            comma = bool(pairs) and draw(FLAGS)
            tail = f"{',' if comma else ''}{draw(SPACE)}"
            opening, closing = "{}" if isinstance(value, dict) else "[]"
            return f"{opening}{inner}{tail}{closing}"
        return json.dumps(value, ensure_ascii=draw(FLAGS))

    root = draw(st.dictionaries(KEYS.filter(lambda key: key != "servers"), VALUES, max_size=3))
    if draw(FLAGS):
        root["servers"] = draw(st.dictionaries(KEYS.filter(lambda key: key != OURS), VALUES, max_size=3))
    return draw(st.sampled_from(["", jsonc.BOM])) + draw(SPACE) + written(root) + draw(SPACE)


@given(jsonc_texts())
@few(10)
def test_any_jsonc_takes_an_entry_and_gives_itself_back(text: str) -> None:
    before = parsed(LENIENT, text)
    after = entry.installed(LENIENT, text, OURS, COMMAND)
    held = parsed(LENIENT, after)
    assert held["servers"].pop(OURS) == entry.whole(LENIENT, COMMAND)
    assert held == {"servers": {}} | before
    assert kept_in(text, after)
    assert entry.installed(LENIENT, after, OURS, COMMAND) == after
    assert entry.removed(LENIENT, after, OURS, text) == text
    alone = entry.removed(LENIENT, after, OURS, None)
    assert parsed(LENIENT, alone) == {"servers": {}} | before
    if before.get("servers"):
        assert alone == text


@given(st.text(alphabet='{}[]",:/* \n\\a1tru-.e\ufeff', max_size=40))
def test_whatever_is_no_json_is_refused_and_what_is_json_is_read_alike(text: str) -> None:
    try:
        mine = jsonc.scan(text, strict=True)
    except HostFileError:
        with pytest.raises(ValueError, match=r"line \d+ column"):
            json.loads(text.removeprefix("\ufeff"))
    else:
        if mine is not None:
            assert mine.value == json.loads(text.removeprefix("\ufeff"))


@st.composite
def toml_texts(draw: st.DrawFn) -> str:
    """Any TOML of tables, keys, comments and strings over lines; no table twice."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    names = [
        "a",
        "b",
        '"c d"',
        "mcp_servers",
        "mcp_servers.x",
        'mcp_servers."y z"',
        "mcp_servers.x.env",
        "a.mcp_servers",
    ]
    values = [
        "1",
        '"x # [y]"',
        "'[z]'",
        f'"""{end}[mcp_servers.flux-2]{end}"""',
        f'[{end}  "]", # ]{end}]',
        "{ k = [1] }",
    ]
    lines = []
    tables = draw(st.permutations(names))
    for table in [None, *tables[: draw(st.integers(0, len(names)))]]:
        if table is not None:
            lines.append(f"{draw(st.sampled_from(['', '  ']))}[{table}]{draw(st.sampled_from(['', ' # t']))}")
        keys = draw(st.lists(st.sampled_from(["k", "'l m'", "n.o"]), unique=True))
        lines += [f"{key} = {draw(st.sampled_from(values))}{draw(st.sampled_from(['', '  # v']))}" for key in keys]
        lines += draw(st.lists(st.sampled_from(["", "# c", "  "]), max_size=2))
    text = end.join(lines) + draw(st.sampled_from(["", end, end * 3]))
    return draw(st.sampled_from(["", "\ufeff"])) + text


@given(toml_texts())
def test_any_toml_takes_an_entry_and_gives_itself_back(text: str) -> None:
    before = parsed(TABLES, text)
    after = entry.installed(TABLES, text, OURS, COMMAND)
    held = parsed(TABLES, after)
    assert held["mcp_servers"].pop(OURS) == entry.whole(TABLES, COMMAND)
    assert {"mcp_servers": {}} | before == held
    assert kept_in(text, after)
    assert entry.installed(TABLES, after, OURS, COMMAND) == after
    assert entry.removed(TABLES, after, OURS, None) == text
    newer = entry.installed(TABLES, after, OURS, NEWER)
    assert newer == entry.installed(TABLES, text, OURS, NEWER)
