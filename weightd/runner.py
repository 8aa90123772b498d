"""MindSpore Lite's ModelParallelRunner: several sessions over one copy of the weights."""

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from weightd import building
from weightd.allotment import workers_for
from weightd.binding import array_of, check_outputs, input_tensor, results, shape_of
from weightd.checks import check_each, check_instance
from weightd.context import Context
from weightd.errors import BadInputError, UsageError, WeightdError
from weightd.tensor import Tensor

if TYPE_CHECKING:
    from weightd.home import Home


class ModelParallelRunner:
    """A model whose predictions run side by side, as many at once as it has workers, on one copy of
    the weights. Who comes when all are taken waits; who came first is served first.

    predict() may be called from many threads: it runs in the thread that calls it, and the GIL is
    free meanwhile. close(), which upstream does not have, turns away who waits.
    """

    def __init__(self) -> None:
        self.model_path_ = ""
        self._home: Home | None = None
        self._building = threading.Lock()

    def __str__(self) -> str:
        return f"model_path: {self.model_path_}."

    def build_from_file(self, model_path: str, context: Context | None = None) -> None:
        """Load a MindIR or ONNX model.

        context.parallel: workers_num (0: one for each core that `thread_num` threads leave),
        config_path and config_info, which may say what Model.build_from_file's configuration says:
        a runner can share its weights with other processes, or use those of one that does.
        device_ids are checked, and have no meaning on a CPU. TypeError for a wrong type;
        RuntimeError for everything else.
        """
        check_instance("model_path", model_path, str)
        if not os.path.exists(model_path):
            raise RuntimeError(
                "ModelParallelRunner's build from file failed, model_path does not exist!"
            )
        self.model_path_ = model_path
        context = Context() if context is None else context
        check_instance("context", context, Context)
        parallel = context.parallel
        failed = "ModelParallelRunner's build from file failed! Error is "
        with self._building, building.as_runtime_error(failed):
            if self._home is not None:
                raise UsageError("Model has been called Build!")
            settings = building.read_config(
                parallel.config_path, parallel.config_dict, "ModelParallelRunner's build from file"
            )
            workers = workers_for(context.cpu, parallel.workers_num)
            self._home = building.open_home(
                model_path, context, settings, sessions=workers, is_parallel=True
            )

    def get_inputs(self) -> list[Tensor]:
        """The inputs as tensors to be filled; [] before the model is built. Sizes that are open are
        -1: set `.shape`."""
        home = self._home
        infos = home.inputs if home is not None else {}
        return [input_tensor(name, info, shape_of(info)) for name, info in infos.items()]

    def predict(
        self, inputs: Sequence[Tensor], outputs: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Run the model on Tensors in the order of get_inputs(); from any thread.

        outputs, errors and what is returned: as Model.predict.
        """
        if not isinstance(inputs, list | tuple):
            raise TypeError(f"inputs must be list or tuple, but got {type(inputs)}.")
        check_each("inputs", list(inputs), Tensor)
        room = check_outputs(outputs)
        home = self._home
        try:
            if home is None:
                raise UsageError("the model is not built: call build_from_file()")
            if len(inputs) != len(home.inputs):
                raise BadInputError(f"the model has {len(home.inputs)} inputs, not {len(inputs)}")
            feed = {
                name: array_of(tensor, name)
                for name, tensor in zip(home.inputs, inputs, strict=True)
            }
            return results(home.outputs, home.run(feed), room)
        except (WeightdError, MemoryError, ValueError) as error:
            raise RuntimeError(f"predict failed! Error is {error}") from error

    # --- weightd's own -------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the weights once the predictions that run now have ended."""
        home, self._home = self._home, None
        if home is not None:
            home.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
