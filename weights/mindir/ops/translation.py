"""What a translation is: a function from a Call to its result; and the commonest of them."""

from collections.abc import Callable
from typing import Any

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.values import Untranslated, Value

# A str is the name of an ONNX value, which gets the type that the file declares. A list is one of
# those for each of several results. Anything else is a value as it is.
Result = str | list[str | Untranslated] | Value
Translation = Callable[[Call], Result]


def unary(op: str, **attributes: Any) -> Translation:
    """One ONNX node over the first argument, with the same meaning."""

    def translate(call: Call) -> Result:
        return call.emit(op, call.tensor(0), **attributes)

    return translate
