"""Structure: what moves values and computes nothing."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation
from weightd.weights.mindir.values import Value


def _same(call: Call) -> Result:
    """The value itself: the order of side effects needs no words in ONNX, which has none."""
    if not call.args:
        raise call.refused("it has no argument")
    return call.args[0]


def _make_tuple(call: Call) -> Value:
    return call.args


def _get_item(call: Call) -> Value:
    items, index = call.args[0], call.integer(1, "index")
    if not isinstance(items, tuple):
        raise call.refused("its argument is not a tuple")
    if not -len(items) <= index < len(items):
        raise call.refused(f"it takes item {index} of {len(items)}")
    return items[index]


def _side_effect(call: Call) -> Result:
    raise call.refused(
        "it changes a parameter while the model runs, and shared weights never change; export the "
        "network with set_train(False), and give what changes as an input and an output"
    )


def _raise(call: Call) -> Result:
    raise call.refused(
        "the network raises an error for sizes that do not fit, which an ONNX graph cannot; export "
        "it with fixed sizes where it compares them, or without its check"
    )


_MOVES = (
    *("Load", "Depend", "Identity", "StopGradient", "TensorMove"),
    *("Contiguous", "Copy", "Clone"),
)

OPS: dict[str, Translation] = {
    **dict.fromkeys(_MOVES, _same),
    **dict.fromkeys(("MakeTuple", "MakeList", "make_list", "make_tuple"), _make_tuple),
    **dict.fromkeys(("TupleGetItem", "ListGetItem"), _get_item),
    **dict.fromkeys(("raise", "JoinedStr"), _raise),
    **dict.fromkeys(("Assign", "AssignAdd", "AssignSub"), _side_effect),
}
