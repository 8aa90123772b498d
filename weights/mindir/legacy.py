"""The attributes of MindSpore 1.x files: what an attribute is stands in a text, `ref_attr_name`.

"scalar:value0"           a number or text, in the field of its type
"tensor:value0"           a tensor
"Tuple[value0,value1,],"  a tuple; its parts lie in the repeated fields, in order
"shape:shape1,"           without a name of its own: the types of a node's values
"""

from typing import Any

from weightd.weights.mindir import proto
from weightd.weights.mindir.proto import Constant


def is_legacy(attribute: Any) -> bool:
    return bool(attribute.ref_attr_name)


def declares_type(attribute: Any) -> bool:
    return bool(attribute.ref_attr_name.startswith(b"shape:"))


def constant_of(attribute: Any, of: str) -> Constant:
    return proto.constant_of(attribute, of)
