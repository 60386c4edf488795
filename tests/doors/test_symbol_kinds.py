"""Symbols of every kind, name and dtype, bound with TensorRT on: outputs as without the plugin."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from tests.symbols import (
    BACKENDS,
    assert_same,
    backend,
    bound,
    fill,
    pair,
    random_arrays,
    relative_error,
    split_net,
    taken_nodes,
)


@pytest.fixture(autouse=True)
def _every_node_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MIN_SUBGRAPH_SIZE", "1")


def test_outputs_that_are_variables_and_nodes_without_inputs() -> None:
    x, y = mx.sym.Variable("x"), mx.sym.Variable("y")
    symbol = mx.sym.Group([x, mx.sym.tanh(x) + y, y, mx.sym.tanh(mx.sym.exp(y)), mx.sym.zeros((2, 2)) + 1])
    stock, ours = pair(symbol, {"x": (2, 3), "y": (2, 3)})
    assert_same(ours, stock)
    assert list(ours.output_dict) == list(stock.output_dict)


def test_operators_with_several_outputs() -> None:
    parts = mx.sym.split(mx.sym.exp(mx.sym.Variable("data")), num_outputs=3, axis=1, name="parts")
    symbol = mx.sym.Group([parts[2], mx.sym.tanh(parts[0]), parts[1] * 2, parts[2]])
    stock, ours = pair(symbol, {"data": (2, 6)})
    assert_same(ours, stock)


def test_internals_of_a_network() -> None:
    symbol = split_net().get_internals()  # with BatchNorm inside, stock MXNet fails in its own MKLDNN passes
    stock, ours = pair(symbol, {"data": (2, 5)})
    assert_same(ours, stock)
    assert ours.output_dict.keys() == stock.output_dict.keys()


STRANGE_NAMES = [
    "with space",
    "quote'quote",
    'double"double',
    "back\\slash",
    "a/b/c",
    "日本語 ñ €",
    "new\nline\ttab",
    "{}%s%d",
    "a,b:c;d=e",
    "tensorrt0",
    "input0",
    "output0",
    "[1, 2]",
    "null",
    "w0_data",
    "\U0001f600",
    'heads": [[',
    "trailing_output",
    "bell\a backspace\b\x01\x1f",
    "ctx",
    "grad_req",
]


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=lambda n: ascii(n))
def test_names(name: str) -> None:
    data = mx.sym.Variable(name + "data")
    weight = mx.sym.Variable(name)
    net = mx.sym.FullyConnected(data, weight, num_hidden=4, name=name + "_fc")
    net = mx.sym.Activation(net, act_type="relu", name=name + "_act")
    net = mx.sym.gammaln(net + 1, name="left to MXNet " + name)
    net = mx.sym.tanh(net, name=name)
    shapes = {name + "data": (2, 3)}
    stock, ours = pair(net, shapes)
    assert list(ours.arg_dict) == list(stock.arg_dict)
    assert_same(ours, stock)
    assert list(ours.output_dict) == list(stock.output_dict)
    again = mx.sym.load_json(ours.get_optimized_symbol().tojson())
    assert sorted(again.list_arguments()) == sorted(stock.arg_dict)


def test_a_name_that_no_keyword_can_have() -> None:
    symbol = mx.sym.exp(mx.sym.FullyConnected(mx.sym.Variable("data"), mx.sym.Variable("self"), num_hidden=3))
    stock, ours = (bound(symbol, name, {"data": (2, 5)}) for name in BACKENDS)
    assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5


def test_names_in_excluded_nodes() -> None:
    net = mx.sym.tanh(mx.sym.exp(mx.sym.Variable("data"), name="a b/c"), name='d"e')
    with backend("TensorRT", MXNET_TENSORRT_EXCLUDE_NODES='a b/c , d"f'):
        executor = net.simple_bind(mx.cpu(), grad_req="null", data=(2, 2))
    assert taken_nodes(executor) == ['d"e']


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "int64", "int8", "uint8"])
def test_dtypes_of_inputs(dtype: str) -> None:
    x = mx.sym.Variable("x")
    symbol = mx.sym.Group([mx.sym.Reshape(mx.sym.concat(x, x * 2, dim=1), shape=(-1,)), mx.sym.cast(x, "float32") + 1])
    executors = []
    for name in BACKENDS:
        with backend(name):
            executors.append(symbol.simple_bind(mx.cpu(), grad_req="null", x=(2, 3), type_dict={"x": dtype}))
        executors[-1].arg_dict["x"][:] = mx.nd.array([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    stock, ours = executors
    for found, expected in zip(ours.forward(), stock.forward()):
        assert found.dtype == expected.dtype
        assert np.array_equal(found.asnumpy(), expected.asnumpy())


def test_boolean_inputs() -> None:
    x, mask = mx.sym.Variable("x").as_np_ndarray(), mx.sym.Variable("mask").as_np_ndarray()
    symbol = mx.sym.np.where(mask, mx.sym.np.tanh(x), mx.sym.np.exp(x))
    arrays = {"x": mx.np.array([[1.0, -2.0]]), "mask": mx.np.array([[True, False]], dtype="bool")}
    results = []
    for name in BACKENDS:
        with backend(name):
            results.append(symbol.bind(mx.cpu(), arrays, grad_req="null").forward()[0].asnumpy())
    assert np.allclose(results[1], results[0], rtol=1e-6)


@pytest.mark.parametrize("maker", ["zeros", "ones", "arange", "full"])
def test_weights_that_the_graph_computes(maker: str) -> None:
    weight = {
        "zeros": lambda: mx.sym.zeros((4, 5)),
        "ones": lambda: mx.sym.ones((4, 5)),
        "arange": lambda: mx.sym.reshape(mx.sym.arange(20), shape=(4, 5)),
        "full": lambda: mx.sym.full((4, 5), 0.3),
    }[maker]()
    bias = mx.sym.Variable("bias")
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), weight, bias, num_hidden=4, name="fc")
    stock, ours = pair(mx.sym.tanh(net * 0.01), {"data": (2, 5)})
    assert "fc" in taken_nodes(ours)
    assert_same(ours, stock)
    for executor in (stock, ours):
        executor.arg_dict["bias"][:] += 0.5
    assert_same(ours, stock)


def test_a_weight_that_other_nodes_compute_from_variables() -> None:
    weight = mx.sym.Variable("weight")
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), mx.sym.tanh(weight), num_hidden=4, no_bias=True, name="fc")
    symbol = mx.sym.Group([net, mx.sym.sum(weight)])
    stock, ours = pair(symbol, {"data": (2, 5), "weight": (4, 5)})
    assert_same(ours, stock)
    for executor in (stock, ours):
        executor.arg_dict["weight"][:] *= -2
    assert_same(ours, stock)


def test_one_weight_of_two_layers() -> None:
    weight = mx.sym.Variable("weight")
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), weight, num_hidden=5, no_bias=True, name="a")
    net = mx.sym.FullyConnected(mx.sym.tanh(net), weight, num_hidden=5, no_bias=True, name="b")
    stock, ours = pair(mx.sym.Group([net, mx.sym.Pooling(mx.sym.Variable("image"), kernel=(2, 2))]),
                       {"data": (2, 5), "image": (1, 1, 4, 4)})  # fmt: skip
    assert_same(ours, stock)


def test_shapes_and_dtypes_written_on_variables() -> None:
    data = mx.sym.Variable("data", shape=(2, 5), dtype="float32")
    weight = mx.sym.Variable("weight", shape=(4, 5), init=mx.init.One())
    net = mx.sym.tanh(mx.sym.FullyConnected(data, weight, num_hidden=4, name="fc"))
    executors = []
    for name in BACKENDS:
        with backend(name):
            executors.append(net.simple_bind(mx.cpu(), grad_req="null"))
        fill(executors[-1], random_arrays(net, {"data": (2, 5)}))
    assert taken_nodes(executors[1])
    assert_same(executors[1], executors[0])


def test_numpy_symbols_of_any_rank() -> None:
    with mx.util.np_shape(True):
        x = mx.sym.Variable("x").as_np_ndarray()
        scale = mx.sym.Variable("scale").as_np_ndarray()
        symbol = mx.sym.np.tanh(mx.sym.np.multiply(mx.sym.npx.relu(x), scale))
        arrays = {"x": mx.np.ones((2, 3)), "scale": mx.np.array(0.5)}
        results = []
        for name in BACKENDS:
            with backend(name):
                results.append(symbol.bind(mx.cpu(), arrays, grad_req="null").forward()[0].asnumpy())
                executor = symbol.simple_bind(mx.cpu(), grad_req="null", x=(2, 3), scale=())
            executor.arg_dict["scale"][()] = 0.5
            results.append(executor.forward(x=mx.nd.ones((2, 3)))[0].asnumpy())
    for found in results[1:]:
        assert np.allclose(found, results[0], rtol=1e-6)


def test_symbols_without_supported_nodes() -> None:
    for symbol in (mx.sym.Variable("data"), mx.sym.gammaln(mx.sym.gammaln(mx.sym.Variable("data")))):
        executor = bound(symbol, "TensorRT", {"data": (2, 2)})
        expected = bound(symbol, "NONE", {"data": (2, 2)}).forward()[0]
        assert not taken_nodes(executor)
        assert relative_error(executor.forward()[0], expected) == 0


def test_nodes_of_one_name_are_told_apart() -> None:
    data = mx.sym.Variable("data")
    net = mx.sym.Activation(data, act_type="sigmoid", name="same")
    net = mx.sym.gammaln(net, name="same")
    net = mx.sym.Activation(net, act_type="tanh", name="same")
    with backend("TensorRT", MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="1"):
        executor = net.simple_bind(mx.cpu(), grad_req="null", data=(2, 2))
    assert len(taken_nodes(executor)) == 2
    stock = bound(net, "NONE", {"data": (2, 2)})
    fill(executor, random_arrays(net, {"data": (2, 2)}))
    assert relative_error(executor.forward()[0], stock.forward()[0]) < 1e-5


def test_amp_casts_are_seen() -> None:
    net = mx.sym.amp_cast(mx.sym.Variable("data"), dtype="float32", name="cast")
    net = mx.sym.Activation(net, act_type="relu", name="act")
    stock, ours = (bound(mx.sym.exp(net, name="exp"), name, {"data": (2, 3)}) for name in ("NONE", "TensorRT"))
    assert taken_nodes(ours) == ["cast", "act", "exp"]
    assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5
