"""Operators on the padded sequences of a batch, with the length of each: (time, batch, ...) or (batch, time, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import NUMBERS, check_scalar_fits, dtype_of, shape_of
from mxnet_trt_property.operators.indices import check_count, clip
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator


@dataclass(frozen=True)
class SequenceParameters(Parameters):
    """Parameters of SequenceLast and SequenceReverse; `axis` is that of time, 0 or 1, for SequenceReverse only 0."""

    use_sequence_length: bool = False
    axis: int = 0


@dataclass(frozen=True)
class SequenceMaskParameters(SequenceParameters):
    """Parameters of SequenceMask."""

    value: float = 0.0


def _check(params: SequenceParameters, node: NodeInfo) -> Optional[str]:
    shape = node.inputs[0].shape
    if shape is None:
        return needs_shape("number of steps")
    return check_count(shape[params.axis], node.inputs[1]) if params.use_sequence_length else None


def _check_mask(params: SequenceMaskParameters, node: NodeInfo) -> Optional[str]:
    return _check(params, node) or check_scalar_fits("value", params.value, node.inputs[0].dtype)


def _lengths(
    params: SequenceParameters, node: NodeInfo, lengths: str, least: int, w: OnnxWriter
) -> tuple[str, np.ndarray[Any, Any]]:
    """Returns the lengths, from `least` to the number of steps, and the steps' numbers; both broadcast to the data.

    What MXNet does with a length outside of that range is not defined.
    """
    shape = shape_of(node.inputs[0])
    steps = shape[params.axis]
    name, dtype = clip(lengths, dtype_of(node.inputs[1]), least, steps, w)
    sizes = [1] * len(shape)
    sizes[1 - params.axis] = -1
    numbers = [1] * len(shape)
    numbers[params.axis] = steps
    return w.reshape(name, sizes), np.arange(steps, dtype=dtype).reshape(numbers)


@operator("SequenceMask", parameters=SequenceMaskParameters, check=_check_mask, dtypes=NUMBERS)
def _sequence_mask(
    params: SequenceMaskParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    if not params.use_sequence_length:
        return [inputs[0]]
    lengths, numbers = _lengths(params, node, inputs[1], 0, w)
    inside = w.node("Less", [w.constant(numbers), lengths])
    return [w.node("Where", [inside, inputs[0], w.scalar(params.value, dtype_of(node.inputs[0]))])]


def _gather_steps(node: NodeInfo, data: str, steps: str, axis: int, count: int, w: OnnxWriter) -> str:
    """Returns the steps of each sequence that `steps` numbers: `count` of them along `axis`, 1 along all but batch."""
    shape = list(shape_of(node.inputs[0]))
    shape[axis] = count
    return w.node("GatherElements", [data, w.node("Expand", [steps, w.ints(shape)])], axis=axis)


@operator("SequenceLast", parameters=SequenceParameters, check=_check, dtypes=NUMBERS)
def _sequence_last(params: SequenceParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    axis, shape = params.axis, shape_of(node.inputs[0])
    if params.use_sequence_length:
        lengths, numbers = _lengths(params, node, inputs[1], 1, w)
        steps = w.node("Sub", [lengths, w.scalar(1, numbers.dtype)])
        last = _gather_steps(node, inputs[0], steps, axis, 1, w)
    else:
        last = w.slice(inputs[0], (axis,), (shape[axis] - 1,), (shape[axis],), (1,))
    return [w.reshape(last, shape_of(node.outputs[0]))]


@operator("SequenceReverse", parameters=SequenceParameters, check=_check, dtypes=NUMBERS)
def _sequence_reverse(
    params: SequenceParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    steps = shape_of(node.inputs[0])[0]
    if not params.use_sequence_length:
        return [w.slice(inputs[0], (0,), (-1,), (-steps - 1,), (-1,))]
    lengths, numbers = _lengths(params, node, inputs[1], 0, w)
    number = w.constant(numbers)
    mirrored = w.node("Sub", [w.node("Sub", [lengths, w.scalar(1, numbers.dtype)]), number])
    # Steps beyond the end stay where they are.
    chosen = w.node("Where", [w.node("Less", [number, lengths]), mirrored, number])
    return [_gather_steps(node, inputs[0], chosen, 0, steps, w)]
