"""Rounding of weights to float16 that keeps the mean of each output channel.

What comes out of a ReLU is positive on the average, so that the rounding errors of a filter's weights and of its bias
add up to a shift of the whole channel, the same at every place: neither pooling nor the next layer averages it away.
Therefore of each filter some weights are rounded to their other neighbour, until the errors times the mean inputs are 0
in the sum. It is the shift that Nagel et al. take out of the bias (https://arxiv.org/abs/1906.04721, section 4.2); a
bias of float16 lacks the bits for that, a filter has many weights.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Collection, Mapping
from typing import Any, Optional

import numpy as np
import onnx
from onnx import numpy_helper

from mxnet_trt_property.precision.graphs import inner_graphs, reads
from mxnet_trt_property.precision.moments import Moments

Array = np.ndarray[Any, Any]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
# So many weights of n may go to their other neighbour, times the root of n: n errors sum up to some sqrt(n / 12) steps.
_CANDIDATES = 4
# So many weights are rounded at once that what is computed on the way stays in a processor's cache.
_BLOCK = 1 << 18


def round_weights(graph: onnx.GraphProto, wide: Collection[str], moments: Mapping[str, Moments]) -> None:
    """Rounds the weights that are read in float16 to numbers that float16 has; the tensors stay float32.

    Args:
        graph: The graph, its batch normalizations folded.
        wide: The nodes (by name) that stay in float32.
        moments: Those of values, as far as they are known. The channels of other inputs are taken to have equal means.
    """
    constants = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    uses = collections.Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    uses.update(name for node in graph.node for inner in inner_graphs(node) for name in reads(inner))
    for node in graph.node:
        if node.op_type not in _WEIGHTED or node.name in wide:
            continue
        tensor = constants.get(node.input[1])
        # A weight of several layers has several mean inputs; it is left to be rounded to the nearest.
        if tensor is None or uses[tensor.name] > 1 or 0 in tensor.dims:
            continue
        weight = numpy_helper.to_array(tensor)
        bias = constants.get(node.input[2]) if len(node.input) > 2 else None
        rounded = np.empty_like(weight)
        by_filters = _by_filters(node, weight)
        _by_filters(node, rounded)[...] = _rounded(by_filters, bias, moments.get(node.input[0]))
        tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))


def _by_filters(node: onnx.NodeProto, weight: Array) -> Array:
    """Returns a view as (groups, filters of a group, inputs of a group, elements of a window)."""
    integers = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    if node.op_type == "Gemm":
        return (weight if integers.get("transB") else weight.T)[None, :, :, None]
    groups = integers.get("group", 1)
    view = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], math.prod(weight.shape[2:]))
    return view if node.op_type == "Conv" else view.swapaxes(1, 2)


def _rounded(weight: Array, bias: Optional[onnx.TensorProto], moments: Optional[Moments]) -> Array:
    """Returns the rounded weights of a layer, of the shape of `weight`: that of _by_filters."""
    groups, filters, inputs, window = weight.shape
    means, shift = np.ones(groups * inputs), np.zeros(groups * filters)
    # Those that float16 cannot hold, NaN among them, tell nothing.
    if (
        moments is not None
        and moments.mean.size == means.size
        and bool((np.abs(moments.mean) <= np.finfo(np.float16).max).all())
    ):
        means = moments.mean
        exact = np.zeros(0) if bias is None else numpy_helper.to_array(bias).astype(np.float64).ravel()
        if exact.size == shift.size:
            shift = exact.astype(np.float16) - exact
    scale = np.repeat(means.astype(np.float32).reshape(groups, inputs), window, axis=1)
    rows = weight.reshape(groups * filters, inputs * window)
    return round_filters(rows, np.repeat(scale, filters, axis=0) if groups > 1 else scale, shift).reshape(weight.shape)


def round_filters(filters: Array, scale: Array, shift: Array) -> Array:
    """Rounds filters to float16 so that of each the sum of errors times `scale`, and `shift`, is near 0.

    Each weight goes to one of its two neighbours in float16, and what float16 has stays as it is. Those nearest to the
    middle between two neighbours are taken first: there the other neighbour costs least.

    Args:
        filters: Weights, float32 of shape (filters, elements), at most 65504.
        scale: What an error counts, float32 of shape (filters, elements) or, for all filters, (1, elements).
        shift: What there is besides, float64 of shape (filters,).

    Returns:
        The rounded weights, in float32.
    """
    count, size = filters.shape
    result = np.empty_like(filters)
    rows = max(1, _BLOCK // size)
    with np.errstate(invalid="ignore", divide="ignore"):  # a filter with NaN is rounded to the nearest
        for start in range(0, count, rows):
            block = slice(start, start + rows)
            result[block] = _round_block(filters[block], scale if len(scale) == 1 else scale[block], shift[block])
    return result


def _round_block(weights: Array, scale: Array, shift: Array) -> Array:
    rounded = weights.astype(np.float16).astype(np.float32)
    counted = (rounded - weights) * scale
    total = (counted.sum(axis=1, dtype=np.float64) + shift)[:, None]
    sign = np.sign(total).astype(np.float32)
    size = weights.shape[1]
    wanted = min(size, _CANDIDATES * math.isqrt(size))
    # The largest errors on the side of the sum.
    picks = (
        np.argpartition(counted * sign, size - wanted, axis=1)[:, size - wanted :] if wanted < size else _all(weights)
    )
    weight, nearest = np.take_along_axis(weights, picks, 1), np.take_along_axis(rounded, picks, 1)
    other = _other_neighbour(weight, nearest)
    change = (other - nearest) * np.take_along_axis(np.broadcast_to(scale, weights.shape), picks, 1)
    change[~(change * sign < 0)] = 0
    # How much the squared error grows, by what it is good for.
    cost = ((other - weight) ** 2 - (nearest - weight) ** 2) / np.abs(change)
    order = np.argsort(np.where(change == 0, np.inf, cost), axis=1, kind="stable")
    picks, nearest, other, change = (np.take_along_axis(a, order, 1) for a in (picks, nearest, other, change))
    left = np.concatenate((total, total + np.cumsum(change, axis=1, dtype=np.float64)), axis=1)
    count = np.abs(left).argmin(axis=1)[:, None]
    is_taken = np.arange(wanted) < count
    # And one of the rest, for what is left then.
    left = np.take_along_axis(left, count, 1)
    after = np.where(is_taken, np.inf, np.abs(left + change))
    last = after.argmin(axis=1)[:, None]
    is_taken |= (np.arange(wanted) == last) & (np.take_along_axis(after, last, 1) < np.abs(left))
    np.put_along_axis(rounded, picks, np.where(is_taken, other, nearest), 1)
    return rounded


def _all(weights: Array) -> Array:
    return np.broadcast_to(np.arange(weights.shape[1]), weights.shape)


def _other_neighbour(weight: Array, nearest: Array) -> Array:
    """Returns the number of float16 on the other side of each weight; where float16 has the weight, the weight."""
    size, rounded = np.abs(weight), np.abs(nearest)
    bits = rounded.astype(np.float16).view(np.uint16)
    other = bits + (rounded < size).astype(np.uint16) - (rounded > size).astype(np.uint16)
    return np.copysign(other.view(np.float16).astype(np.float32), weight)
