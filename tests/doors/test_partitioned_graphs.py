"""Graphs that MXNet's own partition pass gets wrong, and graphs that no engine can have a part of."""

from __future__ import annotations

import itertools
import random
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from mxnet_trt_property import infer
from tests.symbols import backend, bound, fill, mlp, random_arrays, relative_error, taken_nodes


@pytest.fixture(autouse=True)
def _every_node_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MIN_SUBGRAPH_SIZE", "1")


def left(value: Any, name: str) -> Any:
    """Returns a node that stays with MXNet."""
    return mx.sym.gammaln(value, name=name)


def check(symbol: Any, shape: tuple[int, ...] = (2, 5)) -> Any:
    """Binds a symbol of one input without and with TensorRT, and compares each output."""
    stock, ours = (bound(symbol, name, {"data": shape}) for name in ("NONE", "TensorRT"))
    assert taken_nodes(ours)
    for found, expected in zip(ours.forward(), stock.forward()):
        assert relative_error(found, expected) < 1e-5
    return ours


def test_grouped_and_repeated_outputs() -> None:
    net = mlp()
    inner = net.get_internals()["relu1_output"]
    symbol = mx.sym.Group([net, inner, net, mx.sym.gammaln(inner + 1)])
    stock, ours = (bound(symbol, name, {"data": (3, 5)}) for name in ("NONE", "TensorRT"))
    assert taken_nodes(ours)
    for found, expected in zip(ours.forward(), stock.forward()):
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("order", [[0, 0], [0, 1, 0], [1, 0, 1, 2, 0], [2, 2, 2]], ids=str)
def test_repeated_outputs(order: list[int]) -> None:
    x = mx.sym.Variable("data")
    outputs = [mx.sym.exp(x), mx.sym.tanh(x), mx.sym.gammaln(mx.sym.exp(x))]
    symbol = mx.sym.Group([outputs[i] for i in order])
    stock = bound(symbol, "NONE", {"data": (3, 5)})
    with backend("TensorRT", MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="1"):
        ours = symbol.simple_bind(mx.cpu(), grad_req="null", data=(3, 5))
    fill(ours, random_arrays(symbol, {"data": (3, 5)}))
    assert taken_nodes(ours)
    for found, expected in zip(ours.forward(), stock.forward()):
        assert relative_error(found, expected) < 1e-5


READERS = "a first, b first, a second, b second, a output, b output".split(", ")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_outputs_of_a_node_with_several_readers(count: int) -> None:
    x = mx.sym.Variable("data")
    for chosen in itertools.islice(itertools.permutations(READERS, count), 0, None, 1 + count**3 // 8):
        a = mx.sym.exp(x, name="a")
        b = mx.sym.tanh(a, name="b")
        heads = [
            {"a": a, "b": b}[which[0]] if which.endswith("output") else left({"a": a, "b": b}[which[0]], which)
            for which in chosen
        ]
        check(mx.sym.Group(heads))


def test_readers_in_another_group() -> None:
    a = mx.sym.exp(mx.sym.Variable("data"))
    behind = left(a, "left")
    symbol = mx.sym.Group([mx.sym.tanh(behind) * a + a, mx.sym.tanh(a), left(a, "second"), behind, a])
    executor = check(symbol)
    graph = infer.read_symbol(executor.tensorrt.made.symbol)
    assert sorted(n.name for n in graph.operators) == ["left", "second", "tensorrt0", "tensorrt1"], "a copy is left"


@pytest.mark.parametrize("seed", range(25))
def test_random_graphs(seed: int) -> None:
    rng = random.Random(seed)
    made = [mx.sym.Variable("data")]
    for i in range(rng.randint(4, 14)):
        first, second = rng.choice(made), rng.choice(made)
        kind = rng.choice(("taken", "taken", "left", "join", "split"))
        if kind == "taken":
            made.append(mx.sym.tanh(first, name=f"n{i}"))
        elif kind == "left":
            made.append(left(mx.sym.abs(first) + 1.5, f"n{i}"))
        elif kind == "join":
            made.append(mx.sym.broadcast_add(first, second, name=f"n{i}"))
        else:
            parts = mx.sym.split(mx.sym.concat(first, second, dim=1), num_outputs=2, axis=1, name=f"n{i}")
            made += [parts[1], parts[0]]
    symbol = mx.sym.Group([mx.sym.sigmoid(made[-1]), *rng.choices(made[1:], k=rng.randint(1, 6))])
    check(symbol)


def cond(x: Any) -> Any:
    inner = mx.sym.tanh(mx.sym.exp(x))
    out = mx.sym.contrib.cond(inner.sum() < 0.5, lambda: inner * 2, lambda: inner + 1)
    return mx.sym.tanh(mx.sym.exp(out))


def while_loop(x: Any) -> Any:
    outputs, states = mx.sym.contrib.while_loop(
        lambda i, s: i < 3, lambda i, s: (s * 2, [i + 1, s + x]), [mx.sym.zeros((1,)), x * 1], max_iterations=5
    )
    # What lies behind the last step in the outputs is undefined.
    return mx.sym.Group([mx.sym.tanh(mx.sym.exp(states[1])), mx.sym.slice_axis(outputs, axis=0, begin=0, end=3)])


def boolean_mask(x: Any) -> Any:
    chosen = mx.sym.contrib.boolean_mask(mx.sym.exp(x), mx.sym.Reshape(mx.sym.slice_axis(x, 1, 0, 1) > 0, shape=(-1,)))
    return mx.sym.tanh(mx.sym.exp(chosen))


@pytest.mark.parametrize("network", [cond, while_loop, boolean_mask])
def test_shapes_that_only_running_tells(network: Any, fresh_warnings: None, caplog: pytest.LogCaptureFixture) -> None:
    symbol = network(mx.sym.Variable("data"))
    arrays = {"data": mx.nd.array(np.array([[1, 2, -3], [-1, 3, 2], [2, 2, 2]]))}
    results = []
    for name in ("NONE", "TensorRT"):
        with backend(name):
            executor = symbol.bind(mx.cpu(), {k: arrays[k] for k in symbol.list_arguments()})
            results.append([o.asnumpy() for o in executor.forward()])
    for found, expected in zip(*results):
        assert np.array_equal(found, expected)
    assert sum("left to MXNet" in r.message for r in caplog.records) == 1


def test_foreach_has_static_shapes() -> None:
    x = mx.sym.Variable("data")
    outputs, states = mx.sym.contrib.foreach(lambda a, s: (a + s, s * 2 + a), mx.sym.exp(x), mx.sym.zeros((5,)))
    check(mx.sym.Group([mx.sym.tanh(outputs) + 1, mx.sym.tanh(states), states]))


def test_control_flow_without_shapes() -> None:
    symbol = cond(mx.sym.Variable("data"))
    assert not infer.has_tensorrt_nodes(symbol.get_backend_symbol("TensorRT"))
    arrays = {"data": mx.nd.ones((2, 2))}
    assert infer.has_dynamic_shapes(symbol, {"data": (2, 2)})
    assert len(symbol.optimize_for("TensorRT", arrays).eval(mx.cpu(), **arrays)) == 1
