"""Weights of an executor side by side in one array, so that MXNet's engine has one thing to look after, not 260.

MXNet's engine locks and counts each array that an operator reads, before the operator and again behind it, and only
then wakes whoever waits for the result: 0.3 us for each array of a TensorRT node, a tenth of a ResNet-50. Arrays that
are views of one array count as one.

This is for arrays on a GPU. On the CPU MXNet's convolutions turn weights into MKLDNN's layout in place, the whole
array below a view.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import mxnet as mx
import numpy as np

from mxnet_trt_property import convert
from mxnet_trt_property.graph import Graph

# Where a view may begin: cudaMalloc gives addresses like that, and kernels for vectors of several numbers want them.
_ALIGNMENT = 256

# NDArrayStorageType kDefaultStorage.
_DENSE = "0"

# MXNet 1.9 counts the elements of an array in 31 bits.
_MOST_ELEMENTS = 2**31 - 1


def is_possible(context: Any) -> bool:
    """Whether the arrays of an `mx.Context` may be views of another."""
    return bool(context.device_type == "gpu")


def weight_names(graph: Graph) -> frozenset[str]:
    """Returns the variables of a graph that can lie side by side, if every operator of it goes to TensorRT.

    An input may be written between any two forwards, and a write of one view counts as one of all.
    """
    roles = convert.variable_roles(graph, lambda node: True)
    return frozenset(
        node.name
        for node in graph.nodes
        if node.is_variable and roles[node.id] == "weight" and node.attrs.get("__storage_type__", _DENSE) == _DENSE
    )


def zeros(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Returns arrays of zeros by name: views of as few arrays as can be.

    Args:
        shapes: The shape of each.
        dtypes: The dtype of each.
        context: Where they lie, an `mx.Context`.
    """
    found: dict[str, Any] = {}
    for dtype, names in _by_dtype(shapes, dtypes).items():
        step = _ALIGNMENT // dtype.itemsize
        for bundle in _bundles(names, shapes, step):
            count = sum(_room(shapes[name], step) for name in bundle)
            memory = mx.nd.zeros((count,), context, dtype)
            begin = 0
            for name in bundle:
                size = int(np.prod(shapes[name], dtype=np.int64))
                found[name] = memory[begin : begin + size].reshape(shapes[name])
                begin += _room(shapes[name], step)
    return found


def _by_dtype(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, Any]) -> dict[np.dtype[Any], list[str]]:
    found = defaultdict(list)
    for name in shapes:
        found[np.dtype(dtypes[name])].append(name)
    return found


def _room(shape: Sequence[int], step: int) -> int:
    """Returns the elements from the beginning of a view to that of the next."""
    return -(-int(np.prod(shape, dtype=np.int64)) // step) * step


def _bundles(names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], step: int) -> list[list[str]]:
    """Splits names so that each part fits an array."""
    found: list[list[str]] = [[]]
    room = _MOST_ELEMENTS
    for name in names:
        needed = _room(shapes[name], step)
        if needed > room and found[-1]:
            found.append([])
            room = _MOST_ELEMENTS
        found[-1].append(name)
        room -= needed
    return found
