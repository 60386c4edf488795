"""The operators of mx.np that make arrays out of nothing but their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, INTS, NUMBERS, dtype_of, scalar_fits, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator, reason

_IGNORED = Parameters.IGNORED | {"ctx", "dtype"}

# What is written into the model element by element; more is left to MXNet.
_LARGEST = 2**20


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


def _filled(value: float, node: NodeInfo, w: OnnxWriter) -> str:
    shape, scalar = shape_of(node.outputs[0]), w.scalar(value, dtype_of(node.outputs[0]))
    return w.node("Expand", [scalar, w.ints(shape)]) if shape else w.node("Identity", [scalar])


@operator("_npi_zeros", parameters=FilledParameters, zero_dim=True)
@operator("_npi_ones", parameters=FilledParameters, zero_dim=True)
def _constant(params: FilledParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [_filled(float(node.op == "_npi_ones"), node, w)]


def _check_full(params: FullLikeParameters, node: NodeInfo) -> Optional[str]:
    found = node.outputs[0].dtype if node.outputs else None
    is_whole = params.fill_value == int(params.fill_value) if np.isfinite(params.fill_value) else False
    if found in INTS and not (is_whole and scalar_fits(params.fill_value, found)):
        return reason("fill_value", found=params.fill_value, required=f"a whole number in the range of {found}")
    return None


@operator(
    "_npi_full_like", parameters=FullLikeParameters, check=_check_full, ignored=(0,), dtypes=NUMBERS, zero_dim=True
)
def _full_like(params: FullLikeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [_filled(params.fill_value, node, w)]


def _check_range(params: RangeParameters, node: NodeInfo) -> Optional[str]:
    if not node.outputs:
        return None
    shape, dtype = node.outputs[0].shape, node.outputs[0].dtype
    if shape is not None and shape[0] > _LARGEST:
        return reason("number of elements", found=shape[0], required=f"at most {_LARGEST}")
    if dtype is not None and dtype not in (FLOAT32, *INTS):
        return reason("dtype of the result", found=dtype.name, required="float32 or int32 or int64")
    return None


@operator("_npi_arange", parameters=RangeParameters, check=_check_range)
def _arange(params: RangeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype: np.dtype[Any] = dtype_of(node.outputs[0])
    # Rounded as MXNet does: start, step and number in the dtype of the result.
    start, step = (np.array(value).astype(dtype) for value in (params.start, params.step))
    numbers = (np.arange(shape_of(node.outputs[0])[0]) // params.repeat).astype(dtype)
    return [w.node("Identity", [w.constant((start + numbers * step).astype(dtype))])]
