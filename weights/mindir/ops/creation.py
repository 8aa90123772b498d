"""What makes tensors of nothing: zeros, ranges, one-hot."""

from weightd.weights.mindir.ops.translation import Translation

OPS: dict[str, Translation] = {}
