"""MindSpore Lite's names alone: `import weightd.mindspore_lite as mslite`, or `import *`.

They are the same objects as in `weightd` itself. What each of them does for compatibility, and what
it does beyond, is in README.md, "Coming from MindSpore Lite".
"""

from weightd._version import __version__
from weightd.context import Context
from weightd.group import ModelGroup, ModelGroupFlag
from weightd.model import Model, ModelType
from weightd.runner import ModelParallelRunner
from weightd.tensor import DataType, Format, Tensor, TensorMeta

__all__ = [
    "Context",
    "DataType",
    "Format",
    "Model",
    "ModelGroup",
    "ModelGroupFlag",
    "ModelParallelRunner",
    "ModelType",
    "Tensor",
    "TensorMeta",
    "__version__",
]
