"""Every command of the shell blocks in README and docs/, as it stands there, in a throw-away home and checkout.

A shell runs what is not our own program, and the first line that is. The others are forked, with the words as a shell gives them.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flux2_mcp.hosts.plan import Machine
from flux2_mcp.hosts.table import TABLE, host
from tests.process.conftest import Here
from tests.support import forked
from tests.support.terminal import COMMAND

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCKS = [block for path in PAGES for block in re.findall(r"```sh\n(.*?)```", path.read_text("utf-8"), re.DOTALL)]
DEADLINE = 120.0
INSTEAD = {
    "make demo": ("make demo SPEED=1000", "the same, but for the waiting and a scene in the picture"),
    "make test": ("make -n check suite", "it is what runs this"),
    "sh install/install.sh": ("sh install/install.sh --help", "tests/hosts runs it: it fetches from the package index"),
    'uvx --from git+URL flux2-mcp generate "A lighthouse at dusk"': (
        'flux2-mcp generate "A lighthouse at dusk"',
        "it fetches what it runs on from the package index",
    ),
    "pip install .": ("python -m pip --version", "the same; `make dist` installs the wheel into an empty environment"),
}
"""What is run instead of a command, and why."""
STAYS = {
    "flux2-mcp login": ("", "Waiting for the browser"),
    "flux2-mcp serve --http": (" --port 0", "http-token"),
    "flux2-mcp gallery": (" --no-open", "http://127.0.0.1:"),
    "flux2-mcp sandbox --port 8787": (" --port 0", "RUNAPI_API_KEY="),
}
"""What runs until it is ended: options that keep it to itself, the last port counts, and what it says once it is up."""


def lines(block: str) -> list[str]:
    return [line.partition("  #")[0].strip() for line in block.splitlines() if line.strip() and line[0] != "#"]


OURS = [line for block in BLOCKS for line in lines(block) if line.startswith("flux2-mcp ")]
INSTALLS = [line for line in OURS if line.startswith("flux2-mcp install ")]
PLAIN = re.compile(r"flux2-mcp [^|&;<>$`\\]+")
"""A command of ours, of which `shlex` makes the same words as a shell."""


@pytest.fixture
def env(clean_env: dict[str, str]) -> dict[str, str]:
    programs = str(Path(sys.executable).parent)
    # Nothing that opens a browser finds one.
    return clean_env | {"PATH": f"{programs}:{os.defpath}", "FLUX2_SANDBOX_SPEED": "1000", "BROWSER": "true"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository's files by links, so that what a command writes stays here; its environment is this one, and done."""
    folder = tmp_path / "checkout"
    (folder / ".venv").mkdir(parents=True)
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
    for name in ("Makefile", "pyproject.toml", "server", "install"):
        (folder / name).symlink_to(ROOT / name)
    if compiled := os.environ.get("PYTHONPYCACHEPREFIX"):
        (folder / ".venv/pycache").symlink_to(compiled)  # where make has it, so that not all is compiled anew
    for stage in (".runtime", ".done"):  # in the order in which they are made
        (folder / ".venv" / stage).touch()
    return folder


@pytest.mark.skipif(os.name != "posix", reason="the README's commands are a POSIX shell's")
@pytest.mark.parametrize(
    "block",
    # What enlarges is run by test_finished; that its words are the command's own, tests/project/test_readme.py sees.
    [pytest.param(block, marks=pytest.mark.deep) if "--upscale" in block else block for block in BLOCKS],
    ids=[lines(block)[0] for block in BLOCKS],
)
def test_every_command_of_the_readme_does_what_it_says(
    block: str, env: dict[str, str], checkout: Path, here: Here
) -> None:
    for line in lines(block):
        if line in STAYS:
            comes_up(line + STAYS[line][0], STAYS[line][1], env, checkout)
            continue
        if line in INSTALLS[1:]:  # they differ in a word
            code, out, err = here(*line.split()[1:], **env)
        else:
            command, _ = INSTEAD.get(line, (line, ""))
            run = forked_run if PLAIN.fullmatch(command) and line != INSTALLS[0] else shell
            code, out, err = run(command, env, checkout)
        assert code == 0, f"{line}\n{out}{err}"
        assert out, line
        if line.startswith("flux2-mcp install "):
            machine = Machine(system="Linux", env=env, workspace=None)
            assert any(path.is_file() for path in machine.files(host(line.split()[-1]), "user")), line


def ours(line: str) -> list[str]:
    return [*COMMAND, *shlex.split(line)[1:]]


def forked_run(line: str, env: dict[str, str], cwd: Path) -> tuple[int, str, str]:
    """Run it to its end, without a shell."""
    done = forked.run(ours(line), env, timeout=DEADLINE, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def shell(line: str, env: dict[str, str], cwd: Path) -> tuple[int, str, str]:
    """Run it to its end."""
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=env, cwd=cwd, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=DEADLINE,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def comes_up(command: str, says: str, env: dict[str, str], cwd: Path) -> None:
    """Start it, wait until it says so, and end it as Ctrl-C does."""
    with forked.begin(
        ours(command), env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        watch = threading.Timer(DEADLINE, process.kill)
        watch.start()
        try:
            assert process.stdout is not None
            heard = ""
            for line in process.stdout:
                heard += line
                if says in line:
                    break
            else:
                pytest.fail(f"{command} never said {says}:\n{heard}")
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=DEADLINE)
        finally:
            watch.cancel()
            process.kill()


def test_no_exception_outlives_its_command() -> None:
    assert {*INSTEAD, *STAYS} <= {line for block in BLOCKS for line in lines(block)}


def test_there_is_one_install_line_for_each_host() -> None:
    assert [f"flux2-mcp install {row.name}" for row in TABLE] == INSTALLS[1:]
