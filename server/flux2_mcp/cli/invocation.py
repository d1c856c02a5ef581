"""The environment, the config file and the folder that a command was started with."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.errors import SettingsError
from flux2_mcp.runapi.key_file import ConfigText
from flux2_mcp.settings import Settings, from_env


class Invocation(Struct, frozen=True):
    """The object of every command. A call returns the settings, so --help works even if a setting is unusable.

    `config` is the content of RunAPI's config file when the process started.
    """

    env: Mapping[str, str]
    config: ConfigText
    workspace: str | None

    __repr__ = repr_without("env", "config")

    def __call__(self) -> Settings:
        """Return the settings.

        Raises:
            SettingsError: A variable or the config file has an unusable value.
        """
        return from_env(self.env, self.config, workspace=self.workspace)

    @property
    def read(self) -> Settings | SettingsError:
        """The settings, or the error that they raise."""
        try:
            return self()
        except SettingsError as exc:
            return exc
