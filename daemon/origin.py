"""Where a daemon's settings come from, so that it can read them again: a file, and what was given
on the command line, which goes over it."""

from pathlib import Path
from typing import Any

import msgspec

from weightd.daemon.settings import ModelSettings, Settings, from_file, from_values
from weightd.errors import SettingsError

# What of the settings the command line has, and under which name.
OPTIONS = {
    "models": "--model",
    "keep": "--keep-versions",
    "memory_budget": "--memory-budget",
    "engine": "--engine",
    "attach_public": "--attach-public",
}


class Origin(msgspec.Struct, frozen=True):
    """config: an absolute path, '' for no file. given: plain values by setting."""

    config: str = ""
    given: dict[str, Any] = {}

    @classmethod
    def of(cls, settings: Settings) -> "Origin":
        """Settings that are in no file."""
        return cls("", msgspec.to_builtins(settings))

    def read(self) -> Settings:
        """The settings as they are now; SettingsError says which is wrong. Paths in the file are
        relative to it."""
        if not self.config:
            return from_values(self.given, "the command line", self._options)
        base = from_file(Path(self.config))
        folder = Path(self.config).parent
        models = {name: _below(folder, model) for name, model in base.models.items()}
        models |= self.given.get("models", {})
        values = msgspec.to_builtins(base) | self.given | {"models": models}
        return from_values(values, f"the command line over {self.config}", self._options)

    @property
    def _options(self) -> dict[str, str]:
        return {name: option for name, option in OPTIONS.items() if name in self.given}

    def encode(self) -> str:
        try:
            return msgspec.json.encode(self).decode()
        except UnicodeEncodeError as error:
            raise SettingsError(f"a path in the settings is not UTF-8: {error.object!r}") from error

    @classmethod
    def decode(cls, text: str) -> "Origin":
        """What encode() made, or the path of a file."""
        return msgspec.json.decode(text, type=cls) if text.startswith("{") else cls(text)


def _below(folder: Path, model: str | ModelSettings) -> Any:
    """The model's settings as plain values, its path below the folder unless it is absolute."""
    if isinstance(model, str):
        return str(folder / model)
    return msgspec.to_builtins(model) | {"path": str(folder / model.path)}
