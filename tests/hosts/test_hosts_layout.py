"""An entry is laid out as its file is: one line where the file is one, with blanks only where the file has them."""

from __future__ import annotations

import pytest

from flux2_mcp.hosts import entry
from flux2_mcp.hosts.editors.jsonc import Object
from flux2_mcp.hosts.editors.toml_edit import TomlEditor
from flux2_mcp.hosts.table import Host, host

COMMAND, NEWER = ["/bin/flux2-mcp"], ["/opt/flux2-mcp"]
STRICT, LENIENT = host("claude-code"), host("vscode")


@pytest.mark.parametrize("row", [STRICT, LENIENT], ids=["json", "jsonc"])
def test_a_minified_file_stays_minified(row: Host) -> None:
    for before, start, end in (
        ('{"theme":"dark"}', f'{{"theme":"dark","{row.servers}":{{', "}}"),
        (f'{{"{row.servers}":{{}}}}', f'{{"{row.servers}":{{', "}}"),
        (f'{{"{row.servers}":{{"a":{{"command":"a"}}}}}}\n', f'{{"{row.servers}":{{"a":{{"command":"a"}},', "}}\n"),
    ):
        after = entry.installed(row, before, "flux-2", COMMAND)
        ours = after.removeprefix(start).removesuffix(end)
        assert start + ours + end == after
        assert ours.startswith('"flux-2":{')
        assert " " not in ours
        newer = entry.installed(row, after, "flux-2", NEWER)
        assert newer == after.replace(COMMAND[0], NEWER[0])


def test_a_file_of_one_line_with_blanks_gets_an_entry_with_blanks() -> None:
    after = entry.installed(STRICT, '{"theme": "dark"}', "flux-2", COMMAND)
    assert after.startswith('{"theme": "dark", "mcpServers": {"flux-2": {"')
    assert "\n" not in after
    assert '":"' not in after


def test_a_key_that_stands_as_it_should_keeps_its_line() -> None:
    before = """[mcp_servers.flux-2]
command = '/bin/flux2-mcp'  # mine
args    = [ ]
tool_timeout_sec = 60
"""
    values: Object = {"command": "/bin/flux2-mcp", "args": [], "tool_timeout_sec": 900}
    after = TomlEditor().put(before, "mcp_servers", "flux-2", values)
    assert after == before.replace("60", "900")
    assert TomlEditor().put(after, "mcp_servers", "flux-2", values) == after
