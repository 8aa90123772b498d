"""What Model and ModelParallelRunner have in common: from a path, a Context and a configuration to
a home that runs, with weightd's errors as the RuntimeErrors that scripts expect.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightd import config, home, workspaces
from weightd.allotment import threads_for
from weightd.binding import Shape, as_arrays, shape_of
from weightd.checks import check_instance
from weightd.config import BuildConfig
from weightd.errors import (
    BadFileError,
    BadInputError,
    MismatchError,
    PredictError,
    SettingsError,
    TargetError,
    UsageError,
    WeightdError,
)
from weightd.targets import resolve

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from weightd.backends.ports import TensorInfo
    from weightd.context import Context
    from weightd.group import ModelGroup
    from weightd.home import Home
    from weightd.tensor import Tensor
    from weightd.weights.arrays import Array

log = logging.getLogger("weightd")

_OTHER_VALUE = "The given input shape's value != original input shape's value."
_BAKED = "A static shape is baked into the graph; export the model with dynamic sizes there:"


@contextmanager
def as_runtime_error(prefix: str) -> Iterator[None]:
    """What goes wrong inside comes out as a RuntimeError with this prefix."""
    try:
        yield
    except (WeightdError, MemoryError, OSError, ValueError) as error:
        raise RuntimeError(f"{prefix}{error}") from error


# --- configuration ---------------------------------------------------------------------------


def read_config(path: str, given: Mapping[str, Any] | None, what: str) -> BuildConfig:
    """The ini file at `path` ('' for none) and config_dict over it. what: the call's name, which
    its errors begin with."""
    file: config.Sections = {}
    if path:
        if not os.path.exists(path):
            raise RuntimeError(f"{what} failed, config_path does not exist!")
        with as_runtime_error("load configuration failed! Error is "):
            file = config.read_ini(path)
            config.parse(file, folder=Path(path).parent)
    if given:
        check_instance("config_dict", given, dict)
        for name, values in given.items():
            check_instance("config_dict_key", name, str)
            if config.is_bare_key(name, values):
                continue
            check_instance("config_dict_value", values, dict)
            for key, value in values.items():
                check_instance("config_dict_value_key", key, str)
                check_instance("config_dict_value_value", value, str)
    sections = config.merged(file, given or {})
    with as_runtime_error("update configuration failed! Error is "):
        found = config.parse(sections, folder=Path(path).parent if path else None)
    config.name_ignored(sections)
    return found


def check_decryption(key: object, mode: object, parallel: object) -> None:
    """Check the three, and refuse: weightd reads no encrypted models."""
    if not key:
        return
    check_instance("dec_key", key, bytes)
    check_instance("dec_mode", mode, str)
    check_instance("dec_num_parallel", parallel, int)
    if not mode:
        raise ValueError("dec_mode must not be empty string!")
    raise RuntimeError(
        "build_from_file failed! Error is weightd reads no encrypted models: export it again "
        "without enc_key, and protect the file by its mode"
    )


# --- homes -----------------------------------------------------------------------------------


def open_home(  # noqa: PLR0913 - each is an option
    path: str,
    context: "Context",
    settings: BuildConfig,
    *,
    group: "ModelGroup | None" = None,
    sessions: int = 1,
    is_parallel: bool = False,
    data: int | None = None,
) -> "Home":
    """Where the model will run: private, shared by us, or shared by another process. sessions: how
    many predictions at once, each on cores of its own. is_parallel: they share the weights, be it
    one alone. data: a descriptor of the model's external data, if not in its folder."""
    device = resolve(context.target, os.environ)
    threads = threads_for(
        context.cpu,
        sessions,
        shares_workspace=workspaces.is_shared(path),
        takes_turns=is_parallel,
    )
    _announce_precision(context, device)
    is_shared = settings.pids is not None or settings.handle is not None
    is_together = is_shared or is_parallel or group is not None
    if is_together and device != "cpu":
        raise TargetError(
            f"weights are shared in host memory, and this context's target is {device!r}: set "
            'context.target = ["cpu"], in all processes that share'
        )
    if is_together and data is not None:
        raise UsageError(
            "weights that came in memory beside the model are not shared: write both to files, and "
            "use build_from_file"
        )
    if settings.handle is not None:
        return home.shared_by_another(path, threads, settings.handle, os.environ)
    found: Home
    if group is not None and not is_shared:
        found = group.home_of(path, threads, settings)
    elif is_shared or is_parallel:
        found = home.shared_by_us(path, threads, settings, os.environ)
    else:
        if settings.engine or settings.daemon == "required":
            log.warning("[weightd] engine and daemon say nothing of a model that is not shared")
        gpu = context.gpu.device_id if device == "gpu" else None
        found = home.private(path, threads[0], gpu=gpu, data=data)
    try:
        _check_variables(settings, found)
    except BaseException:
        found.close()
        raise
    return found


def _check_variables(settings: BuildConfig, found: "Home") -> None:
    """What is declared must be there: an update would find out too late."""
    unknown = [name for name in settings.variables.values() if name not in found.parameters]
    if unknown:
        raise SettingsError(
            f"variable_weights_file names {', '.join(map(repr, unknown[:5]))}, which the model "
            "does not have; `weightd inspect FILE` lists its weights"
        )


def _announce_precision(context: "Context", device: str) -> None:
    """Say which wish for other precision is not met."""
    mode = context.gpu.precision_mode if device == "gpu" else context.cpu.precision_mode
    if mode == "preferred_fp16":
        log.warning(
            "precision_mode is 'preferred_fp16': onnxruntime runs the model in the precision that "
            "it was exported in; export it in float16 for that"
        )


# --- shapes ----------------------------------------------------------------------------------


def checked_shapes(
    found: "Home", inputs: "Sequence[Tensor]", dims: Sequence[Sequence[int]]
) -> dict[str, Shape]:
    """The new shapes by input; MismatchError when they cannot be the model's."""
    if len(inputs) != len(found.inputs):
        raise BadInputError(f"the model has {len(found.inputs)} inputs, not {len(inputs)}")
    symbols: dict[str, int] = {}
    shapes = {}
    for (name, info), dim in zip(found.inputs.items(), dims, strict=True):
        shape = tuple(map(int, dim))
        if any(size <= 0 for size in shape):
            raise BadInputError(f"Invalid shape! {list(shape)} for input {name!r}")
        if len(shape) != len(info.shape):
            raise BadInputError(
                f"Invalid shape! Input {name!r} has {len(info.shape)} dimensions, not {len(shape)}"
            )
        for size, declared in zip(shape, info.shape, strict=True):
            if isinstance(declared, str) and symbols.setdefault(declared, size) != size:
                raise BadInputError(
                    f"dimension {declared!r} of input {name!r} is {size}, and "
                    f"{symbols[declared]} elsewhere: it must be one size"
                )
        shapes[name] = shape
    return shapes


def try_shapes(found: "Home", shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The outputs' shapes when the inputs have these: the model runs once on zeros."""
    fixed = frozenset(
        (name, axis)
        for name, info in found.inputs.items()
        for axis, declared in enumerate(info.shape)
        if isinstance(declared, int) and declared != shapes[name][axis]
    )
    try:
        with _opened_sizes(found, fixed) if fixed else nullcontext():
            outputs = _answer(found, shapes)
    except PredictError as error:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        why = f"the graph does not go along with {listed}: {error}"
        raise MismatchError(f"{_OTHER_VALUE} {_BAKED} {why}" if fixed else why) from error
    return {name: outputs[name].shape for name in found.outputs}


def _opened_sizes(
    found: "Home", fixed: frozenset[tuple[str, int]]
) -> "AbstractContextManager[None]":
    """A file that leaves some sizes open means the others as it says them; one that leaves none
    open may have been exported so for want of better."""
    if any(not isinstance(dim, int) for info in found.inputs.values() for dim in info.shape):
        name, axis = min(fixed)
        raise MismatchError(
            f"{_OTHER_VALUE} Dimension {axis} of input {name!r} is {found.inputs[name].shape[axis]}"
            " in the file, which leaves others open; export the model with that one open, too"
        )
    return found.open_sizes(fixed)


def _answer(found: "Home", shapes: Mapping[str, Shape]) -> "Mapping[str, Array]":
    """What the model says to zeros; or, where it divides by them, to ones."""
    zeros = {name: np.zeros(shapes[name], info.dtype) for name, info in found.inputs.items()}
    try:
        return found.run(zeros)
    except PredictError as error:
        with suppress(PredictError):
            return found.run({name: np.ones_like(array) for name, array in zeros.items()})
        raise error


# --- weights ---------------------------------------------------------------------------------


def variables_of(settings: BuildConfig, path: str) -> Mapping[str, str]:
    """What may be replaced: what the configuration lists, else what the file itself does, as those
    do that upstream's converter wrote."""
    if settings.variables:
        return settings.variables
    names = _notes(path).get("variable_weights_list", "").replace(",", " ").split()
    return dict(zip(names, names, strict=True))


def named_weights(tensors: "Sequence[Tensor]", variables: Mapping[str, str]) -> "dict[str, Array]":
    """New weights by the model's names. UsageError when one is not declared, or named twice."""
    if not tensors:
        raise UsageError("Common error code. No weights were given")
    if not variables:
        raise UsageError(
            "no weights are declared as variable: build the model with [ascend_context] "
            "variable_weights_file = a list of their names, one a line"
        )
    names = [tensor.name for tensor in tensors]
    if not any(names):
        if len(tensors) != len(variables):
            raise UsageError(
                f"{len(tensors)} weights came without names, and {len(variables)} are declared: "
                "set Tensor.name, or give all of them in the order of the list"
            )
        names = list(variables)
    undeclared = [name for name in names if name not in variables]
    if undeclared:
        raise UsageError(
            f"{', '.join(map(repr, undeclared[:5]))} is not declared in variable_weights_file, "
            f"which has: {', '.join(list(variables)[:10])}"
        )
    found = dict(zip((variables[name] for name in names), as_arrays(tensors), strict=True))
    if len(found) != len(tensors):
        raise UsageError("a weight is given twice")
    return found


# --- what there is to know -------------------------------------------------------------------


def model_info(key: str, found: "Home", settings: BuildConfig, path: str) -> str:
    """The text for a key of get_model_info, of a model that was built; '' when there is none."""
    match key:
        case "shareable_weight_mem_handle":
            return "" if found.handle is None else str(found.handle)
        case "input_shape":
            return settings.shapes.get(key) or _shape_text(found.inputs)
        case "dynamic_dims":
            return settings.shapes.get(key) or _notes(path).get(key, "")
        case "user_info":
            return "\n".join(f"{name}: {text}" for name, text in _notes(path).items())
    return ""


def _shape_text(inputs: "Mapping[str, TensorInfo]") -> str:
    return ";".join(f"{n}:{','.join(map(str, shape_of(info)))}" for n, info in inputs.items())


def _notes(path: str) -> Mapping[str, str]:
    from weightd.weights.about import about

    file_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return about(file_fd, file_name=Path(path).name).notes
    except BadFileError:  # of its external data, which are not opened here
        return {}
    finally:
        os.close(file_fd)
