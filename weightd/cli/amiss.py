"""A command line that cannot be understood, as one sentence: click finds it, this says it."""

import re
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer

from weightd.errors import BadRequestError

# click's UsageError: from some version on typer has click within it, under a private name.
Amiss: Any = typer.BadParameter.mro()[1]

_GUESS = re.compile(r"\.? Did you mean (.+?)\?$|\.? \(Possible options: (.+)\)$")


def refusal(error: Any) -> BadRequestError:
    """What is wrong, what may stand there, and which --help says more."""
    param, ctx = getattr(error, "param", None), error.ctx
    if type(error) is typer.BadParameter:
        text = error.message if param is None else _of_value(error, param)
    else:
        text = error.format_message()
        text = _GUESS.sub(lambda found: f" (did you mean {found[1] or found[2]}?)", text)
        text = text[:1].lower() + text[1:]
    command = ctx.command_path if ctx is not None else "weightd"
    return BadRequestError(f"{text.rstrip('.')}; see `{command} --help`")


def _of_value(error: Any, param: Any) -> str:
    """In the words of the option's own type and bounds, which typer's wording depends on."""
    from weightd.ipc.faults import wanted

    is_option = param.param_type_name == "option"
    name = max(param.opts, key=len) if is_option else str(param.metavar).strip("[].")
    kind = _kind_of(error.ctx.command.callback, param.name)
    return f"{name}: {error.message}" if kind is None else f"{name} must be {wanted(kind)}"


def _kind_of(command: Any, name: str) -> Any:
    """The type of one value, with its bounds; None where it has none to tell of."""
    kind, *notes = get_args(get_type_hints(command, include_extras=True)[name])
    kind = next((k for k in get_args(kind) if k is not type(None)), kind)
    kind = get_args(kind)[0] if get_origin(kind) is list else kind
    bounds = {
        key: value
        for note in notes
        for key, value in (("ge", getattr(note, "min", None)), ("le", getattr(note, "max", None)))
        if value is not None
    }
    return Annotated[kind, msgspec.Meta(**bounds)] if bounds else kind
