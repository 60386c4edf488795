"""Convolution and Deconvolution."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import SMALL, Call, dtypes, optional, row, tuples

S = mx.sym
X, Y = S.var("x"), S.var("y")


def _conv(*inputs, **parameters):
    return lambda: S.Convolution(*(inputs or (X,)), name="op", **parameters)


def _deconv(**parameters):
    return lambda: S.Deconvolution(X, name="op", **parameters)


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

REFUSED = [
    Refusal(
        "Convolution",
        "computed_weight",
        _conv(X, Y, kernel=(3, 3), num_filter=3, no_bias=True),
        IMAGE,
        "weight: found a value that changes",
    ),
    Refusal(
        "Convolution",
        "nhwc",
        _conv(kernel=(3, 3), num_filter=3, layout="NHWC"),
        {},
        "layout: found NHWC, required None or NCW",
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


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {name: _convolution(name) for name in ("Convolution", "Deconvolution")}
