"""Normalizations."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Refusal, Row, assert_row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import SMALL, Call, axes, dtypes, optional, row, shapes

S = mx.sym
X, Y = S.var("x"), S.var("y")


def _op(operator, **parameters):
    return lambda: getattr(S, operator)(X, name="op", **parameters)


def _contrib(operator, **parameters):
    return lambda: getattr(S.contrib, operator)(X, name="op", **parameters)


IMAGE = {"x": (2, 6, 5, 7)}

ACCEPTED = [
    Row("BatchNorm", "default", _op("BatchNorm"), IMAGE, 1e-5, 1e-5),
    Row("BatchNorm", "gamma", _op("BatchNorm", fix_gamma=False, eps=1e-5), IMAGE, 1e-5, 1e-5),
    Row("BatchNorm", "global_stats", _op("BatchNorm", fix_gamma=False, use_global_stats=True), IMAGE, 1e-5, 1e-5),
    Row("BatchNorm", "2d", _op("BatchNorm", fix_gamma=False), {"x": (3, 4)}, 1e-5, 1e-5),
    Row("BatchNorm", "3d", _op("BatchNorm", fix_gamma=False), {"x": (3, 4, 5)}, 1e-5, 1e-5),
    Row("BatchNorm", "5d", _op("BatchNorm", fix_gamma=False), {"x": (1, 4, 2, 3, 5)}, 1e-5, 1e-5),
    Row("BatchNorm", "last_axis", _op("BatchNorm", fix_gamma=False, axis=-1), IMAGE, 1e-5, 1e-5),
    Row("BatchNorm", "axis_2", _op("BatchNorm", axis=2), IMAGE, 1e-5, 1e-5),
    Row("BatchNorm", "float16", _op("BatchNorm", fix_gamma=False), IMAGE, 1e-2, 1e-2, {"x": "float16"}),
    Row("BatchNorm", "float16_axis", _op("BatchNorm", axis=3), IMAGE, 1e-2, 1e-2, {"x": "float16"}),
    Row("LayerNorm", "default", _op("LayerNorm"), {"x": (2, 3, 8)}, 1e-5, 1e-5),
    Row("LayerNorm", "named_axis", _op("LayerNorm", axis=2, eps=1e-3), {"x": (2, 3, 8)}, 1e-5, 1e-5),
    Row("InstanceNorm", "2d", _op("InstanceNorm"), IMAGE, 1e-5, 1e-5),
    Row("InstanceNorm", "1d", _op("InstanceNorm", eps=1e-5), {"x": (2, 3, 8)}, 1e-5, 1e-5),
    Row("GroupNorm", "groups", _op("GroupNorm", num_groups=3), IMAGE, 1e-5, 1e-5),
    Row("L2Normalization", "instance", _op("L2Normalization"), IMAGE, 1e-5, 1e-6),
    Row("L2Normalization", "channel", _op("L2Normalization", mode="channel"), IMAGE, 1e-5, 1e-6),
    Row("L2Normalization", "spatial", _op("L2Normalization", mode="spatial", eps=1e-3), IMAGE, 1e-5, 1e-6),
    Row("LRN", "default", _op("LRN", nsize=5), IMAGE, 1e-5, 1e-6),
    Row("LRN", "strong", _op("LRN", nsize=3, alpha=0.5, beta=0.6, knorm=1.0), IMAGE, 1e-5, 1e-6),
]

ACCEPTED += [
    Row("BatchNorm", f"mean_var_axis_{axis}", _op("BatchNorm", output_mean_var=True, axis=axis), IMAGE, 1e-5, 1e-5)
    for axis in (1, -1)
]
ACCEPTED += [
    Row(
        "BatchNorm",
        "mean_var_float16",
        _op("BatchNorm", fix_gamma=False, output_mean_var=True),
        IMAGE,
        1e-2,
        1e-2,
        {"x": "float16"},
    ),
    Row("BatchNorm_v1", "default", _op("BatchNorm_v1"), IMAGE, 1e-5, 1e-5),
    Row("BatchNorm_v1", "gamma", _op("BatchNorm_v1", fix_gamma=False, eps=1e-5), {"x": (3, 4)}, 1e-5, 1e-5),
    Row("_contrib_SyncBatchNorm", "default", _contrib("SyncBatchNorm", key="k"), IMAGE, 1e-5, 1e-5),
    Row(
        "_contrib_SyncBatchNorm",
        "gamma",
        _contrib("SyncBatchNorm", key="k", ndev=4, fix_gamma=False, eps=1e-5),
        {"x": (3, 4, 1, 1)},
        1e-5,
        1e-5,
    ),
    Row("_contrib_BatchNormWithReLU", "default", _contrib("BatchNormWithReLU"), IMAGE, 1e-5, 1e-5),
    Row(
        "_contrib_BatchNormWithReLU",
        "mean_var",
        _contrib("BatchNormWithReLU", fix_gamma=False, output_mean_var=True),
        IMAGE,
        1e-5,
        1e-5,
    ),
    Row("LayerNorm", "axis_1", _op("LayerNorm", axis=1), {"x": (2, 3, 8)}, 1e-5, 1e-5),
    Row("LayerNorm", "axis_0", _op("LayerNorm", axis=-3, eps=0.1), {"x": (2, 3, 8)}, 1e-5, 1e-5),
    Row("LayerNorm", "mean_var", _op("LayerNorm", output_mean_var=True), {"x": (2, 3, 8)}, 1e-5, 1e-5),
    Row("LayerNorm", "mean_var_axis_1", _op("LayerNorm", axis=1, output_mean_var=True), IMAGE, 1e-5, 1e-5),
    Row("LayerNorm", "float16", _op("LayerNorm", axis=3), IMAGE, 1e-2, 1e-2, {"x": "float16"}),
    Row("GroupNorm", "float16", _op("GroupNorm", num_groups=2), IMAGE, 1e-2, 1e-2, {"x": "float16"}),
    Row("GroupNorm", "mean_var", _op("GroupNorm", num_groups=2, output_mean_var=True), IMAGE, 1e-5, 1e-5),
    Row("GroupNorm", "one_group_3d", _op("GroupNorm", eps=0.1), {"x": (1, 3, 4)}, 1e-5, 1e-5),
]

REFUSED = [
    Refusal(
        "BatchNorm",
        "computed_beta",
        lambda: S.BatchNorm(X, beta=Y, name="op"),
        IMAGE,
        "beta: found a value that changes",
    ),
    Refusal(
        "BatchNorm",
        "computed_gamma",
        lambda: S.BatchNorm(X, Y, fix_gamma=False, name="op"),
        IMAGE,
        "gamma: found a value that changes",
    ),
    Refusal("BatchNorm", "axis_of_unknown", _op("BatchNorm", axis=-1), {}, "axis -1: found an unknown shape"),
    Refusal("LayerNorm", "nothing_to_normalize", _op("LayerNorm"), {"x": (3, 1)}, "size of the axis: found 1"),
    Refusal("LayerNorm", "axis_in_half", _op("LayerNorm", axis=1), IMAGE, "float16 over axis 1", {"x": "float16"}),
    Refusal("LayerNorm", "axis_of_unknown", _op("LayerNorm", axis=1), {}, "axis 1: found an unknown shape"),
    Refusal(
        "BatchNorm_v1",
        "mean_var",
        _op("BatchNorm_v1", output_mean_var=True),
        IMAGE,
        "output_mean_var: found True, required False",
    ),
    Refusal(
        "_contrib_SyncBatchNorm",
        "mean_var",
        _contrib("SyncBatchNorm", key="k", output_mean_var=True),
        IMAGE,
        "output_mean_var: found True, required False",
    ),
    Refusal(
        "_contrib_SyncBatchNorm",
        "computed_beta",
        lambda: S.contrib.SyncBatchNorm(X, beta=Y, key="k", name="op"),
        IMAGE,
        "beta: found a value that changes",
    ),
    Refusal(
        "_contrib_BatchNormWithReLU", "axis", _contrib("BatchNormWithReLU", axis=3), IMAGE, "axis: found 3, required 1"
    ),
    Refusal(
        "_contrib_BatchNormWithReLU",
        "3d",
        _contrib("BatchNormWithReLU"),
        {"x": (2, 6, 5)},
        "number of axes: found 3, required 4",
    ),
    Refusal(
        "InstanceNorm",
        "computed_gamma",
        lambda: S.InstanceNorm(X, Y, name="op"),
        IMAGE,
        "gamma: found a value that changes",
    ),
    Refusal(
        "GroupNorm",
        "computed_gamma",
        lambda: S.GroupNorm(X, Y, num_groups=2, name="op"),
        IMAGE,
        "gamma: found a value that changes",
    ),
    Refusal(
        "L2Normalization",
        "few_axes",
        _op("L2Normalization"),
        {"x": (4,)},
        "number of axes: found 1, required 2 or more",
    ),
    Refusal("LRN", "even", _op("LRN", nsize=4), {}, "nsize: found 4, required an odd number"),
    Refusal("LRN", "alpha_0", _op("LRN", nsize=3, alpha=0), {}, "alpha and beta: found (0.0, 0.75), required more"),
    Refusal(
        "LRN",
        "float16",
        _op("LRN", nsize=3),
        IMAGE,
        "dtype of input 0: found float16, required float32",
        {"x": "float16"},
    ),
]


def test_fixed_gamma_is_not_read() -> None:
    """With fix_gamma whatever gamma holds counts as 1, and may even be fed."""
    assert_row(Row("BatchNorm", "fed_gamma", lambda: S.BatchNorm(X, Y, name="op"), {**IMAGE, "y": (6,)}, 1e-5, 1e-5))


SIZES = st.integers(1, 5)


def _shapes(low: int, high: int) -> SearchStrategy[tuple[int, ...]]:
    return st.integers(low, high).flatmap(lambda ndim: st.tuples(*[SIZES] * ndim))


EPS = st.sampled_from([1e-5, 1e-3, 0.1])


@st.composite
def _random_batch_norm(draw: DrawFn, operator: str) -> Row:
    is_relu = operator == "_contrib_BatchNormWithReLU"
    # MXNet's CPU build has the fused one for images only.
    shape = draw(_shapes(4, 4) if is_relu or operator == "BatchNorm_v1" else _shapes(2, 5))
    parameters = {name: draw(st.booleans()) for name in ("fix_gamma", "use_global_stats", "output_mean_var")}
    parameters["eps"] = draw(EPS)
    if operator in ("_contrib_SyncBatchNorm", "BatchNorm_v1"):
        # MXNet never writes the statistics that it gives out.
        parameters["output_mean_var"] = False
        if operator == "_contrib_SyncBatchNorm":
            parameters["key"] = "k"
    else:
        parameters["axis"] = 1 if is_relu else draw(st.integers(-len(shape), len(shape) - 1))
    name = operator.replace("_contrib_", "")
    build = _op(name, **parameters) if name == operator else _contrib(name, **parameters)
    return Row(operator, f"{parameters}", build, {"x": shape}, 1e-5, 1e-5)


@st.composite
def _random_layer_norm(draw: DrawFn) -> Row:
    shape = draw(_shapes(1, 5))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    parameters = {"axis": axis, "eps": draw(EPS), "output_mean_var": draw(st.booleans())}
    return Row("LayerNorm", f"{parameters}", _op("LayerNorm", **parameters), {"x": shape}, 1e-4, 1e-4)


@st.composite
def _random_group_norm(draw: DrawFn) -> Row:
    groups, shape = draw(st.integers(1, 3)), draw(_shapes(3, 5))
    shape = (shape[0], groups * shape[1], *shape[2:])
    parameters = {"num_groups": groups, "eps": draw(EPS), "output_mean_var": draw(st.booleans())}
    return Row("GroupNorm", f"{parameters}", _op("GroupNorm", **parameters), {"x": shape}, 1e-4, 1e-4)


EPSILONS = st.sampled_from((1e-5, 1e-3, 1e-2, 2e-5, 1.0))


@st.composite
def _batch_norm(draw: st.DrawFn) -> Row:
    shape = draw(shapes(min_dims=2, max_dims=5))
    parameters = optional(
        draw,
        eps=EPSILONS,
        momentum=st.just(0.5),
        fix_gamma=st.booleans(),
        use_global_stats=st.booleans(),
        axis=axes(len(shape)),
        cudnn_off=st.booleans(),
    )
    if draw(st.integers(0, 9)) == 9:
        parameters["output_mean_var"] = True
    call = Call("BatchNorm", "x", name="op", **parameters)
    return row(draw, call, {"x": shape}, draw(dtypes("float32", "float16", "float16")), atol=1e-5)


@st.composite
def _norm(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes(min_dims=2 if operator == "LayerNorm" else 3, max_dims=5, max_side=6))
    parameters = optional(draw, eps=EPSILONS)
    if operator == "LayerNorm":
        parameters |= optional(draw, axis=axes(len(shape)))
    elif operator == "GroupNorm":
        parameters |= optional(draw, num_groups=st.sampled_from([n for n in range(1, 7) if shape[1] % n == 0]))
    if operator != "InstanceNorm" and draw(st.integers(0, 9)) == 9:
        parameters["output_mean_var"] = True
    call = Call(operator, "x", name="op", **parameters)
    # Where all values are alike, an error of the mean counts 1 / sqrt(eps) times. ONNX Runtime 1.19 takes the variance
    # as a difference of squares besides.
    return row(draw, call, {"x": shape}, draw(dtypes()), atol=3e-4, special=SMALL)


@st.composite
def _l2_normalization(draw: st.DrawFn) -> Row:
    parameters = optional(draw, eps=EPSILONS, mode=st.sampled_from("instance channel spatial".split()))
    call = Call("L2Normalization", "x", **parameters)
    return row(draw, call, {"x": draw(shapes(max_dims=5))}, draw(dtypes()))


@st.composite
def _lrn(draw: st.DrawFn) -> Row:
    parameters = optional(
        draw,
        alpha=st.sampled_from((1e-4, 0.5, 0.0, 2.0)),
        beta=st.sampled_from((0.75, 0.5, 1.0, 0.6)),
        knorm=st.sampled_from((2.0, 1.0, 0.5)),
    )
    call = Call("LRN", "x", nsize=draw(st.sampled_from((1, 3, 3, 5, 5, 7, 4))), **parameters)
    return row(draw, call, {"x": draw(shapes(min_dims=4, max_side=7))}, draw(dtypes()), special=SMALL)


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "BatchNorm": _batch_norm() | _random_batch_norm("BatchNorm"),
    **{n: _random_batch_norm(n) for n in ("BatchNorm_v1", "_contrib_SyncBatchNorm", "_contrib_BatchNormWithReLU")},
    "LayerNorm": _norm("LayerNorm") | _random_layer_norm(),
    "GroupNorm": _norm("GroupNorm") | _random_group_norm(),
    "InstanceNorm": _norm("InstanceNorm"),
    "L2Normalization": _l2_normalization(),
    "LRN": _lrn(),
}
