"""The zoo itself: each model runs, has an answer, and shows which of its two weight sets it has."""

import numpy as np
import onnx
import pytest

from tests.zoo import ZOO, answer, bits_of, feed_of, name_of, private_session, seeds
from tests.zoo_entry import Entry

each_model = pytest.mark.parametrize("entry", ZOO, ids=name_of)


def without_numbers(net: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all weights zero, those of its nodes and inner graphs included."""
    graphs = [net.graph]
    while graphs:
        graph = graphs.pop()
        tensors = [*graph.initializer]
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            graphs.append(attribute.g)
            tensors.append(attribute.t)
        for tensor in tensors:
            tensor.raw_data = bytes(len(tensor.raw_data))
    return net


def test_the_zoo_has_a_name_for_each_model() -> None:
    assert len({entry.name for entry in ZOO}) == len(ZOO)


def test_the_zoo_has_twins_that_the_next_version_parts() -> None:
    (entry,) = [entry for entry in ZOO if entry.name == "same_content_once"]
    weights = [[tensor.raw_data for tensor in net.graph.initializer] for net in seeds(entry)]
    assert [first == second for first, second in weights] == [True, False]


@each_model
def test_a_model_of_the_zoo_is_valid_onnx(entry: Entry) -> None:
    onnx.checker.check_model(seeds(entry)[0])


@each_model
def test_two_seeds_of_a_model_are_the_same_graph(entry: Entry) -> None:
    first, second = map(without_numbers, seeds(entry))
    assert first == second


@each_model
def test_two_seeds_of_a_model_answer_differently(entry: Entry) -> None:
    feed = feed_of(entry)
    first, second = (bits_of(answer(private_session(net), feed)) for net in seeds(entry))
    assert first.keys() == second.keys()
    for name in first:
        assert (first[name] != second[name]) == entry.has_weights, name


@each_model
def test_a_private_session_answers_the_same_bits_each_time(entry: Entry) -> None:
    net, feed = seeds(entry)[0], feed_of(entry)
    session = private_session(net)
    found = answer(session, feed)
    assert bits_of(answer(session, feed)) == bits_of(found)
    assert bits_of(answer(private_session(net), feed)) == bits_of(found)
    assert all(np.isfinite(value).all() and value.any() for value in found.values())
