"""Rounding of weights to float16: the neighbours, the sums, and the means that batch normalizations tell."""

from __future__ import annotations

import json
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from onnx import numpy_helper

from mxnet_trt_property.precision import float16
from mxnet_trt_property.precision.float16 import to_float16
from mxnet_trt_property.precision.moments import channel_moments
from mxnet_trt_property.precision.rounding import round_filters
from mxnet_trt_property.precision.runtime import session
from tests.harness import converted_model
from tests.symbols import backend, random_arrays, relative_error, taken_nodes

S = mx.sym
X = S.var("x")

FLOAT16_MAX = 65504.0
WEIGHTS = st.one_of(st.floats(-FLOAT16_MAX, FLOAT16_MAX, width=32), st.floats(-1, 1, width=32))


def assert_neighbours(rounded: Any, weights: Any) -> None:
    """Each rounded weight is float16's next number at or above the weight, or the next at or below it."""
    half = rounded.astype(np.float16)
    assert np.array_equal(half.astype(np.float32), rounded), "not numbers of float16"
    with np.errstate(over="ignore"):
        above, below = (np.nextafter(half, np.float16(end)).astype(np.float32) for end in (np.inf, -np.inf))
    assert ((below < weights) & (weights < above)).all()
    exact = weights.astype(np.float16).astype(np.float32) == weights
    assert np.array_equal(rounded[exact].view(np.uint32), weights[exact].view(np.uint32)), "exact ones changed"


@settings(deadline=None, derandomize=True, database=None)
@given(st.data())
def test_weights_go_to_a_neighbour_and_sums_get_nearer(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 40)))
    weights = data.draw(arrays_of.arrays(np.float32, shape, elements=WEIGHTS))
    rows = data.draw(st.sampled_from((1, shape[0])))
    scales = st.floats(-8, 8, width=16)
    scale = data.draw(arrays_of.arrays(np.float32, (rows, shape[1]), elements=scales))
    shift = data.draw(arrays_of.arrays(np.float64, shape[:1], elements=st.floats(-1, 1)))
    rounded = round_filters(weights, scale, shift)
    assert_neighbours(rounded, weights)
    assert np.array_equal(rounded, round_filters(weights, scale, shift))

    def left(found: Any) -> Any:
        return np.abs(((found.astype(np.float64) - weights) * scale).sum(axis=1) + shift)

    nearest = weights.astype(np.float16).astype(np.float32)
    reach = np.abs(scale).max() * np.abs(weights).max()
    assert (left(rounded) <= left(nearest) + 1e-6 * reach).all()
    if shape[1] <= 16 and not shift.any():
        # Every weight may move then, and the sum crosses 0: less is left than half of the largest change.
        steps = np.ldexp(1.0, np.maximum(np.frexp(nearest)[1] - 11, -24)) * np.abs(scale)
        assert (left(rounded) <= steps.max(axis=1) / 2 + 1e-6 * reach).all()


@pytest.mark.parametrize(
    ("filters", "size", "share"), [(64, 9, 0.4), (128, 64, 0.15), (32, 4608, 0.05), (300, 1000, 0.05)]
)
def test_sums_are_kept_at_a_small_cost(filters: int, size: int, share: float) -> None:
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((filters, size)) / np.sqrt(size)).astype(np.float32)
    scale = rng.uniform(0.5, 2, (1, size)).astype(np.float32)
    nearest = weights.astype(np.float16).astype(np.float32)
    rounded = round_filters(weights, scale, np.zeros(filters))
    assert_neighbours(rounded, weights)

    def left(found: Any) -> float:
        return float(np.linalg.norm(((found - weights).astype(np.float64) * scale).sum(axis=1)))

    assert left(rounded) < share * left(nearest)
    assert np.linalg.norm(rounded - weights) < 1.2 * np.linalg.norm(nearest - weights)
    # A bias is off by more than a filter's weights are, mostly.
    shift = rng.uniform(-1, 1, filters) * 2.0**-11
    total = ((round_filters(weights, scale, shift) - weights).astype(np.float64) * scale).sum(axis=1) + shift
    assert np.linalg.norm(total) < 0.5 * np.linalg.norm(shift)


def test_infinity_and_nan_stay_and_spoil_no_other_filter() -> None:
    weights = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    expected = round_filters(weights, np.ones((1, 50), np.float32), np.zeros(3))
    weights[1, 3:5] = np.nan, -0.0
    found = round_filters(weights, np.ones((1, 50), np.float32), np.zeros(3))
    assert np.array_equal(found[[0, 2]], expected[[0, 2]])
    assert np.array_equal(found[1], weights[1].astype(np.float16).astype(np.float32), equal_nan=True)
    assert np.signbit(found[1, 4])


def serialized(symbol: Any, arrays: dict[str, Any]) -> bytes:
    """Returns the ONNX model of a symbol whose input is x."""
    values = {k: v.asnumpy() for k, v in arrays.items()}
    converted, _ = converted_model(symbol, values, {"x": None})
    assert converted is not None
    nodes = {node["name"]: i for i, node in enumerate(json.loads(symbol.tojson())["nodes"])}
    return bytes(converted.serialize({nodes[k]: v for k, v in values.items()}))


def float16_weights(model: bytes, keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the second input of each layer in what `to_float16` makes of a model, by the MXNet node's name."""
    graph = onnx.load_from_string(to_float16(model, keep, (), "the tested model")).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    layers = ("Conv", "ConvTranspose", "Gemm")
    return {
        n.doc_string.partition(" ")[2]: constants[n.input[1]]
        for n in graph.node
        if n.op_type in layers and n.input[1] in constants
    }


LAYERS = {
    "convolution": (S.Convolution(X, kernel=(3, 3), num_filter=8, name="layer"), (2, 16, 6, 6), (1, 2, 3)),
    "groups": (S.Convolution(X, kernel=(3, 3), num_filter=16, num_group=4, name="layer"), (2, 16, 6, 6), (1, 2, 3)),
    "deconvolution": (S.Deconvolution(X, kernel=(3, 3), num_filter=8, name="layer"), (2, 16, 6, 6), (0, 2, 3)),
    "dense": (S.FullyConnected(X, num_hidden=8, name="layer"), (2, 100), (1,)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_each_layer_keeps_the_sums_of_its_filters(kind: str) -> None:
    symbol, shape, axes = LAYERS[kind]
    arrays = random_arrays(symbol, {"x": shape})
    model = serialized(symbol, arrays)
    [found] = float16_weights(model).values()
    weight = arrays["layer_weight"].asnumpy()
    assert found.dtype == np.float16
    assert_neighbours(found.astype(np.float32), weight)

    def left(rounded: Any) -> float:
        return float(np.linalg.norm((rounded.astype(np.float64) - weight).sum(axis=axes)))

    assert left(found) < 0.2 * left(weight.astype(np.float16))
    [kept] = float16_weights(model, ("layer",)).values()
    assert np.array_equal(kept, weight), "what stays in float32 is not rounded"
    assert to_float16(model, (), (), "x") == to_float16(model, (), (), "x")


def test_a_weight_of_two_layers_goes_to_the_nearest() -> None:
    weight = S.var("w")
    symbol = S.FullyConnected(X, weight, num_hidden=20, no_bias=True, name="first")
    symbol = S.FullyConnected(S.relu(symbol), weight, num_hidden=20, no_bias=True, name="second")
    arrays = random_arrays(symbol, {"x": (2, 20)})
    for found in float16_weights(serialized(symbol, arrays)).values():
        assert np.array_equal(found, arrays["w"].asnumpy().astype(np.float16))


def test_moments_are_those_of_normal_inputs() -> None:
    """Of statistics 0 and 1 and independent normal inputs a batch normalization makes what the formulas say."""
    first, second = (S.BatchNorm(X, fix_gamma=False, eps=1e-9, name=name) for name in ("bn0", "bn1"))
    relu, relu6 = S.relu(first), S.clip(second, 0, 6)
    pooling: dict[str, Any] = {"kernel": (3, 3), "pad": (1, 1), "stride": (2, 2)}
    pools = [
        S.Pooling(first, pool_type="max", kernel=(2, 2), stride=(2, 2)),
        S.Pooling(relu, pool_type="avg", **pooling),
        S.Pooling(relu, pool_type="avg", count_include_pad=False, **pooling),
        S.Pooling(relu6, pool_type="avg", global_pool=True, kernel=(1, 1)),
    ]
    joined = S.Concat(relu, S.clip(first, -0.5, 0.5), relu6)
    symbol = S.Group([*pools, joined, S.relu(first) + 0.0, S.Flatten(pools[0])])
    arrays = random_arrays(symbol, {"x": (4000, 4, 9, 8)})
    for name in ("bn0", "bn1"):
        arrays[f"{name}_moving_mean"][:], arrays[f"{name}_moving_var"][:] = 0, 1
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(serialized(symbol, arrays)))
    known = channel_moments(proto.graph)
    kinds = {node.output[0]: node.op_type for node in proto.graph.node}
    expected = {
        "BatchNormalization",
        "Relu",
        "Clip",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "Concat",
        "Flatten",
    }
    assert expected <= {kinds[name] for name in known}
    del proto.graph.output[:]
    for name in known:
        proto.graph.output.add(name=name).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    [data] = proto.graph.input
    feed = {data.name: arrays["x"].asnumpy()}
    found = session(proto.SerializeToString(), "the tested model", optimize=False).run(list(known), feed)
    for name, value in zip(known, found):
        channels = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
        np.testing.assert_allclose(known[name].mean, channels.mean(axis=1), atol=0.1, err_msg=kinds[name])
        if kinds[name] in ("BatchNormalization", "Relu", "Clip", "Concat"):
            np.testing.assert_allclose(
                known[name].variance, channels.var(axis=1), rtol=0.05, atol=1e-3, err_msg=kinds[name]
            )


def test_a_sum_of_two_branches_has_the_sum_of_their_moments() -> None:
    parts = [S.relu(S.BatchNorm(X, fix_gamma=False, name=f"bn{i}")) for i in range(2)]
    symbol = parts[0] + parts[1]
    graph = onnx.load_from_string(serialized(symbol, random_arrays(symbol, {"x": (2, 4, 5, 5)}))).graph
    known = channel_moments(graph)
    [total] = [known[node.output[0]] for node in graph.node if node.op_type == "Add"]
    ours = [known[node.output[0]] for node in graph.node if node.op_type == "Relu"]
    np.testing.assert_allclose(total.mean, ours[0].mean + ours[1].mean)
    np.testing.assert_allclose(total.variance, ours[0].variance + ours[1].variance)


LAYERS_IN_A_ROW = 8


def positive() -> tuple[Any, dict[str, Any]]:
    """Returns a network whose layers read what comes out of ReLUs, pooled globally at its end."""
    net = X
    for i in range(LAYERS_IN_A_ROW):
        net = S.Convolution(net, kernel=(3, 3), num_filter=32, pad=(1, 1), no_bias=True, name=f"conv{i}")
        net = S.relu(S.BatchNorm(net, fix_gamma=False, name=f"bn{i}"))
    net = S.Pooling(net, pool_type="avg", global_pool=True, kernel=(1, 1))
    symbol = S.FullyConnected(net, num_hidden=10, name="fc")
    arrays = random_arrays(symbol, {"x": (4, 3, 20, 20)})
    for i in range(LAYERS_IN_A_ROW):
        weight = arrays[f"conv{i}_weight"]
        weight[:] = weight / np.sqrt(np.prod(weight.shape[1:]))
        arrays[f"bn{i}_gamma"][:], arrays[f"bn{i}_beta"][:] = 1, 1
        # The statistics of what reaches it.
        with backend("NONE"):
            reached = symbol.get_internals()[f"conv{i}_output"]
            names = reached.list_inputs()
            auxiliary = reached.list_auxiliary_states()
            executor = reached.bind(
                mx.cpu(),
                {k: arrays[k] for k in names if k not in auxiliary},
                grad_req="null",
                aux_states={k: arrays[k] for k in auxiliary},
            )
            value = executor.forward()[0].asnumpy()
        arrays[f"bn{i}_moving_mean"][:] = value.mean(axis=(0, 2, 3))
        arrays[f"bn{i}_moving_var"][:] = value.var(axis=(0, 2, 3))
    return symbol, arrays


def test_means_of_channels_are_kept_behind_the_public_door(monkeypatch: pytest.MonkeyPatch) -> None:
    symbol, arrays = positive()
    auxiliary = symbol.list_auxiliary_states()
    data = mx.nd.array(np.random.default_rng(7).standard_normal(arrays["x"].shape))

    def output(name: str, **settings: str) -> Any:
        with backend(name, MXNET_TENSORRT_ON_ERROR="raise", **settings):
            arguments = {k: v for k, v in arrays.items() if k not in auxiliary}
            states = {k: arrays[k] for k in auxiliary}
            executor = symbol.bind(mx.cpu(), {**arguments, "x": data}, grad_req="null", aux_states=states)
            assert name == "NONE" or taken_nodes(executor)
            return executor.forward()[0].asnumpy()

    expected = output("NONE")
    ours = relative_error(output("TensorRT", MXNET_TENSORRT_PRECISION="fp16"), expected)
    monkeypatch.setattr(float16, "round_weights", lambda *_: None)
    # A bound of the workspace that nothing else asks for: an engine of its own.
    to_nearest = output("TensorRT", MXNET_TENSORRT_PRECISION="fp16", MXNET_TENSORRT_WORKSPACE_MB="3")
    assert 1e-6 < ours < 0.5 * relative_error(to_nearest, expected)
