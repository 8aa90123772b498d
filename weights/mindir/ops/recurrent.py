"""Recurrent layers."""

from weightd.weights.mindir.ops.translation import Translation

OPS: dict[str, Translation] = {}
