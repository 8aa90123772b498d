"""What a translation is: a function from a Call to its result; and the commonest of them."""

from collections.abc import Callable
from typing import Any

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.values import Untranslated, Value

# A str is the name of an ONNX value, which gets the type that the file declares. A list is one of
# those for each of several results. Anything else is a value as it is.
Result = str | list[str] | list[str | Untranslated] | Value
Translation = Callable[[Call], Result]


def several(*parts: str | Untranslated) -> list[str | Untranslated]:
    """The results of an operator that has several."""
    return [*parts]


# onnxruntime has no arithmetic for these: it is done in int32, whose low bits are the same.
_NARROW = frozenset({"int8", "int16", "uint8", "uint16", "bool"})


def unary(op: str, **attributes: Any) -> Translation:
    """One ONNX node over the first argument, with the same meaning."""

    def translate(call: Call) -> Result:
        return call.emit(op, call.tensor(0), **attributes)

    return translate


def floating(op: str, **attributes: Any) -> Translation:
    """As unary(), for functions of real numbers: whole ones become numbers of the result's dtype.
    Of float64 and others that onnxruntime has no such function for, check() says so."""

    def translate(call: Call) -> Result:
        return call.emit(op, call.operand(0, call.out.dtype), **attributes)

    return translate


def binary(op: str, **attributes: Any) -> Translation:
    """One ONNX node over two arguments, tensors or numbers, in the dtype of the result."""

    def translate(call: Call) -> Result:
        dtype = call.out.dtype
        wide = wide_of(dtype)
        one, other = call.operand(0, wide), call.operand(1, wide)
        return narrowed(call, call.emit(op, one, other, **attributes), dtype)

    return translate


def wide_of(dtype: str) -> str:
    """The dtype in which onnxruntime computes what has this one."""
    return "int32" if dtype in _NARROW else dtype


def narrowed(call: Call, name: str, dtype: str) -> str:
    """A value that was computed in wide_of(dtype), in `dtype`."""
    return call.cast(call.named(name, wide_of(dtype)), dtype).name
