"""Comparisons and logic."""

from weightd.weights.mindir.ops.translation import Translation

OPS: dict[str, Translation] = {}
