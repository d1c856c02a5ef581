"""Which callers wait for which tasks, and how they are told that there is news."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio


@dataclass(slots=True, eq=False)
class Watcher:
    """A caller that waits for tasks. `changed` is set when one of them has changed: take it before looking, wait on it after.

    Each caller has a watcher of its own: else all would be woken by every task.
    """

    changed: anyio.Event = field(default_factory=anyio.Event)

    def tell(self) -> None:
        """There is news."""
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class Watchers:
    """The watchers of a process, by the keys of the tasks that they wait for."""

    def __init__(self) -> None:
        self._by_key: dict[str, list[Watcher]] = {}

    @contextmanager
    def watching(self, keys: Collection[str]) -> Iterator[Watcher]:
        """A caller waits for these tasks meanwhile."""
        watcher = Watcher()
        for key in keys:
            self._by_key.setdefault(key, []).append(watcher)
        try:
            yield watcher
        finally:
            for key in keys:
                self._by_key[key].remove(watcher)
                if not self._by_key[key]:
                    del self._by_key[key]

    def tell(self, key: str) -> None:
        """Tell the callers that wait for this task."""
        for watcher in self._by_key.get(key, ()):
            watcher.tell()

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __len__(self) -> int:
        return len(self._by_key)
