"""weightd: load a model's weights once, share them with many processes, replace them live.

    import weightd

    client = weightd.Client()                       # where the daemon is: `weightd keeper`
    client.load("lenet", "lenet5.onnx")
    handle = client.allow("lenet", [worker_pid])

    with weightd.attach("lenet", handle) as model:  # in the worker
        scores = model.predict({"x": image})

Importing this package loads no engine and no numpy.
"""

from typing import TYPE_CHECKING, Any

from weightd import errors
from weightd._version import __version__
from weightd.errors import WeightdError

if TYPE_CHECKING:
    from weightd.backends.attaching import attach, current_pid
    from weightd.backends.attachment import Attachment
    from weightd.backends.ports import TensorInfo
    from weightd.client import Client
    from weightd.context import Context
    from weightd.evaluation import Evaluation, evaluate
    from weightd.group import ModelGroup, ModelGroupFlag
    from weightd.ipc.protocol import DaemonStatus
    from weightd.model import Model, ModelType
    from weightd.runner import ModelParallelRunner
    from weightd.tensor import DataType, Format, Tensor, TensorMeta

__all__ = [
    "Attachment",
    "Client",
    "Context",
    "DaemonStatus",
    "DataType",
    "Evaluation",
    "Format",
    "Model",
    "ModelGroup",
    "ModelGroupFlag",
    "ModelParallelRunner",
    "ModelType",
    "Tensor",
    "TensorInfo",
    "TensorMeta",
    "WeightdError",
    "__version__",
    "attach",
    "current_pid",
    "errors",
    "evaluate",
]

_LAZY = {
    "Attachment": "weightd.backends.attachment",
    "TensorInfo": "weightd.backends.ports",
    "attach": "weightd.backends.attaching",
    "current_pid": "weightd.backends.attaching",
    "Client": "weightd.client",
    "Evaluation": "weightd.evaluation",
    "evaluate": "weightd.evaluation",
    "DaemonStatus": "weightd.ipc.protocol",
    "Context": "weightd.context",
    "DataType": "weightd.tensor",
    "Format": "weightd.tensor",
    "Tensor": "weightd.tensor",
    "TensorMeta": "weightd.tensor",
    "Model": "weightd.model",
    "ModelType": "weightd.model",
    "ModelParallelRunner": "weightd.runner",
    "ModelGroup": "weightd.group",
    "ModelGroupFlag": "weightd.group",
}


_OF_MINDSPORE_LITE = {"Converter", "FmkType", "LiteInfer", "LLMEngine", "MultiModelRunner"}
_NOT_HERE = (
    ": it is one of MindSpore Lite's that weightd does not have; see README.md, "
    '"Coming from MindSpore Lite"'
)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        hint = _NOT_HERE if name in _OF_MINDSPORE_LITE else ""
        raise AttributeError(f"module 'weightd' has no attribute {name!r}{hint}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
