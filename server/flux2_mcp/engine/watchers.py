"""Records which callers wait for which tasks, and notifies them of changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import anyio
from msgspec import Struct, field


class Watcher(Struct, eq=False):
    """A caller that waits for tasks. `changed` is set when one of the tasks changes.

    Read `changed` before you read the tasks, and wait on it afterwards. Each caller has its own watcher: with a shared
    one, every task would wake all callers.
    """

    changed: anyio.Event = field(default_factory=anyio.Event)

    def tell(self) -> None:
        """Wake the caller, because a task has changed."""
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class Watchers:
    """All watchers of a process, by the keys of the tasks that they wait for."""

    def __init__(self) -> None:
        self._by_key: dict[str, list[Watcher]] = {}

    @contextmanager
    def watching(self, keys: Collection[str]) -> Iterator[Watcher]:
        """Register a watcher of these tasks inside this context."""
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
        """Wake the callers that wait for this task."""
        for watcher in self._by_key.get(key, ()):
            watcher.tell()

    def tell_all(self) -> None:
        """Wake all callers."""
        for key in tuple(self._by_key):
            self.tell(key)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __len__(self) -> int:
        return len(self._by_key)
