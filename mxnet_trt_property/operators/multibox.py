"""The single shot detector's operators: its anchors, and the detections that its predictions stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.boxes import columns
from mxnet_trt_property.operators.common import FLOAT32, INT64, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator
from mxnet_trt_property.operators.suppression import best, check_boxes, rows_at, suppress


@dataclass(frozen=True)
class MultiBoxPriorParameters(Parameters):
    """Parameters of _contrib_MultiBoxPrior; `steps` and `offsets` are (y, x), and negative steps fill the image."""

    sizes: tuple[float, ...] = (1.0,)
    ratios: tuple[float, ...] = (1.0,)
    clip: bool = False
    steps: tuple[float, ...] = (-1.0, -1.0)
    offsets: tuple[float, ...] = (0.5, 0.5)


def _check_prior(params: MultiBoxPriorParameters, node: NodeInfo) -> Optional[str]:
    return needs_shape("size of the image") if node.inputs[0].shape is None else None


# Only the shape is read, and a shape is part of what an engine is built for.
@operator("_contrib_MultiBoxPrior", parameters=MultiBoxPriorParameters, check=_check_prior, ignored=(0,))
def _prior(params: MultiBoxPriorParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.constant(_anchors(params, *shape_of(node.inputs[0])[2:]))]


def _anchors(params: MultiBoxPriorParameters, height: int, width: int) -> np.ndarray[Any, Any]:
    """Returns the boxes (1, height * width * boxes, 4), computed in float32 in MXNet's order."""
    one = np.float32(1)
    steps = np.array(params.steps, np.float32)
    if (steps <= 0).any():
        steps = np.array([one / np.float32(height), one / np.float32(width)])
    offsets = np.array(params.offsets, np.float32)
    sizes, ratios = np.array(params.sizes, np.float32), np.sqrt(np.array(params.ratios, np.float32))
    # All sizes with the first ratio, then the first size with all other ratios.
    sides = [(size, ratios[0]) for size in sizes] + [(sizes[0], ratio) for ratio in ratios[1:]]
    y = (np.arange(height, dtype=np.float32) + offsets[0]) * steps[0]
    x = (np.arange(width, dtype=np.float32) + offsets[1]) * steps[1]
    middles = np.stack(np.broadcast_arrays(x[None, :, None], y[:, None, None]), axis=-1)
    halves = np.array(
        [[size * np.float32(height) / np.float32(width) * ratio / 2, size / ratio / 2] for size, ratio in sides],
        np.float32,
    )
    boxes: np.ndarray[Any, Any] = np.concatenate([middles - halves, middles + halves], axis=-1).reshape(1, -1, 4)
    return boxes.clip(0, 1) if params.clip else boxes


@dataclass(frozen=True)
class MultiBoxDetectionParameters(Parameters):
    """Parameters of _contrib_MultiBoxDetection; the background is class 0 whatever `background_id` says."""

    IGNORED = Parameters.IGNORED | {"background_id"}

    clip: bool = True
    threshold: float = 0.00999999978
    nms_threshold: float = 0.5
    force_suppress: bool = False
    variances: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    nms_topk: int = -1


def _has_nms(params: MultiBoxDetectionParameters) -> bool:
    return 0 < params.nms_threshold <= 1


def _count(params: MultiBoxDetectionParameters, anchors: int) -> int:
    return min(anchors, params.nms_topk) if params.nms_topk > 0 else anchors


def _check_detection(params: MultiBoxDetectionParameters, node: NodeInfo) -> Optional[str]:
    shape = node.inputs[0].shape
    if shape is None:
        return needs_shape("number of boxes")
    return check_boxes(_count(params, shape[2])) if _has_nms(params) else None


@operator(
    "_contrib_MultiBoxDetection", parameters=MultiBoxDetectionParameters, check=_check_detection, dtypes=(FLOAT32,)
)
def _detection(
    params: MultiBoxDetectionParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter
) -> Sequence[str]:
    """Writes rows (class, score, left, top, right, bottom): the detections first, in the order of the anchors.

    With suppression the best of them are sorted by score. What is dropped stays where it is with class -1, and so does
    what exceeds `nms_topk`, at the places that it had unsorted. All other rows are -1.
    """
    batch, _, anchors = shape_of(node.inputs[0])
    scores, classes = _classify(params, inputs[0], w)
    boxes = _decode(params, inputs[1], inputs[2], (batch, anchors), w)
    valid = w.node("GreaterOrEqual", [classes, w.scalar(0, FLOAT32)])
    rows = w.node("Concat", [w.unsqueeze(classes, [2]), w.unsqueeze(scores, [2]), boxes], axis=2)
    packed = _pack(rows, valid, batch, anchors, w)
    if not _has_nms(params):
        return [packed]
    count = _count(params, anchors)
    places, is_box = best(scores, valid, count, w)
    found = rows_at(rows, places, w)
    kept = suppress(_covers(params, found, w), is_box, batch, count, w)
    missing = w.scalar(-1, FLOAT32)
    found = _with_class(found, w.node("Where", [w.unsqueeze(kept, [2]), _class(found, w), missing]), w)
    found = w.node("Where", [w.unsqueeze(is_box, [2]), found, missing])
    if count == anchors:
        return [found]
    rest = w.slice(packed, (1,), (count,), (anchors,), (1,))
    none = w.node("Expand", [missing, w.ints([batch, anchors - count, 1])])
    return [w.node("Concat", [found, _with_class(rest, none, w)], axis=1)]


def _classify(params: MultiBoxDetectionParameters, probabilities: str, w: OnnxWriter) -> tuple[str, str]:
    """Returns score and class of each anchor, (batch, anchors) each: -1 for the background, and 0 for the next."""
    lowest = w.scalar(-1, FLOAT32)
    objects = w.slice(probabilities, (1,), (1,), (2**31 - 1,), (1,))
    # MXNet starts with -1 and takes what is greater, and of two equal ones the first.
    objects = w.node("Where", [w.node("Greater", [objects, lowest]), objects, lowest])
    scores = w.reduce("ReduceMax", objects, [1], keepdims=False)
    classes = w.cast(w.node("ArgMax", [objects], axis=1, keepdims=0), FLOAT32)
    is_low = w.node("Less", [scores, w.scalar(params.threshold, FLOAT32)])
    is_none = w.node("Or", [is_low, w.node("LessOrEqual", [scores, lowest])])
    return scores, w.node("Where", [is_none, lowest, classes])


def _decode(
    params: MultiBoxDetectionParameters, moves: str, anchors: str, shape: tuple[int, int], w: OnnxWriter
) -> str:
    """Returns the boxes (batch, anchors, 4)."""
    move = columns(w.reshape(moves, (*shape, 4)), 0, 2, w)
    anchor = columns(w.reshape(anchors, (1, shape[1], 4)), 0, 2, w)
    two, zero, one = (w.scalar(number, FLOAT32) for number in (2, 0, 1))
    variances = [w.scalar(number, FLOAT32) for number in params.variances]
    starts, ends = [], []
    for i in (0, 1):
        size = w.node("Sub", [anchor[i + 2], anchor[i]])
        middle = w.node("Div", [w.node("Add", [anchor[i], anchor[i + 2]]), two])
        moved = w.node("Add", [w.node("Mul", [w.node("Mul", [move[i], variances[i]]), size]), middle])
        growth = w.node("Exp", [w.node("Mul", [move[i + 2], variances[i + 2]])])
        half = w.node("Div", [w.node("Mul", [growth, size]), two])
        starts.append(w.node("Sub", [moved, half]))
        ends.append(w.node("Add", [moved, half]))
    boxes = w.node("Concat", starts + ends, axis=2)
    if not params.clip:
        return boxes
    # As in C, what is not a number is the border at 1.
    below = w.node("Where", [w.node("Less", [boxes, one]), boxes, one])
    return w.node("Where", [w.node("Greater", [below, zero]), below, zero])


def _pack(rows: str, valid: str, batch: int, anchors: int, w: OnnxWriter) -> str:
    """Brings the valid rows to the front, in their order; all others become -1."""
    one = w.scalar(1, FLOAT32)
    counted = w.node("CumSum", [w.cast(valid, FLOAT32), w.constant(np.array(1))])
    # One row more takes what is not valid.
    targets = w.node("Where", [valid, w.node("Sub", [counted, one]), w.scalar(anchors, FLOAT32)])
    images = w.constant(np.broadcast_to(np.arange(batch)[:, None, None], (batch, anchors, 1)))
    places = w.node("Concat", [images, w.unsqueeze(w.cast(targets, INT64), [2])], axis=2)
    empty = w.node("Expand", [w.scalar(-1, FLOAT32), w.ints([batch, anchors + 1, 6])])
    return w.slice(w.node("ScatterND", [empty, places, rows]), (1,), (0,), (anchors,), (1,))


def _class(rows: str, w: OnnxWriter) -> str:
    return w.slice(rows, (2,), (0,), (1,), (1,))


def _with_class(rows: str, classes: str, w: OnnxWriter) -> str:
    return w.node("Concat", [classes, w.slice(rows, (2,), (1,), (6,), (1,))], axis=2)


def _covers(params: MultiBoxDetectionParameters, rows: str, w: OnnxWriter) -> str:
    """Returns whether the first of each two boxes overlaps the second too much: (batch, boxes, boxes).

    Unlike in box_nms a box may have a negative area, and the threshold itself is too much.
    """
    across = w.transpose(rows, (0, 2, 1))
    first, second = columns(rows, 2, 2, w), columns(across, 2, 1, w)
    zero = w.scalar(0, FLOAT32)
    extents = []
    for i in (0, 1):
        start, end = w.node("Max", [first[i], second[i]]), w.node("Min", [first[i + 2], second[i + 2]])
        extent = w.node("Sub", [end, start])
        extents.append(w.node("Where", [w.node("Greater", [extent, zero]), extent, zero]))
    shared = w.node("Mul", extents)
    areas = []
    for box in (first, second):
        areas.append(w.node("Mul", [w.node("Sub", [box[2], box[0]]), w.node("Sub", [box[3], box[1]])]))
    union = w.node("Sub", [w.node("Add", areas), shared])
    is_enough = w.node("GreaterOrEqual", [w.node("Div", [shared, union]), w.scalar(params.nms_threshold, FLOAT32)])
    covers = w.node("And", [is_enough, w.node("Greater", [union, zero])])
    if params.force_suppress:
        return covers
    same = w.node("Equal", [_class(rows, w), w.slice(across, (1,), (0,), (1,), (1,))])
    return w.node("And", [covers, same])
