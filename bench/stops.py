"""Processes that stand still while another takes over what they have: SIGSTOP, 25 to 40 seconds, SIGCONT."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from bench.rows import Rows
from tests.support.stdio import Host

STILL_SECONDS = (25.0, 40.0)
"""Longer than a lease lasts, which is 20 s."""
AWAKE_SECONDS = 4.0
"""How long a process that woke may do what it was about to do."""
EDITED = b"edited by the user, since"


class Stops:
    """Servers that stand still in the background, each with one task, while others come and go.

    What another server has delivered of it meanwhile, the user edits before the first one wakes: that must not be undone.

    Args:
        dice: How long each stands still.
        journal: What has become of its task meanwhile.
    """

    def __init__(self, dice: Random, journal: Rows) -> None:
        self._dice = dice
        self._journal = journal
        self._threads: list[threading.Thread] = []
        self.stopped = self.overtaken = 0
        self.edited: set[str] = set()

    def add(self, host: Host, prompt: str) -> None:
        """A server that was stopped just now, in the middle of the task with this prompt; it wakes and ends by itself."""
        self.stopped += 1
        thread = threading.Thread(target=self._wake, args=(host, prompt, self._dice.uniform(*STILL_SECONDS)))
        self._threads.append(thread)
        thread.start()

    def _wake(self, host: Host, prompt: str, seconds: float) -> None:
        time.sleep(seconds)
        for owner, images in self._task(prompt):
            self.overtaken += owner.split("/")[-2] != str(host.process.pid)
            for image in json.loads(images):
                Path(image["saved"]).write_bytes(EDITED)
                self.edited.add(image["saved"])
        os.kill(host.process.pid, signal.SIGCONT)
        time.sleep(AWAKE_SECONDS)
        host.close()

    def _task(self, prompt: str) -> list[tuple[str, str]]:
        rows = self._journal.read("SELECT owner, images, request FROM task")
        return [(owner, images) for owner, images, request in rows if json.loads(request)["prompt"] == prompt]

    def join(self) -> None:
        """Wait until all have woken and ended."""
        for thread in self._threads:
            thread.join()

    def undone(self) -> int:
        """How many files are not as the user left them."""
        return sum(1 for path in self.edited if Path(path).read_bytes() != EDITED)


def stand_still(pid: int, dice: Random, pause: Callable[[float], None] = time.sleep) -> None:
    """Stop a process, wait as long as that takes, and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        pause(dice.uniform(*STILL_SECONDS))
    finally:
        os.kill(pid, signal.SIGCONT)
