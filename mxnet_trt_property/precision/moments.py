"""Means and variances of channels, as far as a model itself tells them: by its batch normalizations.

Behind a batch normalization a channel has the mean beta and the deviation |gamma|, and on the way to the next layer
numbers are taken as normal and independent. So no sample is needed, and a model always gives the same numbers. The
formulas of rectified normal numbers are those of Nagel et al., Data-Free Quantization Through Weight Equalization and
Bias Correction, 2019, section 4.2.1 and its appendix, https://arxiv.org/abs/1906.04721.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple, Optional

import numpy as np
import onnx
from onnx import numpy_helper

Array = np.ndarray[Any, Any]


class Moments(NamedTuple):
    """Of each channel, which is axis 1, in float64.

    Attributes:
        mean: The means.
        variance: The variances.
    """

    mean: Array
    variance: Array


def channel_moments(graph: onnx.GraphProto) -> dict[str, Moments]:
    """Returns the moments of the values for which the graph tells them, by name.

    Args:
        graph: Before its batch normalizations are folded, with inferred shapes.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    found: dict[str, Moments] = {}
    with np.errstate(invalid="ignore", over="ignore"):  # of networks with infinity or NaN in their parameters
        for node in graph.node:
            if node.op_type == "BatchNormalization":
                moments = _normalized(node, constants)
            else:
                moments = _behind(node, found, constants, shapes)
            if moments is not None:
                found[node.output[0]] = moments
    return found


def _normalized(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Optional[Moments]:
    if not {*node.input[1:3]} <= constants.keys():
        return None
    gamma, beta = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:3])
    return Moments(beta, gamma**2)


def _behind(
    node: onnx.NodeProto,
    known: Mapping[str, Moments],
    constants: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, list[int]],
) -> Optional[Moments]:
    """Returns the moments of a node's first output, or None."""
    inputs = [known[name] for name in node.input if name in known]
    attributes = {a.name: list(a.ints) or a.i for a in node.attribute}
    if not inputs:
        return None
    if node.op_type in ("Identity", "GlobalAveragePool"):
        return inputs[0]
    if node.op_type == "Relu":
        return _clipped(inputs[0], 0.0, math.inf)
    if node.op_type == "Clip":
        return _clipped(inputs[0], *_limits(node, constants))
    if node.op_type in ("MaxPool", "AveragePool"):
        return _pooled(
            node.op_type, inputs[0], attributes, shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        )
    if node.op_type == "Flatten":
        return _flattened(inputs[0], shapes.get(node.output[0], []))
    if len(inputs) < len(node.input):
        return None
    if node.op_type in ("Add", "Sum") and len({moments.mean.shape for moments in inputs}) == 1:
        return Moments(sum(m.mean for m in inputs), sum(m.variance for m in inputs))  # type: ignore[arg-type]
    if node.op_type == "Concat" and attributes["axis"] == 1:
        return Moments(np.concatenate([m.mean for m in inputs]), np.concatenate([m.variance for m in inputs]))
    return None


def _limits(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, float]:
    names = dict(enumerate(node.input))
    low, high = constants.get(names.get(1, "")), constants.get(names.get(2, ""))
    return (
        -math.inf if low is None else float(numpy_helper.to_array(low)),
        math.inf if high is None else float(numpy_helper.to_array(high)),
    )


def _clipped(moments: Moments, low: float, high: float) -> Moments:
    """Returns the moments of min(max(x, low), high) of normal x: low + max(0, x - low) - max(0, x - high)."""
    if math.isinf(low):
        low, mean, square = 0.0, moments.mean, moments.mean**2 + moments.variance
    else:
        mean, square = _excess(moments, low)
    if not math.isinf(high):
        mean_beyond, square_beyond = _excess(moments, high)
        mean, square = mean - mean_beyond, square - square_beyond - 2 * (high - low) * mean_beyond
    return Moments(mean + low, np.maximum(square - mean**2, 0.0))


def _excess(moments: Moments, level: float) -> tuple[Array, Array]:
    """Returns the means of max(0, x - level) and of its square, for normal x."""
    mean, deviation = moments.mean - level, np.sqrt(moments.variance)
    ratio = mean / np.maximum(deviation, 1e-30)
    density = deviation * np.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    share = np.array([0.5 * (1 + math.erf(r / math.sqrt(2))) for r in ratio.tolist()])
    return mean * share + density, (mean**2 + moments.variance) * share + mean * density


def _pooled(kind: str, moments: Moments, attributes: Mapping[str, Any], before: list[int], after: list[int]) -> Moments:
    kernel = attributes["kernel_shape"]
    size = math.prod(kernel)
    if kind == "MaxPool":
        # Blom, Statistical Estimates and Transformed Beta-Variables, 1958: the largest of `size` normal numbers.
        above = NormalDist().inv_cdf((size - 0.375) / (size + 0.25))
        return Moments(moments.mean + above * np.sqrt(moments.variance), moments.variance)
    share = 1.0
    if attributes.get("count_include_pad") and all(before[2:]) and all(after[2:]):
        axes = len(kernel)
        pads, strides = attributes.get("pads") or [0] * axes, attributes.get("strides") or [1] * axes
        # How much of the windows is not border.
        for axis, (length, count) in enumerate(zip(before[2:], after[2:])):
            start = np.arange(count) * strides[axis] - pads[axis]
            inside = np.minimum(start + kernel[axis], length) - np.maximum(start, 0)
            share *= float(inside.mean()) / kernel[axis]
    return Moments(moments.mean * share, moments.variance / size)


def _flattened(moments: Moments, shape: list[int]) -> Optional[Moments]:
    """Returns the moments of the features that channels are flattened to."""
    features, channels = shape[1] if len(shape) == 2 else 0, len(moments.mean)
    if not features or features % channels:
        return None
    return Moments(*(np.repeat(part, features // channels) for part in moments))
