"""Whole networks that read sequences."""

from collections.abc import Iterator, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from tests.data.mindir.nets.case import Arrays, Case, both, given, normal


def words(batch: int, length: int, most: int = 13) -> Any:
    return lambda rng: [rng.integers(0, most, (batch, length)).astype(np.int32)]


def padding(batch: int, length: int) -> Any:
    """True where there is nothing."""
    return given(np.arange(length) >= np.array([[length - row] for row in range(batch)]))


def turns(sizes: Sequence[tuple[int, int, int]]) -> Any:
    """For each run a batch, so many new words and so many before."""
    left = iter(sizes)

    def inputs(rng: np.random.Generator) -> Arrays:
        b, new, past = next(left)
        before = rng.standard_normal((2, b, 2, past, 4)).astype(np.float32)
        return [rng.integers(0, 11, (b, new)).astype(np.int32), *before]

    return inputs


class Encoder(nn.Cell):
    """MindSpore's own encoder layer, with a mask for padding."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def construct(self, x: Any, is_padding: Any) -> Any:
        return self.encoder(x, src_key_padding_mask=is_padding)


class Decoder(nn.Cell):
    """A decoder layer, which looks at an encoder's output, and not ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True)

    def construct(self, x: Any, memory: Any) -> Any:
        mask = ops.triu(ops.ones((4, 4), ms.float32), 1).astype(ms.bool_)
        return self.layer(x, memory, tgt_mask=mask)


class Attention(nn.Cell):
    """Multi-head attention as people write it themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.q, self.k, self.v, self.o = (nn.Dense(width, width) for _ in range(4))
        self.softmax = nn.Softmax()

    def split(self, x: Any) -> Any:
        batch, length, _ = x.shape
        return x.reshape(batch, length, self.heads, self.size).transpose(0, 2, 1, 3)

    def construct(self, x: Any, mask: Any) -> Any:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        scores = ops.matmul(q, k.transpose(0, 1, 3, 2)) / self.size**0.5
        mixed = ops.matmul(self.softmax(scores + mask), v).transpose(0, 2, 1, 3)
        return self.o(mixed.reshape(x.shape))


class Block(nn.Cell):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm((width,), epsilon=1e-5)
        self.norm2 = nn.LayerNorm((width,), epsilon=1e-5)
        self.mlp = nn.SequentialCell(
            nn.Dense(width, 2 * width), nn.GELU(approximate=False), nn.Dense(2 * width, width)
        )

    def construct(self, x: Any, mask: Any) -> Any:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Bert(nn.Cell):
    """Words, their places and their sentence; a mask; all states, and a pooled one."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(13, 8)
        self.places = nn.Embedding(16, 8)
        self.sentence = nn.Embedding(2, 8)
        self.norm = nn.LayerNorm((8,))
        self.blocks = nn.CellList([Block(8, 2) for _ in range(2)])
        self.pooler = nn.Dense(8, 8, activation="tanh")

    def construct(self, ids: Any, mask: Any, kinds: Any) -> Any:
        x = self.words(ids) + self.places(ops.arange(ids.shape[1])) + self.sentence(kinds)
        x = self.norm(x)
        hidden = (1.0 - mask.astype(ms.float32)).expand_dims(1).expand_dims(1) * -10000.0
        for block in self.blocks:
            x = block(x, hidden)
        return x, self.pooler(x[:, 0])


class Gpt(nn.Cell):
    """A causal language model whose output layer is its table of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(13, 8)
        self.block = Block(8, 4)
        self.mask = Tensor(np.triu(np.full((16, 16), -1e4, np.float32), 1))

    def construct(self, ids: Any) -> Any:
        length = ids.shape[1]
        x = self.block(self.words(ids), self.mask[:length, :length])
        return ops.matmul(x, self.words.embedding_table.T)


class Rotary(nn.Cell):
    """Rotary positions and a root-mean-square norm, as in Llama; one step with a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Dense(8, 8, has_bias=False) for _ in range(3))
        self.scale = ms.Parameter(Tensor(np.ones(8, np.float32)), name="scale")

    def turned(self, x: Any, cos: Any, sin: Any) -> Any:
        half = ops.concat((-x[..., 4:], x[..., :4]), -1)
        return x * cos + half * sin

    def construct(self, x: Any, keys: Any, values: Any, cos: Any, sin: Any) -> Any:
        y = x * ops.rsqrt(ops.square(x).mean(-1, keep_dims=True) + 1e-6) * self.scale
        q = self.turned(self.q(y), cos, sin)
        keys = ops.concat((keys, self.turned(self.k(y), cos, sin)), 1)
        values = ops.concat((values, self.v(y)), 1)
        scores = ops.softmax(ops.bmm(q, keys.swapaxes(1, 2)) / 8**0.5, -1)
        return x + ops.bmm(scores, values), keys, values


class DecodingStep(nn.Cell):
    """New words after those whose keys and values come in; what comes out goes into the next."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.project = nn.Dense(8, 24)
        self.head = nn.Dense(8, 11)

    def construct(self, ids: Any, keys: Any, values: Any) -> Any:
        b, s = ids.shape
        mixed = self.project(self.table(ids)).reshape(b, s, 3, 2, 4).transpose(2, 0, 3, 1, 4)
        q, k, v = mixed.unbind(0)
        k, v = ops.cat((keys, k), 2), ops.cat((values, v), 2)
        t = k.shape[2]
        is_past = ops.arange(t)[None, :] <= (ops.arange(s)[:, None] + (t - s))
        scores = ops.matmul(q, k.swapaxes(-1, -2)) / 2.0
        scores = ops.where(is_past, scores, ops.full_like(scores, -1e9))
        found = ops.matmul(ops.softmax(scores, -1), v).transpose(0, 2, 1, 3).reshape(b, s, 8)
        return self.head(found[:, -1]), k, v


class Pooled(nn.Cell):
    """Means and last states of sequences whose lengths come in."""

    def construct(self, x: Any, lengths: Any) -> Any:
        b, _, d = x.shape
        is_there = ops.arange(x.shape[1]).reshape(1, -1) < lengths.reshape(-1, 1)
        kept = ops.masked_fill(x, ops.logical_not(is_there).expand_dims(-1), 0.0)
        at = ops.broadcast_to((lengths - 1).reshape(-1, 1, 1), (b, 1, d))
        return kept.sum(1) / lengths.reshape(-1, 1), ops.gather_elements(x, 1, at).squeeze(1)


class TextCnn(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(13, 6)
        self.convs = nn.CellList(
            [nn.Conv2d(1, 3, (size, 6), pad_mode="valid", has_bias=True) for size in (2, 3)]
        )
        self.dense = nn.Dense(6, 2)

    def construct(self, ids: Any) -> Any:
        x = self.words(ids).expand_dims(1)
        found = []
        for conv in self.convs:
            found.append(ops.relu(conv(x)).squeeze(3).max(2))  # noqa: PERF401
        return self.dense(ops.concat(found, 1))


def masked_words(rng: np.random.Generator) -> Arrays:
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    return [*words(2, 5)(rng), mask, *words(2, 5, 2)(rng)]


def cases() -> Iterator[Case]:
    yield Case("encoder", Encoder, both(normal((2, 5, 8)), padding(2, 5)))
    yield Case("decoder", Decoder, normal((2, 4, 8), (2, 5, 8)))
    yield Case("bert", Bert, masked_words)
    yield Case("bert_of_open_sizes", Bert, masked_words, shapes=[[None, None]] * 3)
    yield Case("gpt", Gpt, words(2, 6))
    yield Case("gpt_of_open_length", Gpt, words(2, 6), shapes=[[None, None]])
    yield Case(
        "rotary_with_cache",
        Rotary,
        normal((2, 1, 8), (2, 3, 8), (2, 3, 8), (1, 1, 8), (1, 1, 8)),
        shapes=[None, [2, None, 8], [2, None, 8], None, None],
    )
    yield Case(
        "decoding_step",
        DecodingStep,
        turns([(2, 1, 3), (1, 3, 6), (3, 2, 1)]),
        shapes=[[None, None], [None, 2, None, 4], [None, 2, None, 4]],
        runs=3,
    )
    yield Case(
        "pooled_by_lengths",
        Pooled,
        both(normal((3, 5, 2)), given([5, 1, 3])),
        shapes=[[None, None, 2], [None]],
    )
    yield Case("text_cnn", TextCnn, words(3, 7))
