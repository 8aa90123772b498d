"""The messages of a MindIR file, declared for the protobuf library: those fields that are read.

The numbers are the format's (mind_ir.proto of MindSpore; mind_ir_version 3, 2.10). Text is declared
as bytes, so that the library leaves the judgement over what is not UTF-8 to us.
"""

from functools import cache
from typing import Any

# protobuf's types are a package of their own, types-protobuf; either way will do.
from google.protobuf import (  # type: ignore[import-untyped, unused-ignore]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

from weightd.errors import BadFileError

# Of each message: name, number, kind; "*": repeated. A kind is protobuf's or a message from here.
_MESSAGES = {
    "ModelProto": """
        ir_version 1 bytes, producer_name 2 bytes, producer_version 3 bytes, model_version 5 bytes,
        graph 7 GraphProto, functions 8 GraphProto*, preprocessor 9 bytes, little_endian 10 bool,
        primitives 12 PrimitiveProto*, mind_ir_version 13 int64, user_info 14 UserInfo*
    """,
    "UserInfo": "key 1 bytes, value 2 bytes",
    "GraphProto": """
        node 1 NodeProto*, name 2 bytes, parameter 3 TensorProto*, input 5 ValueInfoProto*,
        output 6 ValueInfoProto*, map_parameter 10 bytes*
    """,
    "NodeProto": """
        input 1 bytes*, output 2 bytes*, name 3 bytes, op_type 4 bytes,
        attribute 5 AttributeProto*, domain 7 bytes
    """,
    "PrimitiveProto": "name 1 bytes, op_type 2 bytes, attribute 3 AttributeProto*",
    "ValueInfoProto": "name 1 bytes, tensor 2 TensorProto*, attr_info 5 AttributeProto",
    "AttributeProto": """
        name 1 bytes, f 2 float, i 3 int64, d 4 double, s 5 bytes, floats 8 float*,
        doubles 9 double*, ints 10 int64*, strings 11 bytes*, tensors 12 TensorProto*,
        ref_attr_name 15 bytes, type 16 int32, values 17 AttributeProto*
    """,
    "TensorProto": """
        dims 1 int64*, data_type 2 int32, float_data 3 float*, int32_data 4 int32*,
        int64_data 6 int64*, name 7 bytes, raw_data 9 bytes, double_data 10 double*,
        uint64_data 11 uint64*, external_data 12 ExternalData, ref_key 13 bytes,
        compression_type 16 int32, quant_params 17 bytes*
    """,
    "ExternalData": "location 1 bytes, offset 2 int64, length 3 int64",
}
_PACKAGE = "weightd.mindir"


def parse(message: str, raw: bytes, what: str) -> Any:
    """`raw` as one of the messages above; BadFileError when it is none. `what` names it."""
    try:
        return _classes()[message].FromString(raw)
    except (DecodeError, ValueError) as error:
        raise BadFileError(f"{what} is not valid MindIR: {error}") from error


@cache
def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_described())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def _described() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="weightd/mindir.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split(","):
            _add_field(message, *text.split())
    return file


def _add_field(message: Any, name: str, number: str, kind: str) -> None:
    types = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=int(number))
    field.label = types.LABEL_REPEATED if kind.endswith("*") else types.LABEL_OPTIONAL
    kind = kind.rstrip("*")
    if kind in _MESSAGES:
        field.type = types.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"
    else:
        field.type = getattr(types, f"TYPE_{kind.upper()}")
