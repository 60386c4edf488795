"""Convolution and Deconvolution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Refusal, Row, all_arrays, mx, plugin_outputs, stock_outputs
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import SMALL, Call, dtypes, optional, row, tuples

S = mx.sym
X, Y = S.var("x"), S.var("y")


def _conv(*inputs, **parameters):
    return lambda: S.Convolution(*(inputs or (X,)), name="op", **parameters)


def _deconv(**parameters):
    return lambda: S.Deconvolution(X, name="op", **parameters)


def _old(**parameters):
    return lambda: S.Convolution_v1(X, name="op", **parameters)


IMAGE = {"x": (2, 4, 9, 11)}

ACCEPTED = [
    Row("Convolution", "1d", _conv(kernel=(3,), num_filter=5), {"x": (2, 4, 10)}, 1e-5, 1e-5),
    Row(
        "Convolution",
        "1d_dilated",
        _conv(kernel=(2,), num_filter=5, dilate=(4,), pad=(4,)),
        {"x": (2, 4, 10)},
        1e-5,
        1e-5,
    ),
    Row("Convolution", "2d", _conv(kernel=(3, 2), num_filter=6, layout="NCHW"), IMAGE, 1e-5, 1e-5),
    Row("Convolution", "stride_pad", _conv(kernel=(3, 3), num_filter=6, stride=(2, 1), pad=(1, 2)), IMAGE, 1e-5, 1e-5),
    Row(
        "Convolution",
        "groups_no_bias",
        _conv(kernel=(3, 3), num_filter=8, num_group=4, no_bias=True),
        IMAGE,
        1e-5,
        1e-5,
    ),
    Row("Convolution", "dilated", _conv(kernel=(3, 3), num_filter=3, dilate=(2, 3)), IMAGE, 1e-5, 1e-5),
    Row("Convolution", "3d", _conv(kernel=(2, 3, 3), num_filter=3, pad=(1, 0, 1)), {"x": (1, 2, 5, 6, 7)}, 1e-5, 1e-5),
    Row(
        "Convolution",
        "cudnn_attributes",
        _conv(kernel=(1, 1), num_filter=3, cudnn_off=True, workspace=64),
        IMAGE,
        1e-5,
        1e-5,
    ),
    Row("Deconvolution", "1d", _deconv(kernel=(3,), num_filter=5, stride=(2,)), {"x": (2, 4, 10)}, 1e-5, 1e-5),
    Row("Deconvolution", "2d", _deconv(kernel=(4, 4), num_filter=5, stride=(2, 2), pad=(1, 1)), IMAGE, 1e-5, 1e-5),
    Row("Deconvolution", "bias", _deconv(kernel=(3, 3), num_filter=5, no_bias=False), IMAGE, 1e-5, 1e-5),
    Row(
        "Deconvolution",
        "adj",
        _deconv(kernel=(3, 3), num_filter=5, stride=(2, 3), pad=(1, 1), adj=(1, 2)),
        IMAGE,
        1e-5,
        1e-5,
    ),
    Row("Deconvolution", "groups", _deconv(kernel=(3, 3), num_filter=6, num_group=2), IMAGE, 1e-5, 1e-5),
    Row("Deconvolution", "dilated", _deconv(kernel=(3, 3), num_filter=3, dilate=(2, 3)), IMAGE, 1e-5, 1e-5),
    Row(
        "Deconvolution",
        "target_shape",
        # The surplus is odd on the first axis and even on the second; adj does not count.
        _deconv(kernel=(3, 3), num_filter=3, stride=(2, 2), target_shape=(18, 21), pad=(1, 1), adj=(1, 1)),
        IMAGE,
        1e-5,
        1e-5,
    ),
    Row(
        "Deconvolution",
        "3d",
        _deconv(kernel=(2, 2, 2), num_filter=3, stride=(2, 2, 2)),
        {"x": (1, 2, 3, 4, 5)},
        1e-5,
        1e-5,
    ),
]

ACCEPTED += [
    Row("Convolution", name, _conv(**parameters), shapes, 1e-5, 1e-5)
    for name, parameters, shapes in [
        ("depthwise", {"kernel": (3, 3), "num_filter": 8, "num_group": 4, "pad": (1, 1)}, IMAGE),
        ("1d_groups", {"kernel": (3,), "num_filter": 6, "num_group": 2, "stride": (3,)}, {"x": (1, 4, 11)}),
        (
            "3d_groups_dilated",
            {"kernel": (2, 1, 3), "num_filter": 4, "num_group": 2, "dilate": (2, 1, 2), "stride": (1, 2, 1)},
            {"x": (2, 4, 5, 4, 7)},
        ),
        ("whole_input", {"kernel": (9, 11), "num_filter": 2}, IMAGE),
        ("one_pixel", {"kernel": (3, 3), "num_filter": 2, "pad": (1, 1)}, {"x": (1, 1, 1, 1)}),
    ]
]
ACCEPTED += [
    Row("Deconvolution", name, _deconv(**parameters), shapes, 1e-5, 1e-5)
    for name, parameters, shapes in [
        ("1d_adj", {"kernel": (3,), "num_filter": 2, "stride": (3,), "adj": (2,)}, {"x": (1, 4, 5)}),
        (
            "1d_target",
            {"kernel": (4,), "num_filter": 2, "stride": (2,), "pad": (1,), "target_shape": (10,)},
            {"x": (2, 4, 5)},
        ),
        ("depthwise", {"kernel": (4, 4), "num_filter": 4, "num_group": 4, "stride": (2, 2), "pad": (1, 1)}, IMAGE),
        ("groups_dilated", {"kernel": (2, 3), "num_filter": 4, "num_group": 2, "dilate": (3, 2)}, IMAGE),
        (
            "3d_groups_adj",
            {"kernel": (2, 2, 3), "num_filter": 4, "num_group": 2, "stride": (2, 3, 2), "adj": (1, 0, 1)},
            {"x": (1, 2, 3, 4, 5)},
        ),
    ]
]

ACCEPTED += [
    Row("Convolution_v1", name, _old(**parameters), shapes, 1e-5, 1e-5)
    for name, parameters, shapes in [
        ("2d", {"kernel": (3, 2), "num_filter": 6, "stride": (2, 1), "pad": (1, 2)}, IMAGE),
        (
            "groups",
            {"kernel": (3, 3), "num_filter": 4, "num_group": 2, "dilate": (1, 1), "no_bias": True},
            IMAGE,
        ),
        ("one_pixel", {"kernel": (3, 3), "num_filter": 2, "pad": (1, 1)}, {"x": (1, 1, 1, 1)}),
    ]
]

REFUSED = [
    Refusal(
        "Convolution_v1",
        "nhwc",
        _old(kernel=(3, 3), num_filter=3, layout="NHWC"),
        {},
        "layout: found NHWC, required channels first",
    ),
    Refusal(
        "Convolution_v1",
        "dilated",
        _old(kernel=(3, 3), num_filter=3, dilate=(1, 2)),
        IMAGE,
        "dilate: found (1, 2), required 1",
    ),
    Refusal(
        "Convolution",
        "computed_weight",
        _conv(X, Y, kernel=(3, 3), num_filter=3, no_bias=True),
        IMAGE,
        "weight: found a value that changes",
    ),
    Refusal(
        "Deconvolution",
        "computed_bias",
        lambda: S.Deconvolution(X, bias=Y, kernel=(3, 3), num_filter=3, no_bias=False, name="op"),
        IMAGE,
        "bias: found a value that changes",
    ),
    Refusal(
        "Deconvolution",
        "stride_and_dilate",
        _deconv(kernel=(3, 3), num_filter=3, stride=(2, 2), dilate=(2, 2)),
        {},
        "deconvolution: found stride (2, 2) with dilate (2, 2)",
    ),
    Refusal(
        "Deconvolution",
        "partial_target",
        _deconv(kernel=(3, 3), num_filter=3, target_shape=(18, 0)),
        {},
        "target_shape: found (18, 0), required empty, or 2 positive sizes",
    ),
    Refusal(
        "Deconvolution",
        "other_pad",
        _deconv(kernel=(3, 3), num_filter=3, stride=(3, 3), target_shape=(25, 31), pad=(2, 2)),
        IMAGE,
        "pad beside target_shape: found (2, 2), required none or (1, 1)",
    ),
    Refusal(
        "Deconvolution",
        "unknown_shape",
        _deconv(kernel=(3, 3), num_filter=3, target_shape=(18, 21)),
        {},
        "target_shape: found an unknown shape",
    ),
]


CHANNELS_LAST = [
    (3, "Convolution", {"kernel": (3, 2), "num_filter": 6, "stride": (2, 1), "pad": (1, 0), "num_group": 2}),
    (3, "Deconvolution", {"kernel": (3, 2), "num_filter": 6, "stride": (2, 2), "num_group": 2, "adj": (1, 0)}),
    (
        3,
        "Deconvolution",
        {"kernel": (3, 3), "num_filter": 2, "stride": (2, 2), "pad": (1, 1), "target_shape": (14, 16)},
    ),
    (4, "Convolution", {"kernel": (2, 3, 1), "num_filter": 3, "dilate": (1, 2, 1), "no_bias": True}),
]


@pytest.mark.parametrize(("ndim", "operator", "parameters"), CHANNELS_LAST)
def test_channels_last(ndim: int, operator: str, parameters: dict[str, object]) -> None:
    """MXNet infers shapes for channels last on a CPU but computes nothing: the reference is its own channels first."""
    first, last = {3: ("NCHW", "NHWC"), 4: ("NCDHW", "NDHWC")}[ndim]
    symbols = {name: getattr(S, operator)(X, name="op", layout=name, **parameters) for name in (first, last)}
    shape = {3: (2, 4, 7, 8), 4: (1, 2, 5, 6, 4)}[ndim]
    arrays = all_arrays(symbols[first], {"x": shape})
    moved = {name: value if value.ndim == 1 else np.moveaxis(value, 1, -1) for name, value in arrays.items()}
    assert symbols[last].infer_shape(x=moved["x"].shape)[0] == [moved[n].shape for n in symbols[last].list_arguments()]
    outputs, report = plugin_outputs(symbols[last], moved)
    assert report.taken
    assert not report.refused
    expected = np.moveaxis(stock_outputs(symbols[first], arrays)[0], 1, -1)
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-5, atol=1e-5)


@st.composite
def _random(draw: DrawFn, operator: str) -> Row:
    ndim = 2 if operator == "Convolution_v1" else draw(st.integers(1, 3))

    def axes(low: int, high: int) -> SearchStrategy[tuple[int, ...]]:
        return st.just(()) | st.tuples(*[st.integers(low, high)] * ndim)

    group = draw(st.integers(1, 3))
    parameters = {
        "kernel": draw(st.tuples(*[st.integers(1, 3)] * ndim)),
        "num_filter": group * draw(st.integers(1, 2)),
        "num_group": group,
        "stride": draw(axes(1, 3)),
        "dilate": draw(axes(1, 2)),
        "pad": draw(axes(0, 2)),
        "no_bias": draw(st.booleans()),
    }
    if operator == "Deconvolution":
        # MXNet wants them below the stride or the dilation, and has a reference for few target shapes.
        highest = min(*(parameters["stride"] or (1,)), *(parameters["dilate"] or (1,))) - 1
        parameters["adj"] = draw(axes(0, highest))
        parameters["target_shape"] = draw(st.just(()) | st.just(()) | axes(5, 9))
    # What is larger than the image is rejected, but by the old one, which reads beyond it.
    smallest = 5 if operator == "Convolution_v1" else 2
    shape = (
        draw(st.integers(1, 2)),
        group * draw(st.integers(1, 2)),
        *draw(st.tuples(*[st.integers(smallest, 7)] * ndim)),
    )
    build = {"Convolution": _conv, "Convolution_v1": _old, "Deconvolution": _deconv}[operator](**parameters)
    return Row(operator, f"{parameters}", build, {"x": shape}, 1e-5, 1e-5)


# Channels last is for GPUs; MXNet rejects it on a CPU.
LAYOUTS = {1: ("NCW",), 2: ("NCHW",), 3: ("NCDHW",)}


@st.composite
def _convolution(draw: st.DrawFn, operator: str) -> Row:
    ndim = draw(st.sampled_from((1, 2, 2, 2, 3)))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    channels = groups * draw(st.integers(1, 2))
    parameters = optional(
        draw,
        stride=tuples(st.integers(1, 3), ndim),
        dilate=tuples(st.integers(1, 2), ndim),
        pad=tuples(st.integers(0, 2), ndim),
        no_bias=st.booleans(),
        layout=st.sampled_from((None, *LAYOUTS[ndim])),
    )
    if operator == "Deconvolution":
        parameters |= optional(draw, adj=tuples(st.integers(0, 2), ndim))
        if draw(st.integers(0, 3)) == 3:
            parameters["target_shape"] = draw(tuples(st.integers(1, 14), ndim))
    call = Call(
        operator,
        "x",
        kernel=draw(tuples(st.integers(1, 3), ndim)),
        num_filter=groups * draw(st.integers(1, 3)),
        num_group=groups,
        name="op",
        **parameters,
    )
    shape = (draw(st.integers(1, 3)), channels, *draw(tuples(st.integers(1, 7), ndim)))
    # An engine may multiply an infinity with a padded 0 where another skips it.
    return row(draw, call, {"x": shape}, draw(dtypes()), atol=1e-5, special=SMALL)


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    **{name: _convolution(name) | _random(name) for name in ("Convolution", "Deconvolution")},
    "Convolution_v1": _random("Convolution_v1"),
}
