"""mx.sym.linalg: products of stacked matrices, diagonals and triangles; and khatri_rao.

Factorizations and inverses stay with MXNet: ONNX has none that TensorRT knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, CountedParameters, dtype_of, positive, shape_of, swap_last
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason

_Places = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class ProductParameters(Parameters):
    """Parameters of _linalg_gemm2: alpha A B, with the rows of the matrices along `axis`."""

    transpose_a: bool = False
    transpose_b: bool = False
    alpha: float = 1.0
    axis: int = -2


@dataclass(frozen=True)
class SumOfProductParameters(ProductParameters):
    """Parameters of _linalg_gemm: alpha A B + beta C."""

    beta: float = 1.0


@dataclass(frozen=True)
class SquareParameters(Parameters):
    """Parameters of _linalg_syrk: alpha A A^T, or alpha A^T A."""

    transpose: bool = False
    alpha: float = 1.0


@dataclass(frozen=True)
class TriangularProductParameters(Parameters):
    """Parameters of _linalg_trmm: alpha A B or alpha B A, where only one triangle of A is read."""

    transpose: bool = False
    rightside: bool = False
    lower: bool = True
    alpha: float = 1.0


@dataclass(frozen=True)
class DiagonalParameters(Parameters):
    """Parameters of _linalg_extractdiag and _linalg_makediag."""

    offset: int = 0


@dataclass(frozen=True)
class TriangleParameters(Parameters):
    """Parameters of _linalg_extracttrian and _linalg_maketrian; an offset decides by its sign which triangle."""

    offset: int = 0
    lower: bool = True


def _check_product(params: ProductParameters, node: NodeInfo) -> Optional[str]:
    # BLAS does not read what it multiplies by 0, so that a NaN in it does not show.
    if params.alpha == 0:
        return reason("alpha", found=params.alpha, required="another number")
    if node.inputs[0].shape is None:
        return needs_shape("number of axes")
    return None


def _check_alpha(params: SquareParameters, node: NodeInfo) -> Optional[str]:
    if params.alpha == 0:
        return reason("alpha", found=params.alpha, required="another number")
    return None


def _scaled(name: str, factor: float, w: OnnxWriter) -> str:
    return name if factor == 1 else w.node("Mul", [name, w.scalar(factor, FLOAT32)])


@operator("_linalg_gemm2", parameters=ProductParameters, check=_check_product, dtypes=(FLOAT32,))
@operator("_linalg_gemm", parameters=SumOfProductParameters, check=_check_product, dtypes=(FLOAT32,))
def _gemm(params: ProductParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    rows = positive(params.axis, ndim)
    others = [axis for axis in range(ndim - 1) if axis != rows]
    sides = []
    for name, is_transposed in zip(inputs, (params.transpose_a, params.transpose_b)):
        order = [*others, ndim - 1, rows] if is_transposed else [*others, rows, ndim - 1]
        sides.append(name if order == list(range(ndim)) else w.transpose(name, order))
    result = _scaled(w.node("MatMul", sides), params.alpha, w)
    if rows != ndim - 2:
        result = w.transpose(result, [*range(rows), ndim - 2, *range(rows, ndim - 2), ndim - 1])
    if isinstance(params, SumOfProductParameters) and params.beta != 0:
        result = w.node("Add", [result, _scaled(inputs[2], params.beta, w)])
    return [result]


@operator("_linalg_syrk", parameters=SquareParameters, check=_check_alpha, dtypes=(FLOAT32,))
def _syrk(params: SquareParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    sides = [inputs[0], swap_last(inputs[0], len(shape_of(node.inputs[0])), w)]
    return [_scaled(w.node("MatMul", sides[::-1] if params.transpose else sides), params.alpha, w)]


@operator("_linalg_trmm", parameters=TriangularProductParameters, check=_check_alpha, dtypes=(FLOAT32,))
def _trmm(params: TriangularProductParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    full = np.ones((shape[-1], shape[-1]), np.bool_)
    # What lies in the other triangle is not read, not even a NaN.
    triangle = w.constant(np.tril(full) if params.lower else np.triu(full))
    matrix = w.node("Where", [triangle, inputs[0], w.scalar(0.0, dtype_of(node.inputs[0]))])
    if params.transpose:
        matrix = swap_last(matrix, len(shape), w)
    sides = [inputs[1], matrix] if params.rightside else [matrix, inputs[1]]
    return [_scaled(w.node("MatMul", sides), params.alpha, w)]


def _indices(node: NodeInfo, rows: _Places, columns: _Places, source: str, w: OnnxWriter) -> str:
    """Writes the elements of each matrix at the given places, in their order, as the last axis."""
    shape = shape_of(node.inputs[0])
    flat = w.reshape(source, (*shape[:-2], shape[-1] ** 2))
    return w.node("Gather", [flat, w.constant(rows * shape[-1] + columns)], axis=-1)


def _diagonal(node: NodeInfo, offset: int, source: str, w: OnnxWriter) -> str:
    places = np.arange(shape_of(node.inputs[0])[-1] - abs(offset))
    return _indices(node, places + max(-offset, 0), places + max(offset, 0), source, w)


@operator("_linalg_sumlogdiag", dtypes=(FLOAT32,))
def _sumlogdiag(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    logs = w.node("Log", [_diagonal(node, 0, inputs[0], w)])
    return [w.reduce("ReduceSum", logs, (-1,), keepdims=len(shape_of(node.inputs[0])) == 2)]


@operator("_linalg_extractdiag", parameters=DiagonalParameters, dtypes=(FLOAT32,))
def _extractdiag(params: DiagonalParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [_diagonal(node, params.offset, inputs[0], w)]


@operator("_linalg_makediag", parameters=DiagonalParameters, dtypes=(FLOAT32,))
def _makediag(params: DiagonalParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    size = shape_of(node.outputs[0])[-1]
    # The element of row i, or below the main diagonal of column i, is the i-th one.
    padded = w.pad(inputs[0], [0] * ndim, [0] * (ndim - 1) + [abs(params.offset)])
    spread = w.unsqueeze(padded, (ndim if params.offset >= 0 else ndim - 1,))
    diagonal = w.constant(np.eye(size, k=params.offset, dtype=np.bool_))
    return [w.node("Where", [diagonal, spread, w.scalar(0.0, dtype_of(node.inputs[0]))])]


def _triangle(params: TriangleParameters, size: int) -> tuple[_Places, _Places]:
    """Returns rows and columns of a triangle: a lower one row by row, an upper one column by column."""
    if params.offset < 0 or (params.offset == 0 and params.lower):
        rows, columns = np.tril_indices(size, params.offset)
        return rows, columns
    columns, rows = np.tril_indices(size, -params.offset)
    return rows, columns


@operator("_linalg_extracttrian", parameters=TriangleParameters, dtypes=(FLOAT32,))
def _extracttrian(params: TriangleParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [_indices(node, *_triangle(params, shape_of(node.inputs[0])[-1]), inputs[0], w)]


@operator("_linalg_maketrian", parameters=TriangleParameters, dtypes=(FLOAT32,))
def _maketrian(params: TriangleParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    size = shape_of(node.outputs[0])[-1]
    rows, columns = _triangle(params, size)
    source = np.zeros((size, size), np.int64)
    source[rows, columns] = np.arange(len(rows))
    filled = np.zeros((size, size), np.bool_)
    filled[rows, columns] = True
    spread = w.node("Gather", [inputs[0], w.constant(source)], axis=-1)
    return [w.node("Where", [w.constant(filled), spread, w.scalar(0.0, dtype_of(node.inputs[0]))])]


@operator("khatri_rao", parameters=CountedParameters, dtypes=(FLOAT32,))
def _khatri_rao(params: CountedParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    columns = shape_of(node.outputs[0])[1]
    result = inputs[0]
    for name in inputs[1:]:
        products = w.node("Mul", [w.unsqueeze(result, (1,)), w.unsqueeze(name, (0,))])
        result = w.reshape(products, (-1, columns))
    return [result]
