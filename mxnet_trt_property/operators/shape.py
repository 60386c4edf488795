"""Operators that only move or rename elements: shapes, axes, identities, casts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import (
    ELEMENTS,
    NUMBERS,
    UINT8,
    dtype_of,
    free_batch,
    positive,
    recast,
    shape_of,
)
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator, reason


@dataclass(frozen=True)
class ConcatParameters(Parameters):
    """Parameters of Concat."""

    num_args: int
    dim: int = 1


@operator("Concat", parameters=ConcatParameters, dtypes=NUMBERS)
def _concat(params: ConcatParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("Concat", inputs, axis=params.dim)]


@dataclass(frozen=True)
class StackParameters(Parameters):
    """Parameters of stack and _npi_stack."""

    num_args: int
    axis: int = 0


@operator("stack", parameters=StackParameters, dtypes=ELEMENTS)
def stack(params: StackParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    """Joins the inputs along a new axis."""
    axis = positive(params.axis, len(shape_of(node.outputs[0])))
    return [w.node("Concat", [w.unsqueeze(name, (axis,)) for name in inputs], axis=axis)]


@operator("Flatten", dtypes=ELEMENTS)
def _flatten(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("Flatten", inputs, axis=1)]


@dataclass(frozen=True)
class ReshapeParameters(Parameters):
    """Parameters of Reshape, with the two of MXNet's first versions."""

    shape: tuple[int, ...] = ()
    reverse: bool = False
    target_shape: tuple[int, ...] = ()
    keep_highest: bool = False


def _check_reshape(params: ReshapeParameters, node: NodeInfo) -> Optional[str]:
    # MXNet's inference lets another number of elements pass; how that ends is left to MXNet.
    before = node.inputs[0].shape
    after = node.outputs[0].shape if node.outputs else None
    if before is not None and after is not None and prod(before) != prod(after):
        return reason("number of elements", found=f"{after} from {before}", required="as many as before")
    return None


@operator("Reshape", parameters=ReshapeParameters, check=_check_reshape, dtypes=ELEMENTS, folds=True)
def _reshape(params: ReshapeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    # MXNet's inference has resolved the codes 0 to -4 already: the output's shape is the target. Only the
    # first dimension is kept symbolic, where the codes say that it is the input's or what remains.
    target = list(shape_of(node.outputs[0]))
    first = params.shape[0] if params.shape and not params.reverse else None
    if first in (0, -2):
        target = free_batch(target, shape_of(node.inputs[0]))
    elif first == -1 and all(code > 0 for code in params.shape[1:]):
        target[0] = -1
    return [w.reshape(inputs[0], target)]


@dataclass(frozen=True)
class ReshapeLikeParameters(Parameters):
    """Parameters of reshape_like: the ranges of axes that are exchanged."""

    lhs_begin: Optional[int] = None
    lhs_end: Optional[int] = None
    rhs_begin: Optional[int] = None
    rhs_end: Optional[int] = None


# Only the shape of the second input is read, and MXNet has inferred what comes of it.
@operator("reshape_like", parameters=ReshapeLikeParameters, ignored=(1,), dtypes=ELEMENTS)
def _reshape_like(params: ReshapeLikeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.reshape(inputs[0], shape_of(node.outputs[0]))]


@dataclass(frozen=True)
class TransposeParameters(Parameters):
    """Parameters of transpose; no axes means all of them in reverse."""

    axes: tuple[int, ...] = ()


@operator("transpose", parameters=TransposeParameters, dtypes=NUMBERS)
def _transpose(params: TransposeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    axes = [positive(a, ndim) for a in params.axes] or list(range(ndim))[::-1]
    return [w.transpose(inputs[0], axes)]


@dataclass(frozen=True)
class SwapAxisParameters(Parameters):
    """Parameters of SwapAxis."""

    dim1: int = 0
    dim2: int = 0


@operator("SwapAxis", parameters=SwapAxisParameters, dtypes=NUMBERS)
def _swap_axis(params: SwapAxisParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    axes = list(range(len(shape_of(node.inputs[0]))))
    one, two = positive(params.dim1, len(axes)), positive(params.dim2, len(axes))
    axes[one], axes[two] = axes[two], axes[one]
    return [w.transpose(inputs[0], axes)]


@dataclass(frozen=True)
class ExpandDimsParameters(Parameters):
    """Parameters of expand_dims."""

    axis: int


@operator("expand_dims", parameters=ExpandDimsParameters, dtypes=ELEMENTS, zero_dim=True)
def _expand_dims(params: ExpandDimsParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.unsqueeze(inputs[0], (params.axis,))]


@dataclass(frozen=True)
class SqueezeParameters(Parameters):
    """Parameters of squeeze; None means every axis of size 1."""

    axis: Optional[tuple[int, ...]] = None


@operator("squeeze", parameters=SqueezeParameters, dtypes=ELEMENTS)
def _squeeze(params: SqueezeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    axes = [i for i, size in enumerate(shape) if size == 1]
    if params.axis is not None:
        axes = [positive(a, len(shape)) for a in params.axis]
    # Where nothing would remain MXNet keeps one axis, having no 0-d arrays.
    if len(axes) == len(shape):
        return [w.reshape(inputs[0], shape_of(node.outputs[0]))]
    return [w.squeeze(inputs[0], axes) if axes else inputs[0]]


@dataclass(frozen=True)
class CastParameters(Parameters):
    """Parameters of Cast and amp_cast."""

    dtype: str


_CAST_TARGETS = tuple(d.name for d in ELEMENTS)


def _check_cast(params: CastParameters, node: NodeInfo) -> Optional[str]:
    if params.dtype in _CAST_TARGETS:
        return None
    return reason("dtype", found=params.dtype, required=" or ".join(_CAST_TARGETS))


# TensorRT has uint8 for what is fed only, and no other operator here takes or gives any.
@operator("Cast", parameters=CastParameters, check=_check_cast, dtypes=(*ELEMENTS, UINT8), zero_dim=True)
@operator("amp_cast", parameters=CastParameters, check=_check_cast, zero_dim=True)
def _cast(params: CastParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.cast(inputs[0], np.dtype(params.dtype))]


@dataclass(frozen=True)
class MulticastParameters(Parameters):
    """Parameters of amp_multicast; MXNet's inference gives each output its dtype."""

    IGNORED = Parameters.IGNORED | {"cast_narrow"}

    num_outputs: int


def _check_multicast(params: MulticastParameters, node: NodeInfo) -> Optional[str]:
    if len(node.outputs) < params.num_outputs or any(t.dtype is None for t in node.outputs):
        return reason("dtype of the outputs", found="an unknown one", required="float32 or float16")
    return None


@operator("amp_multicast", parameters=MulticastParameters, check=_check_multicast)
def _amp_multicast(params: MulticastParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    pairs = zip(inputs, node.inputs, node.outputs)
    return [recast(name, dtype_of(before), dtype_of(after), w) for name, before, after in pairs]


@dataclass(frozen=True)
class DropoutParameters(Parameters):
    """Parameters of Dropout; `p` and `axes` say what is dropped in training."""

    IGNORED = Parameters.IGNORED | {"p", "axes"}

    mode: str = "training"


def _check_dropout(params: DropoutParameters, node: NodeInfo) -> Optional[str]:
    if params.mode == "training":
        return None
    return reason("mode", found=params.mode, required="training; always drops at inference too")


@operator("Dropout", parameters=DropoutParameters, check=_check_dropout)
def _dropout(params: DropoutParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [inputs[0]]


@dataclass(frozen=True)
class MakeLossParameters(Parameters):
    """MakeLoss has parameters of its gradient only."""

    IGNORED = Parameters.IGNORED | {"grad_scale", "valid_thresh", "normalization"}


@dataclass(frozen=True)
class GradientMultiplierParameters(Parameters):
    """_contrib_gradientmultiplier has a parameter of its gradient only."""

    IGNORED = Parameters.IGNORED | {"scalar", "is_int"}


@operator("_contrib_gradientmultiplier", parameters=GradientMultiplierParameters)
@operator("_copy", dtypes=ELEMENTS)
@operator("BlockGrad", dtypes=ELEMENTS)
@operator("make_loss", dtypes=ELEMENTS)
@operator("_identity_with_attr_like_rhs", ignored=(1,), dtypes=ELEMENTS)
@operator("MakeLoss", parameters=MakeLossParameters)
def _identity(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [inputs[0]]
