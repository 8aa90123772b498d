"""`weightd serve`: settings from a file and the command line, checked, then the daemon in this
process's place, so that what stays in memory is the daemon alone."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightd.cli.options import Engine, RuntimeDir
from weightd.errors import SettingsError

if TYPE_CHECKING:
    from weightd.daemon.settings import ModelSettings, Settings
    from weightd.ipc.runtime import RuntimeFolder


def serve(  # noqa: PLR0913 - each is an option
    *,
    runtime_dir: RuntimeDir = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A model to load at start; may be repeated."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings in TOML; its paths are relative to itself."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(metavar="N", help="Versions held for rollback, with the live one; default 2."),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What all segments together may take: 8GiB."),
    ] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="What runs graphs. Without it prepacked, and plain where that fails.",
            show_default=False,
        ),
    ] = None,
    attach_public: Annotated[
        bool | None,
        typer.Option(
            "--attach-public/--no-attach-public",
            help="Let allowed processes of other users reach the attach socket.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a daemon, in the foreground, until SIGTERM or Ctrl-C.

    The command line goes over the file of --config.

    \b
    Examples:
      weightd serve --model lenet=lenet5.onnx
      weightd serve --runtime-dir /run/weightd --config /etc/weightd.toml
      weightd serve --memory-budget 8GiB --keep 3
    """
    from weightd.ipc.runtime import RuntimeFolder

    folder = RuntimeFolder.find(runtime_dir, os.environ)
    given = {
        "keep": keep,
        "memory_budget": memory_budget,
        "engine": engine and engine.value,
        "attach_public": attach_public,
    }
    settings = _settings(config, _models(model or []), given)
    _check(folder, settings)
    _become_daemon(folder, settings)


def _settings(config: Path | None, models: dict[str, str], given: dict[str, Any]) -> "Settings":
    """The file's settings, and over them what was given."""
    import msgspec

    from weightd.daemon import settings

    base = settings.from_file(config) if config else settings.Settings()
    folder = config.absolute().parent if config else Path.cwd()
    in_file = {name: _below(folder, model) for name, model in base.models.items()}
    changes = {name: value for name, value in given.items() if value is not None}
    values = msgspec.to_builtins(base) | changes | {"models": in_file | models}
    return settings.from_values(values, "the command line")


def _below(folder: Path, model: "str | ModelSettings") -> Any:
    """The model's settings as plain values, its path below the folder unless it is absolute."""
    import msgspec

    if isinstance(model, str):
        return str(folder / model)
    return msgspec.to_builtins(model) | {"path": str(folder / model.path)}


def _models(options: list[str]) -> dict[str, str]:
    models: dict[str, str] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not (name and equals and path):
            raise SettingsError(f"--model {option!r} is not NAME=PATH, such as lenet=lenet5.onnx")
        models[name] = os.path.abspath(path)
    return models


def _check(folder: "RuntimeFolder", settings: "Settings") -> None:
    """Say here, in one line, what the daemon would stop at."""
    from weightd.daemon.main import open_file
    from weightd.ipc.runtime import InstanceLock

    for path in settings.paths.values():
        open_file(path).close()
        if not Path(path).is_file():
            raise SettingsError(f"{path} is not a file")
    folder.create(settings.folder_mode)
    InstanceLock(folder).close()


def _become_daemon(folder: "RuntimeFolder", settings: "Settings") -> None:
    from weightd.daemon.main import command

    argv = command(folder, settings)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(argv[0], argv)
