"""The softmax family, the loss layers that are a softmax or a sigmoid at inference, and their dropped labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import dtype_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class SoftmaxParameters(Parameters):
    """Parameters of softmax, softmin and log_softmax."""

    axis: int = -1
    temperature: Optional[float] = None
    dtype: Optional[str] = None
    use_length: Optional[bool] = False


def _check_softmax(params: SoftmaxParameters, node: NodeInfo) -> Optional[str]:
    if params.use_length:
        return reason("use_length", found=True, required=False)
    if params.temperature is not None and params.temperature <= 0:
        # MXNet takes the largest element for the one whose exponential is 1, and others overflow.
        return reason("temperature", found=params.temperature, required="more than 0")
    found = node.inputs[0].dtype
    if params.dtype is not None and (found is None or found.name != params.dtype):
        return reason("dtype", found=params.dtype, required=f"None or the input's, {found or 'unknown'}")
    return None


@operator("softmax", parameters=SoftmaxParameters, check=_check_softmax)
@operator("softmin", parameters=SoftmaxParameters, check=_check_softmax)
@operator("log_softmax", parameters=SoftmaxParameters, check=_check_softmax)
def _softmax(params: SoftmaxParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data = inputs[0]
    if node.op == "softmin":
        data = w.node("Neg", [data])
    if params.temperature is not None and params.temperature != 1:
        data = w.node("Div", [data, w.scalar(params.temperature, dtype_of(node.inputs[0]))])
    return [w.node("LogSoftmax" if node.op == "log_softmax" else "Softmax", [data], axis=params.axis)]


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
