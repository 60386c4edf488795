"""Nonlinearities with parameters: Activation, LeakyReLU, clip and hard_sigmoid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import NUMBERS, check_scalar_fits, dtype_of, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator, reason

_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}
# rrelu is missing: it has a second visible output, the mask, which MXNet leaves unwritten at inference.
_LEAKY_TYPES = ("leaky", "prelu", "elu", "selu", "gelu")


# The constants of the paper that introduced selu.
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


@dataclass(frozen=True)
class ActivationParameters(Parameters):
    """Parameters of Activation."""

    act_type: str


@operator("Activation", parameters=ActivationParameters, zero_dim=True)
def _activation(params: ActivationParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node(_ACTIVATIONS[params.act_type], inputs)]


@dataclass(frozen=True)
class LeakyReLUParameters(Parameters):
    """Parameters of LeakyReLU; `slope` is also the alpha of elu, and the bounds serve rrelu only."""

    IGNORED = Parameters.IGNORED | {"lower_bound", "upper_bound"}

    act_type: str = "leaky"
    slope: float = 0.25


def _check_leaky_relu(params: LeakyReLUParameters, node: NodeInfo) -> Optional[str]:
    if params.act_type in _LEAKY_TYPES:
        return None
    return reason("act_type", found=params.act_type, required=" or ".join(_LEAKY_TYPES))


def _gelu(name: str, node: NodeInfo, w: OnnxWriter) -> str:
    """Writes x (1 + erf(x / sqrt 2)) / 2."""
    dtype = dtype_of(node.inputs[0])
    erf = w.node("Erf", [w.node("Mul", [name, w.scalar(math.sqrt(0.5), dtype)])])
    half = w.node("Mul", [name, w.scalar(0.5, dtype)])
    return w.node("Mul", [half, w.node("Add", [erf, w.scalar(1.0, dtype)])])


def _gamma_shape(gamma: tuple[int, ...], data: tuple[int, ...]) -> list[int]:
    """Returns the shape in which gamma broadcasts: its axes belong to the first two of the data, from axis 1 on."""
    result, left = [1] * len(data), list(gamma)
    for axis in range(min(1, len(data) - 1), -1, -1):
        if left and left[-1] in (1, data[axis]):
            result[axis] = left.pop()
    if left:
        raise ValueError(f"gamma of shape {gamma} does not broadcast to data of shape {data}")
    return result


@operator("LeakyReLU", parameters=LeakyReLUParameters, check=_check_leaky_relu, weights=(1,))
def _leaky_relu(params: LeakyReLUParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    kind, data = params.act_type, inputs[0]
    if kind == "prelu":
        slope = w.reshape(inputs[1], _gamma_shape(shape_of(node.inputs[1]), shape_of(node.inputs[0])))
        return [w.node("PRelu", [data, slope])]
    if kind == "elu":
        return [w.node("Elu", [data], alpha=params.slope)]
    if kind == "selu":
        # Not as Selu, for which TensorRT's result is 2e-5 off.
        inner = w.node("Elu", [data], alpha=_SELU_ALPHA)
        return [w.node("Mul", [inner, w.scalar(_SELU_SCALE, dtype_of(node.inputs[0]))])]
    if kind == "gelu":
        return [_gelu(data, node, w)]
    # A product with 0 would make NaN of -inf.
    return [w.node("LeakyRelu", [data], alpha=params.slope) if params.slope else w.node("Relu", [data])]


@dataclass(frozen=True)
class ClipParameters(Parameters):
    """Parameters of clip."""

    a_min: float
    a_max: float


def _check_clip(params: ClipParameters, node: NodeInfo) -> Optional[str]:
    if params.a_min > params.a_max:
        return reason("a_min", found=params.a_min, required=f"at most a_max, {params.a_max}")
    dtype = node.inputs[0].dtype
    return check_scalar_fits("a_min", params.a_min, dtype) or check_scalar_fits("a_max", params.a_max, dtype)


@operator("clip", parameters=ClipParameters, check=_check_clip, dtypes=NUMBERS, zero_dim=True)
def _clip(params: ClipParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = dtype_of(node.inputs[0])
    return [w.node("Clip", [inputs[0], w.scalar(params.a_min, dtype), w.scalar(params.a_max, dtype)])]


@dataclass(frozen=True)
class HardSigmoidParameters(Parameters):
    """Parameters of hard_sigmoid: clip(alpha x + beta, 0, 1)."""

    alpha: float = 0.200000003
    beta: float = 0.5


@operator("hard_sigmoid", parameters=HardSigmoidParameters, zero_dim=True)
def _hard_sigmoid(params: HardSigmoidParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("HardSigmoid", inputs, alpha=params.alpha, beta=params.beta)]
