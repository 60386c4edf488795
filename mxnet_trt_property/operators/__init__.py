"""The operator entries. Importing this package fills the registry."""

from __future__ import annotations

from mxnet_trt_property.operators import (
    broadcast,
    common,
    conv,
    dense,
    elementwise,
    index,
    nonlinearity,
    norm,
    pool,
    reduce,
    resize,
    shape,
    slicing,
    softmax,
)
from mxnet_trt_property.operators.registry import (
    NodeInfo,
    Operator,
    ParameterError,
    Parameters,
    all_operators,
    find,
    needs_shape,
    operator,
    reason,
)

__all__ = [
    "NodeInfo",
    "Operator",
    "ParameterError",
    "Parameters",
    "all_operators",
    "broadcast",
    "common",
    "conv",
    "dense",
    "elementwise",
    "find",
    "index",
    "needs_shape",
    "nonlinearity",
    "norm",
    "operator",
    "pool",
    "reason",
    "reduce",
    "resize",
    "shape",
    "slicing",
    "softmax",
]
