"""Which format is this? Decided by the bytes, never by the name.

What other tools write and weightd does not read is recognised too, so that the message can say so.
"""

import re

from weightd.errors import BadFileError
from weightd.weights.checkpoint import looks_like_checkpoint
from weightd.weights.file import InputFile
from weightd.weights.wire import LENGTH, VARINT, Wire

SUPPORTED = "weightd reads safetensors, npz (numpy.savez), ONNX, MindIR and MindSpore checkpoints"
HEAD_NBYTES = 1024

# By their first bytes. MindSpore's own encryption begins each block with its magic number.
_KNOWN_UNREAD: tuple[tuple[bytes, str], ...] = (
    (rb"\x80[\x02-\x05]", "a Python pickle (an old torch.save?), which is never unpickled"),
    (rb"\x93NUMPY", "a single .npy array; save it with numpy.savez"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"GGUF", "a GGUF file"),
    (rb"....(MSL\d|ORTM|TFL3)", "a flatbuffers model (.ms, .ort, .tflite)"),
    (
        rb"\xd8\x5e\x3a\x7f|\x7f\x3a\x5e\xd8",
        "an encrypted MindSpore file; save it again without enc_key",
    ),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ", "a compressed file; unpack it first"),
    (rb"Rar!|7z\xbc\xaf", "an archive; unpack it first"),
)

# ir_version "1.1", then the producer: the first fields of every MindIR file.
_MINDIR = rb"\x0a.{1,32}\x12\x09MindSpore"

# ModelProto: the fields that may come before the graph, and their wire types.
_MODEL_FIELDS = {1: VARINT, 5: VARINT} | dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), LENGTH)
_GRAPH_FIELD = 7


def format_of(file: InputFile) -> str:
    """The `format` of the source that reads the file; BadFileError says what else it is, and what
    is read."""
    if file.nbytes == 0:
        raise BadFileError(f"{file.name} is empty; {SUPPORTED}")
    head = file.read(0, min(HEAD_NBYTES, file.nbytes), "its beginning")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "npz"
    # A header size of eight bytes, then the JSON object; no protobuf has its zeros there.
    if head[8:9] == b"{" and head[6:8] == b"\0\0":
        return "safetensors"
    for pattern, what in _KNOWN_UNREAD:
        if re.match(pattern, head, re.DOTALL):
            raise BadFileError(f"{file.name} is {what}: not read by this version; {SUPPORTED}")
    if found := _protobuf_format(file, head):
        return found
    raise BadFileError(f"{file.name} is of no format that is known here; {SUPPORTED}")


def _protobuf_format(file: InputFile, head: bytes) -> str:
    if re.match(_MINDIR, head, re.DOTALL):
        return "mindir"
    if looks_like_checkpoint(file):
        return "ckpt"
    return "onnx" if _looks_like_onnx(file) else ""


def _looks_like_onnx(file: InputFile) -> bool:
    # Protobuf has no magic: believe it when only a ModelProto's fields come before the graph.
    try:
        for field in Wire(file).fields(0, file.nbytes, "the model"):
            if _MODEL_FIELDS.get(field.number) != field.kind:
                return False
            if field.number == _GRAPH_FIELD:
                return True
    except BadFileError:
        return _begins_like_onnx(file)
    return False


def _begins_like_onnx(file: InputFile) -> bool:
    # Cut off before or inside the graph: its reader says so, and where.
    head = file.read(0, min(3, file.nbytes), "its beginning")
    return len(head) == 3 and head[0] == 0x08 and head[1] < 0x80 and head[2] >> 3 in _MODEL_FIELDS
