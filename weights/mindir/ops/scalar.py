"""Whole numbers that are computed while the model runs, as sizes are."""

from weightd.weights.mindir.ops.translation import Translation

OPS: dict[str, Translation] = {}
