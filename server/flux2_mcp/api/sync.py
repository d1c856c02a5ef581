"""The sync client: each call runs in one background loop, which starts at the first of them."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, Unpack

from flux2_mcp.api.background import Background
from flux2_mcp.api.client import ActionName, ClientCore, settings_of
from flux2_mcp.api.errors import ClosedError
from flux2_mcp.api.fields import (
    PathText,
    RemixImageFields,
    RemoveBackgroundFields,
    TextToImageFields,
    UpscaleImageFields,
    worded,
)
from flux2_mcp.domain.lifecycle import TaskStatus
from flux2_mcp.domain.models import Balance

if TYPE_CHECKING:  # results are loaded with the first answer
    from flux2_mcp.api.results import Price, Quote, Task

T = TypeVar("T")

FORGOTTEN = "A Flux2Client was not closed. Its tasks are safe. Use `with Flux2Client() as client`, or close()."


class _Call(Protocol):
    def __call__(self, work: Callable[[ClientCore], Awaitable[T]]) -> T: ...


class Flux2Client:
    """Makes FLUX.2 images through RunAPI. Use it with `with`, or end with `close`.

    Any number of threads may call it. After a fork, the child gets a loop of its own at its next call, and the parent's
    tasks stay the parent's. Ctrl-C ends a wait; the image is made all the same, and the client stays usable. Closing
    loses no task: the next client with the same home goes on with it.

    Args:
        api_key: RunAPI's key. None: RUNAPI_API_KEY, else RunAPI's config file, else the sandbox draws the images.
        base_url: RunAPI's address. None: RUNAPI_BASE_URL, else the config file's, else https://runapi.ai.
        home: The folder of the journal and the images. None: FLUX2_HOME, else the user's data folder.
        workspace: The folder that `save_to` and local source images are in. None: FLUX2_WORKSPACE, else the working
            directory.
        detached: Create and read only: another process with the same home polls tasks and fetches images.
        environ: In place of os.environ.

    Raises:
        SettingsError: An argument, a variable or RunAPI's config file has an unusable value.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        home: PathText | None = None,
        workspace: PathText | None = None,
        detached: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        with worded():
            self._settings = settings_of(
                api_key=api_key, base_url=base_url, home=home, workspace=workspace, environ=environ
            )
        self._detached = detached
        self._lock = threading.Lock()
        self._closed = False
        self._background: Background | None = None
        self._finalizer: weakref.finalize[[Background], Flux2Client] | None = None
        _clients.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the tasks to the next process and end the loop. Calls under way raise ClosedError."""
        with self._lock:
            self._closed = True
            background, self._background = self._background, None
        if background is not None:
            if self._finalizer is not None:
                self._finalizer.detach()
            background.stop()
            background.join()

    @property
    def sandbox(self) -> bool:
        """Whether the sandbox draws the images: there is no key, or FLUX2_MODE says so. Then no money moves."""
        return self._settings.mode == "sandbox"

    @property
    def text_to_image(self) -> TextToImage:
        """Images from a prompt."""
        return TextToImage(self._call)

    @property
    def remix_image(self) -> RemixImage:
        """Images from other images and a prompt."""
        return RemixImage(self._call)

    @property
    def remove_background(self) -> RemoveBackground:
        """Pictures cut out: the subject alone, on a transparent ground."""
        return RemoveBackground(self._call)

    @property
    def upscale_image(self) -> UpscaleImage:
        """Pictures enlarged."""
        return UpscaleImage(self._call)

    @property
    def tasks(self) -> Tasks:
        """What was made, also by other programs with the same FLUX2_HOME and account."""
        return Tasks(self._call)

    def prices(
        self,
        *,
        model: str | None = None,
        variant: str | None = None,
        action: ActionName | None = None,
        output_resolution: str | None = None,
    ) -> tuple[Price, ...]:
        """See `AsyncFlux2Client.prices`."""
        return self._call(
            lambda core: core.prices(model=model, variant=variant, action=action, output_resolution=output_resolution)
        )

    def quote(
        self,
        *,
        model: str | None = None,
        variant: str | None = None,
        action: ActionName | None = None,
        output_resolution: str | None = None,
        count: int = 1,
    ) -> Quote:
        """See `AsyncFlux2Client.quote`."""
        return self._call(
            lambda core: core.quote(
                model=model, variant=variant, action=action, output_resolution=output_resolution, count=count
            )
        )

    def balance(self) -> Balance:
        """See `AsyncFlux2Client.balance`."""
        return self._call(lambda core: core.balance())

    def handle_callback(
        self, body: bytes | str, headers: Mapping[str, str] | None = None, *, path: str | None = None
    ) -> bool:
        """See `AsyncFlux2Client.handle_callback`."""
        return self._call(lambda core: core.handle_callback(body, headers, path=path))

    def _call(self, work: Callable[[ClientCore], Awaitable[T]]) -> T:
        with worded():
            return self._open().call(work)

    def _open(self) -> Background:
        with self._lock:
            if self._closed:
                raise ClosedError("The client is closed.")
            if self._background is None:
                self._background = Background(ClientCore(self._settings, detached=self._detached))
                # The finalizer, not the client, is what the loop's thread can outlive.
                self._finalizer = weakref.finalize(self, _forgotten, self._background)
            return self._background

    def forked(self) -> None:
        """Begin anew in a child: the loop and the lock are the parent's. `os.fork` calls this."""
        self._lock = threading.Lock()
        self._background = None
        if self._finalizer is not None:
            self._finalizer.detach()


def _forgotten(background: Background) -> None:
    """Warn of a client that was collected, or that is there at the end of the program, without `close`."""
    background.stop()
    warnings.warn(FORGOTTEN, ResourceWarning, stacklevel=2)


_clients: weakref.WeakSet[Flux2Client] = weakref.WeakSet()


def _forked() -> None:
    for client in list(_clients):
        client.forked()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forked)


class TextToImage:
    """Images from a prompt. See `AsyncTextToImage`, also for the errors."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def run(self, *, timeout: float | None = None, **fields: Unpack[TextToImageFields]) -> Task:
        """Make an image and wait until its checked file is on disk. See `AsyncTextToImage.run`."""
        return self._call(lambda core: core.text_to_image.run(timeout=timeout, **fields))

    def create(self, **fields: Unpack[TextToImageFields]) -> Task:
        """Make an image; return when RunAPI has answered with an id. See `AsyncTextToImage.create`."""
        return self._call(lambda core: core.text_to_image.create(**fields))

    def get(self, task_id: str) -> Task:
        """Look at a task once. See `AsyncTextToImage.get`."""
        return self._call(lambda core: core.text_to_image.get(task_id))


class RemixImage:
    """Images from other images and a prompt. See `AsyncRemixImage`, also for the errors."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def run(self, *, timeout: float | None = None, **fields: Unpack[RemixImageFields]) -> Task:
        """Remix images and wait until the checked file is on disk. See `AsyncRemixImage.run`."""
        return self._call(lambda core: core.remix_image.run(timeout=timeout, **fields))

    def create(self, **fields: Unpack[RemixImageFields]) -> Task:
        """Remix images; return when RunAPI has answered with an id. See `AsyncRemixImage.create`."""
        return self._call(lambda core: core.remix_image.create(**fields))

    def get(self, task_id: str) -> Task:
        """Look at a task once. See `AsyncRemixImage.get`."""
        return self._call(lambda core: core.remix_image.get(task_id))


class RemoveBackground:
    """Pictures cut out. See `AsyncRemoveBackground`, also for the errors."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def run(self, *, timeout: float | None = None, **fields: Unpack[RemoveBackgroundFields]) -> Task:
        """Cut out the subject of a picture and wait until the file is on disk. See `AsyncRemoveBackground.run`."""
        return self._call(lambda core: core.remove_background.run(timeout=timeout, **fields))

    def create(self, **fields: Unpack[RemoveBackgroundFields]) -> Task:
        """Cut out; return when RunAPI has answered with an id. See `AsyncRemoveBackground.create`."""
        return self._call(lambda core: core.remove_background.create(**fields))

    def get(self, task_id: str) -> Task:
        """Look at a task once. See `AsyncRemoveBackground.get`."""
        return self._call(lambda core: core.remove_background.get(task_id))


class UpscaleImage:
    """Pictures enlarged. See `AsyncUpscaleImage`, also for the errors."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def run(self, *, timeout: float | None = None, **fields: Unpack[UpscaleImageFields]) -> Task:
        """Enlarge a picture and wait until the checked file is on disk. See `AsyncUpscaleImage.run`."""
        return self._call(lambda core: core.upscale_image.run(timeout=timeout, **fields))

    def create(self, **fields: Unpack[UpscaleImageFields]) -> Task:
        """Enlarge; return when RunAPI has answered with an id. See `AsyncUpscaleImage.create`."""
        return self._call(lambda core: core.upscale_image.create(**fields))

    def get(self, task_id: str) -> Task:
        """Look at a task once. See `AsyncUpscaleImage.get`."""
        return self._call(lambda core: core.upscale_image.get(task_id))


class Tasks:
    """What was made. See `AsyncTasks`, also for the errors."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def wait(self, ids: Iterable[str], *, timeout: float | None = None) -> tuple[Task, ...]:
        """Wait until all these tasks have ended or the time is over. See `AsyncTasks.wait`."""
        return self._call(lambda core: core.tasks.wait(ids, timeout=timeout))

    def as_completed(self, ids: Iterable[str], *, timeout: float | None = None) -> Iterator[Task]:
        """Yield each of these tasks as it ends. See `AsyncTasks.as_completed`."""

        async def begin(core: ClientCore) -> AsyncIterator[Task]:
            return core.tasks.as_completed(ids, timeout=timeout)

        iterator = self._call(begin)
        while (task := self._call(lambda _: anext(iterator, None))) is not None:
            yield task

    def recent(
        self,
        *,
        limit: int = 20,
        status: TaskStatus | None = None,
        since: str | datetime | None = None,
        workspace: PathText | None = None,
    ) -> tuple[Task, ...]:
        """List tasks from the journal, newest first. See `AsyncTasks.recent`."""
        return self._call(lambda core: core.tasks.recent(limit=limit, status=status, since=since, workspace=workspace))
