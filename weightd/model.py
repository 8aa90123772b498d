"""MindSpore Lite's Model: one model in this process, alone or shared, by upstream's contract.

Signatures, accepted values, exceptions and the order of checks are upstream's; what only an Ascend
can do there, sharing weights and replacing them, works here on the CPU.
"""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from weightd import buffers, building, master
from weightd.binding import (
    Shape,
    array_of,
    check_outputs,
    input_tensor,
    output_meta,
    results,
    shape_of,
)
from weightd.checks import check_instance
from weightd.context import Context
from weightd.errors import ForkedError, UsageError, WeightdError
from weightd.tensor import Tensor, TensorMeta

if TYPE_CHECKING:
    from weightd.config import BuildConfig
    from weightd.group import ModelGroup
    from weightd.home import Home
    from weightd.weights.arrays import Array

log = logging.getLogger("weightd")

_REMEMBERED_SHAPES = 64
_INFO_KEYS = (
    "user_info",
    "input_shape",
    "dynamic_dims",
    "current_pid",
    "shareable_weight_mem_handle",
)


class ModelType(Enum):
    """What kind of file a model is. weightd looks at the content, and reads MindIR and ONNX under
    either name; a real .ms file (flatbuffers) it refuses."""

    MINDIR = 0
    MINDIR_LITE = 4


class Model:
    """A model that runs in this process.

    Safe from several threads: predictions go on side by side, each on one version of the weights.
    close(), which upstream does not have, lets go of the weights at once; so does the end of the
    object.
    """

    def __init__(self) -> None:
        self.model_path_ = ""
        self._built: _Built | None = None
        self._pid = os.getpid()
        self._building = threading.Lock()
        self._group: ModelGroup | None = None

    def __str__(self) -> str:
        return f"model_path: {self.model_path_}."

    # --- building ------------------------------------------------------------------------

    def build_from_file(  # noqa: PLR0913, PLR0917 - upstream's
        self,
        model_path: str,
        model_type: ModelType,
        context: Context | None = None,
        config_path: str = "",
        config_dict: Mapping[str, Any] | None = None,
        dec_key: bytes | None = None,
        dec_mode: str = "AES-GCM",
        dec_num_parallel: int = 0,
    ) -> None:
        """Load a model and prepare it for predict().

        model_path: a MindIR or ONNX file. context: None for the CPU. config_path: an ini file;
        config_dict: {section: {key: text}}, which beats it. In section [ascend_context],
        [cpu_context], [gpu_context] or [weightd]:

        shareable_weight_pid_list: '4711, 4712', PIDs from get_model_info("current_pid"): share the
        weights with these processes of the same user. A daemon holds them if one lets this user in,
        else this process serves the others as long as the model lives. Listed processes must live.
        shareable_weight_mem_handle: the number that the sharing process got: use its weights. The
        file must be the same model; its weights are not read.
        variable_weights_file: a list of the weights that update_weights may replace, one a line:
        `name`, or `name,the model's name`. Without it, what the file's maker noted as
        variable_weights_list: names with commas.
        In [weightd]: daemon = auto, required or never; engine = prepacked, plain or reference.

        dec_key, dec_mode, dec_num_parallel are checked, and encrypted models refused.

        TypeError for a wrong type; RuntimeError for everything else, whose __cause__ is weightd's
        own error where there is one. A model is built once.
        """
        context = self._check_build(model_path, model_type, context, config_path)
        if not os.path.exists(model_path):
            raise RuntimeError("build_from_file failed, model_path does not exist!")
        self.model_path_ = model_path
        settings = building.read_config(config_path, config_dict, "build_from_file")
        building.check_decryption(dec_key, dec_mode, dec_num_parallel)
        with self._changing("build_from_file failed! Error is "):
            if self._built is not None:
                raise UsageError("Model has been called Build!")
            home = building.open_home(model_path, context, settings, group=self._group)
            self._built = _Built(home, settings, model_path)

    def build_from_buffer(
        self,
        model_bytes: bytes,
        weight_bytes: bytes | None = None,
        model_type: ModelType | None = None,
        context: Context | None = None,
        config_path: str = "",
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        """build_from_file() of a model that lies in memory; a copy is kept as long as the model.

        weight_bytes: the file in which the model says that its weights are. They cannot be shared
        with other processes then. model_type: MINDIR. The rest and the errors: as there.
        """
        check_instance("model_bytes", model_bytes, bytes)
        if not model_bytes:
            raise RuntimeError("build_from_buffer failed, model_bytes is empty.")
        if weight_bytes is not None:
            check_instance("weight_bytes", weight_bytes, bytes)
        check_instance("model_type", model_type, ModelType)
        if model_type is not ModelType.MINDIR:
            raise RuntimeError("build_from_buffer failed, model_type should be MINDIR.")
        context = self._check_context(context, config_path)
        settings = building.read_config(config_path, config_dict, "build_from_buffer")
        failed = f"build_from_buffer failed! Error is {buffers.status_of(weight_bytes)}"
        with self._changing(failed):
            if self._built is not None:
                raise UsageError("Model has been called Build!")
            kept = buffers.Buffers(model_bytes, weight_bytes)
            home = building.open_home(
                kept.path, context, settings, group=self._group, data=kept.data
            )
            self._built = _Built(home, settings, kept.path, kept)

    @staticmethod
    def _check_context(context: Context | None, config_path: object) -> Context:
        context = Context() if context is None else context
        check_instance("context", context, Context)
        check_instance("config_path", config_path, str)
        return context

    @classmethod
    def _check_build(
        cls, model_path: object, model_type: object, context: Context | None, config_path: object
    ) -> Context:
        check_instance("model_path", model_path, str)
        check_instance("model_type", model_type, ModelType)
        return cls._check_context(context, config_path)

    @contextmanager
    def _changing(self, prefix: str) -> Iterator[None]:
        """One change at a time; what goes wrong is a RuntimeError with this prefix. In a forked
        child the lock may be held for ever by a thread of the parent's."""
        with building.as_runtime_error(prefix):
            self._check_process()
            with self._building:
                yield

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            if self._built is not None:
                raise ForkedError("this model was built before a fork: build one in the child")
            self._pid, self._building = os.getpid(), threading.Lock()

    # --- inputs and outputs --------------------------------------------------------------

    def get_inputs(self) -> list[Tensor]:
        """The inputs as tensors to be filled; [] before the model is built. An open size is -1."""
        built = self._built
        if built is None:
            return []
        shapes = built.shapes
        return [input_tensor(n, info, shapes[n]) for n, info in built.home.inputs.items()]

    def get_outputs(self) -> tuple[TensorMeta, ...]:
        """What predict() gives, in the shapes of the last resize(); () before the model is
        built."""
        built = self._built
        if built is None:
            return ()
        shapes = built.output_shapes
        return tuple(output_meta(n, info, shapes[n]) for n, info in built.home.outputs.items())

    def resize(self, inputs: Sequence[Tensor], dims: Sequence[Sequence[int]]) -> None:
        """Give the inputs other shapes; those of the tensors in `inputs` change in place.

        The model runs once on zeros to prove a shape that is new to it. Sizes that the file
        declares fixed can be changed too, as long as its graph goes along and the weights are not
        shared. TypeError and ValueError as upstream; RuntimeError when the shapes do not fit, and
        nothing is changed.
        """
        _check_resize(inputs, dims)
        with self._changing("resize failed! Error is "):
            built = self._built
            if built is None:
                raise UsageError("Session is null, please build model first!")
            wanted = building.checked_shapes(built.home, inputs, dims)
            built.resize(wanted)
            for tensor, shape in zip(inputs, wanted.values(), strict=True):
                tensor.shape = list(shape)

    # --- predicting ----------------------------------------------------------------------

    def predict(
        self,
        inputs: "Sequence[Tensor | Array]",
        outputs: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Run the model on inputs in the order of get_inputs(): Tensors, or arrays that are taken
        as set_data_from_numpy() takes them. Nothing is copied on the way in.

        outputs: tensors to be filled in place; those that have data must have room for exactly the
        result. Returns the outputs, in memory of the caller's. TypeError for a wrong type;
        RuntimeError for a wrong number of inputs, a missing input or a failing engine.
        """
        if not isinstance(inputs, list | tuple):
            raise TypeError(f"inputs must be list or tuple, but got {type(inputs)}.")
        built = self._built
        infos = built.home.inputs if built is not None else {}
        if len(infos) != len(inputs):
            raise RuntimeError(f"model input len:{len(infos)} not equal input len:{len(inputs)}!")
        feed = {}
        for (name, info), given in zip(infos.items(), inputs, strict=True):
            if isinstance(given, Tensor):
                tensor = given
            elif isinstance(given, np.ndarray) and built is not None:
                tensor = input_tensor(name, info, built.shapes[name])
                tensor.set_data_from_numpy(given)
            else:
                raise TypeError("inputs element must be Tensor, of numpy.")
            feed[name] = tensor
        room = check_outputs(outputs)
        if built is None:
            raise RuntimeError("predict failed! The model is not built: call build_from_file()")
        try:
            arrays = {name: array_of(tensor, name) for name, tensor in feed.items()}
            return results(built.home.outputs, built.home.run(arrays), room)
        except (WeightdError, MemoryError, ValueError) as error:
            raise RuntimeError(f"predict failed! Error is {error}") from error

    # --- weights -------------------------------------------------------------------------

    def update_weights(self, weights: list[list[Tensor]]) -> None:
        """Replace weights that variable_weights_file named: for this process, or, if it shares the
        model, for all that have attached. Every prediction sees the old ones or all new ones.

        weights: lists of Tensors, matched by their names; if none of them has a name, by their
        order, which is then the list's. TypeError for a wrong type; RuntimeError when one is not
        declared, not the model's, or of another shape or dtype, and nothing is changed.
        """
        check_instance("weights", weights, list)
        for weight in weights:
            check_instance("weight", weight, list)
            for number, tensor in enumerate(weight):
                if not isinstance(tensor, Tensor):
                    raise TypeError(
                        f"weights element must be Tensor, but got {type(tensor)} at index {number}."
                    )
        with building.as_runtime_error("update weight failed! Error is "):
            self._check_process()
            built = self._built
            if built is None:
                raise UsageError("Session is null, please build model first!")
            built.home.check_may_update()
            flat = [tensor for weight in weights for tensor in weight]
            variables = building.variables_of(built.settings, built.path)
            built.home.update(building.named_weights(flat, variables))

    def get_model_info(self, key: str | None = None) -> str:
        """What there is to know, as text; '' and a warning in the log for what there is not.

        "current_pid": this process's PID, for the list of who shares; works before the model is
        built. "shareable_weight_mem_handle": what those on the list need, a uint64.
        "input_shape": "x:1,3,224,224;y:1". "dynamic_dims": what the configuration, or
        the file's maker, says of them.
        "user_info": what the file's maker noted, "key: text" for each. TypeError when `key` is no
        str, or is left out.
        """
        key = check_instance("key", key, str)
        try:
            found = self._info(key)
        except (WeightdError, OSError) as error:
            log.warning("get_model_info(%r): %s", key, error)
            return ""
        if not found:
            known = "" if key in _INFO_KEYS else f"; the keys are {', '.join(_INFO_KEYS)}"
            log.warning("there is no model info %r%s", key, known)
        return found

    def _info(self, key: str) -> str:
        if key == "current_pid":
            return str(master.current_pid(os.environ))
        built = self._built
        if built is None:
            return ""
        return building.model_info(key, built.home, built.settings, built.path)

    # --- weightd's own -------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the weights. Who attached to them keeps what it has."""
        built, self._built = self._built, None
        if built is not None:
            built.home.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Built:
    """A model that was built: a whole that a thread keeps to, while others close it and build
    another. kept: the memory behind the path, where that is no file's. proven: the outputs' shapes
    for inputs' that were tried."""

    def __init__(
        self, home: "Home", settings: "BuildConfig", path: str, kept: buffers.Buffers | None = None
    ) -> None:
        self.home = home
        self._kept = kept
        self.settings = settings
        self.path = os.path.abspath(path)
        self.shapes = {name: shape_of(info) for name, info in home.inputs.items()}
        self.output_shapes = {name: shape_of(info) for name, info in home.outputs.items()}
        self._proven: OrderedDict[tuple[Shape, ...], dict[str, Shape]] = OrderedDict()

    def resize(self, shapes: dict[str, Shape]) -> None:
        if shapes == self.shapes:
            return
        key = tuple(shapes.values())
        if key not in self._proven:
            self._proven[key] = building.try_shapes(self.home, shapes)
        while len(self._proven) > _REMEMBERED_SHAPES:
            self._proven.popitem(last=False)
        self.shapes, self.output_shapes = shapes, self._proven[key]


def _check_resize(inputs: object, dims: object) -> None:
    """Types first, then numbers."""
    if not isinstance(inputs, list | tuple):
        raise TypeError(f"inputs must be list or tuple of Lite Tensor, but got {type(inputs)}.")
    if not isinstance(dims, list | tuple):
        raise TypeError(f"dims must be list or tuple of shape, but got {type(dims)}.")
    for i, tensor in enumerate(inputs):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"inputs element must be Tensor, but got {type(tensor)} at index {i}.")
    for i, shape in enumerate(dims):
        _check_dims(shape, i)
    if len(inputs) != len(dims):
        raise ValueError(
            "inputs' size does not match dims' size, but got "
            f"inputs: {len(inputs)} and dims: {len(dims)}."
        )


def _check_dims(shape: object, i: int) -> None:
    if not isinstance(shape, list | tuple):
        raise TypeError(
            f"dims element must be list or tuple of int, but got {type(shape)} at index {i}."
        )
    for j, dim in enumerate(shape):
        if not isinstance(dim, int):
            raise TypeError(
                f"dims element's element must be int, but got {type(dim)} at {i}th dims "
                f"element's {j}th element."
            )
