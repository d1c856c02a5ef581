"""What a command was started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flux2_mcp.errors import SettingsError
from flux2_mcp.runapi.key_file import ConfigText
from flux2_mcp.settings import Settings, from_env


@dataclass(frozen=True, slots=True)
class Invocation:
    """Every command's object. Calling it gives the settings: only who needs them meets a bad one, and nobody before --help.

    `config` is what stood in RunAPI's config file when the process started.
    """

    env: Mapping[str, str] = field(repr=False)
    config: ConfigText = field(repr=False)
    workspace: str | None

    def __call__(self) -> Settings:
        """The settings.

        Raises:
            SettingsError: A variable, or the config file, holds something that can't be used.
        """
        return from_env(self.env, self.config, workspace=self.workspace)

    @property
    def read(self) -> Settings | SettingsError:
        """The settings, or why there are none."""
        try:
            return self()
        except SettingsError as exc:
            return exc
