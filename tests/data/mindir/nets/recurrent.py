"""Recurrent layers and cells."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from tests.data.mindir.nets.case import Case, both, given, normal, whole


class Lstm(nn.Cell):
    """With a state of zeros of its own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, **settings)
        self.count = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)

    def construct(self, x: Any) -> Any:
        batch = x.shape[0]
        zero = ops.zeros((self.count, batch, 3), ms.float32)
        y, (h, c) = self.lstm(x, (zero, zero + 0.1))
        return y, h, c


class Gru(nn.Cell):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, **settings)
        self.count = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)

    def construct(self, x: Any) -> Any:
        y, h = self.gru(x, ops.zeros((self.count, x.shape[0], 3), ms.float32) + 0.1)
        return y, h


class Rnn(nn.Cell):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 3, batch_first=True, **settings)

    def construct(self, x: Any) -> Any:
        y, h = self.rnn(x, ops.zeros((1, x.shape[0], 3), ms.float32))
        return y, h


class Cells(nn.Cell):
    """Cells, unrolled by hand over the time steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(4, 3)
        self.gru = nn.GRUCell(4, 3)
        self.rnn = nn.RNNCell(4, 3)

    def construct(self, x: Any, h: Any, c: Any) -> Any:
        g, r = h, h
        for step in range(2):
            h, c = self.lstm(x[:, step], (h, c))
            g = self.gru(x[:, step], g)
            r = self.rnn(x[:, step], r)
        return h, c, g, r


class Lengths(nn.Cell):
    """Sequences that end before the others: the states are those at their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.rnn = nn.RNN(4, 3, batch_first=True)

    def construct(self, x: Any, lengths: Any) -> Any:
        return self.lstm(x, None, lengths), self.rnn(x, None, lengths)


class LanguageModel(nn.Cell):
    """The state comes in and goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.lstm = nn.LSTM(4, 3, num_layers=2, batch_first=True)
        self.dense = nn.Dense(3, 11)

    def construct(self, ids: Any, h: Any, c: Any) -> Any:
        y, state = self.lstm(self.table(ids), (h, c))
        return self.dense(y), state


class Tagger(nn.Cell):
    """Embedding, two bidirectional layers, a dense layer for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.lstm = Lstm(num_layers=2, bidirectional=True, batch_first=True)
        self.dense = nn.Dense(6, 5)

    def construct(self, ids: Any) -> Any:
        y, _, _ = self.lstm(self.table(ids))
        return ops.log_softmax(self.dense(y), -1)


def cases() -> Iterator[Case]:
    sequence = normal((2, 5, 4))
    yield Case("lstm", lambda: Lstm(batch_first=True), sequence)
    yield Case("lstm_without_bias", lambda: Lstm(batch_first=True, has_bias=False), sequence)
    yield Case("lstm_two_layers", lambda: Lstm(batch_first=True, num_layers=2), sequence)
    yield Case("lstm_bidirectional", lambda: Lstm(batch_first=True, bidirectional=True), sequence)
    yield Case("gru", lambda: Gru(batch_first=True), sequence)
    yield Case("gru_bidirectional", lambda: Gru(batch_first=True, bidirectional=True), sequence)
    yield Case("rnn", Rnn, sequence)
    yield Case("rnn_relu", lambda: Rnn(nonlinearity="relu"), sequence)
    yield Case("cells", Cells, normal((2, 3, 4), (2, 3), (2, 3)))
    yield Case("tagger", Tagger, lambda rng: [rng.integers(0, 11, (2, 6)).astype("int32")])
    yield Case("lengths", Lengths, both(normal((2, 3, 4)), given(np.array([3, 1], np.int32))))
    yield Case(
        "language_model_of_open_sizes",
        LanguageModel,
        both(whole((2, 4), low=0, high=11), normal((2, 2, 3), (2, 2, 3))),
        shapes=[[None, None], [2, None, 3], [2, None, 3]],
    )
