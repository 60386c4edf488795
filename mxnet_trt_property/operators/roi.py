"""Pooling of regions of interest, each a row (image, left, top, right, bottom) of the second input.

ONNX has MaxRoiPool and RoiAlign, but TensorRT has no MaxRoiPool, and RoiAlign only as a plugin. Both operators are
written with Gather. An image that does not exist gives zeros, as MXNet's ROIPooling does. Of ROIAlign that is what
MXNet documents and does on a GPU; its CPU code writes one zero to a wrong place, and beyond the last image it reads
memory that is not the data's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, INT32, shape_of
from mxnet_trt_property.operators.interpolation import all_of, pixel_table, sample
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason
from mxnet_trt_property.operators.unary import FUNCTIONS

# More rows of the table of maxima than this are not addressed by int32 and do not fit a GPU's memory.
_MOST_ELEMENTS = 2**29

# Regions up to this many pixels of the feature map have their bins from a table.
_TABLED_EXTENTS = 4096


@dataclass(frozen=True)
class ROIPoolingParameters(Parameters):
    """Parameters of ROIPooling."""

    pooled_size: tuple[int, ...]
    spatial_scale: float


@dataclass(frozen=True)
class ROIAlignParameters(Parameters):
    """Parameters of _contrib_ROIAlign; without a `sample_ratio` each region has its own number of samples."""

    pooled_size: tuple[int, ...]
    spatial_scale: float
    sample_ratio: int = -1
    position_sensitive: bool = False
    aligned: bool = False


def _column(rois: str, column: int, w: OnnxWriter) -> str:
    """Returns one column of the regions: (regions, 1)."""
    return w.slice(rois, (1,), (column,), (column + 1,), (1,))


def _image(rois: str, count: int, w: OnnxWriter) -> tuple[str, str]:
    """Returns the image of each region, int32 and within the batch, and whether it exists: (regions, 1) each."""
    # MXNet cuts the fraction off: between -1 and 0 is the first image.
    number = _column(rois, 0, w)
    exists = all_of(
        [w.node("Greater", [number, w.scalar(-1, FLOAT32)]), w.node("Less", [number, w.scalar(count, FLOAT32)])], w
    )
    return w.cast(w.node("Where", [exists, number, w.scalar(0, FLOAT32)]), INT32), exists


def _check_align(params: ROIAlignParameters, node: NodeInfo) -> Optional[str]:
    if params.sample_ratio <= 0:
        required = "a positive number, as without it the count of samples depends on the regions"
        return reason("sample_ratio", found=params.sample_ratio, required=required)
    return None


# MXNet computes places in the dtype of the data, and in float16 they are too coarse to compare.
@operator("_contrib_ROIAlign", parameters=ROIAlignParameters, check=_check_align, dtypes=(FLOAT32,))
def _roi_align(params: ROIAlignParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data, rois = inputs
    (batch, channels, *sizes), count = shape_of(node.inputs[0]), shape_of(node.inputs[1])[0]
    samples = params.sample_ratio
    rows, columns = params.pooled_size
    image, exists = _image(rois, batch, w)
    # Row y of samples is (1, samples), column x (samples, 1): they broadcast to all samples of a region.
    y, y_inside = _sample_places(params, rois, 0, sizes[0], w)
    x, x_inside = _sample_places(params, rois, 1, sizes[1], w)
    y, y_inside = (w.unsqueeze(part, [2]) for part in (y, y_inside))
    x, x_inside, image, exists = (w.unsqueeze(part, [1]) for part in (x, x_inside, image, exists))
    weight = w.cast(all_of([exists, y_inside, x_inside], w), FLOAT32)
    groups = prod(params.pooled_size) if params.position_sensitive else 1
    if params.position_sensitive:
        # The bin is the faster index of the channels.
        data = w.transpose(w.reshape(data, (batch, channels // groups, groups, prod(sizes))), (0, 2, 1, 3))
    table = pixel_table(data, (batch, groups), channels // groups, sizes, w)
    first = w.node("Mul", [image, w.constant(np.array(groups * prod(sizes), INT32))])
    if params.position_sensitive:
        # Each bin has channels of its own.
        bins = np.arange(groups).reshape(params.pooled_size).repeat(samples, 0).repeat(samples, 1)
        first = w.node("Add", [first, w.constant((bins * prod(sizes)).astype(INT32)[None])])
    found = sample(table, first, y, x, (sizes[0], sizes[1]), weight, w)
    cells = w.reshape(found, (count, rows, samples, columns, samples, channels // groups))
    total = w.reduce("ReduceSum", cells, (2, 4), keepdims=False)
    return [w.transpose(w.node("Div", [total, w.scalar(samples**2, FLOAT32)]), (0, 3, 1, 2))]


def _sample_places(params: ROIAlignParameters, rois: str, axis: int, size: int, w: OnnxWriter) -> tuple[str, str]:
    """Returns where one axis is sampled and whether that is inside: (regions, bins * samples) each.

    Axis 0 is the vertical one. The order of the operations is MXNet's.
    """
    start, end = (w.node("Mul", [_column(rois, 2 - axis + far, w), _scale(params, w)]) for far in (0, 2))
    if params.aligned:
        start, end = (w.node("Sub", [edge, w.scalar(0.5, FLOAT32)]) for edge in (start, end))
    extent = w.node("Sub", [end, start])
    if not params.aligned:
        extent = w.node("Max", [extent, w.scalar(1, FLOAT32)])
    bins, samples = params.pooled_size[axis], params.sample_ratio
    width = w.node("Div", [extent, w.scalar(bins, FLOAT32)])
    number = np.arange(bins).repeat(samples).astype(FLOAT32)
    middle = np.tile(np.arange(samples) + 0.5, bins).astype(FLOAT32)
    bin_start = w.node("Add", [start, w.node("Mul", [width, w.constant(number)])])
    step = w.node("Div", [w.node("Mul", [width, w.constant(middle)]), w.scalar(samples, FLOAT32)])
    place = w.node("Add", [bin_start, step])
    inside = all_of(
        [
            w.node("GreaterOrEqual", [place, w.scalar(-1, FLOAT32)]),
            w.node("LessOrEqual", [place, w.scalar(size, FLOAT32)]),
        ],
        w,
    )
    # What is outside is multiplied by 0 and must not be fetched.
    clipped = w.node("Max", [place, w.scalar(0, FLOAT32)])
    return w.node("Where", [inside, clipped, w.scalar(0, FLOAT32)]), inside


def _scale(params: ROIAlignParameters, w: OnnxWriter) -> str:
    return w.scalar(params.spatial_scale, FLOAT32)


def _levels(size: int) -> int:
    """Returns how many powers of two are at most `size`."""
    return size.bit_length()


def _check_pooling(params: ROIPoolingParameters, node: NodeInfo) -> Optional[str]:
    shape = node.inputs[0].shape
    if shape is None:
        return needs_shape("size of the table of maxima")
    elements = prod(shape) * _levels(shape[2]) * _levels(shape[3])
    if elements > _MOST_ELEMENTS:
        return reason("size of the table of maxima", found=elements, required=f"at most {_MOST_ELEMENTS} elements")
    return None


@operator("ROIPooling", parameters=ROIPoolingParameters, check=_check_pooling, dtypes=(FLOAT32,))
def _roi_pooling(params: ROIPoolingParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    """Looks the maximum of each bin up in a table of the maxima of all squares whose sides are powers of two.

    A bin is covered by four such rectangles that overlap: they start or end where the bin does, and their sides are
    the largest powers of two that fit.
    """
    data, rois = inputs
    batch, channels, height, width = shape_of(node.inputs[0])
    image, exists = (w.unsqueeze(part, [2]) for part in _image(rois, batch, w))
    top, bottom, level_y, has_rows = _bins(params, rois, 0, height, w)
    left, right, level_x, has_columns = _bins(params, rois, 1, width, w)
    top, bottom, level_y, has_rows = (w.unsqueeze(part, [2]) for part in (top, bottom, level_y, has_rows))
    left, right, level_x, has_columns = (w.unsqueeze(part, [1]) for part in (left, right, level_x, has_columns))

    def int32(value: int) -> str:
        return w.constant(np.array(value, INT32))

    table = _maxima(data, node, w)
    level = w.node("Add", [w.node("Mul", [level_y, int32(_levels(width))]), level_x])
    first = w.node("Add", [w.node("Mul", [level, int32(batch)]), image])
    first = w.node("Mul", [first, int32(height * width)])
    corners = []
    for y in (top, bottom):
        start = w.node("Add", [first, w.node("Mul", [y, int32(width)])])
        for x in (left, right):
            corners.append(w.node("Gather", [table, w.node("Add", [start, x])], axis=0))
    found = w.node("Max", corners)
    is_filled = w.unsqueeze(all_of([exists, has_rows, has_columns], w), [-1])
    return [w.transpose(w.node("Where", [is_filled, found, w.scalar(0, FLOAT32)]), (0, 3, 1, 2))]


def _maxima(data: str, node: NodeInfo, w: OnnxWriter) -> str:
    """Returns a pixel table for each pair of levels, one after the other.

    In that of levels (i, j) a pixel holds the maximum of the 2^i rows and 2^j columns that start at it. Near the end
    there are fewer, and those are not looked up.
    """
    batch, channels, height, width = shape_of(node.inputs[0])
    lowest = w.scalar(float(np.finfo(FLOAT32).min), FLOAT32)
    # MXNet starts with this number and takes what is greater: so it never takes NaN.
    clean = w.node("Where", [w.node("Greater", [data, lowest]), data, lowest])
    # Poolings, and not maxima of shifted copies: TensorRT fuses those into one kernel that takes minutes to compile.
    tables = [
        _windows(rows, 1, level, w)
        for rows in (_windows(clean, 0, level, w) for level in range(_levels(height)))
        for level in range(_levels(width))
    ]
    table = w.node("Concat", tables, axis=0) if len(tables) > 1 else tables[0]
    count = len(tables) * batch * height * width
    return w.reshape(w.transpose(table, (0, 2, 3, 1)), (count, channels))


def _windows(data: str, axis: int, level: int, w: OnnxWriter) -> str:
    """Returns the maxima of 2^level neighbours of an axis, each in the place of the first, in the data's shape."""
    if level == 0:
        return data
    kernel, pads = [1, 1], [0, 0, 0, 0]
    kernel[axis] = 2**level
    pads[2 + axis] = 2**level - 1
    return w.node("MaxPool", [data], kernel_shape=kernel, pads=pads, strides=[1, 1])


def _edges(extent: str, number: np.ndarray[Any, Any], count: int, rounding: str, w: OnnxWriter) -> str:
    """Returns the edges of bins, counted from the region's: (regions, bins), for whole extents (regions, 1).

    An edge is a quotient and a product, both rounded to float32, and then rounded to a pixel: one that should be whole
    may come out above or below. An engine that divides in another way would move it by a pixel, so the edges of all
    extents that occur are looked up.
    """
    sizes = np.arange(_TABLED_EXTENTS, dtype=FLOAT32)[:, None]
    products = sizes / FLOAT32.type(count) * number
    known = np.floor(products) if rounding == "Floor" else np.ceil(products)
    last = w.scalar(_TABLED_EXTENTS - 1, FLOAT32)
    place = w.reshape(w.cast(w.node("Min", [extent, last]), INT32), (-1,))
    found = w.node("Gather", [w.constant(known.astype(FLOAT32)), place], axis=0)
    bin_size = w.node("Div", [extent, w.scalar(count, FLOAT32)])
    computed = w.node(rounding, [w.node("Mul", [bin_size, w.constant(number)])])
    return w.node("Where", [w.node("LessOrEqual", [extent, last]), found, computed])


def _bins(params: ROIPoolingParameters, rois: str, axis: int, size: int, w: OnnxWriter) -> tuple[str, str, str, str]:
    """Returns for each bin of one axis the two starts and the level of its windows, and whether it has any pixel.

    All are (regions, bins), the first three int32. The order of the operations is MXNet's.
    """
    zero, one, last = w.scalar(0, FLOAT32), w.scalar(1, FLOAT32), w.scalar(size, FLOAT32)
    scale = w.scalar(params.spatial_scale, FLOAT32)
    start, end = (
        FUNCTIONS["round"](w.node("Mul", [_column(rois, 2 - axis + far, w), scale]), FLOAT32, w) for far in (0, 2)
    )
    # What is no pixel number in C, not a number above all, is no region: nothing outside the table may be looked up.
    is_region = all_of([w.node("Less", [w.node("Abs", [edge]), w.scalar(2**24, FLOAT32)]) for edge in (start, end)], w)
    start, end = (w.node("Where", [is_region, edge, zero]) for edge in (start, end))
    extent = w.node("Max", [w.node("Add", [w.node("Sub", [end, start]), one]), one])
    count = params.pooled_size[axis]
    edges = []
    for number, rounding in ((np.arange(count), "Floor"), (np.arange(count) + 1, "Ceil")):
        edge = _edges(extent, number.astype(FLOAT32), count, rounding, w)
        edges.append(w.node("Min", [w.node("Max", [w.node("Add", [edge, start]), zero]), last]))
    first, after = edges
    length = w.node("Sub", [after, first])
    has_pixels = all_of([is_region, w.node("Greater", [length, zero])], w)
    level = w.node("Mul", [length, zero])
    for power in range(1, _levels(size)):
        fits = w.node("GreaterOrEqual", [length, w.scalar(2**power, FLOAT32)])
        level = w.node("Add", [level, w.cast(fits, FLOAT32)])
    level = w.cast(level, INT32)
    window = w.node("Gather", [w.constant(2.0 ** np.arange(_levels(size), dtype=FLOAT32)), level], axis=0)
    # A bin without pixels may start or end anywhere that exists.
    second = w.node("Max", [w.node("Sub", [after, window]), zero])
    first = w.node("Min", [first, w.scalar(size - 1, FLOAT32)])
    return w.cast(first, INT32), w.cast(second, INT32), level, has_pixels
