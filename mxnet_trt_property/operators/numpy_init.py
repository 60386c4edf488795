"""The operators of mx.np that make arrays out of nothing but their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import (
    FLOAT32,
    INTS,
    NUMBERS,
    check_constant,
    check_dtype,
    check_whole,
    dtype_of,
    shape_of,
)
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator

_IGNORED = Parameters.IGNORED | {"ctx", "dtype"}


@dataclass(frozen=True)
class FilledParameters(Parameters):
    """Parameters of _npi_zeros and _npi_ones; inference knows the dtype."""

    IGNORED = _IGNORED

    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class FullLikeParameters(Parameters):
    """Parameters of _npi_full_like."""

    IGNORED = _IGNORED

    fill_value: float


@dataclass(frozen=True)
class RangeParameters(Parameters):
    """Parameters of _npi_arange; inference knows where it stops."""

    IGNORED = _IGNORED | {"stop", "infer_range"}

    start: float
    step: float = 1.0
    repeat: int = 1


@operator("_npi_zeros", parameters=FilledParameters, zero_dim=True)
@operator("_npi_ones", parameters=FilledParameters, zero_dim=True)
def _constant(params: FilledParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.fill(float(node.op == "_npi_ones"), shape_of(node.outputs[0]), dtype_of(node.outputs[0]))]


def _check_full(params: FullLikeParameters, node: NodeInfo) -> Optional[str]:
    return check_whole("fill_value", params.fill_value, node.outputs[0].dtype) if node.outputs else None


@operator(
    "_npi_full_like", parameters=FullLikeParameters, check=_check_full, ignored=(0,), dtypes=NUMBERS, zero_dim=True
)
def _full_like(params: FullLikeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.fill(params.fill_value, shape_of(node.outputs[0]), dtype_of(node.outputs[0]))]


def _check_range(params: RangeParameters, node: NodeInfo) -> Optional[str]:
    if not node.outputs:
        return None
    last = params.start + params.step * prod(node.outputs[0].shape or ())
    return check_dtype("the result", node.outputs[0], (FLOAT32, *INTS)) or check_constant(
        node.outputs[0], params.start, params.step, last
    )


@operator("_npi_arange", parameters=RangeParameters, check=_check_range)
def _arange(params: RangeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype: np.dtype[Any] = dtype_of(node.outputs[0])
    # Rounded as MXNet does: start, step and number in the dtype of the result.
    start, step = (np.array(value).astype(dtype) for value in (params.start, params.step))
    numbers = (np.arange(shape_of(node.outputs[0])[0]) // params.repeat).astype(dtype)
    return [w.node("Identity", [w.constant((start + numbers * step).astype(dtype))])]
