"""Reductions, and what finds, sorts or accumulates along an axis."""

from weightd.weights.mindir.ops.translation import Translation

OPS: dict[str, Translation] = {}
