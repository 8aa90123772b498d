"""Resizing and upsampling, and what trades channels for space."""

import numpy as np

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation


def _by_size(mode: str, size: int | None = 1) -> Translation:
    """image, size, align_corners, half_pixel_centers. size None: it is an attribute, and then so
    are the others."""

    def translate(call: Call) -> Result:
        after = None if size is None else size + 1
        align = call.flag(after, "align_corners", False)
        half = call.flag(None if after is None else after + 1, "half_pixel_centers", False)
        coordinates = "align_corners" if align else "half_pixel" if half else "asymmetric"
        return _resized(call, mode, coordinates, exact_half=align or half)

    return translate


def _extended(mode: str) -> Translation:
    """PyTorch's form: x, output_size, scales, align_corners."""

    def translate(call: Call) -> Result:
        if mode == "nearest":
            return _resized(call, mode, "asymmetric", exact_half=False)
        coordinates = "align_corners" if call.flag(3, "align_corners", False) else "half_pixel"
        return _resized(call, mode, coordinates, exact_half=True)

    return translate


# mindspore::CoordinateTransformationMode, or its name
_COORDINATES: dict[object, str] = {0: "asymmetric", 1: "align_corners", 2: "half_pixel"}


def _linear_1d(call: Call) -> Result:
    """x, size, coordinate_transformation_mode"""
    mode = call.setting(2, "coordinate_transformation_mode", "align_corners")
    coordinates = _COORDINATES.get(mode, mode) if isinstance(mode, int) else mode
    if coordinates not in _COORDINATES.values():
        raise call.refused(f"its coordinate_transformation_mode is {mode!r}")
    return _resized(call, "linear", str(coordinates), exact_half=True)


def _resized(call: Call, mode: str, coordinates: str, *, exact_half: bool) -> Result:
    """To the size that the file declares of the result."""
    spatial = call.rank(0) - 2
    shape = call.out.shape
    if shape is None or min(shape[2:]) < 0:
        raise call.refused("the size of its result is open")
    if not call.is_none(2, "scales") and call.op.startswith("Upsample"):
        _check_scales(call, shape[2:])
    nearest = ("round_prefer_ceil" if exact_half else "floor") if mode == "nearest" else None
    return call.emit(
        "Resize",
        call.tensor(0),
        None,
        None,
        np.array(shape[2:], np.int64),
        axes=list(range(2, 2 + spatial)),
        mode=mode,
        coordinate_transformation_mode=coordinates,
        nearest_mode=nearest,
        **(_cubic(call, coordinates) if mode == "cubic" else {}),
    )


def _cubic(call: Call, coordinates: str) -> dict[str, float | int]:
    """ResizeBicubic with half pixels takes Keys' own constant, and nothing from beyond the edge."""
    if coordinates == "half_pixel" and call.op == "ResizeBicubic":
        return {"cubic_coeff_a": -0.5, "exclude_outside": 1}
    return {"cubic_coeff_a": -0.75}


def _check_scales(call: Call, wanted: tuple[int, ...]) -> None:
    """Sizes that are rounded have another scale than the one that is given."""
    scales = call.setting(2, "scales")
    parts = scales if isinstance(scales, tuple) else ()
    sizes = call.static_shape(0)[2:]
    for size, scale, target in zip(sizes, parts, wanted, strict=False):
        if not isinstance(scale, int | float) or size * scale != target:
            raise call.refused("its scales do not lead to whole sizes; give it sizes")


def _depth_to_space(call: Call) -> Result:
    block = call.integer(None, "block_size")
    return call.emit("DepthToSpace", call.tensor(0), blocksize=block, mode="DCR")


def _pixel_shuffle(call: Call) -> Result:
    block = call.integer(1, "upscale_factor")
    return call.emit("DepthToSpace", call.tensor(0), blocksize=block, mode="CRD")


def _space_to_depth(call: Call) -> Result:
    return call.emit("SpaceToDepth", call.tensor(0), blocksize=call.integer(None, "block_size"))


_GRID_MODES = {"bilinear": "linear", "nearest": "nearest", 0: "linear", 1: "nearest"}
_GRID_PADDING = {0: "zeros", 1: "border", 2: "reflection"}


def _grid_sample(call: Call) -> Result:
    """x, grid, interpolation_mode, padding_mode, align_corners"""
    mode, padding = call.setting(2, "interpolation_mode"), call.setting(3, "padding_mode")
    if not (isinstance(mode, int | str) and mode in _GRID_MODES):
        raise call.refused(f"its interpolation_mode is {mode!r}")
    return call.emit(
        "GridSample",
        call.tensor(0),
        call.tensor(1),
        mode=_GRID_MODES[mode],
        padding_mode=_GRID_PADDING[padding] if isinstance(padding, int) else padding,
        align_corners=int(call.flag(4, "align_corners", False)),
    )


OPS: dict[str, Translation] = {
    "ResizeBilinearV2": _by_size("linear"),
    "ResizeBilinear": _by_size("linear", None),
    "ResizeNearestNeighborV2": _by_size("nearest"),
    "ResizeNearestNeighbor": _by_size("nearest"),
    "ResizeLinear1D": _linear_1d,
    "ResizeBicubic": _by_size("cubic"),
    **{f"UpsampleNearest{n}D": _extended("nearest") for n in (1, 2, 3)},
    **dict.fromkeys(
        ("UpsampleLinear1D", "UpsampleBilinear2D", "UpsampleTrilinear3D"), _extended("linear")
    ),
    "UpsampleBicubic2D": _extended("cubic"),
    "DepthToSpace": _depth_to_space,
    "PixelShuffle": _pixel_shuffle,
    "SpaceToDepth": _space_to_depth,
    **dict.fromkeys(("GridSampler2D", "GridSampler3D"), _grid_sample),
}
