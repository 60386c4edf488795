"""Bilinear sampling at places that are computed, as ONNX nodes; shared by the operators that bend images.

An image is written as a table with a row for each pixel and a column for each channel, so that one Gather fetches a
pixel's channels. GridSample would say the same in one node, but in coordinates that are divided and multiplied by the
image's size on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, INT32


def pixel_table(data: str, groups: Sequence[int], channels: int, sizes: Sequence[int], w: OnnxWriter) -> str:
    """Returns the table of images (*groups, channels, height, width): (groups * height * width, channels)."""
    count = prod(groups)
    pixels = w.reshape(data, (count, channels, prod(sizes)))
    return w.reshape(w.transpose(pixels, (0, 2, 1)), (count * prod(sizes), channels))


def first_rows(count: int, sizes: Sequence[int], shape: Sequence[int], w: OnnxWriter) -> str:
    """Returns the first row of each of `count` images in a pixel table, an int32 constant of the given shape."""
    return w.constant((np.arange(count, dtype=np.int32) * prod(sizes)).reshape(tuple(shape)))


def sample(table: str, first: str, y: str, x: str, sizes: tuple[int, int], weight: str, w: OnnxWriter) -> str:
    """Samples images bilinearly.

    Args:
        table: What `pixel_table` wrote.
        first: The first row of the image of each place, int32.
        y: Vertical places in pixels, float32, from 0 up to and with the height; beyond the last pixel is the last.
        x: Horizontal places. `first`, `y` and `x` broadcast to the shape of the result without its last axis.
        sizes: Height and width of an image.
        weight: What each sample is multiplied by, float32, or "" for nothing.
        w: The writer.

    Returns:
        The samples with the channels as the last axis.
    """
    top, bottom, upper, lower = _neighbours(y, sizes[0], w)
    left, right, nearer, farther = _neighbours(x, sizes[1], w)
    if weight:
        upper, lower = (w.node("Mul", [part, weight]) for part in (upper, lower))
    width = w.constant(np.array(sizes[1], INT32))
    parts = []
    for row, row_weight in ((top, upper), (bottom, lower)):
        start = w.node("Add", [first, w.node("Mul", [row, width])])
        for column, column_weight in ((left, nearer), (right, farther)):
            pixels = w.node("Gather", [table, w.node("Add", [start, column])], axis=0)
            factor = w.unsqueeze(w.node("Mul", [row_weight, column_weight]), [-1])
            parts.append(w.node("Mul", [pixels, factor]))
    total = parts[0]
    for part in parts[1:]:
        total = w.node("Add", [total, part])
    return total


def _neighbours(places: str, size: int, w: OnnxWriter) -> tuple[str, str, str, str]:
    """Returns the pixels before and after each place, int32, and their weights."""
    last, one = w.scalar(size - 1, FLOAT32), w.scalar(1, FLOAT32)
    before = w.node("Min", [w.node("Floor", [places]), last])
    after = w.node("Min", [w.node("Add", [before, one]), last])
    # Beyond the last pixel both are the last one, and their weights still add up to 1.
    distance = w.node("Sub", [places, before])
    return w.cast(before, INT32), w.cast(after, INT32), w.node("Sub", [one, distance]), distance


def all_of(conditions: Sequence[str], w: OnnxWriter) -> str:
    """Returns whether all conditions hold."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = w.node("And", [result, condition])
    return result
