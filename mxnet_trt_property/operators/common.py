"""What several families of operators share: dtypes, axes, layouts, checks, and pieces of ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.graph import Tensor
from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.registry import FLOATS, NodeInfo, Parameters, needs_shape, reason

FLOAT32, FLOAT16 = FLOATS
INT32, INT64 = INTS = (np.dtype("int32"), np.dtype("int64"))
UINT8, BOOL = np.dtype("uint8"), np.dtype("bool")
NUMBERS = FLOATS + INTS
ELEMENTS = (*NUMBERS, BOOL)
"""The dtypes of operators that move elements and look at none; MXNet has bool for some of these only."""

LARGEST_TOPK = 3840
"""TensorRT's limit for the number of elements that a TopK returns."""

LARGEST_CONSTANT = 2**20
"""How many elements at most of a result are written into the model one by one."""

_RANGES = {dtype: np.iinfo(dtype) for dtype in INTS}

CHANNELS_LAST = ("NWC", "NHWC", "NDHWC")


@dataclass(frozen=True)
class CountedParameters(Parameters):
    """No parameters but the number of inputs, an attribute that MXNet's argument lists do not name."""

    IGNORED = Parameters.IGNORED | {"num_args"}


def is_channels_last(layout: Optional[str]) -> bool:
    """Whether the channels are the last axis; ONNX has them second, and so has MXNet without a layout."""
    return layout in CHANNELS_LAST


def spatial_sizes(shape: Sequence[int], layout: Optional[str]) -> Sequence[int]:
    """Returns the sizes of all axes but batch and channels."""
    return shape[1:-1] if is_channels_last(layout) else shape[2:]


def channels_first(name: str, ndim: int, w: OnnxWriter) -> str:
    """Moves the last of `ndim` axes to the second place."""
    return w.transpose(name, [0, ndim - 1, *range(1, ndim - 1)])


def channels_last(name: str, ndim: int, w: OnnxWriter) -> str:
    """Moves the second of `ndim` axes to the end: the inverse of `channels_first`."""
    return w.transpose(name, [0, *range(2, ndim), 1])


def swap_last(name: str, ndim: int, w: OnnxWriter) -> str:
    """Transposes each of the matrices that the last two of `ndim` axes are."""
    return w.transpose(name, [*range(ndim - 2), ndim - 1, ndim - 2])


def check_weights(node: NodeInfo, slots: Sequence[int], names: Sequence[str]) -> Optional[str]:
    """Returns why inputs that an engine wants frozen are refused where they are computed or fed at each run."""
    for slot, name in zip(slots, names):
        if slot < len(node.inputs) and not node.inputs[slot].is_weight:
            return reason(name, found="a value that changes between runs", required="a parameter of the network")
    return None


def check_dtype(name: str, tensor: Tensor, dtypes: Sequence[np.dtype[Any]]) -> Optional[str]:
    """Returns why a tensor's dtype is refused; one that is unknown is not."""
    if tensor.dtype is None or tensor.dtype in dtypes:
        return None
    return reason(f"dtype of {name}", found=tensor.dtype.name, required=" or ".join(d.name for d in dtypes))


def check_output(node: NodeInfo, dtypes: Sequence[np.dtype[Any]]) -> Optional[str]:
    """Returns why a node is refused whose output's shape and dtype do not follow from its inputs alone."""
    if not node.outputs or node.outputs[0].shape is None or node.outputs[0].dtype is None:
        return needs_shape("output")
    return check_dtype("the output", node.outputs[0], dtypes)


def check_constant(tensor: Tensor, *bounds: float) -> Optional[str]:
    """Returns why a result is refused that is written into the model element by element.

    Args:
        tensor: The result.
        *bounds: The numbers that its elements are made of and lie between.
    """
    if tensor.shape is not None and prod(tensor.shape) > LARGEST_CONSTANT:
        return reason("number of elements", found=prod(tensor.shape), required=f"at most {LARGEST_CONSTANT}")
    if tensor.dtype is None:
        return None
    largest = float(np.finfo(tensor.dtype).max if tensor.dtype in FLOATS else np.iinfo(tensor.dtype).max)
    if not all(abs(number) <= largest for number in bounds):
        return reason("bounds", found=bounds, required=f"finite numbers in the range of {tensor.dtype}")
    return None


def check_scalar_fits(name: str, value: float, dtype: Optional[np.dtype[Any]]) -> Optional[str]:
    """Returns why a scalar is refused that C++ gives no meaning in the dtype of its tensor: an integer out of range."""
    if dtype not in _RANGES or (math.isfinite(value) and _RANGES[dtype].min <= value <= _RANGES[dtype].max):
        return None
    return reason(name, found=value, required=f"a number in the range of {dtype}")


def check_whole(name: str, value: float, dtype: Optional[np.dtype[Any]]) -> Optional[str]:
    """Returns why a scalar is refused that is no number of the integers of its tensor."""
    if dtype in INTS and math.isfinite(value) and value != int(value):
        return reason(name, found=value, required=f"a whole number with {dtype}")
    return check_scalar_fits(name, value, dtype)


def spread(values: tuple[int, ...], default: int, ndim: int) -> list[int]:
    """Returns one value for each spatial axis; MXNet's empty tuple means the default for all."""
    return list(values) if values else [default] * ndim


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """Returns a shape that must be known, as all are when a node is emitted."""
    if tensor.shape is None:
        raise ValueError("the shape is unknown")
    return tensor.shape


def dtype_of(tensor: Tensor) -> np.dtype[Any]:
    """Returns a dtype that must be known, as all are when a node is emitted."""
    if tensor.dtype is None:
        raise ValueError("the dtype is unknown")
    return tensor.dtype


def positive(axis: int, ndim: int) -> int:
    """Returns an axis counted from the front.

    Raises:
        ValueError: There is no such axis.
    """
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} of a tensor with {ndim} axes")
    return axis % ndim


def free_batch(shape: Sequence[int], source: Sequence[int]) -> list[int]:
    """Returns a Reshape target that copies the first dimension where both shapes share it.

    With 0 in place of the batch size the written model serves any batch.
    """
    target = list(shape)
    if len(target) > 1 and source and target[0] == source[0]:
        target[0] = 0
    return target


def sum_places(data: str, axis: tuple[int, int], size: int, places: np.ndarray[Any, Any], w: OnnxWriter) -> str:
    """Returns for each row of `places` the sum of these elements of one axis.

    A product with a matrix of zeros and ones would say the same, but for what is infinite or not a number.

    Args:
        data: The tensor.
        axis: The number of its axes, and the one to sum over.
        size: The size of that axis.
        places: Integers (sums, most summands); `size` stands for no element.
        w: The writer.
    """
    ndim, summed = axis
    if (places == size).any():
        data = w.pad(data, [0] * ndim, [int(i == summed) for i in range(ndim)])
    return w.reduce(
        "ReduceSum", w.node("Gather", [data, w.constant(places)], axis=summed), [summed + 1], keepdims=False
    )


def recast(name: str, found: np.dtype[Any], wanted: np.dtype[Any], w: OnnxWriter) -> str:
    """Converts a tensor of dtype `found` where another is wanted."""
    return name if found == wanted else w.cast(name, wanted)


def in_float32(dtype: np.dtype[Any], inputs: Sequence[str], w: OnnxWriter, write: Callable[..., str]) -> str:
    """Returns `write(*inputs)`, computed in float32 where the data is float16."""
    if dtype != FLOAT16:
        return write(*inputs)
    return w.cast(write(*(w.cast(name, FLOAT32) for name in inputs)), dtype)
