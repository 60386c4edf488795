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
from mxnet_trt_property.operators.common import check_layout, dtype_of, shape_of, spread
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class PoolingParameters(Parameters):
    """Parameters of Pooling; an unset `count_include_pad` means True."""

    kernel: tuple[int, ...] = ()
    pool_type: str = "max"
    global_pool: bool = False
    pooling_convention: str = "valid"
    stride: tuple[int, ...] = ()
    pad: tuple[int, ...] = ()
    p_value: Optional[int] = None
    count_include_pad: Optional[bool] = None
    layout: Optional[str] = None


def _check_pooling(params: PoolingParameters, node: NodeInfo) -> Optional[str]:
    refusal = check_layout(params.layout)
    if refusal is None and params.pool_type == "lp" and params.p_value not in (1, 2):
        refusal = reason("p_value", found=params.p_value, required="1 or 2")
    if refusal is not None or params.global_pool:
        return refusal
    if not 1 <= len(params.kernel) <= 3:
        return reason("number of spatial axes", found=len(params.kernel), required="1, 2 or 3")
    # 'same' runs on no CPU build of MXNet, so nothing could show that a conversion is right.
    if params.pooling_convention not in ("valid", "full"):
        return reason("pooling_convention", found=params.pooling_convention, required="valid or full")
    ndim = len(params.kernel)
    pads, strides = spread(params.pad, 0, ndim), spread(params.stride, 1, ndim)
    if any(p >= k for p, k in zip(pads, params.kernel)):
        return reason("pad", found=tuple(pads), required=f"less than the kernel {params.kernel} on each axis")
    if params.pooling_convention == "full":
        return _check_overhang(params.kernel, strides, pads, node.inputs[0].shape)
    return None


def _check_overhang(
    kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], shape: Optional[tuple[int, ...]]
) -> Optional[str]:
    """Refuses a last window wholly outside the input: MXNet gives the lowest number there, ONNX -inf or NaN."""
    if all(s + p <= k for k, s, p in zip(kernel, strides, pads)):
        return None
    if shape is None:
        return needs_shape("pooling_convention full with a stride that may step over the input's end")
    for k, s, p, x in zip(kernel, strides, pads, shape[2:]):
        last = -(-(x + 2 * p - k) // s) * s - p
        if last >= x:
            return reason("last window of pooling_convention full", found=f"start {last}", required=f"less than {x}")
    return None


@operator("Pooling", parameters=PoolingParameters, check=_check_pooling)
def _pooling(params: PoolingParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data = inputs[0]
    is_square = params.pool_type == "lp" and params.p_value == 2
    if is_square:
        data = w.node("Mul", [data, data])
    kind = "sum" if params.pool_type == "lp" else params.pool_type
    pooled = _global(kind, node, data, w) if params.global_pool else _windows(kind, params, node, data, w)
    return [w.node("Sqrt", [pooled]) if is_square else pooled]


def _global(kind: str, node: NodeInfo, data: str, w: OnnxWriter) -> str:
    if kind == "sum":
        return w.reduce("ReduceSum", data, range(2, len(shape_of(node.inputs[0]))), keepdims=True)
    return w.node("GlobalMaxPool" if kind == "max" else "GlobalAveragePool", [data])


def _windows(kind: str, params: PoolingParameters, node: NodeInfo, data: str, w: OnnxWriter) -> str:
    ndim = len(params.kernel)
    strides, pads = spread(params.stride, 1, ndim), spread(params.pad, 0, ndim)
    sizes, counts = shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:]
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


@dataclass(frozen=True)
class AdaptiveAvgPooling2DParameters(Parameters):
    """Parameters of _contrib_AdaptiveAvgPooling2D; an empty `output_size` is (1, 1)."""

    output_size: tuple[int, ...] = ()


def _output_size(params: AdaptiveAvgPooling2DParameters) -> tuple[int, int]:
    size = params.output_size or (1,)
    return (size[0], size[-1])


def _check_adaptive(params: AdaptiveAvgPooling2DParameters, node: NodeInfo) -> Optional[str]:
    target, shape = _output_size(params), node.inputs[0].shape
    if target == (1, 1):
        return None
    if shape is None:
        return needs_shape("output_size")
    # Windows of unequal size, which other ratios have, cannot be said in ONNX.
    if any(size % count for size, count in zip(shape[2:], target)):
        return reason("output_size", found=target, required=f"divisors of the input's size {shape[2:]}")
    return None


@operator("_contrib_AdaptiveAvgPooling2D", parameters=AdaptiveAvgPooling2DParameters, check=_check_adaptive)
def _adaptive(
    params: AdaptiveAvgPooling2DParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    target = _output_size(params)
    if target == (1, 1):
        return [w.node("GlobalAveragePool", inputs)]
    window = [size // count for size, count in zip(shape_of(node.inputs[0])[2:], target)]
    return [w.node("AveragePool", inputs, kernel_shape=window, strides=window)]
