"""Normalisation."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation
from weightd.weights.mindir.values import Untranslated


def _batch_norm(call: Call) -> Result:
    if call.flag(5, "is_training", False):
        raise call.refused(
            "it is in training mode, and would change its own statistics; call "
            "network.set_train(False) before the export"
        )
    if call.setting(8, "format", "NCHW") not in (0, "NCHW"):
        raise call.refused("only the format NCHW is translated")
    parts = [call.tensor(index) for index in range(5)]
    y = call.emit("BatchNormalization", *parts, epsilon=call.number(6, "epsilon", 1e-5))
    lost = Untranslated("BatchNorm's saved statistics, which only training needs")
    return [y, *[lost] * (len(call.outs()) - 1)]


OPS: dict[str, Translation] = {"BatchNorm": _batch_norm}
