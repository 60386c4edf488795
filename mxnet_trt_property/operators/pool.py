r"""Pooling over windows, over whole planes and to a given size.

With input size x, kernel k, stride s and pad p, the windows start at -p, s - p, 2 s - p, ... and there are

    valid:  floor((x + 2 p - k) / s) + 1        full:  ceil((x + 2 p - k) / s) + 1

of them. 'full' may reach beyond x + p; this file calls that part the overhang. The pads written to ONNX are
explicit and the rounding is always down: engines disagree on what rounding up counts.

An average is divided by the window's size without the overhang (count_include_pad, the default), or by what lies
inside the input. ONNX either counts every pad or none, so in the first case all is counted and the mean is multiplied
by kernel size / elements that count, a constant. (A Pad node in front would say the same, but ONNX Runtime 1.19 merges
it into the pooling node and then counts wrong.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import (
    channels_first,
    channels_last,
    dtype_of,
    is_channels_last,
    shape_of,
    spatial_sizes,
    spread,
    sum_places,
)
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class PoolingV1Parameters(Parameters):
    """Parameters of Pooling_v1, which MXNet has for two spatial axes."""

    kernel: tuple[int, ...] = ()
    pool_type: str = "max"
    global_pool: bool = False
    pooling_convention: str = "valid"
    stride: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()


@dataclass(frozen=True)
class PoolingParameters(PoolingV1Parameters):
    """Parameters of Pooling; an unset `count_include_pad` means True."""

    p_value: Optional[int] = None
    count_include_pad: Optional[bool] = None
    layout: Optional[str] = None


def _check_pooling(params: PoolingParameters, node: NodeInfo) -> Optional[str]:
    if params.pool_type == "lp" and params.p_value not in (1, 2, 3):
        return reason("p_value", found=params.p_value, required="1, 2 or 3")
    if params.global_pool:
        return None
    # 'same' runs on no CPU build of MXNet, so nothing could show that a conversion is right.
    if params.pooling_convention not in ("valid", "full"):
        return reason("pooling_convention", found=params.pooling_convention, required="valid or full")
    ndim = len(params.kernel)
    pads, strides = spread(params.pad, 0, ndim), spread(params.stride, 1, ndim)
    if any(p >= k for p, k in zip(pads, params.kernel)):
        return reason("pad", found=tuple(pads), required=f"less than the kernel {params.kernel} on each axis")
    if params.pooling_convention == "full":
        shape = node.inputs[0].shape
        sizes = None if shape is None else spatial_sizes(shape, params.layout)
        return _check_overhang(params.kernel, strides, pads, sizes)
    return None


def _check_overhang(
    kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], sizes: Optional[Sequence[int]]
) -> Optional[str]:
    """Refuses a last window wholly outside the input: MXNet gives the lowest number there, ONNX -inf or NaN."""
    if all(s + p <= k for k, s, p in zip(kernel, strides, pads)):
        return None
    if sizes is None:
        return needs_shape("pooling_convention full with a stride that may step over the input's end")
    for k, s, p, x in zip(kernel, strides, pads, sizes):
        last = -(-(x + 2 * p - k) // s) * s - p
        if last >= x:
            return reason("last window of pooling_convention full", found=f"start {last}", required=f"less than {x}")
    return None


@operator("Pooling", parameters=PoolingParameters, check=_check_pooling)
def _pooling(params: PoolingParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    data = channels_first(inputs[0], ndim, w) if is_channels_last(params.layout) else inputs[0]
    exponent = params.p_value if params.pool_type == "lp" else 1
    base = data
    for _ in range(1, exponent or 1):
        data = w.node("Mul", [data, base])
    kind = "sum" if params.pool_type == "lp" else params.pool_type
    pooled = _global(kind, ndim, data, w) if params.global_pool else _windows(kind, params, node, data, w)
    if exponent == 2:
        pooled = w.node("Sqrt", [pooled])
    elif exponent == 3:
        third = w.scalar(1 / 3, dtype_of(node.inputs[0]))
        # MXNet cubes values with their sign, and Pow has no root of a negative number.
        pooled = w.node("Mul", [w.node("Sign", [pooled]), w.node("Pow", [w.node("Abs", [pooled]), third])])
    return [channels_last(pooled, ndim, w) if is_channels_last(params.layout) else pooled]


def _global(kind: str, ndim: int, data: str, w: OnnxWriter) -> str:
    if kind == "sum":
        return w.reduce("ReduceSum", data, range(2, ndim), keepdims=True)
    return w.node("GlobalMaxPool" if kind == "max" else "GlobalAveragePool", [data])


def _windows(kind: str, params: PoolingParameters, node: NodeInfo, data: str, w: OnnxWriter) -> str:
    ndim = len(params.kernel)
    strides, pads = spread(params.stride, 1, ndim), spread(params.pad, 0, ndim)
    sizes, counts = (spatial_sizes(shape_of(tensor), params.layout) for tensor in (node.inputs[0], node.outputs[0]))
    # How far the last window reaches beyond the input and its pad; negative where 'valid' drops a rest.
    reach = [(n - 1) * s + k - x - 2 * p for n, s, k, x, p in zip(counts, strides, params.kernel, sizes, pads)]
    overhang = [max(r, 0) for r in reach]
    ends = [p + o for p, o in zip(pads, overhang)]
    attributes = {"kernel_shape": list(params.kernel), "strides": strides}
    if kind == "max":
        return w.node("MaxPool", [data], pads=pads + ends, **attributes)
    if kind == "sum":
        mean = w.node("AveragePool", [data], pads=pads + ends, count_include_pad=1, **attributes)
        return w.node("Mul", [mean, w.scalar(prod(params.kernel), dtype_of(node.inputs[0]))])
    if params.count_include_pad is False:
        return w.node("AveragePool", [data], pads=pads + ends, count_include_pad=0, **attributes)
    if any(overhang) and any(pads):
        mean = w.node("AveragePool", [data], pads=pads + ends, count_include_pad=1, **attributes)
        counted = _counted(params.kernel, strides, pads, sizes, counts)
        factors = (prod(params.kernel) / counted).astype(dtype_of(node.inputs[0]))
        return w.node("Mul", [mean, w.constant(factors)])
    return w.node("AveragePool", [data], pads=pads + ends, count_include_pad=int(not any(overhang)), **attributes)


def _counted(
    kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], sizes: Sequence[int], counts: Sequence[int]
) -> np.ndarray[Any, Any]:
    """Returns how many elements of input and pad each window holds, with two axes of length 1 in front."""
    found = np.ones((1, 1), np.float64)
    for k, s, p, x, n in zip(kernel, strides, pads, sizes, counts):
        starts = np.arange(n) * s - p
        found = found[..., None] * np.minimum(k, x + p - starts)
    return found


def _check_pooling_v1(params: PoolingV1Parameters, node: NodeInfo) -> Optional[str]:
    return _check_pooling(_newer(params), node)


def _newer(params: PoolingV1Parameters) -> PoolingParameters:
    return PoolingParameters(**vars(params))


@operator("Pooling_v1", parameters=PoolingV1Parameters, check=_check_pooling_v1)
def _pooling_v1(params: PoolingV1Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    """Pools with padding by zeros whatever is pooled, and divides by the whole kernel what is averaged."""
    dtype = dtype_of(node.inputs[0])
    if params.global_pool:
        return [_global(params.pool_type, 4, inputs[0], w)]
    if params.pool_type == "max":
        pooled = _windows("max", _newer(params), node, inputs[0], w)
        # A window that reaches into the pad holds a zero.
        return [w.node("Max", [pooled, w.constant(_least(params, node).astype(dtype))]) if any(params.pad) else pooled]
    total = _windows("sum", _newer(params), node, inputs[0], w)
    return [w.node("Div", [total, w.scalar(prod(params.kernel), dtype)]) if params.pool_type == "avg" else total]


def _least(params: PoolingV1Parameters, node: NodeInfo) -> np.ndarray[Any, Any]:
    """Returns 0 for each window that reaches into the pad, else minus infinity."""
    sizes, counts = shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:]
    is_whole = np.ones((1, 1), bool)
    for k, s, p, x, n in zip(params.kernel, spread(params.stride, 1, 2), spread(params.pad, 0, 2), sizes, counts):
        starts = np.arange(n) * s - p
        is_whole = is_whole[..., None] & ((starts >= 0) & ((starts + k <= x) | (p == 0)))
    return np.where(is_whole, -np.inf, 0.0)


@dataclass(frozen=True)
class AdaptiveAvgPooling2DParameters(Parameters):
    """Parameters of _contrib_AdaptiveAvgPooling2D; an empty `output_size` is (1, 1)."""

    output_size: tuple[int, ...] = ()


def _output_size(params: AdaptiveAvgPooling2DParameters) -> tuple[int, int]:
    size = params.output_size or (1,)
    return (size[0], size[-1])


@operator("_contrib_AdaptiveAvgPooling2D", parameters=AdaptiveAvgPooling2DParameters)
def _adaptive(
    params: AdaptiveAvgPooling2DParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    target, sizes = _output_size(params), shape_of(node.inputs[0])[2:]
    if target == (1, 1):
        return [w.node("GlobalAveragePool", inputs)]
    if not any(size % count for size, count in zip(sizes, target)):
        window = [size // count for size, count in zip(sizes, target)]
        return [w.node("AveragePool", inputs, kernel_shape=window, strides=window)]
    rows, heights = _sum_windows(inputs[0], 2, sizes[0], target[0], w)
    columns, widths = _sum_windows(rows, 3, sizes[1], target[1], w)
    counts = heights[:, None] * widths[None, :]
    return [w.node("Div", [columns, w.constant(counts.astype(dtype_of(node.inputs[0])))])]


def _sum_windows(data: str, axis: int, size: int, count: int, w: OnnxWriter) -> tuple[str, np.ndarray[Any, Any]]:
    """Sums `count` windows of one axis, window i from floor(i * size / count) to ceil((i + 1) * size / count).

    They overlap and differ in length, which no pooling of ONNX can say.

    Returns:
        The sums, and the length of each window.
    """
    index = np.arange(count)
    starts, ends = index * size // count, -(-(index + 1) * size // count)
    lengths = ends - starts
    offsets = np.arange(lengths.max())
    places = np.where(offsets < lengths[:, None], starts[:, None] + offsets, size)
    return sum_places(data, (4, axis), size, places, w), lengths
