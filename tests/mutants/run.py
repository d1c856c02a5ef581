"""`make mutants`: break the code as `table.toml` says, one place at a time, and see whether the named tests notice.

Each mutant is tried in a copy of the tree with an environment of its own, whose first path is that copy: so the servers that
tests start are broken, too. Two copies are at work at once. It ends with 1 where a mutant lives.

    python -m tests.mutants.run [--only NAME]... [--tests-from CHECKOUT] [--run PATH]... [--write COLUMN]
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TABLE, PAGE = HERE / "table.toml", HERE / "README.md"
SERVER = Path("server/flux2_mcp")
COPIES = 2
LIMIT_SECONDS = 300
ALL_PASSED, SOME_FAILED = 0, 1
"""pytest's exit codes; with any other it did not get as far as a verdict."""
LIVED, KILLED = "lived", "killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change: in `file` (below the package) the text `old`, which stands there once, becomes `new`.

    `breaks` is what a user would feel; `tests` are the paths that are to notice.
    """

    name: str
    area: str
    breaks: str
    file: str
    old: str
    new: str
    tests: list[str]


def table() -> list[Mutant]:
    return [Mutant(**row) for row in tomllib.loads(TABLE.read_text("utf-8"))["mutant"]]


def changed(text: str, mutant: Mutant) -> str:
    """The text with the mutant in it.

    Raises:
        ValueError: Its place is not there, or more than once.
    """
    if (found := text.count(mutant.old)) != 1 or mutant.old == mutant.new:
        raise ValueError(f"{mutant.name}: its place stands in {mutant.file} {found} times, and once is needed")
    return text.replace(mutant.old, mutant.new)


class Copy:
    """A copy of the tree, and a Python that imports from it before anything else."""

    def __init__(self, folder: Path, tests_from: Path) -> None:
        self._scratch = folder / "scratch"
        self._root = folder / "flux2-mcp"
        left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "dist")
        shutil.copytree(tests_from, self._root, symlinks=True, ignore=left_out)
        shutil.rmtree(self._root / "server")
        shutil.copytree(ROOT / "server", self._root / "server", ignore=left_out)
        ours, there = Path(sys.prefix), self._root / ".venv"
        venv.create(there, symlinks=True)
        for program in (ours / "bin").iterdir():
            _take_over(program, there / "bin" / program.name, str(ours), str(there))
        [packages] = there.glob("lib/*/site-packages")
        paths = [self._root / "server", ours / packages.relative_to(there)]
        (packages / "copy.pth").write_text("".join(f"{path}\n" for path in paths), "utf-8")
        self._python = there / "bin" / "python"
        self._written = time.time()

    @contextmanager
    def broken(self, mutant: Mutant) -> Iterator[None]:
        path = self._root / SERVER / mutant.file
        sound = path.read_text("utf-8")
        self._put(path, changed(sound, mutant))
        try:
            yield
        finally:
            self._put(path, sound)

    def _put(self, path: Path, text: str) -> None:
        # Python knows what it has compiled by the size and the second of writing: no two texts are to share both.
        path.write_text(text, "utf-8")
        self._written += 2
        os.utime(path, (self._written, self._written))

    def run(self, tests: Sequence[str], *, to_the_end: bool = False) -> tuple[int, str]:
        """Run tests, to the first that fails. Gives pytest's exit code and that test; what takes too long has failed."""
        # Byte-code of the copy goes with the copy.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONDONT", "PYTHONPYC"))}
        command = [str(self._python), "-m", "pytest", "-q", "-rfE", "--tb=no", "--no-header", "-p", "no:cacheprovider"]
        # As `make test` asks them: what the long tables alone notice is not noticed.
        command += ["-m", "not deep", "--basetemp", str(self._scratch), *([] if to_the_end else ["-x"]), *tests]
        with subprocess.Popen(
            command, cwd=self._root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate(timeout=None if to_the_end else LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                return SOME_FAILED, f"not done in {LIMIT_SECONDS} s"
            finally:
                with suppress(ProcessLookupError):  # and the servers that it has started
                    os.killpg(process.pid, signal.SIGKILL)
        failed = [line.split(" ")[1] for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return process.returncode, failed[0] if failed else said[-2000:]


def _take_over(program: Path, here: Path, ours: str, there: str) -> None:
    """Give the copy's environment a program of ours; a script starts the copy's own Python."""
    if here.exists() or not program.is_file():
        return
    with program.open("rb") as file:
        script = file.read(2) == b"#!"
    if script:
        here.write_text(program.read_text("utf-8").replace(ours, there), "utf-8")
        here.chmod(0o755)
    else:
        here.symlink_to(program)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="this mutant; repeat for more")
    parser.add_argument("--tests-from", type=Path, default=ROOT, metavar="CHECKOUT", help="whose tests are asked")
    parser.add_argument("--run", action="append", metavar="PATH", help="these tests in place of those in the table")
    parser.add_argument("--write", metavar="COLUMN", help="write the verdicts into this column of README.md")
    asked = parser.parse_args()
    mutants = [mutant for mutant in table() if asked.only is None or mutant.name in asked.only]
    tests = {mutant.name: _there(asked.tests_from, asked.run or mutant.tests) for mutant in mutants}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Copy(Path(folder) / str(number), asked.tests_from.resolve()) for number in range(COPIES)]
        code, said = copies[0].run(sorted({path for paths in tests.values() for path in paths}), to_the_end=True)
        if code != ALL_PASSED:
            _say(f"The tests fail on the code as it is, so they can say nothing: {said}")
            return 2
        verdicts = _verdicts(copies, mutants, tests)
    if asked.write:
        _write(asked.write, verdicts)
    alive = [name for name, verdict in verdicts.items() if verdict != KILLED]
    _say(f"{len(mutants) - len(alive)} of {len(mutants)} killed", *alive)
    return 1 if alive else 0


def _there(checkout: Path, tests: Sequence[str]) -> list[str]:
    return [path for path in tests if (checkout / path.partition("::")[0]).exists()]


def _verdicts(copies: Sequence[Copy], mutants: Sequence[Mutant], tests: Mapping[str, list[str]]) -> dict[str, str]:
    free: Queue[Copy] = Queue()
    for copy in copies:
        free.put(copy)

    def tried(mutant: Mutant) -> tuple[str, str]:
        copy, began, code, by = free.get(), time.monotonic(), ALL_PASSED, ""
        try:
            if tests[mutant.name]:
                with copy.broken(mutant):
                    code, by = copy.run(tests[mutant.name])
        finally:
            free.put(copy)
        verdict = {ALL_PASSED: LIVED, SOME_FAILED: KILLED}.get(code, f"pytest ended with {code}")
        _say(f"{mutant.name:42} {verdict:7} {time.monotonic() - began:5.1f} s  {'' if verdict == LIVED else by}")
        return mutant.name, verdict

    with ThreadPoolExecutor(len(copies)) as pool:
        return dict(pool.map(tried, mutants))


def _write(column: str, verdicts: Mapping[str, str]) -> None:
    """Write a column of the page's table; its rows are the mutants'."""
    head, start, rest = PAGE.read_text("utf-8").partition("<!-- table -->\n")
    old, end, tail = rest.partition("<!-- end -->")
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in old.splitlines())
    known = {row[names.index("name")]: dict(zip(names, row, strict=True)) for row in rows}
    new = [names, ["---"] * len(names)]
    for mutant in table():
        row = known.get(mutant.name, {}) | {name: str(getattr(mutant, name)) for name in ("area", "name", "breaks")}
        row |= {column: verdicts[mutant.name]} if mutant.name in verdicts else {}
        new.append([row.get(name, "") for name in names])
    PAGE.write_text(head + start + "".join(f"| {' | '.join(row)} |\n" for row in new) + end + tail, "utf-8")


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
