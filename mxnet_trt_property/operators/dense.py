"""Matrix products: FullyConnected, dot and batch_dot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, shape_of
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
    shapes = [tensor.shape for tensor in node.inputs]
    if shapes[0] is None or shapes[1] is None:
        return needs_shape("number of axes")
    # MXNet multiplies the last axis of lhs with the FIRST of rhs, which is a matrix product only where rhs
    # has two axes; transpose_a rotates all axes, which is a transposition only where lhs has two.
    if len(shapes[1]) != 2 or len(shapes[0]) < 2 or (params.transpose_a and len(shapes[0]) != 2):
        found = f"{shapes[0]} by {shapes[1]}, transpose_a={params.transpose_a}"
        return reason("shapes", found=found, required="two axes each, or more in an lhs that is not transposed")
    return _check_stype(params)


def _check_batch_dot(params: DotParameters, node: NodeInfo) -> Optional[str]:
    return _check_stype(params)


@operator("dot", parameters=DotParameters, check=_check_dot)
@operator("batch_dot", parameters=DotParameters, check=_check_batch_dot)
def _matrix_product(params: DotParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    sides = []
    for name, tensor, transposed in zip(inputs, node.inputs, (params.transpose_a, params.transpose_b)):
        axes = list(range(len(shape_of(tensor))))
        sides.append(w.transpose(name, [*axes[:-2], axes[-1], axes[-2]]) if transposed else name)
    return [w.node("MatMul", sides)]


class KhatriRaoParameters(Parameters):
    """khatri_rao takes the number of its inputs as an attribute that its argument list does not name."""

    IGNORED = Parameters.IGNORED | {"num_args"}


@operator("khatri_rao", parameters=KhatriRaoParameters, dtypes=FLOAT32)
def _khatri_rao(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    columns = shape_of(node.outputs[0])[1]
    result = inputs[0]
    for matrix in inputs[1:]:
        product = w.node("Mul", [w.unsqueeze(result, (1,)), w.unsqueeze(matrix, (0,))])
        result = w.reshape(product, (-1, columns))
    return [result]
