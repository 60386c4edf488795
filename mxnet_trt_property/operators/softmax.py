"""The softmax family, the loss layers that are a softmax or a sigmoid at inference, and their dropped labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import NUMBERS, check_dtype, dtype_of, positive, recast, shape_of
from mxnet_trt_property.operators.registry import FLOATS, NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class SoftmaxParameters(Parameters):
    """Parameters of softmax, softmin and log_softmax."""

    axis: int = -1
    temperature: Optional[float] = None
    dtype: Optional[str] = None
    use_length: Optional[bool] = False


def _check_softmax(params: SoftmaxParameters, node: NodeInfo) -> Optional[str]:
    if params.dtype not in (None, *(d.name for d in FLOATS)):
        return reason("dtype", found=params.dtype, required="None or float32 or float16")
    if params.temperature is not None and not 0 < params.temperature < math.inf:
        # MXNet takes the largest element for the one whose exponential is 1, and others overflow.
        return reason("temperature", found=params.temperature, required="a positive number")
    # MXNet has lengths for softmax only, and as integers.
    if params.use_length and node.inputs[0].shape is None:
        return needs_shape("size of the axis")
    return check_dtype("input 0", node.inputs[0], FLOATS)


def _before_end(params: SoftmaxParameters, node: NodeInfo, length: str, w: OnnxWriter) -> str:
    """Writes which elements along the axis come before the length of their row."""
    shape = shape_of(node.inputs[0])
    axis = positive(params.axis, len(shape))
    positions = np.arange(shape[axis], dtype=dtype_of(node.inputs[1])).reshape(
        [-1 if i == axis else 1 for i in range(len(shape))]
    )
    # A vector has one length, of shape (1,).
    limits = w.unsqueeze(length, (axis,)) if len(shape) > 1 else length
    return w.node("Less", [w.constant(positions), limits])


@operator("softmax", parameters=SoftmaxParameters, check=_check_softmax, dtypes=NUMBERS)
@operator("softmin", parameters=SoftmaxParameters, check=_check_softmax, dtypes=NUMBERS)
@operator("log_softmax", parameters=SoftmaxParameters, check=_check_softmax, dtypes=NUMBERS)
def _softmax(params: SoftmaxParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data, dtype = inputs[0], dtype_of(node.inputs[0])
    result_dtype = dtype_of(node.outputs[0])
    if (dtype, result_dtype) == (FLOATS[1], FLOATS[0]):
        data, dtype = w.cast(data, result_dtype), result_dtype
    if node.op == "softmin":
        data = w.node("Neg", [data])
    if params.temperature not in (None, 1.0):
        data = w.node("Div", [data, w.scalar(params.temperature or 1.0, dtype)])
    mask = _before_end(params, node, inputs[1], w) if params.use_length else ""
    if mask:
        data = w.node("Where", [mask, data, w.scalar(-math.inf, dtype)])
    # TensorRT's softmax is one of tensors of two axes or more.
    is_vector = len(shape_of(node.inputs[0])) == 1
    data = w.unsqueeze(data, (0,)) if is_vector else data
    op_type = "LogSoftmax" if node.op == "log_softmax" else "Softmax"
    result = w.node(op_type, [data], axis=-1 if is_vector else params.axis)
    result = w.squeeze(result, (0,)) if is_vector else result
    if mask:
        # A row of length 0 is no number to the softmax.
        result = w.node("Where", [mask, result, w.scalar(0.0, dtype)])
    return [recast(result, dtype, result_dtype, w)]


@dataclass(frozen=True)
class SoftmaxOutputParameters(Parameters):
    """Parameters of SoftmaxOutput; the others shape its gradient only."""

    IGNORED = Parameters.IGNORED | {
        "grad_scale",
        "ignore_label",
        "use_ignore",
        "normalization",
        "out_grad",
        "smooth_alpha",
    }

    multi_output: bool = False
    preserve_shape: bool = False


def _check_instance(node: NodeInfo) -> Optional[str]:
    """Refuses a softmax over 'the instance' of more than one axis.

    MXNet's builds disagree about it: on a GPU it goes over all axes after the first, on a CPU (where oneDNN
    does it) over the last one.
    """
    shape = node.inputs[0].shape
    if shape is None:
        return needs_shape("number of axes")
    if len(shape) != 2:
        return reason("number of axes", found=len(shape), required="2 where no mode names the axis")
    return None


def _check_softmax_output(params: SoftmaxOutputParameters, node: NodeInfo) -> Optional[str]:
    return None if params.multi_output or params.preserve_shape else _check_instance(node)


@operator("SoftmaxOutput", parameters=SoftmaxOutputParameters, check=_check_softmax_output, ignored=(1,))
def _softmax_output(
    params: SoftmaxOutputParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    # multi_output comes first where both are set.
    return [w.node("Softmax", inputs[:1], axis=1 if params.multi_output else -1)]


@dataclass(frozen=True)
class SoftmaxActivationParameters(Parameters):
    """Parameters of SoftmaxActivation."""

    mode: str = "instance"


def _check_softmax_activation(params: SoftmaxActivationParameters, node: NodeInfo) -> Optional[str]:
    return None if params.mode == "channel" else _check_instance(node)


@operator("SoftmaxActivation", parameters=SoftmaxActivationParameters, check=_check_softmax_activation)
def _softmax_activation(
    params: SoftmaxActivationParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    return [w.node("Softmax", inputs, axis=1)]


@dataclass(frozen=True)
class RegressionOutputParameters(Parameters):
    """The regression outputs have parameters of their gradient only."""

    IGNORED = Parameters.IGNORED | {"grad_scale"}


@operator("LogisticRegressionOutput", parameters=RegressionOutputParameters, ignored=(1,))
def _logistic(
    params: RegressionOutputParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    return [w.node("Sigmoid", inputs[:1])]


@operator("LinearRegressionOutput", parameters=RegressionOutputParameters, ignored=(1,))
@operator("MAERegressionOutput", parameters=RegressionOutputParameters, ignored=(1,))
def _linear(params: RegressionOutputParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [inputs[0]]
