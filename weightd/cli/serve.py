"""`weightd serve` and `weightd keeper`: settings from a file and the command line, checked, then
the daemon or its keeper in this process's place, so that what stays in memory is that alone."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightd.cli.options import Engine, RuntimeDir
from weightd.errors import AlreadyRunningError, SettingsError

if TYPE_CHECKING:
    from weightd.daemon.origin import Origin
    from weightd.daemon.settings import Settings
    from weightd.ipc.runtime import RuntimeFolder


_Models = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=PATH", help="A model to load at start; may be repeated."),
]
_Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", readable=False, help="Settings in TOML; its paths are relative to itself."
    ),
]
_KeepVersions = Annotated[
    int | None,
    typer.Option(metavar="N", help="Versions held for rollback, with the live one; default 2."),
]
_MemoryBudget = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="What all segments together may take: 8GiB."),
]
_Engine = Annotated[
    Engine | None,
    typer.Option(
        help="What runs graphs. Without it prepacked, and plain where that fails.",
        show_default=False,
    ),
]
_AttachPublic = Annotated[
    bool | None,
    typer.Option(
        "--attach-public/--no-attach-public",
        help="Let allowed processes of other users reach the attach socket.",
        show_default=False,
    ),
]


def serve(  # noqa: PLR0913 - each is an option
    *,
    runtime_dir: RuntimeDir = None,
    model: _Models = None,
    config: _Config = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Under a keeper, as `weightd keeper` does."),
    ] = False,
    keep_versions: _KeepVersions = None,
    memory_budget: _MemoryBudget = None,
    engine: _Engine = None,
    attach_public: _AttachPublic = None,
) -> None:
    """Run a daemon, in the foreground, until SIGTERM or Ctrl-C.

    The command line goes over the file of --config, which SIGHUP has it read again.
    Weights outlive the daemon with --keep, and under systemd.

    \b
    Examples:
      weightd serve --model lenet=lenet5.onnx
      weightd serve --runtime-dir /run/weightd --config /etc/weightd.toml
      weightd serve --memory-budget 8GiB --keep-versions 3
      weightd serve --keep
    """
    from weightd.ipc.runtime import RuntimeFolder

    folder = RuntimeFolder.find(runtime_dir, os.environ)
    given = {
        "keep": keep_versions,
        "memory_budget": memory_budget,
        "engine": engine and engine.value,
        "attach_public": attach_public,
        "models": _models(model or []) or None,
    }
    origin = _origin(config, {name: value for name, value in given.items() if value is not None})
    _check(folder, origin.read())
    _become_daemon(folder, origin, is_kept=keep)


def keeper(  # noqa: PLR0913 - each is an option
    *,
    runtime_dir: RuntimeDir = None,
    model: _Models = None,
    config: _Config = None,
    keep_versions: _KeepVersions = None,
    memory_budget: _MemoryBudget = None,
    engine: _Engine = None,
    attach_public: _AttachPublic = None,
) -> None:
    """Run a daemon, and hold its weights: when it dies, the next one has them.

    For containers and laptops, where no systemd does that: a small parent, in the
    foreground, until SIGTERM or Ctrl-C. The options are those of `weightd serve`.

    \b
    Examples:
      weightd keeper --model lenet=lenet5.onnx
      weightd keeper --runtime-dir /run/weightd --config /etc/weightd.toml
    """
    serve(
        runtime_dir=runtime_dir,
        model=model,
        config=config,
        keep=True,
        keep_versions=keep_versions,
        memory_budget=memory_budget,
        engine=engine,
        attach_public=attach_public,
    )


def _origin(config: Path | None, given: dict[str, Any]) -> "Origin":
    from weightd.daemon.origin import Origin

    return Origin(str(config.absolute()) if config else "", given)


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
    from weightd.daemon.configured import open_file
    from weightd.ipc.runtime import InstanceLock

    if "LISTEN_FDS" not in os.environ:  # else its weights may be there already, without the files
        for path in settings.paths.values():
            open_file(path).close()
            if not Path(path).is_file():
                raise SettingsError(f"{path} is not a file")
    folder.create(settings.folder_mode)
    InstanceLock(folder).close()
    if folder.has_keeper():
        raise AlreadyRunningError(
            f"a keeper serves {folder.path} already, and is about to start its daemon again: see "
            "its log; stop it, or start this one with another --runtime-dir"
        )


def _become_daemon(folder: "RuntimeFolder", origin: "Origin", *, is_kept: bool) -> None:
    from weightd.daemon.main import command, kept_command

    argv = (kept_command if is_kept else command)(folder, origin)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(argv[0], argv)
