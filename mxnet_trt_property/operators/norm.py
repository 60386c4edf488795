"""Normalizations: BatchNorm with its running statistics, LayerNorm, InstanceNorm, GroupNorm, L2 and LRN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, check_weights, dtype_of, free_batch, positive, recast, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class BatchNormParameters(Parameters):
    """Parameters of BatchNorm. At inference the running statistics are used whatever `use_global_stats` says."""

    IGNORED = Parameters.IGNORED | {"momentum", "use_global_stats", "min_calib_range", "max_calib_range"}

    eps: float = 0.0010000000474974513
    fix_gamma: bool = True
    output_mean_var: bool = False
    axis: int = 1


@dataclass(frozen=True)
class BatchNormV1Parameters(Parameters):
    """Parameters of BatchNorm_v1, which has the channels second."""

    IGNORED = Parameters.IGNORED | {"momentum", "use_global_stats"}

    eps: float = 0.00100000005
    fix_gamma: bool = True
    output_mean_var: bool = False


@dataclass(frozen=True)
class SyncBatchNormParameters(BatchNormV1Parameters):
    """Parameters of _contrib_SyncBatchNorm. At inference nothing is synchronized and `key` means nothing."""

    IGNORED = BatchNormV1Parameters.IGNORED | {"ndev", "key"}


def _check_statistics(fix_gamma: bool, node: NodeInfo) -> Optional[str]:
    names = ("gamma", "beta", "moving_mean", "moving_var")
    # A gamma that counts as 1 is not read, so it may be anything.
    slots = range(2 if fix_gamma else 1, 5)
    return check_weights(node, slots, names[slots[0] - 1 :])


def _check_batch_norm(params: BatchNormParameters, node: NodeInfo) -> Optional[str]:
    if params.axis != 1 and node.inputs[0].shape is None:
        return needs_shape(f"axis {params.axis}")
    return _check_statistics(params.fix_gamma, node)


def _check_batch_norm_v1(params: BatchNormV1Parameters, node: NodeInfo) -> Optional[str]:
    # MXNet leaves both outputs as they were.
    if params.output_mean_var:
        return reason("output_mean_var", found=True, required=False)
    return _check_statistics(params.fix_gamma, node)


def _check_batch_norm_relu(params: BatchNormParameters, node: NodeInfo) -> Optional[str]:
    # No other runs on MXNet's CPU build, so nothing could show that a conversion is right.
    if params.axis != 1:
        return reason("axis", found=params.axis, required=1)
    shape = node.inputs[0].shape
    if shape is not None and len(shape) != 4:
        return reason("number of axes", found=len(shape), required=4)
    return _check_statistics(params.fix_gamma, node)


def _normalize(
    params: Union[BatchNormParameters, BatchNormV1Parameters],
    axis: int,
    node: NodeInfo,
    inputs: Sequence[str],
    w: OnnxWriter,
) -> str:
    data, gamma, *others = inputs
    if params.fix_gamma:
        gamma = w.constant(np.ones(shape_of(node.inputs[1]), dtype_of(node.inputs[1])))
    axes = list(range(len(shape_of(node.inputs[0]))))
    # Swapping an axis with axis 1 is its own inverse.
    if axis != 1:
        axes[1], axes[axis] = axes[axis], axes[1]
        data = w.transpose(data, axes)
    # MXNet keeps statistics in float32 beside float16 data and computes in float32.
    dtype, inner = dtype_of(node.inputs[0]), dtype_of(node.inputs[1])
    data = recast(data, dtype, inner, w)
    result = recast(w.node("BatchNormalization", [data, gamma, *others], epsilon=params.eps), inner, dtype, w)
    return result if axis == 1 else w.transpose(result, axes)


def _statistics(params: BatchNormParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> list[str]:
    """Returns the two outputs that output_mean_var adds: the mean, and 1 / sqrt(variance + eps)."""
    if not params.output_mean_var:
        return []
    var = w.node("Add", [inputs[4], w.scalar(params.eps, dtype_of(node.inputs[4]))])
    return [inputs[3], w.node("Reciprocal", [w.node("Sqrt", [var])])]


@operator("BatchNorm", parameters=BatchNormParameters, check=_check_batch_norm, weights=(1, 2, 3, 4))
def _batch_norm(params: BatchNormParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    axis = positive(params.axis, len(shape_of(node.inputs[0])))
    return [_normalize(params, axis, node, inputs, w), *_statistics(params, node, inputs, w)]


@operator(
    "BatchNorm_v1",
    parameters=BatchNormV1Parameters,
    check=_check_batch_norm_v1,
    weights=(1, 2, 3, 4),
    dtypes=(FLOAT32,),
)
@operator(
    "_contrib_SyncBatchNorm",
    parameters=SyncBatchNormParameters,
    check=_check_batch_norm_v1,
    weights=(1, 2, 3, 4),
    dtypes=(FLOAT32,),
)
def _batch_norm_v1(
    params: BatchNormV1Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    return [_normalize(params, 1, node, inputs, w)]


@operator(
    "_contrib_BatchNormWithReLU",
    parameters=BatchNormParameters,
    check=_check_batch_norm_relu,
    weights=(1, 2, 3, 4),
    dtypes=(FLOAT32,),
)
def _batch_norm_relu(
    params: BatchNormParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    result = w.node("Relu", [_normalize(params, params.axis, node, inputs, w)])
    return [result, *_statistics(params, node, inputs, w)]


def _moments(data: str, axis: int, eps: float, dtype: np.dtype[Any], w: OnnxWriter) -> list[str]:
    """Returns mean and sqrt(variance + eps) over one axis, which stays with size 1."""
    mean = w.reduce("ReduceMean", data, [axis], keepdims=True)
    centered = w.node("Sub", [data, mean])
    var = w.reduce("ReduceMean", w.node("Mul", [centered, centered]), [axis], keepdims=True)
    return [mean, w.node("Sqrt", [w.node("Add", [var, w.scalar(eps, dtype)])])]


@dataclass(frozen=True)
class LayerNormParameters(Parameters):
    """Parameters of LayerNorm: one axis is normalized."""

    axis: int = -1
    eps: float = 9.99999975e-06
    output_mean_var: bool = False


def _check_layer_norm(params: LayerNormParameters, node: NodeInfo) -> Optional[str]:
    data = node.inputs[0]
    if data.shape is None:
        return None if params.axis == -1 else needs_shape(f"axis {params.axis}")
    # There is nothing to normalize, and some versions of ONNX Runtime (1.23) refuse to.
    if data.shape[positive(params.axis, len(data.shape))] == 1:
        return reason("size of the axis", found=1, required="2 or more")
    # Over other axes MXNet sums in float16, and is off by more than any engine.
    if data.dtype == np.float16 and positive(params.axis, len(data.shape)) != len(data.shape) - 1:
        return reason("dtype", found=f"float16 over axis {params.axis}", required="float32, or the last axis")
    return None


@operator("LayerNorm", parameters=LayerNormParameters, check=_check_layer_norm, weights=(1, 2))
def _layer_norm(params: LayerNormParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data, *others = inputs
    axes = list(range(len(shape_of(node.inputs[0]))))
    axis = positive(params.axis, len(axes))
    # Swapping an axis with the last one is its own inverse.
    axes[axis], axes[-1] = axes[-1], axes[axis]
    is_last = axis == len(axes) - 1
    last = data if is_last else w.transpose(data, axes)
    result = w.node("LayerNormalization", [last, *others], axis=-1, epsilon=params.eps)
    results = [result if is_last else w.transpose(result, axes)]
    if params.output_mean_var:
        results += _moments(data, axis, params.eps, dtype_of(node.inputs[0]), w)
    return results


@dataclass(frozen=True)
class InstanceNormParameters(Parameters):
    """Parameters of InstanceNorm."""

    eps: float = 0.00100000005


def _check_instance_norm(params: InstanceNormParameters, node: NodeInfo) -> Optional[str]:
    return check_weights(node, (1, 2), ("gamma", "beta"))


# MXNet has this operator for float32 only.
@operator(
    "InstanceNorm", parameters=InstanceNormParameters, check=_check_instance_norm, weights=(1, 2), dtypes=(FLOAT32,)
)
def _instance_norm(
    params: InstanceNormParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    return [w.node("InstanceNormalization", inputs, epsilon=params.eps)]


@dataclass(frozen=True)
class GroupNormParameters(Parameters):
    """Parameters of GroupNorm."""

    num_groups: int = 1
    eps: float = 9.99999975e-06
    output_mean_var: bool = False


def _check_group_norm(params: GroupNormParameters, node: NodeInfo) -> Optional[str]:
    return check_weights(node, (1, 2), ("gamma", "beta"))


@operator("GroupNorm", parameters=GroupNormParameters, check=_check_group_norm, weights=(1, 2))
def _group_norm(params: GroupNormParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    # MXNet's gamma and beta have one value a group, not a channel: with the groups as channels this is an
    # instance normalization.
    data, gamma, beta = inputs
    shape = shape_of(node.inputs[0])
    groups = w.reshape(data, (0, params.num_groups, -1))
    result = w.node("InstanceNormalization", [groups, gamma, beta], epsilon=params.eps)
    results = [w.reshape(result, free_batch(shape, shape))]
    if params.output_mean_var:
        moments = _moments(groups, 2, params.eps, dtype_of(node.inputs[0]), w)
        results += [w.squeeze(moment, [2]) for moment in moments]
    return results


@dataclass(frozen=True)
class L2NormalizationParameters(Parameters):
    """Parameters of L2Normalization."""

    eps: float = 1.00000001e-10
    mode: str = "instance"


def _check_l2(params: L2NormalizationParameters, node: NodeInfo) -> Optional[str]:
    # No axes to sum over would mean all of them to ONNX. The other modes' shapes MXNet checks itself.
    shape = node.inputs[0].shape
    if params.mode == "instance" and shape is None:
        return needs_shape("number of axes")
    if shape is not None and len(shape) < 2:
        return reason("number of axes", found=len(shape), required="2 or more")
    return None


# In float16 the default eps is 0 and the sum of squares overflows early; MXNet's own result is no reference.
@operator("L2Normalization", parameters=L2NormalizationParameters, check=_check_l2, dtypes=(FLOAT32,))
def _l2_normalization(
    params: L2NormalizationParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    axes = {"instance": range(1, ndim), "channel": range(1, 2), "spatial": range(2, ndim)}[params.mode]
    squares = w.reduce("ReduceSum", w.node("Mul", [inputs[0], inputs[0]]), axes, keepdims=True)
    eps = w.scalar(params.eps, dtype_of(node.inputs[0]))
    return [w.node("Div", [inputs[0], w.node("Sqrt", [w.node("Add", [squares, eps])])])]


@dataclass(frozen=True)
class LRNParameters(Parameters):
    """Parameters of LRN; `knorm` defaults to 2, where ONNX's bias defaults to 1."""

    nsize: int
    alpha: float = 9.99999975e-05
    beta: float = 0.75
    knorm: float = 2.0


def _check_lrn(params: LRNParameters, node: NodeInfo) -> Optional[str]:
    if params.nsize % 2 == 0:
        return reason("nsize", found=params.nsize, required="an odd number")
    if params.alpha <= 0 or params.beta <= 0:
        # ONNX Runtime builds no such model.
        return reason("alpha and beta", found=(params.alpha, params.beta), required="more than 0")
    return None


# MXNet has this operator for float32 only.
@operator("LRN", parameters=LRNParameters, check=_check_lrn, dtypes=(FLOAT32,))
def _lrn(params: LRNParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    name = w.node("LRN", inputs, alpha=params.alpha, beta=params.beta, bias=params.knorm, size=params.nsize)
    return [name]
