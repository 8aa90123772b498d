"""A model or weights file as named tensors: the interface, and open_source(), which finds a reader.

The readers are safetensors.py, npz.py, checkpoint.py, onnx_file.py and mindir/. Which one is
decided by the content, never by the file's name. A Source reads; it never maps, unpickles or runs
anything.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Self

from weightd.errors import BadFileError, ClosedError, UnknownTensorError, UsageError
from weightd.ipc.words import counted
from weightd.weights.dtypes import MAX_TENSORS, name_fault, nbytes_of, tensor_fault
from weightd.weights.file import InputFile, OnChunk

if TYPE_CHECKING:
    from weightd.weights.about import Said
    from weightd.weights.entries import Parameter, Port

__all__ = ["OnChunk", "Source", "TensorSpec", "open_source"]


class TensorSpec(NamedTuple):
    """What a tensor is, without its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return nbytes_of(self.dtype, self.shape)


class Source(ABC):
    """An open file and its tensors, in the order in which the file has them.

    format: "safetensors", "npz", "ckpt", "onnx" or "mindir". graph: a serialized ModelProto without
    its weights, or None; inputs and outputs are the graph's. constants: tensors that a later set
    may leave out. Owns its descriptors and whatever a reader puts on `_resources`, until close().
    """

    format: str

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._resources = ExitStack()
        self._resources.enter_context(file)
        self.tensors: dict[str, TensorSpec] = {}
        self.graph: bytes | None = None
        self.inputs: tuple[Port, ...] = ()
        self.outputs: tuple[Port, ...] = ()
        self.constants: tuple[str, ...] = ()
        self._in_file: dict[str, TensorSpec] = {}  # of renamed tensors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.format} {self.file_name!r}: {counted(len(self.tensors), 'tensor')}>"

    @property
    def file_name(self) -> str:
        return self._file.name

    @property
    def parameters(self) -> "tuple[Parameter, ...]":
        """The tensors as what a publish brings."""
        from weightd.weights.entries import Parameter

        return tuple(Parameter(*spec) for spec in self.tensors.values())

    @property
    def is_closed(self) -> bool:
        return self._file.is_closed

    @property
    def is_whole(self) -> bool:
        """Whether all of it is in the one file."""
        return True

    def close(self) -> None:
        self._resources.close()

    def read_into(self, name: str, target: memoryview, on_chunk: OnChunk | None = None) -> None:
        """Fill `target`, which is writable and exactly as long as the tensor, with its bytes.

        on_chunk gets each piece of the target, in order, right after it was filled. BadFileError
        when the file does not have the bytes that it promised.
        """
        if self.is_closed:
            raise ClosedError(f"{self.file_name} was closed; open it again")
        spec = self.tensors.get(name)
        if spec is None:
            raise UnknownTensorError(f"{self.file_name} has no tensor {name!r}")
        if target.nbytes != spec.nbytes or target.readonly:
            raise UsageError(
                f"tensor {name!r} needs a writable target of {spec.nbytes} bytes, "
                f"not {target.nbytes}{' that are read-only' if target.readonly else ''}"
            )
        if spec.nbytes:
            self._read(self._in_file.get(name, spec), target.cast("B"), on_chunk)

    def rename(self, names: Mapping[str, str]) -> None:
        """Have the tensors under other names from here on; "" leaves one out. A graph is left
        aside: it has the names of the file. BadFileError when a new name is none."""
        self._in_file = {names[n]: spec for n, spec in self.tensors.items() if names[n]}
        specs = [TensorSpec(new, *spec[1:]) for new, spec in self._in_file.items()]
        self.tensors = checked_specs(self._file.name, specs)
        self.graph, self.inputs, self.outputs, self.constants = None, (), (), ()

    def said(self) -> "Said":
        """What the file says besides tensors, graph and ports: see about.py."""
        from weightd.weights.about import Said

        return Said()

    @abstractmethod
    def _read(self, spec: TensorSpec, target: memoryview, on_chunk: OnChunk | None) -> None:
        """Fill `target`, which is not empty."""


def checked_specs(file_name: str, specs: Iterable[TensorSpec]) -> dict[str, TensorSpec]:
    """The specs by name; BadFileError when one breaks a rule or there are too many."""
    tensors: dict[str, TensorSpec] = {}
    for spec in specs:
        if fault := name_fault(spec.name):
            raise BadFileError(f"{file_name}: a tensor {fault}")
        if fault := tensor_fault(spec.dtype, spec.shape):
            raise BadFileError(f"{file_name}: tensor {spec.name!r} {fault}")
        if spec.name in tensors:
            raise BadFileError(f"{file_name}: tensor {spec.name!r} occurs twice")
        if len(tensors) == MAX_TENSORS:
            raise BadFileError(f"{file_name} holds more than {MAX_TENSORS} tensors")
        tensors[spec.name] = spec
    return tensors


def open_source(
    fd: int, *, file_name: str, folder_fd: int | None = None, weights_only: bool = False
) -> Source:
    """The reader for the file behind `fd`, which the caller keeps, as it does `folder_fd`.

    folder_fd is the folder for a model's external data; nothing else is opened. weights_only: leave
    a model's graph aside. BadFileError says what is supported when the content is nothing that
    weightd reads; UnsupportedModelError, what of a MindIR graph cannot be translated.
    """
    from weightd.weights.sniff import format_of

    with ExitStack() as on_error:
        file = on_error.enter_context(InputFile(fd, file_name))
        source = _reader(format_of(file), file, folder_fd, weights_only)
        on_error.pop_all()
        return source


def _reader(format_name: str, file: InputFile, folder_fd: int | None, weights_only: bool) -> Source:
    # Each reader brings its own large imports; only the one that is needed is loaded.
    match format_name:
        case "safetensors":
            from weightd.weights.safetensors import SafetensorsSource

            return SafetensorsSource(file)
        case "npz":
            from weightd.weights.npz import NpzSource

            return NpzSource(file)
        case "ckpt":
            from weightd.weights.checkpoint import CheckpointSource

            return CheckpointSource(file)
        case "mindir":
            from weightd.weights.mindir.source import MindirSource

            return MindirSource(file, folder_fd, weights_only=weights_only)
        case _:
            from weightd.weights.onnx_file import OnnxSource

            return OnnxSource(file, folder_fd, weights_only=weights_only)
