"""Sorting, greedy suppression and compaction of boxes, as ONNX nodes of fixed shapes.

ONNX has NonMaxSuppression, whose count of results depends on the data; no TensorRT for RTX has it. Here the overlaps of
all pairs are computed at once, and a loop over the boxes, best first, drops what the best one left covers.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, LARGEST_TOPK
from mxnet_trt_property.operators.registry import reason


def check_boxes(count: int) -> Optional[str]:
    """Returns why so many boxes of an image are refused. The matrix of overlaps of the most takes 56 MiB."""
    if count > LARGEST_TOPK:
        return reason("number of boxes to compare", found=count, required=f"at most {LARGEST_TOPK}; topk limits them")
    return None


def best(scores: str, valid: str, count: int, w: OnnxWriter) -> tuple[str, str]:
    """Returns the places of the `count` best of (batch, boxes), and which of them are valid: (batch, count) each.

    Of two equal scores the earlier comes first, as ONNX says of TopK and MXNet's stable sort does.
    """
    lowest = w.scalar(-np.inf, FLOAT32)
    keys = w.node("Where", [valid, scores, lowest])
    values, places = w.nodes("TopK", [keys, w.ints([count])], 2, axis=1)
    return places, w.node("Greater", [values, lowest])


def rows_at(rows: str, places: str, w: OnnxWriter) -> str:
    """Returns the rows (batch, count, width) at places (batch, count) of rows (batch, boxes, width)."""
    return w.node("GatherND", [rows, w.unsqueeze(places, [2])], batch_dims=1)


def suppress(covers: str, valid: str, batch: int, count: int, w: OnnxWriter) -> str:
    """Drops each box that an earlier one, itself not dropped, covers.

    Args:
        covers: Whether the second box is to be dropped where the first is kept: bool (batch, count, count).
        valid: The boxes to begin with: bool (batch, count).
        batch: The number of images.
        count: The number of boxes of each.
        w: The writer.

    Returns:
        What is kept: bool (batch, count).
    """
    kept = w.cast(valid, FLOAT32)
    if count > 1:
        # A box covers only those after it. The step is the first axis: slices of it lie together.
        numbers = np.arange(count).astype(FLOAT32)
        later = w.node("Less", [w.constant(numbers[:, None]), w.constant(numbers)])
        matrix = w.cast(w.transpose(w.node("And", [covers, later]), (1, 0, 2)), FLOAT32)
        one = w.scalar(1, FLOAT32)

        def step(number: str, state: str) -> str:
            covered = w.node("Gather", [matrix, number], axis=0)
            is_kept = w.node("Gather", [state, w.unsqueeze(number, [0])], axis=1)
            return w.node("Mul", [state, w.node("Sub", [one, w.node("Mul", [covered, is_kept])])])

        # Nothing comes after the last one.
        kept = w.loop(count - 1, kept, (batch, count), step)
    return w.node("Greater", [kept, w.scalar(0, FLOAT32)])


def pack(kept: str, count: int, w: OnnxWriter) -> tuple[str, str]:
    """Returns the places that bring what is kept to the front, in its order, and which of them are kept."""
    # Numbers from `count` down to 1: no two are equal, and all that is dropped is 0.
    order = w.constant(np.arange(count, 0, -1).astype(FLOAT32))
    keys = w.node("Mul", [w.cast(kept, FLOAT32), order])
    values, places = w.nodes("TopK", [keys, w.ints([count])], 2, axis=1)
    return places, w.node("Greater", [values, w.scalar(0, FLOAT32)])
