"""The single shot detector's anchors and detections."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Fill, Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.test_boxes import boxes

S = mx.sym
X, Y, Z = S.var("x"), S.var("y"), S.var("z")


def _prior(**parameters):
    return lambda: S.contrib.MultiBoxPrior(X, name="op", **parameters)


def _detect(**parameters):
    return lambda: S.contrib.MultiBoxDetection(X, Y, Z, name="op", **parameters)


def _shapes(batch: int, classes: int, anchors: int) -> dict[str, tuple[int, ...]]:
    return {"x": (batch, classes, anchors), "y": (batch, 4 * anchors), "z": (1, anchors, 4)}


def _fills(*, levels: int = 0, step: float = 0.0, moves: float = 0.5) -> dict[str, Fill]:
    """Fills probabilities, of `levels` different values so that many are equal, moves, and anchors on a grid."""

    def probabilities(rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
        value = rng.uniform(0, 1, shape)
        return np.round(value * levels) / levels if levels else value

    def anchors(rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
        # A few places, so that many overlap.
        return boxes(step=step)(rng, shape)[:, np.arange(shape[1]) // 2 % max(shape[1] // 3, 1)]

    return {"x": probabilities, "y": lambda rng, shape: rng.standard_normal(shape) * moves, "z": anchors}


PLAIN = _shapes(2, 4, 15)
TIED = _fills(levels=4, step=0.25, moves=0.0)

ACCEPTED = [
    Row("_contrib_MultiBoxPrior", name, _prior(**parameters), {"x": shape}, 1e-6, 1e-7)
    for name, parameters, shape in [
        ("default", {}, (2, 3, 4, 5)),
        ("sizes", {"sizes": (0.2, 0.272), "ratios": (1, 2, 0.5)}, (1, 1, 7, 3)),
        ("clip", {"sizes": (0.5, 1.5), "ratios": (3,), "clip": True}, (2, 3, 3, 3)),
        ("steps", {"sizes": (0.1,), "steps": (0.2, 0.3), "offsets": (0.25, 0.75)}, (1, 2, 3, 4)),
        ("one_pixel", {}, (1, 1, 1, 1)),
    ]
]
ACCEPTED += [
    Row("_contrib_MultiBoxDetection", name, _detect(**parameters), shapes, 1e-5, 1e-6, fills=fills)
    for name, parameters, shapes, fills in [
        ("default", {}, PLAIN, _fills()),
        ("no_clip", {"clip": False, "variances": (0.2, 0.1, 0.3, 0.4)}, PLAIN, _fills()),
        ("ties", {"nms_threshold": 0.3}, PLAIN, TIED),
        ("threshold_is_met", {"nms_threshold": 0.5, "force_suppress": True}, PLAIN, TIED),
        ("topk", {"nms_topk": 4, "threshold": 0.3}, PLAIN, _fills()),
        ("topk_ties", {"nms_topk": 7, "force_suppress": True, "threshold": 0.6}, PLAIN, TIED),
        ("topk_large", {"nms_topk": 400}, PLAIN, _fills()),
        ("no_nms", {"nms_threshold": 0.0, "threshold": 0.7}, PLAIN, _fills()),
        ("nms_above_one", {"nms_threshold": 1.5}, PLAIN, _fills()),
        ("none_found", {"threshold": 2.0}, PLAIN, _fills()),
        ("one_class", {}, _shapes(3, 2, 6), _fills()),
        ("one_anchor", {}, _shapes(1, 3, 1), _fills()),
        (
            "special",
            {"threshold": -2.0},
            _shapes(2, 4, 20),
            {
                **_fills(),
                "x": lambda rng, shape: rng.choice([np.nan, -1.0, -2.0, 0.0, 0.5, 1.0], shape),
                "y": lambda rng, shape: rng.choice([np.nan, np.inf, -np.inf, 0.0, 1.0], shape),
            },
        ),
    ]
]

REFUSED = [
    Refusal("_contrib_MultiBoxPrior", "unknown_shape", _prior(), {}, "size of the image: found an unknown shape"),
    Refusal("_contrib_MultiBoxDetection", "unknown_shape", _detect(), {}, "number of boxes: found an unknown shape"),
    Refusal(
        "_contrib_MultiBoxDetection",
        "many",
        _detect(nms_topk=5000),
        _shapes(1, 3, 8732),
        "number of boxes to compare: found 5000, required at most",
    ),
]


@st.composite
def _random_prior(draw: DrawFn) -> Row:
    numbers = st.lists(st.sampled_from([0.1, 0.3, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=4).map(tuple)
    parameters = {
        "sizes": draw(numbers),
        "ratios": draw(numbers),
        "clip": draw(st.booleans()),
        "steps": draw(st.sampled_from([(-1.0, -1.0), (0.1, 0.3), (0.0, 0.0)])),
        "offsets": draw(st.sampled_from([(0.5, 0.5), (0.0, 1.0)])),
    }
    shape = draw(st.tuples(*[st.integers(1, 6)] * 4))
    return Row("_contrib_MultiBoxPrior", f"{parameters}", _prior(**parameters), {"x": shape}, 1e-5, 1e-6)


@st.composite
def _random_detection(draw: DrawFn) -> Row:
    parameters = {
        "clip": draw(st.booleans()),
        "threshold": draw(st.sampled_from([0.01, 0.3, 0.5, 0.9])),
        "background_id": draw(st.integers(0, 1)),
        "nms_threshold": draw(st.sampled_from([-1.0, 0.1, 0.25, 0.5, 1.0, 2.0])),
        "force_suppress": draw(st.booleans()),
        "nms_topk": draw(st.sampled_from([-1, 0, 1, 3, 8, 100])),
    }
    shapes = _shapes(draw(st.integers(1, 3)), draw(st.integers(2, 5)), draw(st.integers(1, 20)))
    # Boxes that move are no longer on the grid, and an overlap next to the threshold is a matter of rounding.
    on_grid = draw(st.booleans())
    fills = TIED if on_grid else _fills(levels=draw(st.sampled_from([0, 3])), moves=0.3)
    build = _detect(**parameters)
    return Row("_contrib_MultiBoxDetection", f"{parameters}", build, shapes, 1e-5, 1e-5, fills=fills)


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "_contrib_MultiBoxPrior": _random_prior(),
    "_contrib_MultiBoxDetection": _random_detection(),
}
