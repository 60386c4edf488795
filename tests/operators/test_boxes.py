"""Boxes: overlaps, non-maximum suppression, encoding."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Fill, Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X, Y = S.var("x"), S.var("y")


def _iou(**parameters):
    return lambda: S.contrib.box_iou(X, Y, name="op", **parameters)


def _nms(**parameters):
    return lambda: S.contrib.box_nms(X, name="op", **parameters)


def _decode(**parameters):
    return lambda: S.contrib.box_decode(X, Y, name="op", **parameters)


def _encode():
    names = ("x", "y", "anchors", "refs", "means", "stds")
    return S.contrib.box_encode(*(S.var(name) for name in names), name="op")


def boxes(form: str = "corner", *, step: float = 0.0, ordered: bool = True) -> Fill:
    """Fills boxes that overlap often; with a `step`, on a grid where many overlaps are exactly a half or a third."""

    def fill(rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
        corners = rng.uniform(-0.3, 1, (*shape[:-1], 2, 2))
        if ordered:
            corners.sort(axis=-2)
        if step:
            corners = np.round(corners / step) * step
        start, end = corners[..., 0, :], corners[..., 1, :]
        parts = [start, end] if form == "corner" else [(start + end) / 2, end - start]
        return np.concatenate(parts, axis=-1)

    return fill


def detections(
    form: str = "corner", *, score: int = 1, box: int = 2, class_at: int = 0, step: float = 0.0, scores: int = 0
) -> Fill:
    """Fills rows with boxes; with `scores`, that many different ones only, so that many are equal."""

    def fill(rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
        rows = rng.standard_normal(shape)
        rows[..., box : box + 4] = boxes(form, step=step)(rng, (*shape[:-1], 4))
        drawn = rng.uniform(-0.2, 1, shape[:-1])
        rows[..., score] = np.round(drawn * scores) / scores if scores else drawn
        if class_at >= 0:
            rows[..., class_at] = rng.randint(-1, 3, shape[:-1])
        return rows

    return fill


ROWS = {"x": (2, 20, 6)}
TIED = detections(step=0.25, scores=4)

ACCEPTED = [
    Row("_contrib_box_iou", name, _iou(**parameters), shapes, 1e-6, 0.0, fills=fills)
    for name, parameters, shapes, fills in [
        ("corner", {}, {"x": (5, 4), "y": (7, 4)}, {"x": boxes(), "y": boxes()}),
        (
            "center",
            {"format": "center"},
            {"x": (2, 3, 4), "y": (4, 1, 4)},
            {"x": boxes("center"), "y": boxes("center")},
        ),
        ("unordered", {}, {"x": (6, 4), "y": (6, 4)}, {"x": boxes(ordered=False), "y": boxes(ordered=False)}),
        ("one", {}, {"x": (1, 4), "y": (1, 4)}, {"x": boxes(), "y": boxes()}),
        (
            "special",
            {},
            {"x": (40, 4), "y": (30, 4)},
            {name: lambda rng, shape: rng.choice([np.nan, np.inf, -np.inf, 0.0, 1.0, 2.0], shape) for name in "xy"},
        ),
        (
            "special_center",
            {"format": "center"},
            {"x": (40, 4), "y": (30, 4)},
            {name: lambda rng, shape: rng.choice([np.nan, np.inf, 0.0, 1.0, 2.0], shape) for name in "xy"},
        ),
    ]
]
ACCEPTED += [
    # What is kept is copied; only conversions compute.
    Row("_contrib_box_nms", name, _nms(**parameters), shapes, rtol, 0.0, fills={"x": fill})
    for name, parameters, shapes, fill, rtol in [
        ("plain", {"force_suppress": True}, ROWS, detections(), 0.0),
        ("one_class", {}, ROWS, detections(), 0.0),
        ("classes", {"id_index": 0, "overlap_thresh": 0.2}, ROWS, detections(), 0.0),
        ("ties", {"id_index": 0, "background_id": 1}, ROWS, TIED, 0.0),
        ("ties_topk", {"overlap_thresh": 0.25, "topk": 7, "force_suppress": True, "id_index": 0}, ROWS, TIED, 0.0),
        ("third", {"overlap_thresh": 1 / 3}, ROWS, detections(step=0.5, scores=2), 0.0),
        ("no_limit", {"topk": 100, "valid_thresh": 0.3}, ROWS, detections(), 0.0),
        ("topk_one", {"topk": 1}, {"x": (3, 4, 6)}, detections(), 0.0),
        ("topk_none", {"topk": 0}, {"x": (3, 4, 6)}, detections(), 0.0),
        ("none_valid", {"valid_thresh": 2.0}, ROWS, detections(), 0.0),
        ("one_box", {}, {"x": (1, 1, 6)}, detections(), 0.0),
        ("no_batch", {"overlap_thresh": 0.1}, {"x": (9, 6)}, detections(), 0.0),
        ("batches", {"overlap_thresh": 0.1}, {"x": (2, 2, 9, 6)}, detections(), 0.0),
        ("to_center", {"out_format": "center"}, ROWS, detections(), 1e-6),
        ("from_center", {"in_format": "center"}, ROWS, detections("center"), 1e-6),
        (
            "center",
            {"in_format": "center", "out_format": "center", "overlap_thresh": 0.2},
            ROWS,
            detections("center"),
            0.0,
        ),
        (
            "other_columns",
            {"coord_start": 0, "score_index": 5, "id_index": 4, "out_format": "center"},
            {"x": (2, 15, 8)},
            detections(score=5, box=0, class_at=4),
            1e-6,
        ),
        (
            "without_class",
            {"coord_start": 1, "score_index": 0},
            {"x": (1, 15, 5)},
            detections(score=0, box=1, class_at=-1),
            0.0,
        ),
        (
            "special",
            {"id_index": 0, "overlap_thresh": 0.3},
            {"x": (3, 30, 6)},
            lambda rng, shape: np.concatenate(
                [
                    rng.randint(0, 2, (*shape[:-1], 1)),
                    rng.choice([np.nan, np.inf, 0.0, 0.5, 1.0, 2.0], (*shape[:-1], 5)),
                ],
                axis=-1,
            ),
            0.0,
        ),
    ]
]
ACCEPTED += [
    Row(
        "_contrib_box_decode",
        name,
        _decode(**parameters),
        {"x": (batch, 5, 4), "y": (1, 5, 4)},
        1e-5,
        1e-6,
        fills={"y": boxes(parameters.get("format", "center"))},
    )
    for name, batch, parameters in [
        ("center", 2, {}),
        ("corner", 2, {"format": "corner", "std0": 0.1, "std1": 0.2, "std2": 0.3, "std3": 0.4}),
        ("clip", 1, {"clip": 0.5, "std2": 2.0}),
        ("clip_corner", 3, {"clip": 0.1, "format": "corner"}),
    ]
]
ENCODED = {"x": (2, 5), "y": (2, 5), "anchors": (2, 5, 4), "refs": (2, 3, 4), "means": (4,), "stds": (4,)}
ENCODED_FILLS = {
    "x": lambda rng, shape: rng.choice([-1.0, 0.0, 1.0, 0.5, 0.6], shape),
    "y": lambda rng, shape: rng.uniform(0, 3, shape),
    "anchors": boxes(),
    "refs": boxes(),
    "stds": lambda rng, shape: rng.uniform(0.1, 1, shape),
}
ACCEPTED += [
    Row("_contrib_box_encode", "plain", _encode, ENCODED, 1e-5, 1e-5, fills=ENCODED_FILLS),
    Row(
        "_contrib_box_encode",
        "one",
        _encode,
        {**ENCODED, "x": (1, 1), "y": (1, 1), "anchors": (1, 1, 4), "refs": (1, 1, 4)},
        1e-5,
        1e-5,
        fills={**ENCODED_FILLS, "x": lambda rng, shape: np.ones(shape), "y": lambda rng, shape: np.zeros(shape)},
    ),
]

REFUSED = [
    Refusal("_contrib_box_nms", "unknown_shape", _nms(), {}, "number of boxes: found an unknown shape"),
    Refusal(
        "_contrib_box_nms",
        "many",
        _nms(),
        {"x": (1, 4000, 6)},
        "number of boxes to compare: found 4000, required at most",
    ),
    Refusal(
        "_contrib_box_iou",
        "float16",
        _iou(),
        {"x": (5, 4), "y": (7, 4)},
        "dtype of input 0: found float16, required float32",
        {"x": "float16", "y": "float16"},
    ),
]

FORMATS = st.sampled_from(["corner", "center"])
STEPS = st.sampled_from([0.0, 0.25, 0.5])


@st.composite
def _random_iou(draw: DrawFn) -> Row:
    form, step, ordered = draw(FORMATS), draw(STEPS), draw(st.booleans())
    shape = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(lambda sizes: (*sizes, 4))
    fills = {name: boxes(form, step=step, ordered=ordered) for name in "xy"}
    return Row(
        "_contrib_box_iou", form, _iou(format=form), {"x": draw(shape), "y": draw(shape)}, 1e-5, 1e-6, fills=fills
    )


@st.composite
def _random_nms(draw: DrawFn) -> Row:
    layouts = [(2, 1, 0, 6), (2, 1, -1, 6), (0, 4, 5, 6), (1, 0, -1, 5), (3, 7, 1, 9), (2, 1, 0, 7)]
    box, score, class_at, width = draw(st.sampled_from(layouts))
    parameters = {
        "overlap_thresh": draw(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0, -1.0])),
        "valid_thresh": draw(st.sampled_from([-1.0, 0.0, 0.25, 0.5])),
        "topk": draw(st.sampled_from([-1, -1, 0, 1, 3, 10, 50])),
        "coord_start": box,
        "score_index": score,
        "id_index": class_at,
        "background_id": draw(st.integers(-1, 2)),
        "force_suppress": draw(st.booleans()),
        "in_format": draw(FORMATS),
        "out_format": draw(FORMATS),
    }
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    fill = detections(
        parameters["in_format"],
        score=score,
        box=box,
        class_at=class_at,
        step=draw(STEPS),
        scores=draw(st.sampled_from([0, 2, 5])),
    )
    shape = (*batch, draw(st.integers(1, 25)), width)
    return Row("_contrib_box_nms", f"{parameters}", _nms(**parameters), {"x": shape}, 1e-6, 1e-6, fills={"x": fill})


@st.composite
def _random_decode(draw: DrawFn) -> Row:
    parameters = {f"std{i}": draw(st.sampled_from([0.1, 0.5, 1.0])) for i in range(4)}
    parameters.update(format=draw(FORMATS), clip=draw(st.sampled_from([-1.0, 0.0, 0.3, 5.0])))
    batch, count = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    shapes = {"x": (batch, count, 4), "y": (1, count, 4)}
    fills = {"y": boxes(parameters["format"])}
    return Row("_contrib_box_decode", f"{parameters}", _decode(**parameters), shapes, 1e-5, 1e-5, fills=fills)


@st.composite
def _random_encode(draw: DrawFn) -> Row:
    batch, count, targets = (draw(st.integers(1, 4)) for _ in range(3))
    anchors = (batch, count, 4)
    shapes = {**ENCODED, "x": (batch, count), "y": (batch, count), "anchors": anchors, "refs": (batch, targets, 4)}
    fills = {**ENCODED_FILLS, "y": lambda rng, shape: rng.randint(0, targets, shape)}
    return Row("_contrib_box_encode", "random", _encode, shapes, 1e-4, 1e-4, fills=fills)


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "_contrib_box_iou": _random_iou(),
    "_contrib_box_nms": _random_nms(),
    "_contrib_box_decode": _random_decode(),
    "_contrib_box_encode": _random_encode(),
}
