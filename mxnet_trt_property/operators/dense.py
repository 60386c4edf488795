"""Matrix products: FullyConnected, dot and batch_dot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import shape_of, swap_last
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class FullyConnectedParameters(Parameters):
    """Parameters of FullyConnected; `flatten` merges all axes after the first."""

    num_hidden: int
    no_bias: bool = False
    flatten: bool = True


@dataclass(frozen=True)
class DotParameters(Parameters):
    """Parameters of dot and batch_dot."""

    transpose_a: bool = False
    transpose_b: bool = False
    forward_stype: Optional[str] = None


def _check_fully_connected(params: FullyConnectedParameters, node: NodeInfo) -> Optional[str]:
    if not params.no_bias and len(node.inputs) > 2:
        bias = node.inputs[2].shape
        if bias is not None and len(bias) != 1:
            return reason("shape of the bias", found=bias, required=f"({params.num_hidden},)")
    return None


@operator("FullyConnected", parameters=FullyConnectedParameters, check=_check_fully_connected, weights=(1, 2))
def _fully_connected(
    params: FullyConnectedParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    data, weight, *bias = inputs
    ndim = len(shape_of(node.inputs[0]))
    if params.flatten and ndim != 2:
        data = w.node("Flatten", [data], axis=1)
    if params.flatten or ndim == 2:
        # The weight is (num_hidden, in): Gemm's transB leaves the initializer as MXNet stores it.
        return [w.node("Gemm", [data, weight, *bias], transB=1)]
    product = w.node("MatMul", [data, w.transpose(weight, (1, 0))])
    return [w.node("Add", [product, *bias]) if bias else product]


def _check_stype(params: DotParameters) -> Optional[str]:
    if params.forward_stype in (None, "default"):
        return None
    return reason("forward_stype", found=params.forward_stype, required="None or default")


def _check_dot(params: DotParameters, node: NodeInfo) -> Optional[str]:
    if any(tensor.shape is None for tensor in (*node.inputs, *node.outputs)):
        return needs_shape("number of axes")
    return _check_stype(params)


def _as_matrix(name: str, shape: tuple[int, ...], transposed: bool, rows_first: bool, w: OnnxWriter) -> str:
    """Writes an operand of dot as a matrix.

    One axis is summed over and all others count as one: of the lhs the last is summed over and of the rhs the first,
    and transposed it is the other way round.
    """
    if len(shape) != 2:
        summed_last = transposed != rows_first
        name = w.reshape(name, (-1, shape[-1]) if summed_last else (shape[0], -1))
    return w.transpose(name, (1, 0)) if transposed else name


@operator("dot", parameters=DotParameters, check=_check_dot)
def _dot(params: DotParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    left, right = shape_of(node.inputs[0]), shape_of(node.inputs[1])
    if len(right) == 2 and len(left) >= 2 and not params.transpose_a:
        # A product of stacked matrices, which leaves the batch size open.
        return [w.node("MatMul", [inputs[0], w.transpose(inputs[1], (1, 0)) if params.transpose_b else inputs[1]])]
    lhs = _as_matrix(inputs[0], left, params.transpose_a, True, w)
    rhs = _as_matrix(inputs[1], right, params.transpose_b, False, w)
    return [w.reshape(w.node("MatMul", [lhs, rhs]), shape_of(node.outputs[0]))]


def _check_batch_dot(params: DotParameters, node: NodeInfo) -> Optional[str]:
    return _check_stype(params)


@operator("batch_dot", parameters=DotParameters, check=_check_batch_dot)
def _batch_dot(params: DotParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    sides = []
    for name, tensor, transposed in zip(inputs, node.inputs, (params.transpose_a, params.transpose_b)):
        sides.append(swap_last(name, len(shape_of(tensor)), w) if transposed else name)
    return [w.node("MatMul", sides)]
