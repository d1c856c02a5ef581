"""What a command is given beside its arguments: the environment, the folder, and the settings that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flux2_mcp.errors import SettingsError
from flux2_mcp.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Called, it gives the settings: only the commands that need them stumble over a bad variable.

    `env` is the environment; `workspace` the folder that the process was started in, where there still is one.
    """

    env: Mapping[str, str]
    workspace: str | None
    read: Settings | SettingsError = field(repr=False)

    def __call__(self) -> Settings:
        """The settings.

        Raises:
            SettingsError: A variable or the key file can't be used.
        """
        if isinstance(self.read, SettingsError):
            raise self.read
        return self.read
