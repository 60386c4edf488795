"""Tensors made of parameters or of another tensor's shape alone: constants of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Optional, Union

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import (
    NUMBERS,
    check_constant,
    check_output,
    check_scalar_fits,
    dtype_of,
    shape_of,
)
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator


@dataclass(frozen=True)
class CreationParameters(Parameters):
    """Shape and dtype come out of MXNet's inference; `ctx` is for imperative calls."""

    IGNORED = Parameters.IGNORED | {"shape", "ctx", "dtype"}


@dataclass(frozen=True)
class FullParameters(CreationParameters):
    """Parameters of _full."""

    value: float


@dataclass(frozen=True)
class ArangeParameters(Parameters):
    """Parameters of _arange; with no `stop`, and nothing to infer it from, `start` is the stop and 0 the start."""

    IGNORED = Parameters.IGNORED | {"ctx", "dtype"}

    start: float
    stop: Optional[float] = None
    step: float = 1.0
    repeat: int = 1
    infer_range: bool = False


@dataclass(frozen=True)
class LinspaceParameters(Parameters):
    """Parameters of _linspace."""

    IGNORED = Parameters.IGNORED | {"ctx", "dtype"}

    start: float
    stop: float
    num: int
    endpoint: bool = True


@dataclass(frozen=True)
class EyeParameters(Parameters):
    """Parameters of _eye; the output's shape says N and M."""

    IGNORED = Parameters.IGNORED | {"ctx", "dtype", "N", "M"}

    k: int = 0


@dataclass(frozen=True)
class ArangeLikeParameters(Parameters):
    """Parameters of _contrib_arange_like; without an axis all elements are counted."""

    IGNORED = Parameters.IGNORED | {"ctx"}

    start: float = 0.0
    step: float = 1.0
    repeat: int = 1
    axis: Optional[int] = None


def _check(params: Parameters, node: NodeInfo) -> Optional[str]:
    return check_output(node, NUMBERS)


def _check_full(params: FullParameters, node: NodeInfo) -> Optional[str]:
    return check_output(node, NUMBERS) or check_scalar_fits("value", params.value, node.outputs[0].dtype)


def _check_written(node: NodeInfo, *bounds: float) -> Optional[str]:
    return check_output(node, NUMBERS) or check_constant(node.outputs[0], *bounds)


def _check_arange(params: Union[ArangeParameters, ArangeLikeParameters], node: NodeInfo) -> Optional[str]:
    count = prod(node.outputs[0].shape or ()) if node.outputs else 0
    return _check_written(node, params.start, params.step, params.start + params.step * count)


def _check_linspace(params: LinspaceParameters, node: NodeInfo) -> Optional[str]:
    return _check_written(node, params.start, params.stop)


def _check_eye(params: EyeParameters, node: NodeInfo) -> Optional[str]:
    return _check_written(node)


@operator("_zeros", parameters=CreationParameters, check=_check)
@operator("_ones", parameters=CreationParameters, check=_check)
@operator("_zeros_without_dtype", parameters=CreationParameters, check=_check)
def _constant(params: CreationParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.fill(float(node.op == "_ones"), shape_of(node.outputs[0]), dtype_of(node.outputs[0]))]


@operator("_full", parameters=FullParameters, check=_check_full)
def _full(params: FullParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.fill(params.value, shape_of(node.outputs[0]), dtype_of(node.outputs[0]))]


def _steps(start: float, step: float, repeat: int, size: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Returns start + (i / repeat) * step for i < size, each operation rounded to `dtype` as MXNet does it."""
    if dtype == np.float16:
        # MXNet takes it for an unsigned integer, whose start and step are whole.
        start, step = int(start), int(step)
    count = (np.arange(size) // repeat).astype(np.float32 if dtype == np.float16 else dtype)
    product = (count * np.array(step, dtype)).astype(dtype)
    return np.asarray(np.array(start, dtype) + product, dtype)


@operator("_arange", parameters=ArangeParameters, check=_check_arange)
def _arange(params: ArangeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    start = 0.0 if params.stop is None and not params.infer_range else params.start
    (size,) = shape_of(node.outputs[0])
    return [w.constant(_steps(start, params.step, params.repeat, size, dtype_of(node.outputs[0])))]


@operator("_linspace", parameters=LinspaceParameters, check=_check_linspace)
def _linspace(params: LinspaceParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    intervals = params.num - 1 if params.endpoint else params.num
    step = (params.stop - params.start) / intervals if intervals > 0 else 0.0
    return [w.constant((params.start + step * np.arange(params.num)).astype(dtype_of(node.outputs[0])))]


@operator("_eye", parameters=EyeParameters, check=_check_eye)
def _eye(params: EyeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    rows, columns = shape_of(node.outputs[0])
    return [w.constant(np.eye(rows, columns, params.k, dtype_of(node.outputs[0])))]


# Of the inputs below only the shape is read, and a shape is part of what an engine is built for.
@operator("_contrib_arange_like", parameters=ArangeLikeParameters, check=_check_arange, ignored=(0,))
def _arange_like(params: ArangeLikeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.outputs[0])
    values = _steps(params.start, params.step, params.repeat, int(np.prod(shape)), dtype_of(node.outputs[0]))
    return [w.constant(values.reshape(shape))]


@operator("shape_array", check=_check, ignored=(0,))
def _shape_array(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.ints(shape_of(node.inputs[0]))]


@operator("size_array", check=_check, ignored=(0,))
def _size_array(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.ints([int(np.prod(shape_of(node.inputs[0])))])]
