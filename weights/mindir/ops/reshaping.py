"""What moves elements and changes none: reshapes, transposes, joins, splits, pads."""

from weightd.weights.mindir.ops.translation import Translation

OPS: dict[str, Translation] = {}
