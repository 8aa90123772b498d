"""Which models there are to measure with, and the choice among them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import weightd
from weightd.benchmarks import bert, mlp, mobilenet, resnet
from weightd.benchmarks.model import Bars, Model
from weightd.errors import BadFileError, SettingsError

_LENET = Path(weightd.__file__).parent / "data" / "lenet5.onnx"
_LARGE = Bars(first_answer=0.5, forked=0.1, publish=3.0)
_TINY = Bars(predict=None, runner=None)  # Python itself takes a good part of a prediction

MODELS = (
    Model(
        "mlp",
        "MLP 6x4096",
        partial(mlp.write, width=4096),
        bars=Bars(memory_of_4_mib=600, first_answer=0.6, forked=0.1, pause_s=0.02, publish=3.0),
    ),
    Model("bert", "BERT-like", bert.write, int_below=bert.VOCABULARY, bars=_LARGE),
    Model("resnet", "ResNet50-like", resnet.write, bars=_LARGE),
    Model("mobilenet", "MobileNetV2-like", mobilenet.write),
    Model("lenet", "LeNet-5", file=_LENET, bars=_TINY),
    Model("small-mlp", "MLP 6x1024", partial(mlp.write, width=1024)),
)
NORMAL = ("mlp", "bert", "resnet", "mobilenet", "lenet")
QUICK = ("lenet", "small-mlp")


def chosen(names: Sequence[str], own: Path | None, *, is_quick: bool) -> tuple[Model, ...]:
    """The models of these names, and the user's own; of neither, those of a usual run."""
    if not names and own is None:
        names = QUICK if is_quick else NORMAL
    by_name = {model.name: model for model in MODELS}
    for name in names:
        if name not in by_name:
            raise SettingsError(f"no model {name!r}; there are {', '.join(by_name)}")
    found = [by_name[name] for name in dict.fromkeys(names)]
    return (*found, *([_own(own)] if own else []))


def _own(file: Path) -> Model:
    if not file.is_file():
        raise BadFileError(f"{file} is not a file; --onnx takes an ONNX model")
    return Model("own", file.name, file=file.absolute())
