"""The products of mx.np: matmul, dot, tensordot and einsum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import positive, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


def _stacked(node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> str:
    """Writes the product of stacks of matrices; a vector is a row in front and a column behind."""
    left, right = (len(shape_of(tensor)) for tensor in node.inputs)
    # TensorRT has vectors beside matrices, but not beside stacks of them.
    row = w.unsqueeze(inputs[0], (0,)) if left == 1 else inputs[0]
    column = w.unsqueeze(inputs[1], (1,)) if right == 1 else inputs[1]
    product = w.node("MatMul", [row, column])
    return product if left > 1 and right > 1 else w.reshape(product, shape_of(node.outputs[0]))


@operator("_npi_matmul", zero_dim=True)
def _matmul(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [_stacked(node, inputs, w)]


def _contract(
    node: NodeInfo, inputs: Sequence[str], left_axes: Sequence[int], right_axes: Sequence[int], w: OnnxWriter
) -> str:
    """Writes the sum of products over pairs of axes as one product of matrices."""
    sides = []
    are_matrices = True
    for slot, axes in enumerate((left_axes, right_axes)):
        shape = shape_of(node.inputs[slot])
        others = [axis for axis in range(len(shape)) if axis not in axes]
        order = [*others, *axes] if slot == 0 else [*axes, *others]
        name = inputs[slot] if order == list(range(len(shape))) else w.transpose(inputs[slot], order)
        if len(others) != 1 or len(axes) != 1:
            are_matrices = False
            summed = prod(shape[axis] for axis in axes)
            name = w.reshape(name, (-1, summed) if slot == 0 else (summed, -1))
        sides.append(name)
    product = w.node("MatMul", sides)
    return product if are_matrices else w.reshape(product, shape_of(node.outputs[0]))


@operator("_np_dot", zero_dim=True)
def _dot(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    left, right = (len(shape_of(tensor)) for tensor in node.inputs)
    if left == 0 or right == 0:
        return [w.node("Mul", inputs)]
    if right <= 2:
        return [_stacked(node, inputs, w)]
    # The second axis from the end stands for the rows of the right side.
    return [_contract(node, inputs, [left - 1], [right - 2], w)]


@dataclass(frozen=True)
class TensordotParameters(Parameters):
    """Parameters of _npi_tensordot: the axes of each side that are summed over, in pairs."""

    a_axes_summed: tuple[int, ...]
    b_axes_summed: tuple[int, ...]


@dataclass(frozen=True)
class TensordotCountParameters(Parameters):
    """Parameters of _npi_tensordot_int_axes: how many of the last and of the first axes are summed over."""

    axes: int


@operator("_npi_tensordot", parameters=TensordotParameters, zero_dim=True)
def _tensordot(params: TensordotParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    pairs = zip(node.inputs, (params.a_axes_summed, params.b_axes_summed))
    left, right = ([positive(a, len(shape_of(tensor))) for a in axes] for tensor, axes in pairs)
    return [_contract(node, inputs, left, right, w)]


@operator("_npi_tensordot_int_axes", parameters=TensordotCountParameters, zero_dim=True)
def _tensordot_int(
    params: TensordotCountParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    return [_contract(node, inputs, range(ndim - params.axes, ndim), range(params.axes), w)]


@dataclass(frozen=True)
class EinsumParameters(Parameters):
    """Parameters of _npi_einsum; `optimize` chooses an order of the products."""

    IGNORED = Parameters.IGNORED | {"optimize"}

    num_args: int
    subscripts: str = ""


def _check_einsum(params: EinsumParameters, node: NodeInfo) -> Optional[str]:
    text = params.subscripts.replace(" ", "")
    sources, _, result = text.partition("->")
    if params.num_args > 2:
        return reason("number of operands", found=params.num_args, required="1 or 2")
    if "." in text:
        return reason("subscripts", found=text, required="a letter for each axis, without an ellipsis")
    # TensorRT has no diagonals.
    if any(len(set(labels)) < len(labels) for labels in (*sources.split(","), result)):
        return reason("subscripts", found=text, required="no letter twice in an operand")
    if any(tensor.shape is None for tensor in node.inputs):
        return needs_shape("number of axes")
    sizes: dict[str, set[int]] = {}
    for labels, tensor in zip(sources.split(","), node.inputs):
        for label, size in zip(labels, tensor.shape or ()):
            sizes.setdefault(label, set()).add(size)
    if any(len(found) > 1 for found in sizes.values()):
        return reason("subscripts", found=text, required="one size for each letter")
    return None


@operator("_npi_einsum", parameters=EinsumParameters, check=_check_einsum, zero_dim=True)
def _einsum(params: EinsumParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    text = params.subscripts.replace(" ", "")
    sources, arrow, result = text.partition("->")
    if not arrow:
        # Left out, the result has the letters that occur once, in alphabetical order.
        letters = sources.replace(",", "")
        result = "".join(sorted(label for label in set(letters) if letters.count(label) == 1))
    return [w.node("Einsum", inputs, equation=f"{sources}->{result}")]
