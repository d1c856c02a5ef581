"""The async client, on asyncio and on trio. The sync one (`sync`) calls the same core in a thread."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from flux2_mcp.api.actions import AsyncRemixImage, AsyncRemoveBackground, AsyncTextToImage, AsyncUpscaleImage
from flux2_mcp.api.errors import ClosedError
from flux2_mcp.api.fields import PathText, absolute, model_of, not_whole, worded
from flux2_mcp.api.tasks import AsyncTasks
from flux2_mcp.domain import pricing
from flux2_mcp.domain.catalog import ANY_SIZE, DEFAULT_RESOLUTION, Model
from flux2_mcp.domain.models import Action, Balance
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import InvalidRequestError, Problem, SettingsError, WireError, shortened
from flux2_mcp.runapi import wire
from flux2_mcp.runapi.key_file import config_file, read
from flux2_mcp.settings import Settings, from_env
from flux2_mcp.system.logs import hide

if TYPE_CHECKING:  # results are loaded with the first answer
    from flux2_mcp.api.results import Price, Quote

MAX_CALLBACK_BYTES = 65_536
"""Bytes of a callback's body. RunAPI's have about 1,000."""
MAX_QUOTED = 1_000_000
ActionName = Literal["text_to_image", "remix_image", "remove_background", "upscale_image"]
logging.getLogger("flux2_mcp").addHandler(logging.NullHandler())  # an application decides what is logged


def settings_of(
    *,
    api_key: str | None,
    base_url: str | None,
    home: PathText | None,
    workspace: PathText | None,
    environ: Mapping[str, str] | None,
) -> Settings:
    """Return the settings of a client. The arguments replace variables; the rest is as for the command line.

    Raises:
        SettingsError: An argument, a variable or RunAPI's config file has an unusable value.
    """
    if api_key is not None and not api_key.strip():  # without this, the sandbox would draw in place of FLUX.2
        raise SettingsError(
            "api_key is empty.", next_step="Leave it out to use RUNAPI_API_KEY or RunAPI's config file."
        )
    folders = {"FLUX2_HOME": home, "FLUX2_WORKSPACE": workspace}
    given = {"RUNAPI_API_KEY": api_key, "RUNAPI_BASE_URL": base_url}
    given |= {name: None if folder is None else absolute(folder) for name, folder in folders.items()}
    env = dict(os.environ if environ is None else environ) | {name: text for name, text in given.items() if text}
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        here = None  # the folder was deleted meanwhile; images can still be made
    return from_env(env, read(config_file(env)), workspace=here)


class ClientCore:
    """What both clients do. It is open inside `async with`.

    Args:
        settings: From `settings_of`.
        detached: Whether another process does the work on tasks.
    """

    def __init__(self, settings: Settings, *, detached: bool) -> None:
        hide(settings.api_key)
        self._settings = settings
        self._detached = detached
        self._opened: AbstractAsyncContextManager[Service] | None = None
        self._service: Service | None = None

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise ClosedError("A client is opened once.")
        self._opened = Service.opened(self._settings, hand_over=self._detached)
        self._service = await self._opened.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service = None
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, trace)

    @property
    def service(self) -> Service:
        """The open service.

        Raises:
            ClosedError: The client is not open.
        """
        if self._service is None:
            raise ClosedError("The client is not open.", next_step="Use it inside `async with`.")
        return self._service

    @property
    def sandbox(self) -> bool:
        """Whether the sandbox draws the images: there is no key, or FLUX2_MODE says so. Then no money moves."""
        return self._settings.mode == "sandbox"

    @property
    def text_to_image(self) -> AsyncTextToImage:
        """Images from a prompt."""
        return AsyncTextToImage(self.service, Action.TEXT_TO_IMAGE)

    @property
    def remix_image(self) -> AsyncRemixImage:
        """Images from other images and a prompt."""
        return AsyncRemixImage(self.service, Action.REMIX_IMAGE)

    @property
    def remove_background(self) -> AsyncRemoveBackground:
        """Pictures cut out: the subject alone, on a transparent ground."""
        return AsyncRemoveBackground(self.service, Action.REMOVE_BACKGROUND)

    @property
    def upscale_image(self) -> AsyncUpscaleImage:
        """Pictures enlarged."""
        return AsyncUpscaleImage(self.service, Action.UPSCALE_IMAGE)

    @property
    def tasks(self) -> AsyncTasks:
        """What was made, also by other programs with the same FLUX2_HOME and account."""
        return AsyncTasks(self.service)

    async def prices(
        self,
        *,
        model: str | None = None,
        variant: str | None = None,
        action: ActionName | None = None,
        output_resolution: str | None = None,
    ) -> tuple[Price, ...]:
        """Return the price of one image for each model and resolution that match, in USD. Costs nothing.

        Models that finish pictures are among them if `model` or `action` names them. The resolution of their prices is the
        factor as a text, or "any".

        Raises:
            InvalidRequestError: There is no such model, variant or action.
        """
        with worded():
            wanted = _action(action)
            if model is not None or variant is not None:
                model_of(wanted, model, variant)
            match = partial(
                pricing.prices, variant=model or variant, action=wanted, output_resolution=output_resolution
            )
            services = {each.model.service for each in match(self.service.prices.at_hand)}
            from flux2_mcp.api import results

            return tuple(map(results.price, match(await self.service.prices.book(services))))

    async def quote(
        self,
        *,
        model: str | None = None,
        variant: str | None = None,
        action: ActionName | None = None,
        output_resolution: str | None = None,
        count: int = 1,
    ) -> Quote:
        """Return what `count` images would cost, in USD. Nothing is reserved, and it costs nothing.

        It is the price of one task each: of a call with `background` or `upscale`, the quotes of its steps add up.

        Args:
            model: RunAPI's name of it.
            variant: Its variant, in place of `model`.
            action: That of the model, if only its variant is given, or nothing.
            output_resolution: None is 1k. Of a model that enlarges it is the factor as a text, and is needed.
            count: How many images.

        Raises:
            InvalidRequestError: There is no such model or resolution, or `count` is no whole number from 1 up.
        """
        with worded():
            wanted = model_of(_action(action), model, variant)
            wrong = [*not_whole("count", count, MAX_QUOTED)]
            size = _size(wanted) if output_resolution is None else output_resolution
            if size not in wanted.resolutions:
                got = "is needed" if size is None else f"got {shortened(str(size))!r}"
                wrong.append(Problem("output_resolution", f"{got}; allowed: {', '.join(wanted.resolutions)}."))
            if wrong or size is None:
                raise InvalidRequestError(*wrong)
            from flux2_mcp.api import results

            price = results.price(pricing.price(await self.service.prices.book({wanted.service}), wanted, size))
            return results.Quote(price=price, count=count, usd=None if price.usd is None else price.usd * count)

    async def balance(self) -> Balance:
        """Return the account's balance, in USD: `balance_usd`, and its parts as far as RunAPI tells them.

        Raises:
            AuthenticationError: RunAPI does not know the key.
            TransportError: RunAPI gave no answer.
        """
        with worded():
            return await self.service.account.balance()

    async def handle_callback(
        self, body: bytes | str, headers: Mapping[str, str] | None = None, *, path: str | None = None
    ) -> bool:
        """Take RunAPI's callback as a hint to look at a task now. Call this from a web framework.

        Nothing in it is believed except which of our own tasks it is about: the task is polled with the key. Unknown,
        forged and malformed callbacks are ignored. Answer RunAPI with a 2xx status in any case.

        Args:
            body: As received, at most 64 KiB.
            headers: As received.
            path: The path or URL that was called. A task that was given FLUX2_CALLBACK_URL has a token in it, which is
                compared in constant time.

        Returns:
            Whether it is about a task of ours that RunAPI works on.
        """
        ident = _named(body, headers or {})
        with worded():
            return ident is not None and await self.service.called_back(ident, path)


class AsyncFlux2Client(ClientCore):
    """Makes FLUX.2 images through RunAPI, on asyncio or trio. Use it with `async with`, in one task.

    Several tasks may call it at once. A call that is cancelled stops waiting; its image is made all the same, and the
    next client goes on with it.

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
            settings = settings_of(api_key=api_key, base_url=base_url, home=home, workspace=workspace, environ=environ)
        super().__init__(settings, detached=detached)


def _action(name: str | None) -> Action | None:
    if name is None or name in list(Action):
        return None if name is None else Action(name)
    raise InvalidRequestError(Problem("action", f"got {shortened(str(name))!r}; allowed: {', '.join(Action)}."))


def _size(model: Model) -> str | None:
    """Return the resolution of a quote that names none; None if it has to."""
    usual = [size for size in model.resolutions if size in {DEFAULT_RESOLUTION, ANY_SIZE}]
    return next(iter(usual), None)


def _named(body: bytes | str, headers: Mapping[str, str]) -> str | None:
    """Return the id of the task that a callback names; None for what is no callback."""
    if len(body) > MAX_CALLBACK_BYTES:
        return None
    header = next((text for name, text in headers.items() if name.lower() == "x-runapi-task-id"), None)
    try:
        payload = json.loads(body)
        ident = wire.task(payload, named=header).task_id if isinstance(payload, dict) else None
    except (ValueError, RecursionError, WireError):
        return None
    return ident if ident is not None and ident.isascii() and ident.isprintable() else None
