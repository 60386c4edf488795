"""Preparation of images."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X = S.var("x")


def _image(operator, **parameters):
    return lambda: getattr(S.image, operator[len("_image_") :])(X, name="op", **parameters)


def _pixels(rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    return rng.randint(0, 256, shape)


ONE, BATCH = {"x": (7, 6, 3)}, {"x": (2, 5, 9, 3)}
FIRST = {"x": (2, 3, 4, 5)}
PIXELS = {"x": _pixels}

ACCEPTED = [
    Row("_image_to_tensor", f"{dtype}_{name}", _image("_image_to_tensor"), shapes, 1e-6, 0.0, {"x": dtype}, PIXELS)
    for dtype in ("uint8", "float32", "float16", "int32", "int64")
    for name, shapes in [("one", ONE), ("batch", BATCH)]
]
ACCEPTED += [
    Row("_image_to_tensor", "one_pixel", _image("_image_to_tensor"), {"x": (1, 1, 1)}, 1e-6, 0.0, fills=PIXELS),
]
ACCEPTED += [
    Row("_image_normalize", name, _image("_image_normalize", **parameters), shapes, 1e-5, 1e-6, dtypes)
    for name, parameters, shapes, dtypes in [
        ("channels", {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, FIRST, {}),
        ("one_image", {"mean": (1, 2, 3), "std": 0.5}, {"x": (3, 4, 5)}, {}),
        ("gray", {"mean": 0.5, "std": (2.0,)}, {"x": (1, 1, 4, 5)}, {}),
    ]
]
ACCEPTED += [
    Row(
        "_image_normalize",
        "float16",
        _image("_image_normalize", mean=(0.1, 0.2, 0.3), std=2.0),
        FIRST,
        1e-3,
        1e-3,
        {"x": "float16"},
    ),
]
ACCEPTED += [
    Row("_image_crop", name, _image("_image_crop", **parameters), shapes, 0.0, 0.0, dtypes)
    for name, parameters, shapes, dtypes in [
        ("one", {"x": 1, "y": 2, "width": 4, "height": 3}, ONE, {}),
        ("batch", {"x": 3, "y": 0, "width": 6, "height": 2}, BATCH, {}),
        ("whole", {"x": 0, "y": 0, "width": 6, "height": 7}, ONE, {}),
        ("int32", {"x": 1, "y": 2, "width": 1, "height": 1}, ONE, {"x": "int32"}),
        ("float16", {"x": 1, "y": 2, "width": 2, "height": 1}, ONE, {"x": "float16"}),
    ]
]
ACCEPTED += [
    Row(
        "_image_resize",
        f"{kind}_{name}",
        _image("_image_resize", interp=interp, **parameters),
        shapes,
        1e-5,
        # The weights of a cubic reach beyond 1, and it is summed twice.
        1e-5,
    )
    for interp, kind in enumerate(["nearest", "linear", "cubic"])
    for name, parameters, shapes in [
        ("up", {"size": (13, 11)}, ONE),
        ("down", {"size": (4, 3)}, BATCH),
        ("half", {"size": (3, 4)}, {"x": (8, 6, 3)}),
        ("mixed", {"size": (3, 12)}, BATCH),
        ("square", {"size": 5}, ONE),
        ("keep_ratio", {"size": 4, "keep_ratio": True}, BATCH),
        ("to_one", {"size": (1, 1)}, ONE),
        ("from_one", {"size": (3, 2)}, {"x": (1, 1, 1)}),
        ("same", {"size": (6, 7)}, ONE),
    ]
]
ACCEPTED += [
    # 2 / (3 / 9) is 6 in double precision, and below it in float32.
    Row("_image_resize", "nearest_third", _image("_image_resize", size=(3, 3), interp=0), {"x": (9, 9, 1)}, 0.0, 0.0),
]

REFUSED = [
    Refusal(
        "_image_crop",
        "negative",
        _image("_image_crop", x=-1, y=0, width=2, height=2),
        ONE,
        "x and y: found (-1, 0), required no negative number",
    ),
    Refusal("_image_resize", "area", _image("_image_resize", size=4, interp=3), ONE, "interp: found 3, required 0"),
    Refusal("_image_resize", "unknown_shape", _image("_image_resize", size=4), {}, "found an unknown shape"),
    Refusal(
        "_image_resize",
        "uint8",
        _image("_image_resize", size=4),
        ONE,
        "dtype of input 0: found uint8, required float32",
        {"x": "uint8"},
    ),
]

SIZES = st.integers(1, 12)
BATCHES = st.sampled_from([(), (1,), (3,)])


@st.composite
def _random_to_tensor(draw: DrawFn) -> Row:
    shape = (*draw(BATCHES), *draw(st.tuples(SIZES, SIZES, st.integers(1, 4))))
    dtype = draw(st.sampled_from(["uint8", "int8", "int32", "int64", "float16", "float32"]))
    fills = {} if dtype == "int8" else PIXELS
    return Row("_image_to_tensor", dtype, _image("_image_to_tensor"), {"x": shape}, 1e-6, 0.0, {"x": dtype}, fills)


@st.composite
def _random_normalize(draw: DrawFn) -> Row:
    channels = draw(st.sampled_from([1, 3]))
    shape = (*draw(BATCHES), channels, *draw(st.tuples(SIZES, SIZES)))
    numbers = st.floats(0.1, 4.0)
    values = st.tuples(numbers) | st.tuples(*[numbers] * channels)
    parameters = {"mean": draw(values), "std": draw(values)}
    dtype = draw(st.sampled_from(["float16", "float32", "int32", "uint8"]))
    tolerance = 1e-5 if dtype == "float32" else 1e-3
    build = _image("_image_normalize", **parameters)
    return Row("_image_normalize", f"{parameters}", build, {"x": shape}, tolerance, tolerance, {"x": dtype})


@st.composite
def _random_crop(draw: DrawFn) -> Row:
    height, width = draw(SIZES), draw(SIZES)
    y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    parameters = {"x": x, "y": y, "height": draw(st.integers(1, height - y)), "width": draw(st.integers(1, width - x))}
    shape = (*draw(BATCHES), height, width, draw(st.sampled_from([1, 3])))
    dtype = draw(st.sampled_from(["uint8", "int32", "int64", "float16", "float32"]))
    build = _image("_image_crop", **parameters)
    return Row("_image_crop", f"{parameters}", build, {"x": shape}, 0.0, 0.0, {"x": dtype}, PIXELS)


@st.composite
def _random_resize(draw: DrawFn) -> Row:
    parameters = {
        "size": draw(st.tuples(SIZES) | st.tuples(SIZES, SIZES)),
        "keep_ratio": draw(st.booleans()),
        "interp": draw(st.sampled_from([0, 1, 1, 2, 3, 4])),
    }
    shape = (*draw(BATCHES), *draw(st.tuples(SIZES, SIZES, st.integers(1, 4))))
    dtype = draw(st.sampled_from(["float32", "float32", "float32", "uint8"]))
    build = _image("_image_resize", **parameters)
    return Row("_image_resize", f"{parameters}", build, {"x": shape}, 1e-5, 2e-5, {"x": dtype})


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "_image_to_tensor": _random_to_tensor(),
    "_image_normalize": _random_normalize(),
    "_image_crop": _random_crop(),
    "_image_resize": _random_resize(),
}
