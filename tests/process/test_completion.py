"""Tab, in the shells themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from flux2_mcp import __version__
from tests.process.conftest import Here
from tests.support.deep import thin
from tests.support.terminal import DEADLINE, Terminal, flux2_mcp

# What a shell does when Tab is pressed after the words of $LINE; it prints what it would offer.
SHELLS = {
    "bash": (
        'eval "$(flux2-mcp completion bash)"\n'
        'read -ra COMP_WORDS <<< "$LINE"; [[ "$LINE" == *" " ]] && COMP_WORDS+=("")\n'
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _flux2_mcp_completion flux2-mcp\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    ),
    "fish": 'flux2-mcp completion fish | source; complete -C "$LINE"',
}


@pytest.fixture
def env(clean_env: dict[str, str]) -> dict[str, str]:
    return clean_env | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), clean_env["PATH"]])}


def offered(shell: str, line: str, env: dict[str, str]) -> list[str]:
    """What Tab offers, without the descriptions beside it."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [shell, "-c", SHELLS[shell]],
        env=env | {"LINE": line},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.stderr == ""
    return [one.partition("\t")[0] for one in done.stdout.splitlines()]


LINES = {
    "flux2-mcp who": ["whoami"],
    "flux2-mcp spend --by ": ["day", "person", "variant", "workspace"],
    "flux2-mcp team au": ["audit"],
    "flux2-mcp completion ": ["bash", "zsh", "fish"],
}


# What comes from us is the same in every shell; what is kept shows that each shell asks for it.
@pytest.mark.parametrize(
    ("shell", "line"),
    thin(product(SHELLS, LINES), kept=[("fish", "flux2-mcp spend --by ")]),
)
def test_tab_completes_commands_and_what_an_option_takes(shell: str, line: str, env: dict[str, str]) -> None:
    assert sorted(offered(shell, line, env)) == sorted(LINES[line])


@pytest.mark.parametrize("shell", ["bash", pytest.param("fish", marks=pytest.mark.deep)])
def test_tab_completes_the_ids_of_tasks_and_is_silent_where_there_are_none(
    shell: str, env: dict[str, str], here: Here, tmp_path: Path
) -> None:
    asked = {"_FLUX2_MCP_COMPLETE": "bash_complete", "COMP_WORDS": "flux2-mcp wait 0", "COMP_CWORD": "2"}
    assert flux2_mcp(env | asked).stdout.split() == []
    assert not (tmp_path / "home").exists()
    made = json.loads(here("generate", "a red fox [sandbox:moderation]", "--count", "2", "--json")[1])
    first, second = (task["task_id"] for task in made["tasks"])
    assert second in offered(shell, f"flux2-mcp open {second[:8]}", env)
    assert flux2_mcp(env | asked | {"COMP_WORDS": f"flux2-mcp wait {first[:8]}"}).stdout == f"plain,{first}\n"
    assert flux2_mcp(env | asked | {"FLUX2_MODE": "lve"}).stdout.split() == []


def test_tab_leaves_the_files_of_a_remix_to_the_shell(env: dict[str, str]) -> None:
    asked = {"_FLUX2_MCP_COMPLETE": "bash_complete", "COMP_WORDS": "flux2-mcp remix night fo", "COMP_CWORD": "3"}
    assert flux2_mcp(env | asked).stdout == "file,fo\n"


def test_tab_in_zsh(env: dict[str, str], tmp_path: Path) -> None:
    if (zsh := shutil.which("zsh")) is None:
        pytest.skip("zsh is not installed")
    # ZDOTDIR's .zshrc is what it reads when it begins.
    (tmp_path / ".zshrc").write_text(
        'autoload -U compinit; compinit -u\neval "$(flux2-mcp completion zsh)"\nPS1="ready> "\n'
    )
    told = env | {"ZDOTDIR": str(tmp_path), "TERM": "dumb"}
    terminal = Terminal(told, [zsh, "-i"], typing=True)
    try:
        terminal.until("ready> ")
        terminal.keys("flux2-mcp vers\t\nexit\n")
        assert terminal.end() == (0, f"{__version__}\n")
    finally:
        terminal.close()
