"""Sleeps until somebody needs the server: most sessions of a host never ask for an image.

While the thread of `early` answers what hosts ask at their start, the main thread waits here, before the SDK is
imported: 70 MiB and half a second of a processor that nobody needed. What wakes it, which is that this function returns:
a message that `early` does not answer; settings that are unusable, or give the server work of its own (callbacks, spans);
a task in the journal that no living process holds; a journal that can't be read. Then all goes on as without sleep, and
`early` hands over the conversation. Where Linux tells when the journal's folder changes, the process is not woken as long as
no task is open. Elsewhere two files are looked at every `TICK_SECONDS`. SQLite is asked only where one of them has changed. The list of resources has the newest tasks, so it is answered here:
the snapshot's documents, and the tasks as the server itself lists them (`server.listing`). The end of input and signals
end the process as they do while the SDK loads (`early`, `__main__`). FLUX2_SLEEP=0 does without.
Nothing here may import what takes long or much memory: no asyncio, typing, dataclasses, pathlib, hashlib.
"""

from __future__ import annotations

import json

from flux2_mcp.journal.watch import Watch
from flux2_mcp.server import listing
from flux2_mcp.server.transports import plain
from flux2_mcp.server.transports.early import EarlyAnswers
from flux2_mcp.system.folder_changes import FolderChanges

TYPE_CHECKING = False  # as in `early`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flux2_mcp.errors import SettingsError
    from flux2_mcp.settings import Settings

TICK_SECONDS = 4.0
"""The interval at which the journal's files are looked at. The end of a lease is known, and is waited for. A wake-up costs
0.3 to 0.5 ms, most of it the system's."""
PAUSE_SECONDS = 2.0
"""After a change is told, the next is asked for: a process that works writes many times a second."""
QUIET_SECONDS = 60.0
"""The interval where the system tells of changes and nothing is open: should it ever miss one."""


def sleep(early: EarlyAnswers, env: Mapping[str, str], settings: Callable[[], Settings | SettingsError]) -> None:
    """Return when the server is needed.

    Args:
        early: Answers meanwhile.
        env: The environment.
        settings: Reads the settings.
    """
    if (place := plain.plain(env) or _place(settings())) is None:
        return
    early.main_thread_ends(it=True)
    early.may_end()
    changes = FolderChanges(place.home, early.interrupt)
    _sleep(early, place, Watch(place.home, sandbox=place.sandbox), changes)
    changes.close()
    early.main_thread_ends(it=False)


def _sleep(early: EarlyAnswers, place: plain.Place, watch: Watch, changes: FolderChanges) -> None:
    while True:
        told = changes.watch()  # before the look, so that no change falls between the two
        if watch.finds_work():
            return
        if not _waits(early, place, watch, QUIET_SECONDS if told and watch.is_quiet else TICK_SECONDS):
            return
        if changes.came and not _waits(early, place, watch, PAUSE_SECONDS):
            return


def _waits(early: EarlyAnswers, place: plain.Place, watch: Watch, most: float) -> bool:
    """Wait for something to happen, and answer what is asked. Return False if there is nothing left to wait for."""
    questions = early.wait(watch.pause(most))
    if early.needs_server:
        return False
    for ident, without_tasks in questions:
        if (result := _with_tasks(without_tasks, watch, place)) is None:
            return False
        early.tell(ident, result)
    return not early.has_ended  # then the process ends when all is written, or the server ends it


def _place(settings: Settings | SettingsError) -> plain.Place | None:
    return None if isinstance(settings, Exception) else plain.place_of(settings)


def _with_tasks(result: bytes, watch: Watch, place: plain.Place) -> bytes | None:
    """Return a list of resources with the newest tasks added; None if only the server knows these."""
    if (account := place.account()) is None or (tasks := watch.newest(account, listing.PAGE_TASKS)) is None:
        return None
    if not tasks:
        return result
    page = json.loads(result)
    page["resources"] += listing.entries(tasks)
    if (cursor := listing.cursor(tasks)) is not None:
        page["nextCursor"] = cursor
    return json.dumps(page, ensure_ascii=False, separators=(",", ":")).encode()
