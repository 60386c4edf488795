"""Boxes: overlaps, non-maximum suppression, and their encoding as distances from anchors.

A box is (left, top, right, bottom), the format "corner", or (x, y, width, height) with the middle in x and y, "center".
MXNet compares in these operators with the C operators, so that what is not a number overlaps with nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, INT32, INT64, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator
from mxnet_trt_property.operators.suppression import best, check_boxes, pack, rows_at, suppress


@dataclass(frozen=True)
class BoxIouParameters(Parameters):
    """Parameters of _contrib_box_iou."""

    format: str = "corner"


@dataclass(frozen=True)
class BoxNmsParameters(Parameters):
    """Parameters of _contrib_box_nms; without an `id_index` all boxes are of one class."""

    overlap_thresh: float = 0.5
    valid_thresh: float = 0.0
    topk: int = -1
    coord_start: int = 2
    score_index: int = 1
    id_index: int = -1
    background_id: int = -1
    force_suppress: bool = False
    in_format: str = "corner"
    out_format: str = "corner"


@dataclass(frozen=True)
class BoxDecodeParameters(Parameters):
    """Parameters of _contrib_box_decode; `clip` counts where it is positive."""

    std0: float = 1.0
    std1: float = 1.0
    std2: float = 1.0
    std3: float = 1.0
    clip: float = -1.0
    format: str = "center"


def _pick(comparison: str, first: str, second: str, w: OnnxWriter) -> str:
    """Returns `first` where it compares so to `second`, else `second`: unlike Max and Min also where one is NaN."""
    return w.node("Where", [w.node(comparison, [first, second]), first, second])


def columns(rows: str, first: int, axis: int, w: OnnxWriter) -> list[str]:
    """Returns four neighbouring numbers of each row, the box, with the row's axis of size 1."""
    return [w.slice(rows, (axis,), (i,), (i + 1,), (1,)) for i in range(first, first + 4)]


def _area(box: Sequence[str], form: str, w: OnnxWriter) -> str:
    """Returns the area of each box; 0 where width or height is negative."""
    zero = w.scalar(0, FLOAT32)
    width, height = box[2:]
    if form == "corner":
        width, height = w.node("Sub", [box[2], box[0]]), w.node("Sub", [box[3], box[1]])
    is_negative = w.node("Or", [w.node("Less", [width, zero]), w.node("Less", [height, zero])])
    return w.node("Where", [is_negative, zero, w.node("Mul", [width, height])])


def _edges(box: Sequence[str], axis: int, form: str, w: OnnxWriter) -> tuple[str, str]:
    if form == "corner":
        return box[axis], box[axis + 2]
    half = w.node("Div", [box[axis + 2], w.scalar(2, FLOAT32)])
    return w.node("Sub", [box[axis], half]), w.node("Add", [box[axis], half])


def _intersection(first: Sequence[str], second: Sequence[str], form: str, w: OnnxWriter) -> str:
    """Returns the area that two boxes share; the tensors of both broadcast."""
    # Which of two numbers that do not compare is taken differs between the formats.
    order = 1 if form == "corner" else -1
    extents = []
    for axis in (0, 1):
        starts, ends = zip(*(_edges(box, axis, form, w) for box in (first, second)[::order]))
        extent = w.node("Sub", [_pick("Less", ends[0], ends[1], w), _pick("Greater", starts[0], starts[1], w)])
        extents.append(_pick("Greater", extent, w.scalar(0, FLOAT32), w))
    return w.node("Mul", extents)


def _overlap(first: Sequence[str], second: Sequence[str], form: str, w: OnnxWriter) -> tuple[str, str]:
    """Returns the area that two boxes share, and its part of what they cover together."""
    shared = _intersection(first, second, form, w)
    areas = w.node("Add", [_area(first, form, w), _area(second, form, w)])
    return shared, w.node("Div", [shared, w.node("Sub", [areas, shared])])


# In float16 MXNet rounds each step and ONNX Runtime does not: boxes near a threshold would part, in all that follows.
@operator("_contrib_box_iou", parameters=BoxIouParameters, dtypes=(FLOAT32,))
def _box_iou(params: BoxIouParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    left, right = (w.reshape(name, (-1, 4)) for name in inputs)
    first, second = columns(left, 0, 1, w), columns(w.transpose(right, (1, 0)), 0, 0, w)
    shared, ratio = _overlap(first, second, params.format, w)
    zero = w.scalar(0, FLOAT32)
    found = w.node("Where", [w.node("LessOrEqual", [shared, zero]), zero, ratio])
    return [w.reshape(found, shape_of(node.outputs[0]))]


def _nms_count(params: BoxNmsParameters, shape: Sequence[int]) -> int:
    return shape[-2] if params.topk < 0 else min(shape[-2], params.topk)


def _check_nms(params: BoxNmsParameters, node: NodeInfo) -> Optional[str]:
    shape = node.inputs[0].shape
    return needs_shape("number of boxes") if shape is None else check_boxes(_nms_count(params, shape))


@operator("_contrib_box_nms", parameters=BoxNmsParameters, check=_check_nms, dtypes=(FLOAT32,))
def _box_nms(params: BoxNmsParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    batch, boxes, width = prod(shape[:-2]), shape[-2], shape[-1]
    count = _nms_count(params, shape)
    if count == 0:
        return [inputs[0]]
    data = w.reshape(inputs[0], (batch, boxes, width))
    scores = w.node("Gather", [data, w.constant(np.array(params.score_index))], axis=2)
    valid = w.node("Greater", [scores, w.scalar(params.valid_thresh, FLOAT32)])
    if params.id_index >= 0:
        classes = w.node("Gather", [data, w.constant(np.array(params.id_index))], axis=2)
        is_background = w.node("Equal", [classes, w.scalar(params.background_id, FLOAT32)])
        valid = w.node("And", [valid, w.node("Not", [is_background])])
    places, is_box = best(scores, valid, count, w)
    rows = rows_at(data, places, w)
    kept = suppress(_covers(params, rows, w), is_box, batch, count, w)
    order, is_kept = pack(kept, count, w)
    found = w.node("Where", [w.unsqueeze(is_kept, [2]), rows_at(rows, order, w), w.scalar(-1, FLOAT32)])
    if params.in_format != params.out_format:
        found = _convert(params, found, width, w)
    if count < boxes:
        found = w.pad(found, [0, 0, 0], [0, boxes - count, 0], w.scalar(-1, FLOAT32))
    return [w.reshape(found, shape)]


def _covers(params: BoxNmsParameters, rows: str, w: OnnxWriter) -> str:
    """Returns whether the first of each two boxes overlaps the second too much: (batch, boxes, boxes)."""
    first = columns(rows, params.coord_start, 2, w)
    across = w.transpose(rows, (0, 2, 1))
    second = columns(across, params.coord_start, 1, w)
    _, ratio = _overlap(first, second, params.in_format, w)
    covers = w.node("Greater", [ratio, w.scalar(params.overlap_thresh, FLOAT32)])
    if params.force_suppress or params.id_index < 0:
        return covers
    # MXNet cuts the fraction of a class off.
    bounds = ((params.id_index,), (params.id_index + 1,), (1,))
    classes = [w.cast(w.slice(name, (axis,), *bounds), INT32) for name, axis in ((rows, 2), (across, 1))]
    return w.node("And", [covers, w.node("Equal", classes)])


def _convert(params: BoxNmsParameters, rows: str, width: int, w: OnnxWriter) -> str:
    """Converts the boxes in rows to the other format, but for those whose first number is negative."""
    box, two = columns(rows, params.coord_start, 2, w), w.scalar(2, FLOAT32)
    if params.out_format == "center":
        middles = [w.node("Div", [w.node("Add", [box[i], box[i + 2]]), two]) for i in (0, 1)]
        converted = [*middles, *(w.node("Sub", [box[i + 2], box[i]]) for i in (0, 1))]
    else:
        edges = [_edges(box, axis, "center", w) for axis in (0, 1)]
        converted = [edge for ends in zip(*edges) for edge in ends]
    start, end = params.coord_start, params.coord_start + 4
    parts = [w.node("Concat", converted, axis=2)]
    if start > 0:
        parts.insert(0, w.slice(rows, (2,), (0,), (start,), (1,)))
    if end < width:
        parts.append(w.slice(rows, (2,), (end,), (width,), (1,)))
    whole = w.node("Concat", parts, axis=2) if len(parts) > 1 else parts[0]
    return w.node("Where", [w.node("Less", [box[0], w.scalar(0, FLOAT32)]), rows, whole])


@operator("_contrib_box_decode", parameters=BoxDecodeParameters, dtypes=(FLOAT32,))
def _box_decode(params: BoxDecodeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    moves, anchor = (columns(name, 0, 2, w) for name in inputs)
    half = w.scalar(0.5, FLOAT32)
    if params.format == "corner":
        sizes = [w.node("Sub", [anchor[i + 2], anchor[i]]) for i in (0, 1)]
        middles = [w.node("Add", [anchor[i], w.node("Mul", [sizes[i], half])]) for i in (0, 1)]
        anchor = middles + sizes
    scales = (params.std0, params.std1, params.std2, params.std3)
    scaled = [w.node("Mul", [move, w.scalar(scale, FLOAT32)]) for move, scale in zip(moves, scales)]
    starts, ends = [], []
    for axis in (0, 1):
        middle = w.node("Add", [w.node("Mul", [scaled[axis], anchor[axis + 2]]), anchor[axis]])
        growth = scaled[axis + 2]
        if params.clip > 0:
            growth = _pick("Less", growth, w.scalar(params.clip, FLOAT32), w)
        extent = w.node("Mul", [w.node("Mul", [w.node("Exp", [growth]), anchor[axis + 2]]), half])
        starts.append(w.node("Sub", [middle, extent]))
        ends.append(w.node("Add", [middle, extent]))
    return [w.node("Concat", starts + ends, axis=2)]


@operator("_contrib_box_encode", dtypes=(FLOAT32,))
def _box_encode(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    samples, matches, anchors, boxes, means, stds = inputs
    count = shape_of(node.inputs[3])[1]
    # A match beyond the boxes has no box in MXNet, either.
    bounded = w.node("Max", [w.node("Min", [matches, w.scalar(count - 1, FLOAT32)]), w.scalar(0, FLOAT32)])
    matched = rows_at(boxes, w.cast(bounded, INT64), w)
    (middle, size), (anchor, extent) = (_middle_and_size(name, w) for name in (matched, anchors))
    moves = w.node("Div", [w.node("Sub", [middle, anchor]), extent])
    growth = w.node("Log", [w.node("Div", [size, extent])])
    normalized = w.node("Div", [w.node("Sub", [w.node("Concat", [moves, growth], axis=2), means]), stds])
    is_valid = w.unsqueeze(w.node("Greater", [samples, w.scalar(0.5, FLOAT32)]), [2])
    valid = w.node("Expand", [is_valid, w.ints(shape_of(node.outputs[1]))])
    return [w.node("Where", [valid, normalized, w.scalar(0, FLOAT32)]), w.cast(valid, FLOAT32)]


def _middle_and_size(boxes: str, w: OnnxWriter) -> tuple[str, str]:
    """Returns (batch, boxes, 2) each of boxes in corners."""
    starts, ends = (w.slice(boxes, (2,), (first,), (first + 2,), (1,)) for first in (0, 2))
    size = w.node("Sub", [ends, starts])
    return w.node("Add", [starts, w.node("Mul", [size, w.scalar(0.5, FLOAT32)])]), size
