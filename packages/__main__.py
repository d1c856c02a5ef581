"""`make packages`: writes every package, and the lists of README and docs/, from the code. What it does not write, and what it does, a test holds it to."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from flux2_mcp.hosts.command import PUBLISHED
from packages import facts, readme, skill, words
from packages.manifests import AGENT_PLUGIN, PLUGIN, manifests

SCRIPTS = ("install/install.sh", "install/install.ps1")
"""Written by hand, but for the one line that says how the package is obtained."""
_LINE = re.compile(r"^( *\$?PUBLISHED ?= ?).*$", re.MULTILINE)


def files(*, published: bool = PUBLISHED) -> dict[str, str]:
    """Every file by its path in the repository."""
    texts = {path: _json(manifest) for path, manifest in manifests(published=published).items()}
    skills = skill.files(published=published)
    plugin = words.commands() | skills
    plugin["README.md"] = words.readme(published=published)
    hint = Path(__file__).with_name("no-key.sh").read_text("utf-8")
    command, setup = facts.start(published=published)["command"], words.setup(published=published).replace("`", "")
    plugin["scripts/no-key.sh"] = hint.replace("@COMMAND@", command).replace("@SETUP@", setup)
    texts |= {f"{PLUGIN}/{path}": text for path, text in plugin.items()}
    texts |= {f"{AGENT_PLUGIN}/{path}": text for path, text in skills.items()}
    texts |= readme.pages()
    value = "yes" if published else "no"
    return texts | {path: _LINE.sub(rf"\g<1>'{value}'", (facts.ROOT / path).read_text("utf-8")) for path in SCRIPTS}


def write(root: Path) -> list[str]:
    """Write them below a folder, and remove what no longer belongs into the plugins'. Tells the paths that changed."""
    wanted = files()
    found = [path for folder in (PLUGIN, AGENT_PLUGIN) for path in (root / folder).rglob("*") if path.is_file()]
    there = {path.relative_to(root).as_posix() for path in found}
    stale = sorted(there - set(wanted))
    for path in stale:
        (root / path).unlink()
    changed = []
    for path, text in wanted.items():
        file = root / path
        if not file.is_file() or file.read_bytes() != text.encode():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
            changed.append(path)
    return [*stale, *changed]


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in write(facts.ROOT):
        sys.stdout.write(f"{path}\n")
