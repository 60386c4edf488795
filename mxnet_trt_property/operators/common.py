"""What several families of operators share: axes, layouts and the parameter records that MXNet reuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.graph import Tensor
from mxnet_trt_property.operators.registry import FLOATS, NodeInfo, reason

FLOAT32 = (np.dtype("float32"),)
INTS = (np.dtype("int32"), np.dtype("int64"))
NUMBERS = (*FLOATS, *INTS)
BOOL = np.dtype("bool")

CHANNELS_FIRST = ("None", "NCW", "NCHW", "NCDHW")


def check_layout(layout: Optional[str]) -> Optional[str]:
    """Returns why a layout is refused: ONNX has channels first only, and so have the weights."""
    if str(layout) in CHANNELS_FIRST:
        return None
    return reason("layout", found=layout, required=" or ".join(CHANNELS_FIRST))


def check_weights(node: NodeInfo, slots: Sequence[int], names: Sequence[str]) -> Optional[str]:
    """Returns why inputs that an engine wants frozen are refused where they are computed or fed at each run."""
    for slot, name in zip(slots, names):
        if slot < len(node.inputs) and not node.inputs[slot].is_weight:
            return reason(name, found="a value that changes between runs", required="a parameter of the network")
    return None


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
