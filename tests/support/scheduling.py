"""What a worker of a run gets at a time, for pytest-xdist: it loads this in its first process alone."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

TOGETHER = ("tests/browser/",)
"""Folders whose files share what is dear to start: one worker has them all."""


class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist tells no types
    """A file at a time, as `--dist loadfile` has it, but for the folders that stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in TOGETHER if file.startswith(folder)), file)
