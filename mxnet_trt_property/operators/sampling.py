"""Sampling of images on a grid: GridGenerator, BilinearSampler, SpatialTransformer; and Correlation of two images.

Grid coordinates go from -1, the middle of the first pixel, to 1, the middle of the last, and outside the image is 0: in
ONNX's GridSample that is align_corners with padding by zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class GridGeneratorParameters(Parameters):
    """Parameters of GridGenerator; `target_shape` is (height, width), and means nothing to a warp."""

    transform_type: str
    target_shape: tuple[int, ...] = (0, 0)


@dataclass(frozen=True)
class SpatialTransformerParameters(Parameters):
    """Parameters of SpatialTransformer, whose only transformation is affine and whose only sampler is bilinear."""

    transform_type: str
    sampler_type: str
    target_shape: tuple[int, ...] = (0, 0)


def _check_sizes(sizes: Sequence[int]) -> Optional[str]:
    # The distance between two points is divided by 0 there, and MXNet's grid is NaN.
    if 1 in sizes:
        return reason("size of the grid", found=tuple(sizes), required="2 points or more on each axis")
    return None


def _check_generator(params: GridGeneratorParameters, node: NodeInfo) -> Optional[str]:
    if params.transform_type == "affine":
        return _check_sizes(params.target_shape)
    shape = node.inputs[0].shape
    return needs_shape("size of the grid") if shape is None else _check_sizes(shape[2:])


# MXNet has these operators for float32 only, but for the sampler, whose places in float16 are too coarse to compare.
@operator("GridGenerator", parameters=GridGeneratorParameters, check=_check_generator, dtypes=(FLOAT32,))
def _grid_generator(
    params: GridGeneratorParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    if params.transform_type == "affine":
        return [_affine(inputs[0], shape_of(node.outputs[0]), w)]
    height, width = shape_of(node.inputs[0])[2:]
    rows, columns = np.indices((height, width))
    moved = w.node("Add", [inputs[0], w.constant(np.stack([columns, rows]).astype(FLOAT32))])
    halves = np.array([(width - 1) / 2, (height - 1) / 2], FLOAT32).reshape(1, 2, 1, 1)
    return [w.node("Sub", [w.node("Div", [moved, w.constant(halves)]), w.scalar(1, FLOAT32)])]


def _affine(matrix: str, shape: Sequence[int], w: OnnxWriter) -> str:
    """Returns the grid (batch, 2, height, width) that matrices (batch, 6) make of the regular one."""
    batch, _, height, width = shape
    rows, columns = np.indices((height, width))
    regular = np.stack([columns * 2 / (width - 1) - 1, rows * 2 / (height - 1) - 1, np.ones_like(rows)])
    points = w.constant(regular.reshape(3, -1).astype(FLOAT32))
    return w.reshape(w.node("MatMul", [w.reshape(matrix, (batch, 2, 3)), points]), (batch, 2, height, width))


def _sample(data: str, grid: str, w: OnnxWriter) -> str:
    last = w.transpose(grid, (0, 2, 3, 1))
    return w.node("GridSample", [data, last], mode="bilinear", padding_mode="zeros", align_corners=1)


@operator("BilinearSampler", dtypes=(FLOAT32,))
def _bilinear_sampler(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [_sample(inputs[0], inputs[1], w)]


def _check_transformer(params: SpatialTransformerParameters, node: NodeInfo) -> Optional[str]:
    return _check_sizes(params.target_shape)


@operator("SpatialTransformer", parameters=SpatialTransformerParameters, check=_check_transformer, dtypes=(FLOAT32,))
def _spatial_transformer(
    params: SpatialTransformerParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    data, matrix = inputs
    batch, _, *sizes = shape_of(node.outputs[0])
    return [_sample(data, _affine(matrix, (batch, 2, *sizes), w), w)]


@dataclass(frozen=True)
class CorrelationParameters(Parameters):
    """Parameters of Correlation; without `is_multiply` absolute differences are averaged."""

    kernel_size: int = 1
    max_displacement: int = 1
    stride1: int = 1
    stride2: int = 1
    pad_size: int = 0
    is_multiply: bool = True


@operator("Correlation", parameters=CorrelationParameters, dtypes=(FLOAT32,))
def _correlation(params: CorrelationParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    """Correlates a row of displacements at a time, which bounds both the count of nodes and the memory."""
    pads = [0, 0, params.pad_size, params.pad_size]
    first, second = (w.pad(name, pads, pads) for name in inputs)
    batch, _, *counts = shape_of(node.outputs[0])
    # How many pixels a window starts at, and all windows cover.
    height, width = ((count - 1) * params.stride1 + params.kernel_size for count in counts)
    radius = params.max_displacement // params.stride2
    moves = np.arange(-radius, radius + 1) * params.stride2 + params.max_displacement
    # (batch, channels, height, width, 1) beside (batch, channels, height, width, displacements).
    start, size = params.max_displacement, (height, width)
    fixed = w.slice(first, (2, 3), (start, start), (start + size[0], start + size[1]), (1, 1))
    fixed = w.unsqueeze(fixed, [4])
    places = w.constant(np.arange(width)[:, None] + moves)
    found = []
    for move in moves.tolist():
        rows = w.slice(second, (2,), (move,), (move + height,), (1,))
        shifted = w.node("Gather", [rows, places], axis=3)
        if params.is_multiply:
            pairs = w.node("Mul", [fixed, shifted])
        else:
            pairs = w.node("Abs", [w.node("Sub", [fixed, shifted])])
        means = w.transpose(w.reduce("ReduceMean", pairs, [1], keepdims=False), (0, 3, 1, 2))
        if params.kernel_size > 1 or params.stride1 > 1:
            means = w.node("AveragePool", [means], kernel_shape=[params.kernel_size] * 2, strides=[params.stride1] * 2)
        found.append(means)
    return [w.node("Concat", found, axis=1) if len(found) > 1 else found[0]]
