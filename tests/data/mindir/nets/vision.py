"""Whole networks that look at pictures, or make them. Few channels."""

from collections.abc import Iterator
from typing import Any

from mindspore import nn, ops

from tests.data.mindir.nets.case import Case, normal


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, group: int = 1) -> Any:
    return nn.SequentialCell(
        nn.Conv2d(inputs, outputs, kernel, stride, pad_mode="same", group=group),
        nn.BatchNorm2d(outputs),
    )


class Bottleneck(nn.Cell):
    """A residual block of ResNet-50."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.SequentialCell(
            conv_norm(inputs, width, 1),
            nn.ReLU(),
            conv_norm(width, width, 3, stride),
            nn.ReLU(),
            conv_norm(width, 2 * width, 1),
        )
        self.shortcut = conv_norm(inputs, 2 * width, 1, stride)

    def construct(self, x: Any) -> Any:
        return ops.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.SequentialCell(
            nn.Conv2d(3, 4, 7, 2, pad_mode="pad", padding=3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, pad_mode="pad", padding=1),
        )
        self.blocks = nn.SequentialCell(Bottleneck(4, 3, 1), Bottleneck(6, 4, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Dense(8, 5)

    def construct(self, x: Any) -> Any:
        return self.head(ops.flatten(self.pool(self.blocks(self.stem(x)))))


class SqueezeExcite(nn.Cell):
    """A block of MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.SequentialCell(conv_norm(3, 8, 1), nn.HSwish())
        self.depth = nn.SequentialCell(conv_norm(8, 8, 5, 2, group=8), nn.HSwish())
        self.gate = nn.SequentialCell(
            nn.Conv2d(8, 2, 1, has_bias=True),
            nn.ReLU(),
            nn.Conv2d(2, 8, 1, has_bias=True),
            nn.HSigmoid(),
        )
        self.project = conv_norm(8, 4, 1)

    def construct(self, x: Any) -> Any:
        x = self.depth(self.expand(x))
        return self.project(x * self.gate(x.mean((2, 3), keep_dims=True)))


class Generator(nn.Cell):
    """DCGAN: a vector becomes a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.SequentialCell(
            nn.Conv2dTranspose(6, 8, 4, 1, pad_mode="valid"),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2dTranspose(8, 4, 4, 2, pad_mode="pad", padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2dTranspose(4, 3, 4, 2, pad_mode="pad", padding=1),
            nn.Tanh(),
        )

    def construct(self, z: Any) -> Any:
        return self.body(z.reshape(z.shape[0], -1, 1, 1))


class Discriminator(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.SequentialCell(
            nn.Conv2d(3, 4, 4, 2, pad_mode="pad", padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4, 8, 4, 2, pad_mode="pad", padding=1),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 1, 4, 1, pad_mode="valid"),
            nn.Sigmoid(),
        )

    def construct(self, x: Any) -> Any:
        return self.body(x).view(-1)


class UNet(nn.Cell):
    """Down and up again, with what was there on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.down = conv_norm(1, 4)
        self.deep = conv_norm(4, 8)
        self.pool = nn.MaxPool2d(2, 2)
        self.up = nn.Conv2dTranspose(8, 4, 2, 2)
        self.merge = conv_norm(8, 4)
        self.out = nn.Conv2d(4, 2, 1, has_bias=True)

    def construct(self, x: Any) -> Any:
        here = ops.relu(self.down(x))
        deep = ops.relu(self.deep(self.pool(here)))
        merged = ops.relu(self.merge(ops.concat((self.up(deep), here), 1)))
        logits = self.out(merged)
        wide = ops.interpolate(deep, size=(8, 8), mode="bilinear", align_corners=True)
        return ops.softmax(logits, 1), ops.argmax(logits, 1), wide


class SuperResolution(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 6, 5, pad_mode="same", has_bias=True)
        self.slope = nn.PReLU(6)
        self.two = nn.Conv2d(6, 9, 3, pad_mode="same", has_bias=True)
        self.shuffle = nn.PixelShuffle(3)

    def construct(self, x: Any) -> Any:
        return ops.clip_by_value(self.shuffle(self.two(self.slope(self.one(x)))), 0.0, 1.0)


class Branches(nn.Cell):
    """Inception's branches, dense connections, and shuffled channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one = conv_norm(3, 2, 1)
        self.three = conv_norm(3, 4, 3)
        self.pool = nn.AvgPool2d(3, 1, pad_mode="same")
        self.dense = conv_norm(9, 4, 3)

    def construct(self, x: Any) -> Any:
        y = ops.concat((self.one(x), self.three(x), self.pool(x)), 1)
        y = ops.concat((y, ops.relu(self.dense(y))), 1)[:, :12]
        n, c, h, w = y.shape
        y = y.reshape(n, 3, c // 3, h, w).transpose(0, 2, 1, 3, 4).reshape(n, c, h, w)
        return ops.split(y, 6, 1)


def picture(size: int, channels: int = 3) -> Any:
    return normal((2, channels, size, size))


def cases() -> Iterator[Case]:
    yield Case("resnet", ResNet, picture(32))
    yield Case("resnet_open_batch", ResNet, picture(32), shapes=[[None, 3, 32, 32]])
    yield Case("squeeze_excite", SqueezeExcite, picture(9))
    yield Case("gan_generator", Generator, normal((2, 6)))
    yield Case("gan_discriminator", Discriminator, picture(16))
    yield Case("unet", UNet, picture(8, 1))
    yield Case("super_resolution", SuperResolution, picture(6, 1))
    yield Case("branches", Branches, picture(6))
