"""MindIR graphs, changed node by node: translated, or refused by one typed error.

Bytes that are damaged (test_fuzz.py) seldom make a message that can be parsed; here it always can.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_fuzz import read_all
from weightd.weights.mindir.ops.table import OPS
from weightd.weights.mindir.schema import parse

CASES = sorted((Path(__file__).parent / "data" / "mindir").glob("*/*.mindir"))
NUMBERS = [0, 1, -1, 2, 3, 7, -2, 2**31, 2**63 - 1, -(2**63)]
KINDS = [1, 5, 6, 7, 8, 9, 11, 19, 20, 21, 23, 25, 36, 39, 99]
DTYPES = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 99]
OPERATORS = sorted(name.encode() for name in OPS)


def nodes_of(model: Any) -> list[Any]:
    return [node for graph in (model.graph, *model.functions) for node in graph.node]


def attributes_of(model: Any) -> list[Any]:
    def with_parts(attribute: Any) -> Iterator[Any]:
        yield attribute
        for value in attribute.values:
            yield from with_parts(value)

    owners = [*nodes_of(model), *model.primitives]
    return [part for owner in owners for a in owner.attribute for part in with_parts(a)]


def another_number(model: Any, rng: random.Random) -> None:
    attribute = rng.choice(attributes_of(model))
    if attribute.ints:
        attribute.ints[0] = rng.choice(NUMBERS)
    else:
        attribute.i = rng.choice(NUMBERS)


def another_shape(model: Any, rng: random.Random) -> None:
    attribute = rng.choice(attributes_of(model))
    for tensor in attribute.tensors:
        if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        tensor.data_type = rng.choice([tensor.data_type, *DTYPES])
    if attribute.values:
        del attribute.values[rng.randrange(len(attribute.values))]


def other_inputs(model: Any, rng: random.Random) -> None:
    node, other = rng.choice(nodes_of(model)), rng.choice(nodes_of(model))
    if node.input and rng.random() < 0.7:
        del node.input[rng.randrange(len(node.input))]
    if rng.random() < 0.7:
        node.input.append(other.output[0])


CHANGES: list[Callable[[Any, random.Random], object]] = [
    another_number,
    another_shape,
    other_inputs,
    lambda model, rng: setattr(rng.choice(attributes_of(model)), "type", rng.choice(KINDS)),
    lambda model, rng: setattr(rng.choice(model.primitives), "op_type", rng.choice(OPERATORS)),
    lambda model, rng: setattr(
        rng.choice(nodes_of(model)), "op_type", rng.choice(nodes_of(model)).op_type
    ),
]


def check(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    model = parse("ModelProto", rng.choice(CASES).read_bytes(), "a case")
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice(CHANGES)(model, rng)
    path = folder / f"seed{seed}.mindir"
    path.write_bytes(model.SerializeToString())
    read_all(path)


@pytest.mark.parametrize("block", range(4))
def test_a_graph_with_changed_nodes_is_translated_or_refused(tmp_path: Path, block: int) -> None:
    for seed in range(100 * block, 100 * (block + 1)):
        check(tmp_path, seed)


@pytest.mark.stress
@pytest.mark.slow
@pytest.mark.parametrize("block", range(2))
def test_many_graphs_with_changed_nodes_are_translated_or_refused(
    tmp_path: Path, block: int
) -> None:
    for seed in range(1000 * (block + 1), 1000 * (block + 1) + 300):
        check(tmp_path, seed)
