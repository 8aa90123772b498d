"""A source's graph and tensors as an ONNX file, written piece by piece: one file as long as a
protobuf message can hold it, else the weights in a second one beside it.

    ModelProto's other fields | graph = 7: GraphProto's other fields | initializer = 5 | ...
                                                     TensorProto's head | raw_data = 9: the bytes

Files appear under their names when they are whole.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import onnx

from weightd.errors import BadFileError, MismatchError
from weightd.weights.file import MAX_CHUNK_NBYTES
from weightd.weights.onnx_graph import parse_model
from weightd.weights.onnx_scan import GRAPH, INITIALIZER, RAW_DATA
from weightd.weights.source import Source
from weightd.weights.wire import LENGTH, varint

MAX_FILE_NBYTES = 2**31 - 1  # protobuf's own limit for a message
_ALIGNMENT = 4096  # of a tensor in a second file, so that it can be mapped

Report = Callable[[str, int, int], object]  # step, bytes done, bytes in all


class _Piece(NamedTuple):
    """An initializer: its TensorProto without the bytes, and how many come from the weights."""

    name: str
    head: onnx.TensorProto
    nbytes: int


def write_onnx(
    graph: bytes,
    weights: Source,
    target: Path,
    report: Report,
    *,
    max_file_nbytes: int = MAX_FILE_NBYTES,
) -> None:
    """Write a graph, as Source.graph has it, with the tensors of `weights` as its initializers.

    BadFileError when it cannot be written, MismatchError when a tensor is missing. The target must
    not exist, or is replaced. Beside a graph that is too large for one file lies TARGET.data.
    """
    model = parse_model(graph, target.name)
    pieces = [_piece(tensor, weights) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    total = sum(piece.nbytes for piece in pieces)
    is_one_file = len(graph) + total + 64 * len(pieces) <= max_file_nbytes
    with ExitStack() as resources:
        try:
            file = resources.enter_context(_appearing(target))
            if is_one_file:
                _write_model(file, model, pieces, weights, report)
            else:
                data_path = target.with_name(f"{target.name}.data")
                with _appearing(data_path) as data:
                    _write_data(data, data_path.name, pieces, weights, report)
                model.graph.initializer.extend(piece.head for piece in pieces)
                file.write(model.SerializeToString())
        except OSError as error:
            raise BadFileError(f"cannot write {target}: {error.strerror}") from error


def _piece(tensor: onnx.TensorProto, weights: Source) -> _Piece:
    spec = weights.tensors.get(tensor.name)
    is_inside = tensor.data_location != onnx.TensorProto.EXTERNAL
    if spec is None and not is_inside:
        raise MismatchError(f"the weights lack {tensor.name!r}")
    head = onnx.TensorProto()
    head.CopyFrom(tensor)
    if spec is None:
        return _Piece(tensor.name, head, 0)
    for field in ("raw_data", "data_location", "external_data", "int64_data"):
        head.ClearField(field)
    return _Piece(tensor.name, head, spec.nbytes)


@contextmanager
def _appearing(target: Path) -> Iterator[BinaryIO]:
    """A file that has its name once this ends well, and is gone else."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write_model(
    file: BinaryIO, model: onnx.ModelProto, pieces: list[_Piece], weights: Source, report: Report
) -> None:
    graph_rest = model.graph.SerializeToString()
    model.ClearField("graph")
    heads = [piece.head.SerializeToString() for piece in pieces]
    tensors = [
        head + (_tag(RAW_DATA, piece.nbytes) if piece.nbytes else b"")
        for head, piece in zip(heads, pieces, strict=True)
    ]
    framed = [
        _tag(INITIALIZER, len(tensor) + piece.nbytes) + tensor
        for tensor, piece in zip(tensors, pieces, strict=True)
    ]
    total = sum(piece.nbytes for piece in pieces)
    nbytes = len(graph_rest) + sum(map(len, framed)) + total
    file.write(model.SerializeToString() + _tag(GRAPH, nbytes) + graph_rest)
    done = 0
    for head, piece in zip(framed, pieces, strict=True):
        file.write(head)
        _write_tensor(file, piece, weights)
        done += piece.nbytes
        report("writing", done, total)


def _write_data(
    file: BinaryIO, location: str, pieces: list[_Piece], weights: Source, report: Report
) -> None:
    """The tensors' bytes; their heads say where these are."""
    total = sum(piece.nbytes for piece in pieces)
    done = 0
    for piece in pieces:
        if not piece.nbytes:
            continue
        offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
        file.seek(offset)
        _write_tensor(file, piece, weights)
        piece.head.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", piece.nbytes)):
            piece.head.external_data.add(key=key, value=str(value))
        done += piece.nbytes
        report("writing", done, total)


def _write_tensor(file: BinaryIO, piece: _Piece, weights: Source) -> None:
    if piece.nbytes:
        target = memoryview(bytearray(piece.nbytes))
        weights.read_into(piece.name, target)
        for start in range(0, piece.nbytes, MAX_CHUNK_NBYTES):
            file.write(target[start : start + MAX_CHUNK_NBYTES])


def _tag(number: int, nbytes: int) -> bytes:
    return varint(number << 3 | LENGTH) + varint(nbytes)
