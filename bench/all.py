"""Run every measurement, one after the other: python -m bench.all writes docs/performance.md from what they found.

With --record the lasting figures (ratios, bytes: what another machine would find, too) become bench/recorded.json; with
--check they are compared with it instead, and a figure that is more than 10 % worse in each of three runs fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.report import FOUND, ROOT, Reach, cell

RECORDED = ROOT / "bench" / "recorded.json"
PAGE = ROOT / "docs" / "performance.md"
WORSE = 1.1
TRIES = 3
SECONDS = 600
"""How long one measurement may take."""
BENCHES: Mapping[str, str] = {
    "startup": "What a host waits for when it starts the server",
    "idle": "A server that nobody has asked for an image",
    "ends": "How soon serving ends",
    "api": "How soon a Python program calls RunAPI",
    "calls": "A tool call that needs no network",
    "share": "Our share of a generate call",
    "polling": "From done to known",
    "news": "From a task's end to whoever waits for it",
    "crowd": "A thousand tasks in flight",
    "ledger": "A journal of 100,000 tasks",
    "memory": "Memory, idle and waiting",
    "derive": "Widths, formats and icons of one picture",
    "tokens": "What a model reads",
}
APART: Mapping[str, str] = {
    "team_load": "A journal of a team with a million tasks",
    "team_rate": "Servers of a team side by side",
}
"""What `make bench-team` measures: it takes long, so neither a run of all nor a check includes it."""
INTRO = """# Measured

Written by `make bench` and `make bench-team` from the files that each measurement left in `dist/bench`; not to be edited. Each section says when
and on what it was made, and what its figures do not tell. `make bench-check` fails where a ratio or a size becomes more than
10 % worse than it is recorded in `bench/recorded.json`. Where the load is above the number of CPUs, everybody waited for others: then
times say little, and ratios are what to read.
"""


def run(name: str) -> dict[str, Any]:
    """What one measurement finds. That something is not reached is a finding; anything else is an error."""
    command = [sys.executable, "-m", f"bench.{name}"]
    code = subprocess.run(command, cwd=ROOT, timeout=SECONDS, check=False).returncode
    if code not in {0, 1}:
        sys.exit(f"bench.{name} ended with {code}")
    return read(name)


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOUND / f"{name}.json").read_text("utf-8"))
    return found


def reaches(found: Mapping[str, Any]) -> list[Reach]:
    return [Reach(**each) for each in found["reaches"]]


def lasting(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures that are compared with what was recorded, by what they are."""
    return {reach.what: reach.measured for reach in reaches(found) if reach.lasting}


def worse(found: Mapping[str, Any], recorded: Mapping[str, float]) -> list[str]:
    """What has become worse by more than a tenth, or has gone."""
    now = {reach.what: reach for reach in reaches(found)}
    told = [f"{what}: recorded, and not measured any more" for what in recorded if what not in now]
    for what, before in recorded.items():
        if (reach := now.get(what)) and (
            reach.measured < before / WORSE if reach.least else reach.measured > before * WORSE
        ):
            told.append(f"{what}: {cell(reach.measured)} {reach.unit}, recorded {cell(before)}")
    return told


def check(names: Iterable[str]) -> int:
    """Measure again, up to three times where something seems worse. The number of figures that stayed worse."""
    recorded: dict[str, dict[str, float]] = json.loads(RECORDED.read_text("utf-8"))
    failed = []
    for name in names:
        known, told = recorded[name], list[str]()
        for _ in range(TRIES):
            told = worse(run(name), known)
            # What held once holds: the machine was busy the other time.
            known = {what: known[what] for what in known if any(line.startswith(f"{what}: ") for line in told)}
            if not known:
                break
        else:
            failed += [f"bench.{name}: {line}" for line in told]
    print("\n".join(failed) or "\nNothing is more than 10 % worse than recorded.")
    return len(failed)


def section(title: str, found: Mapping[str, Any]) -> str:
    """One measurement as Markdown."""
    head, rows = found["head"], found["rows"]
    rounds = f", {found['rounds']} rounds" if found.get("rounds") else ""
    lines = [
        f"## {title}",
        "",
        f"`python -m bench.{found['bench']}`, {found['at']}, seed {found['seed']}{rounds}; {found['machine']}; {found['made_by']}.",
        "",
        f"| {' | '.join(head)} |",
        f"| --- |{' ---: |' * (len(head) - 1)}",
        *(f"| {' | '.join(cell(value).strip() for value in row)} |" for row in rows),
        "",
        *(f"- {line(reach)}" for reach in reaches(found)),
        "",
        "Limits:",
        "",
        *(f"- {limit}" for limit in found["limits"]),
    ]
    return "\n".join(lines)


def line(reach: Reach) -> str:
    """A reach as Markdown; what is missed stands out."""
    return f"{reach.told}: {'reached' if reach.ok else '**missed**'}"


def page(all_of: Mapping[str, Mapping[str, Any]], before: str = "") -> str:
    """docs/performance.md.

    Args:
        all_of: What was found, by the bench.
        before: The page as it stands. A section of it stays where nothing was found anew.
    """
    sections = [
        section(title, all_of[name]) if name in all_of else standing(title, before)
        for name, title in {**BENCHES, **APART}.items()
    ]
    missed = [each for text in sections for each in text.splitlines() if each.endswith(": **missed**")]
    summary = "\n".join(["Not reached in these runs:", "", *missed]) if missed else "All is reached."
    return "\n\n".join(filter(None, [INTRO.strip(), summary, *sections])) + "\n"


def standing(title: str, page: str) -> str:
    """A section of the page as it is; empty if there is none."""
    _, found, rest = page.partition(f"## {title}\n")
    return (found + rest.partition("\n## ")[0]).strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; none: all")
    parser.add_argument("--check", action="store_true", help="compare with what is recorded, write nothing")
    parser.add_argument("--record", action="store_true", help="record what is found, too")
    parser.add_argument("--written", action="store_true", help="run nothing: take what dist/bench has")
    options = parser.parse_args()
    names = [name for name in BENCHES if not options.names or name in options.names]
    if options.check:
        return min(1, check(names))
    if not options.written:
        for name in names:
            run(name)
    found = {name: read(name) for name in (*BENCHES, *APART) if (FOUND / f"{name}.json").exists()}
    write(PAGE, page(found, PAGE.read_text("utf-8")))
    if options.record:
        write(RECORDED, json.dumps({name: lasting(found[name]) for name in BENCHES if name in found}, indent=1) + "\n")
    return 0


def write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
