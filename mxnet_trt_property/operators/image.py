"""Preparation of images as in Gluon's transforms: images are (height, width, channels) or a batch of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, INTS, UINT8, dtype_of, recast, shape_of
from mxnet_trt_property.operators.registry import FLOATS, NodeInfo, Parameters, needs_shape, operator, reason

# OpenCV's numbers of interpolations.
_NEAREST, _LINEAR, _CUBIC = 0, 1, 2


@operator("_image_to_tensor", dtypes=(*FLOATS, *INTS, UINT8))
def _to_tensor(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    # First of all: TensorRT has uint8 for inputs of a network only.
    data = recast(inputs[0], dtype_of(node.inputs[0]), FLOAT32, w)
    data = w.transpose(data, [*range(ndim - 3), ndim - 1, ndim - 3, ndim - 2])
    return [_rounded(w.node("Div", [data, w.scalar(255, FLOAT32)]), dtype_of(node.inputs[0]), w)]


def _rounded(value: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    """Rounds float32 as MXNet rounds each result with float16 in it."""
    return w.cast(w.cast(value, dtype), FLOAT32) if dtype == np.float16 else value


@dataclass(frozen=True)
class NormalizeParameters(Parameters):
    """Parameters of _image_normalize, whose images have the channels first: one value, or one for each channel."""

    mean: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)


@operator("_image_normalize", parameters=NormalizeParameters)
def _normalize(params: NormalizeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = dtype_of(node.inputs[0])
    data = recast(inputs[0], dtype, FLOAT32, w)
    mean, std = (w.constant(np.array(values, FLOAT32).reshape(-1, 1, 1)) for values in (params.mean, params.std))
    result = w.node("Div", [_rounded(w.node("Sub", [data, mean]), dtype, w), std])
    return [recast(result, FLOAT32, dtype, w)]


@dataclass(frozen=True)
class CropParameters(Parameters):
    """Parameters of _image_crop."""

    x: int
    y: int
    width: int
    height: int


def _check_crop(params: CropParameters, node: NodeInfo) -> Optional[str]:
    if params.x < 0 or params.y < 0:
        return reason("x and y", found=(params.x, params.y), required="no negative number")
    return None


@operator("_image_crop", parameters=CropParameters, check=_check_crop, dtypes=(*FLOATS, *INTS))
def _crop(params: CropParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    first = len(shape_of(node.inputs[0])) - 3
    starts, ends = (params.y, params.x), (params.y + params.height, params.x + params.width)
    return [w.slice(inputs[0], (first, first + 1), starts, ends, (1, 1))]


@dataclass(frozen=True)
class ResizeParameters(Parameters):
    """Parameters of _image_resize; only the interpolation is left once the output's size is known."""

    IGNORED = Parameters.IGNORED | {"size", "keep_ratio"}

    interp: int = 1


def _check_resize(params: ResizeParameters, node: NodeInfo) -> Optional[str]:
    if params.interp not in (_NEAREST, _LINEAR, _CUBIC):
        return reason("interp", found=params.interp, required="0 (nearest), 1 (linear) or 2 (cubic)")
    if not node.outputs or node.outputs[0].shape is None:
        return needs_shape("size of the image")
    return None


# OpenCV computes with uint8 in fixed point numbers, and has no float16.
@operator("_image_resize", parameters=ResizeParameters, check=_check_resize, dtypes=(FLOAT32,))
def _resize(params: ResizeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    first = len(before) - 3
    data = inputs[0]
    for axis in (first + 1, first):
        if params.interp == _NEAREST:
            places = _nearest(before[axis], after[axis])
            data = w.node("Gather", [data, w.constant(places)], axis=axis)
        elif before[axis] != after[axis]:
            taps = _taps(params.interp, before[axis], after[axis])
            data = _interpolate(data, axis, taps, len(before) - axis - 1, w)
    return [data]


def _nearest(before: int, after: int) -> np.ndarray[Any, Any]:
    """Returns the pixel that each one is taken from, computed in double precision as in OpenCV.

    ONNX's Resize has the ratio in float32, and would take the one before where it should be a whole number.
    """
    ratio = 1.0 / (after / before)
    found: np.ndarray[Any, Any] = np.minimum(np.floor(np.arange(after) * ratio).astype(np.int64), before - 1)
    return found


def _taps(interp: int, before: int, after: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Returns the pixels that count for each pixel of the result, and their weights, both of length `after`."""
    place = ((np.arange(after) + 0.5) * (before / after) - 0.5).astype(FLOAT32)
    first = np.floor(place)
    part = place - first
    if interp == _LINEAR:
        # Before the first and beyond the last middle of a pixel there is nothing to interpolate.
        part[(first < 0) | (first >= before - 1)] = 0
        weights = {0: 1 - part, 1: part}
    else:
        weights = {step: _cubic(np.abs(part - step)) for step in (-1, 0, 1, 2)}
    return [
        (np.clip(first + step, 0, before - 1).astype(np.int64), weight.astype(FLOAT32))
        for step, weight in weights.items()
    ]


def _interpolate(
    data: str,
    axis: int,
    taps: Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    following: int,
    w: OnnxWriter,
) -> str:
    """Interpolates along one axis, which `following` axes come after.

    Resize would want the channels first. ONNX Runtime then moves the transposition through a cubic one, and refuses it.
    """
    total = ""
    for places, weights in taps:
        pixels = w.node("Gather", [data, w.constant(places)], axis=axis)
        weighted = w.node("Mul", [pixels, w.constant(weights.reshape((-1,) + (1,) * following))])
        total = w.node("Add", [total, weighted]) if total else weighted
    return total


def _cubic(distance: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns the weight of a pixel: the cubic convolution of Keys (1981) with a = -0.75."""
    a, d = -0.75, distance.astype(np.float64)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
