"""`python -m tests.support.pythons [--one] PYTEST-ARGUMENTS ...` runs tests on each other Python that is promised and is here.

It looks on PATH, and in the folders where pyenv and uv keep interpreters. Each gets an environment of its own, below this
one's. With `--one`, only the newest is tried. It says which it ran on, and which are not here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = (
    (Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv"), "versions/{version}.*/bin/python{version}"),
    (Path.home() / ".local/share/uv/python", "cpython-{version}.*/bin/python{version}"),
)


def promised() -> list[str]:
    """The versions of Python that pyproject.toml names, the newest first."""
    found = re.findall(r'Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    return sorted(found, key=lambda version: int(version.partition(".")[2]), reverse=True)


def interpreter(version: str) -> str | None:
    """An interpreter of that version which runs; a shim of pyenv's may stand on PATH and run nothing."""
    for path in candidates(version):
        asked = [path, "-c", "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == version:
            return path
    return None


def candidates(version: str) -> Iterator[str]:
    """Paths where an interpreter of that version may be."""
    if (found := shutil.which(f"python{version}")) is not None:
        yield found
    for folder, pattern in PLACES:
        yield from sorted(map(str, folder.glob(pattern.format(version=version))))


def run(version: str, path: str, arguments: list[str]) -> int:
    """Make the environment where it is not made, and run the tests there."""
    environment = f"{sys.prefix}/pythons/{version}"
    made = subprocess.run(
        # uv is no Python program: this environment's installs into that one.
        [
            "make",
            "--no-print-directory",
            f"PYTHON={path}",
            f"VENV={environment}",
            f"UV={sys.prefix}/.uv/bin/uv",
            f"{environment}/.done",
        ],
        cwd=ROOT,
        check=False,
    )
    if made.returncode:
        return made.returncode
    sys.stderr.write(f"Python {version}: {path}\n")
    env = os.environ | {"PYTHONPYCACHEPREFIX": f"{environment}/pycache"}
    return subprocess.run(
        [f"{environment}/bin/python", "-m", "pytest", *arguments], cwd=ROOT, env=env, check=False
    ).returncode


def main(arguments: list[str]) -> int:
    """Run on each; gives 1 where one of them failed."""
    one = "--one" in arguments
    arguments = [argument for argument in arguments if argument != "--one"]
    here = "{}.{}".format(*sys.version_info[:2])
    others = {version: interpreter(version) for version in promised() if version != here}
    found = {version: path for version, path in others.items() if path is not None}
    codes = {version: run(version, path, arguments) for version, path in list(found.items())[: 1 if one else None]}
    for version, path in others.items():
        if path is None:
            said = "is not on this machine"
        else:
            said = "was not tried" if version not in codes else "failed" if codes[version] else "passed"
        sys.stderr.write(f"Python {version} {said}\n")
    return 1 if any(codes.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
