"""Indices that come in as tensors. MXNet's may be floats, and it defines what an index out of range means."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from mxnet_trt_property.graph import Tensor
from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, INT32, INT64, INTS
from mxnet_trt_property.operators.registry import FLOATS, reason

# The largest count of rows whose every index float32 holds exactly.
_FLOAT_INDICES = 2**24


def check_count(count: int, indices: Tensor) -> Optional[str]:
    """Returns why an axis of `count` rows is refused: a float cannot name each of them."""
    if count > _FLOAT_INDICES and (indices.dtype is None or indices.dtype in FLOATS):
        return reason("number of rows", found=count, required=f"at most {_FLOAT_INDICES} with indices in floats")
    return None


def clip(indices: str, dtype: np.dtype[Any], low: int, high: int, w: OnnxWriter) -> tuple[str, np.dtype[Any]]:
    """Returns indices within [low, high], and their dtype: int32 for floats, which are cut off towards 0.

    Clipped before the conversion: a float beyond int32 has no defined integer, and with whole bounds both orders
    give the same.
    """
    if dtype == np.float16:
        indices, dtype = w.cast(indices, FLOAT32), FLOAT32
    clipped = w.node("Min", [w.node("Max", [indices, w.scalar(low, dtype)]), w.scalar(high, dtype)])
    if dtype in INTS:
        return clipped, dtype
    return w.cast(clipped, INT32), INT32


def wrap(indices: str, dtype: np.dtype[Any], count: int, w: OnnxWriter) -> tuple[str, np.dtype[Any]]:
    """Returns indices modulo `count`, with -1 as the last, and their dtype; floats are cut off towards 0 first."""
    if dtype not in INTS:
        indices, dtype = w.cast(indices, INT64), INT64
    return w.node("Mod", [indices, w.scalar(count, dtype)]), dtype


def place(indices: str, dtype: np.dtype[Any], count: int, mode: str, w: OnnxWriter) -> tuple[str, np.dtype[Any]]:
    """Returns indices of an axis with `count` rows by MXNet's `mode`, "clip" or "wrap", and their dtype."""
    return clip(indices, dtype, 0, count - 1, w) if mode == "clip" else wrap(indices, dtype, count, w)
