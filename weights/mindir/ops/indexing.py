"""What takes elements by index: gathers, slices, masks; and puts them there."""

from weightd.weights.mindir.ops.translation import Translation

OPS: dict[str, Translation] = {}
