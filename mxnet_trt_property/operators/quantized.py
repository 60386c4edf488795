r"""MXNet's int8 operators, as `mx.contrib.quantization.quantize_model` writes them; oneDNN's kernels are the reference.

A quantized array comes with two scalars, min and max, and stands for  q * max(|min|, |max|) / r.  oneDNN's kernels have
r = 127.5 for int8 and 255.5 for uint8 and saturate; requantization counts to 127 and 255, and int32 to 2^31.

What is written computes on the integers themselves, in float32. An int8 array is a QuantizeLinear and a
DequantizeLinear of scale 1 around them, so that scales are constants even where ranges are computed at run time, as
TensorRT needs it for its int8 kernels; the real scale is a factor on the sums behind. TensorRT does not quantize to
uint8: such an array is rounded and clipped. Sums beyond 2^24 are rounded to float32, far less than a step of int8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators import registry
from mxnet_trt_property.operators.common import (
    FLOAT32,
    INT32,
    UINT8,
    CountedParameters,
    check_dtype,
    check_weights,
    dtype_of,
    free_batch,
    shape_of,
)
from mxnet_trt_property.operators.conv import ConvolutionParameters
from mxnet_trt_property.operators.dense import FullyConnectedParameters
from mxnet_trt_property.operators.pool import PoolingParameters
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator, reason

INT8 = np.dtype("int8")
_BYTES = (INT8, UINT8)
_ARRAYS = (*_BYTES, INT32, FLOAT32)
_LIMITS = {INT8: (-128.0, 127.0), UINT8: (0.0, 255.0)}
_ONEDNN = {INT8: 127.5, UINT8: 255.5}
_INT32 = 2.0**31
# Ranges are divided by; a network never has this small a one, and 0 / 0 is no number.
_TINY = 1e-30


@dataclass(frozen=True)
class CalibratedParameters(Parameters):
    """The range that calibration found; without it the array's own range is taken at each run."""

    min_calib_range: Optional[float] = None
    max_calib_range: Optional[float] = None

    @property
    def is_calibrated(self) -> bool:
        """Whether both ends are there; MXNet asks for both."""
        return self.min_calib_range is not None and self.max_calib_range is not None

    @property
    def size(self) -> float:
        """The largest absolute value of the range."""
        return max(abs(self.min_calib_range or 0.0), abs(self.max_calib_range or 0.0))


@dataclass(frozen=True)
class QuantizeParameters(CalibratedParameters):
    """Parameters of _contrib_quantize_v2 and _contrib_requantize; "auto" is uint8 for a range from 0 up."""

    out_type: str = "int8"

    @property
    def is_unsigned(self) -> bool:
        """Whether the output is uint8."""
        is_positive = self.is_calibrated and (self.min_calib_range or 0.0) >= 0
        return self.out_type == "uint8" or (self.out_type == "auto" and is_positive)


@dataclass(frozen=True)
class ActivationParameters(Parameters):
    """Parameters of _contrib_quantized_act."""

    act_type: str


@dataclass(frozen=True)
class ConcatParameters(CountedParameters):
    """Parameters of _contrib_quantized_concat."""

    dim: int = 1


@dataclass(frozen=True)
class BatchNormParameters(CalibratedParameters):
    """Parameters of _contrib_quantized_batch_norm; oneDNN's kernel reads gamma whatever `fix_gamma` says."""

    IGNORED = Parameters.IGNORED | {"momentum", "fix_gamma", "use_global_stats"}

    eps: float = 0.0010000000474974513
    output_mean_var: bool = False
    axis: int = 1


# ---- pieces ----


def _number(value: float, w: OnnxWriter) -> str:
    return w.constant(np.array([value], np.float32))


def _size(low: str, high: str, w: OnnxWriter) -> str:
    """Returns the largest absolute value of a range."""
    return w.node("Max", [w.node("Abs", [low]), w.node("Abs", [high]), _number(_TINY, w)])


def _store(integers: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    """Returns an array of int8 or uint8: floats rounded to integers, ties to even, and saturated."""
    if dtype == INT8:
        one, zero = w.scalar(1.0, FLOAT32), w.constant(np.array(0, np.int8))
        stored = w.node("QuantizeLinear", [integers, one, zero])
        w.stand_in(stored, w.node("DequantizeLinear", [stored, one, zero]))
        return stored
    low, high = (w.scalar(limit, FLOAT32) for limit in _LIMITS[dtype])
    return _store_exact(w.node("Clip", [w.node("Round", [integers]), low, high]), dtype, w)


def _store_exact(integers: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    """Returns an array of uint8 or int32 of floats that are such integers already."""
    stored = w.cast(integers, dtype)
    w.stand_in(stored, integers)
    return stored


def _integers(name: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    """Returns the integers of a quantized array in float32."""
    known = w.stood_in(name)
    if known:
        return known
    if dtype == INT8:
        return w.node("DequantizeLinear", [name, w.scalar(1.0, FLOAT32), w.constant(np.array(0, np.int8))])
    return w.cast(name, FLOAT32)


def _check_bytes(node: NodeInfo, count: int = 1) -> Optional[str]:
    for slot, tensor in enumerate(node.inputs[:count]):
        refused = check_dtype(f"input {slot}", tensor, _BYTES)
        if refused:
            return refused
    return None


def _entry(*names: str, **rest: Any) -> Callable[[registry.Emit], registry.Emit]:
    return operator(*names, dtypes=_ARRAYS, results=_ARRAYS, **rest)


# ---- to and from floats ----


def _check_range_and_data(params: QuantizeParameters, node: NodeInfo, dtype: np.dtype[Any]) -> Optional[str]:
    if params.is_calibrated and params.size == 0:
        return reason("calibrated range", found="0 to 0", required="a range")
    return check_dtype("the data", node.inputs[0], (dtype,))


def _check_quantize(params: QuantizeParameters, node: NodeInfo) -> Optional[str]:
    if params.out_type not in ("int8", "uint8", "auto"):
        return reason("out_type", found=params.out_type, required="int8, uint8 or auto")
    # Data that is integer already passes, with a range of its own.
    return _check_range_and_data(params, node, FLOAT32)


@_entry("_contrib_quantize_v2", parameters=QuantizeParameters, check=_check_quantize)
def _quantize(params: QuantizeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = UINT8 if params.is_unsigned else INT8
    if params.is_calibrated:
        low, high = _number(params.min_calib_range or 0.0, w), _number(params.max_calib_range or 0.0, w)
        size = _number(params.size, w)
    else:
        axes = range(len(shape_of(node.inputs[0])))
        low, high = (
            w.reshape(w.reduce(kind, inputs[0], axes, keepdims=True), (1,)) for kind in ("ReduceMin", "ReduceMax")
        )
        size = _size(low, high, w)
    scale = w.node("Div", [_number(_ONEDNN[dtype], w), size])
    stored = _store(w.node("Mul", [inputs[0], scale]), dtype, w)
    return [stored, low, high] if dtype == UINT8 else [stored, w.node("Neg", [size]), w.node("Identity", [size])]


@dataclass(frozen=True)
class DequantizeParameters(Parameters):
    """Parameters of _contrib_dequantize."""

    out_type: str = "float32"


@_entry("_contrib_dequantize", parameters=DequantizeParameters)
def _dequantize(params: DequantizeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = dtype_of(node.inputs[0])
    scale = w.node("Div", [_size(inputs[1], inputs[2], w), _number(_ONEDNN[dtype], w)])
    return [w.node("Mul", [_integers(inputs[0], dtype, w), scale])]


def _check_requantize(params: QuantizeParameters, node: NodeInfo) -> Optional[str]:
    return _check_range_and_data(params, node, INT32)


@_entry("_contrib_requantize", parameters=QuantizeParameters, check=_check_requantize)
def _requantize(params: QuantizeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = UINT8 if params.is_unsigned else INT8
    integers = _integers(inputs[0], INT32, w)
    step = w.node("Div", [_size(inputs[1], inputs[2], w), _number(_INT32, w)])
    if params.is_calibrated:
        size = _number(params.size, w)
    else:
        axes = range(len(shape_of(node.inputs[0])))
        largest = w.reduce("ReduceMax", w.node("Abs", [integers]), axes, keepdims=True)
        size = w.node("Max", [w.node("Mul", [w.reshape(largest, (1,)), step]), _number(_TINY, w)])
    scale = w.node("Mul", [step, w.node("Div", [_number(_LIMITS[dtype][1], w), size])])
    stored = _store(w.node("Mul", [integers, scale]), dtype, w)
    low = _number(0.0, w) if dtype == UINT8 else w.node("Neg", [size])
    return [stored, low, w.node("Identity", [size])]


# ---- products ----


def _product_range(data: str, weight: str, steps: float, w: OnnxWriter) -> tuple[str, str]:
    """Returns the range of an int32 array: what 2^31 stands for, where the operands count to `steps` together."""
    size = w.node("Mul", [w.node("Mul", [data, weight]), _number(_INT32 / steps, w)])
    return w.node("Neg", [size]), size


def _check_convolution(params: ConvolutionParameters, node: NodeInfo) -> Optional[str]:
    if params.layout not in (None, "NCHW", "NCDHW"):
        return reason("layout", found=params.layout, required="NCHW or NCDHW")
    slots = (1,) if params.no_bias else (1, 2)
    return _check_bytes(node) or check_weights(node, slots, ("weight", "bias"))


@_entry(
    "_contrib_quantized_conv",
    parameters=ConvolutionParameters,
    check=_check_convolution,
    weights=(1, 2, 4, 5, 6, 7, 8),
)
def _convolution(params: ConvolutionParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    arrays = 2 if params.no_bias else 3
    data = _integers(inputs[0], dtype_of(node.inputs[0]), w)
    weights = [_integers(name, INT8, w) for name in inputs[1:arrays]]
    low, high, weight_low, weight_high = inputs[arrays : arrays + 4]
    plain = _plain("Convolution")
    (sums,) = plain.emit(params, _as_floats(node, arrays), [data, *weights], w)
    ends = _product_range(_size(low, high, w), _size(weight_low, weight_high, w), 127.0 * 127.0, w)
    return [_store_exact(sums, INT32, w), *ends]


def _check_fully_connected(params: FullyConnectedParameters, node: NodeInfo) -> Optional[str]:
    slots = (1,) if params.no_bias else (1, 2)
    return _check_bytes(node) or check_weights(node, slots, ("weight", "bias"))


@_entry(
    "_contrib_quantized_fully_connected",
    parameters=FullyConnectedParameters,
    check=_check_fully_connected,
    weights=(1, 2, 4, 5, 6, 7, 8),
)
def _fully_connected(
    params: FullyConnectedParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    arrays = 2 if params.no_bias else 3
    dtype = dtype_of(node.inputs[0])
    data_size, weight_size = (_size(inputs[i], inputs[i + 1], w) for i in (arrays, arrays + 2))
    data, weight = _integers(inputs[0], dtype, w), _integers(inputs[1], INT8, w)
    (sums,) = _plain("FullyConnected").emit(replace(params, no_bias=True), _as_floats(node, 2), [data, weight], w)
    if not params.no_bias:
        # The bias counts in steps of its own; in those of the sums it is cut to an integer.
        bias_step = w.node("Div", [_size(inputs[arrays + 4], inputs[arrays + 5], w), _number(127.5, w)])
        product_step = w.node("Mul", [data_size, weight_size])
        steps = _number(_ONEDNN[dtype] * 127.5, w)
        rescaled = w.node("Div", [w.node("Mul", [bias_step, steps]), product_step])
        bias = w.node("Mul", [_integers(inputs[2], INT8, w), rescaled])
        sums = w.node("Add", [sums, w.cast(w.cast(bias, INT32), FLOAT32)])
    count = 127.0 * 127.0 if dtype == INT8 else 127.0 * 255.0
    return [_store_exact(sums, INT32, w), *_product_range(data_size, weight_size, count, w)]


def _plain(name: str) -> registry.Operator:
    """Returns the entry of the float operator that a quantized one does with integers."""
    found = registry.find(name)
    assert found is not None
    return found


def _as_floats(node: NodeInfo, arrays: int) -> NodeInfo:
    """Returns a node as the float operator sees it: without ranges."""
    inputs = tuple(replace(tensor, dtype=FLOAT32) for tensor in node.inputs[:arrays])
    return replace(node, inputs=inputs, outputs=tuple(replace(tensor, dtype=FLOAT32) for tensor in node.outputs[:1]))


# ---- what keeps the range ----


def _check_pooling(params: PoolingParameters, node: NodeInfo) -> Optional[str]:
    if params.pool_type not in ("max", "avg"):
        return reason("pool_type", found=params.pool_type, required="max or avg")
    return _check_bytes(node) or _plain("Pooling").check(params, _as_floats(node, 1))


@_entry("_contrib_quantized_pooling", parameters=PoolingParameters, check=_check_pooling)
def _pooling(params: PoolingParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = dtype_of(node.inputs[0])
    (pooled,) = _plain("Pooling").emit(params, _as_floats(node, 1), [_integers(inputs[0], dtype, w)], w)
    return [_store(pooled, dtype, w), *_same_range(inputs, w)]


def _same_range(inputs: Sequence[str], w: OnnxWriter) -> list[str]:
    return [w.node("Identity", [name]) for name in inputs[1:3]]


def _check_activation(params: ActivationParameters, node: NodeInfo) -> Optional[str]:
    if params.act_type != "relu":
        return reason("act_type", found=params.act_type, required="relu")
    # Of uint8 MXNet says that the result is int8, and writes uint8.
    return check_dtype("the data", node.inputs[0], (INT8,))


@_entry("_contrib_quantized_act", parameters=ActivationParameters, check=_check_activation)
def _activation(params: ActivationParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [_store(w.node("Relu", [_integers(inputs[0], INT8, w)]), INT8, w), *_same_range(inputs, w)]


def _check_flatten(params: Parameters, node: NodeInfo) -> Optional[str]:
    return _check_bytes(node)


@_entry("_contrib_quantized_flatten", check=_check_flatten)
def _flatten(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = dtype_of(node.inputs[0])
    target = free_batch(shape_of(node.outputs[0]), shape_of(node.inputs[0]))
    return [_store(w.reshape(_integers(inputs[0], dtype, w), target), dtype, w), *_same_range(inputs, w)]


# ---- what makes a range of several ----


@_entry("_contrib_quantized_concat", parameters=ConcatParameters)
def _concat(params: ConcatParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    count = len(inputs) // 3
    dtype = dtype_of(node.outputs[0])
    lows, highs = inputs[count::2], inputs[count + 1 :: 2]
    low = w.node("Min", [*lows, _number(0.0, w)])
    high = w.node("Max", [*highs, _number(0.0, w)])
    size = _size(low, high, w)
    parts = []
    for i in range(count):
        kind = dtype_of(node.inputs[i])
        ratio = w.node("Div", [_size(lows[i], highs[i], w), size])
        scale = w.node("Mul", [ratio, _number(_ONEDNN[dtype] / _ONEDNN[kind], w)])
        parts.append(w.node("Mul", [_integers(inputs[i], kind, w), scale]))
    return [_store(w.node("Concat", parts, axis=params.dim), dtype, w), low, high]


def _check_add(params: CalibratedParameters, node: NodeInfo) -> Optional[str]:
    kinds = {tensor.dtype for tensor in node.inputs[:2] if tensor.dtype is not None}
    # oneDNN's kernel rounds the unsigned one to int8 on the way, and saturates it, before it adds.
    if len(kinds) > 1:
        return reason("dtypes of the operands", found="int8 and uint8", required="both int8 or both uint8")
    if params.is_calibrated and params.size == 0:
        return reason("calibrated range", found="0 to 0", required="a range")
    return _check_bytes(node, 2)


@_entry("_contrib_quantized_elemwise_add", parameters=CalibratedParameters, check=_check_add)
def _add(params: CalibratedParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype, result = dtype_of(node.inputs[0]), dtype_of(node.outputs[0])
    sizes = [_size(inputs[2], inputs[3], w), _size(inputs[4], inputs[5], w)]
    if params.is_calibrated:
        low, high = _number(params.min_calib_range or 0.0, w), _number(params.max_calib_range or 0.0, w)
        total = _number(params.size, w)
    else:
        high = total = w.node("Add", sizes)
        low = w.node("Neg", [total])
    steps = (_INT32 if result == INT32 else _ONEDNN[result]) / _ONEDNN[dtype]
    parts = [
        w.node("Mul", [_integers(name, dtype, w), w.node("Mul", [w.node("Div", [size, total]), _number(steps, w)])])
        for name, size in zip(inputs[:2], sizes)
    ]
    added = w.node("Add", parts)
    stored = _store_exact(w.node("Round", [added]), INT32, w) if result == INT32 else _store(added, result, w)
    return [stored, low, high]


def _check_batch_norm(params: BatchNormParameters, node: NodeInfo) -> Optional[str]:
    if not params.is_calibrated or params.size == 0:
        return reason("calibrated range", found="none", required="a range, as MXNet's operator has no other way")
    if params.axis != 1 or params.output_mean_var:
        return reason("axis, output_mean_var", found=(params.axis, params.output_mean_var), required=(1, False))
    return check_dtype("the data", node.inputs[0], (INT8,)) or check_weights(
        node, (1, 2, 3, 4), ("gamma", "beta", "moving_mean", "moving_var")
    )


@_entry(
    "_contrib_quantized_batch_norm",
    parameters=BatchNormParameters,
    check=_check_batch_norm,
    weights=(1, 2, 3, 4),
)
def _batch_norm(params: BatchNormParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    gamma, beta, mean, variance = inputs[1:5]
    deviation = w.node("Sqrt", [w.node("Add", [variance, _number(params.eps, w)])])
    slope = w.node("Div", [gamma, deviation])
    # MXNet gives oneDNN a variance of 1 for what is scaled already, and oneDNN adds epsilon to that, too.
    rest = float(np.sqrt(1.0 + params.eps))
    shift = w.node("Sub", [beta, w.node("Mul", [mean, slope])])
    channels = (1, -1, *([1] * (len(shape_of(node.inputs[0])) - 2)))
    ratio = w.node("Div", [_size(inputs[5], inputs[6], w), _number(params.size * rest, w)])
    scale = w.reshape(w.node("Mul", [slope, ratio]), channels)
    offset = w.reshape(w.node("Mul", [shift, _number(127.5 / params.size, w)]), channels)
    integers = w.node("Add", [w.node("Mul", [_integers(inputs[0], INT8, w), scale]), offset])
    low, high = _number(params.min_calib_range or 0.0, w), _number(params.max_calib_range or 0.0, w)
    return [_store(integers, INT8, w), low, high]
