"""Arithmetic, element by element, with the dtypes that MindSpore computes in."""

from weightd.weights.mindir.ops.translation import Translation

OPS: dict[str, Translation] = {}
