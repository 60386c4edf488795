"""Deformable convolution, plain and modulated: each tap of the kernel looks where an offset says.

The taps are sampled with Gather and multiplied with the weight as a 1x1 convolution over channels times taps. The two
operators differ at the border. Plain: a place inside the image has its neighbours clamped into the image, any other
counts as 0. Modulated: neighbours outside count as 0, up to a whole pixel outside, and each sample has a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, check_weights, shape_of, spread
from mxnet_trt_property.operators.interpolation import all_of, first_rows, pixel_table, sample
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator


@dataclass(frozen=True)
class DeformableConvolutionParameters(Parameters):
    """Parameters of _contrib_DeformableConvolution; MXNet has no layout but channels first."""

    IGNORED = Parameters.IGNORED | {"layout"}

    kernel: tuple[int, ...]
    num_filter: int
    stride: tuple[int, ...] = ()
    dilate: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    num_group: int = 1
    num_deformable_group: int = 1
    no_bias: bool = False


@dataclass(frozen=True)
class ModulatedDeformableConvolutionParameters(DeformableConvolutionParameters):
    """Parameters of _contrib_ModulatedDeformableConvolution; `im2col_step` is a matter of memory."""

    IGNORED = DeformableConvolutionParameters.IGNORED | {"im2col_step"}


def _check_plain(params: DeformableConvolutionParameters, node: NodeInfo) -> Optional[str]:
    return check_weights(node, (2, 3), ("weight", "bias"))


def _check_modulated(params: DeformableConvolutionParameters, node: NodeInfo) -> Optional[str]:
    return check_weights(node, (3, 4), ("weight", "bias"))


@operator(
    "_contrib_DeformableConvolution",
    parameters=DeformableConvolutionParameters,
    check=_check_plain,
    weights=(2, 3),
    dtypes=(FLOAT32,),
)
def _plain(
    params: DeformableConvolutionParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    data, offset, *filters = inputs
    sizes = shape_of(node.inputs[0])[2:]
    y, x = _places(params, node, offset, w)
    zero = w.scalar(0, FLOAT32)
    inside = all_of(
        [w.node("GreaterOrEqual", [place, zero]) for place in (y, x)]
        + [w.node("Less", [place, w.scalar(size, FLOAT32)]) for place, size in zip((y, x), sizes)],
        w,
    )
    return [_convolve(params, node, _samples(params, node, data, (y, x), inside, 0, w), filters, w)]


@operator(
    "_contrib_ModulatedDeformableConvolution",
    parameters=ModulatedDeformableConvolutionParameters,
    check=_check_modulated,
    weights=(3, 4),
    dtypes=(FLOAT32,),
)
def _modulated(
    params: ModulatedDeformableConvolutionParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    data, offset, mask, *filters = inputs
    sizes = shape_of(node.inputs[0])[2:]
    places = _places(params, node, offset, w)
    inside = all_of(
        [w.node("Greater", [place, w.scalar(-1, FLOAT32)]) for place in places]
        + [w.node("Less", [place, w.scalar(size, FLOAT32)]) for place, size in zip(places, sizes)],
        w,
    )
    # In an image with a border of zeros no neighbour is outside.
    padded = w.pad(data, [0, 0, 1, 1], [0, 0, 1, 1])
    y, x = (w.node("Add", [place, w.scalar(1, FLOAT32)]) for place in places)
    samples = _samples(params, node, padded, (y, x), inside, 1, w)
    batch, _, height, width = shape_of(node.outputs[0])
    shape = (batch, params.num_deformable_group, prod(params.kernel), height, width, 1)
    return [_convolve(params, node, w.node("Mul", [samples, w.reshape(mask, shape)]), filters, w)]


def _places(params: DeformableConvolutionParameters, node: NodeInfo, offset: str, w: OnnxWriter) -> tuple[str, str]:
    """Returns the vertical and horizontal place of each tap: (batch, groups of offsets, taps, height, width)."""
    batch, _, *counts = shape_of(node.outputs[0])
    strides, dilations, pads = spread(params.stride, 1, 2), spread(params.dilate, 1, 2), spread(params.pad, 0, 2)
    pairs = w.reshape(offset, (batch, params.num_deformable_group, prod(params.kernel), 2, *counts))
    found = []
    for axis in (0, 1):
        taps = np.indices(params.kernel)[axis].reshape(-1, 1, 1) * dilations[axis]
        starts = np.indices(counts)[axis] * strides[axis] - pads[axis]
        moves = w.node("Gather", [pairs, w.constant(np.array(axis))], axis=3)
        found.append(w.node("Add", [moves, w.constant((taps + starts).astype(FLOAT32))]))
    return found[0], found[1]


def _samples(
    params: DeformableConvolutionParameters,
    node: NodeInfo,
    data: str,
    places: tuple[str, str],
    inside: str,
    border: int,
    w: OnnxWriter,
) -> str:
    """Returns (batch, groups of offsets, taps, height, width, channels of a group); 0 for what is not inside."""
    batch, channels, *sizes = shape_of(node.inputs[0])
    groups = params.num_deformable_group
    height, width = (size + 2 * border for size in sizes)
    table = pixel_table(data, (batch, groups), channels // groups, (height, width), w)
    first = first_rows(batch * groups, (height, width), (batch, groups, 1, 1, 1), w)
    zero = w.scalar(0, FLOAT32)
    # A place that is far outside or not a number has no pixel to fetch.
    y, x = (w.node("Where", [inside, place, zero]) for place in places)
    found = sample(table, first, y, x, (height, width), "", w)
    return w.node("Where", [w.unsqueeze(inside, [-1]), found, zero])


def _convolve(
    params: DeformableConvolutionParameters, node: NodeInfo, samples: str, filters: Sequence[str], w: OnnxWriter
) -> str:
    batch, channels, *_ = shape_of(node.inputs[0])
    _, count, height, width = shape_of(node.outputs[0])
    taps = prod(params.kernel)
    columns = w.reshape(w.transpose(samples, (0, 1, 5, 2, 3, 4)), (batch, channels * taps, height, width))
    weight = w.reshape(filters[0], (count, channels // params.num_group * taps, 1, 1))
    return w.node("Conv", [columns, weight, *filters[1:]], kernel_shape=[1, 1], group=params.num_group)
