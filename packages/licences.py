"""What is installed with this server, under which licence: `docs/licences.md`, from the metadata of the installed packages.

python -m packages.licences
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

FILE = Path(__file__).parents[1] / "docs" / "licences.md"
ROOT, EXTRAS = "flux2-mcp", ("otel", "socks", "team")
ALLOWED = {
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "PSF-2.0",
    "MPL-2.0",
    "0BSD",
    "LGPL-3.0-only",
}
"""All let themselves be used by a program under any licence. MPL-2.0 asks for the changes to its own files alone, LGPL for those
to the library, which the user can replace. No package of a plain installation is under LGPL."""
# What older packages say in words, as SPDX has it.
_SPDX: Mapping[str, str] = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
}
_NAME = re.compile(r"([A-Za-z0-9._-]+)(?:\[([\w,-]+)\])?")


def installed() -> dict[str, str]:
    """The licence of each package that comes with this one and its extras, by name; sorted."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [(ROOT, EXTRAS)]
    while waiting:
        name, extras = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another system or an older Python
        own = _plain(package.name)
        if own not in found:
            found[own] = licence(package)
            waiting += _needs(package, extras)
    del found[ROOT]
    return dict(sorted(found.items()))


def _needs(package: Distribution, extras: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The packages that one needs with these of its extras, each with its own extras."""
    for line in package.requires or ():
        name, _, marker = line.partition(";")
        wanted = "extra" not in marker or any(extra in marker for extra in extras)
        if wanted and (match := _NAME.match(name)):
            yield match[1], tuple(match[2].split(",")) if match[2] else ()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(package: Distribution) -> str:
    """Its SPDX expression, from whichever field has it."""
    said = package.metadata.get_all("License-Expression") or package.metadata.get_all("License") or [""]
    if said[0] not in {"", "UNKNOWN"} and "\n" not in said[0]:
        return _SPDX.get(said[0], said[0])
    classified = [
        each.rpartition(" :: ")[2] for each in package.metadata.get_all("Classifier") or () if "License ::" in each
    ]
    return " OR ".join(_SPDX.get(each, each) for each in classified)


def text() -> str:
    """The page."""
    rows = "".join(f"| {name} | {licence} |\n" for name, licence in installed().items())
    return f"""# Licences

flux2-mcp is under Apache-2.0. What `pip install 'flux2-mcp[{",".join(EXTRAS)}]'` brings along on Linux with Python 3.11, by the packages' own metadata
(made by `make licences`; a test holds it to what is installed):

| package | licence |
| --- | --- |
{rows}"""


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), "utf-8")
