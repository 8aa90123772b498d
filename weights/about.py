"""What a file says of itself: for `weightd inspect`, and for whoever asks before loading it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from weightd.errors import UnsupportedModelError
from weightd.weights.entries import Port
from weightd.weights.source import Source, TensorSpec, open_source


@dataclass(frozen=True)
class About:
    """producer: who wrote the file, and with which version. notes: the writer's own, by key.
    operators: how often each occurs, those of branches and called graphs too. obstacle: why the
    graph cannot be run here, or ''."""

    format: str
    producer: str
    notes: Mapping[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: Mapping[str, int]
    tensors: tuple[TensorSpec, ...]
    obstacle: str = ""

    @property
    def has_graph(self) -> bool:
        return bool(self.operators or self.inputs or self.outputs)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(spec.nbytes for spec in self.tensors)


@dataclass(frozen=True)
class Said:
    """What only a format's own reader knows."""

    producer: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    operators: Iterable[str] = ()


def about(fd: int, *, file_name: str, folder_fd: int | None = None) -> About:
    """Read what a file says of itself, without its tensors' bytes. The descriptors stay the
    caller's. Raises what open_source() does, but for a graph that cannot be translated: `obstacle`
    says it."""
    try:
        source, obstacle = open_source(fd, file_name=file_name, folder_fd=folder_fd), ""
    except UnsupportedModelError as error:
        obstacle = str(error)
        source = open_source(fd, file_name=file_name, folder_fd=folder_fd, weights_only=True)
    with source:
        return _about(source, obstacle)


def _about(source: Source, obstacle: str) -> About:
    said = source.said()
    return About(
        format=source.format,
        producer=said.producer,
        notes=dict(said.notes),
        inputs=source.inputs or said.inputs,
        outputs=source.outputs or said.outputs,
        operators=dict(sorted(Counter(said.operators).items())),
        tensors=tuple(source.tensors.values()),
        obstacle=obstacle,
    )
