"""A task as lists of resources name it. `records` has whole tasks; a list needs less, and the server that sleeps reads no more."""

from __future__ import annotations


class ListedTask:
    """What a list says of a task. Each part holds also where the rest of the record can't be read.

    Args:
        key: The task's key in the journal.
        task_id: RunAPI's id, if it is known.
        prompt: The prompt; "" if it can't be read.
        at: When the task ended, else when it was made; seconds since 1970.
        image: Path, MIME type and bytes of its image; None if there is none.
    """

    __slots__ = ("at", "image", "key", "prompt", "task_id")

    def __init__(
        self, key: str, task_id: str | None, prompt: str, at: float, image: tuple[str, str, int] | None
    ) -> None:
        self.key = key
        self.task_id = task_id
        self.prompt = prompt
        self.at = at
        self.image = image
