"""What an engine refuses of what the registry takes goes back to MXNet, with the engine's reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
import pytest
from onnx import helper

from mxnet_trt_property import backend as partitioner
from mxnet_trt_property import support
from mxnet_trt_property.engines import registry as engines
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from mxnet_trt_property.engines.trt_build import library
from mxnet_trt_property.operators import NodeInfo, registry
from tests.engines.models import FLOAT, model
from tests.harness import Row, row_model
from tests.symbols import backend, random_arrays, relative_error, taken_nodes


def chain(*operators: str) -> bytes:
    nodes = [helper.make_node(op, [f"x{i}"], [f"x{i + 1}"], name=f"node{i}") for i, op in enumerate(operators)]
    return model(nodes, [("x0", FLOAT, (2, 3))], [(f"x{len(operators)}", FLOAT, (2, 3))])


@pytest.fixture(params=["onnxruntime", "tensorrt_rtx"])
def engine(request: pytest.FixtureRequest) -> Any:
    if request.param == "onnxruntime":
        return OnnxRuntimeEngine()
    pytest.importorskip("tensorrt_rtx")
    return library("tensorrt_rtx")


def test_supported_model(engine: Any) -> None:
    assert engine.refused_nodes(chain("Relu", "Tanh", "Exp")) == {}


def test_refused_node_is_named(engine: Any) -> None:
    found = engine.refused_nodes(chain("Relu", "NoSuchOperator", "Tanh"))
    assert list(found) == ["node1"]
    assert "NoSuchOperator" in found["node1"]


def test_what_tensorrt_does_badly_is_refused() -> None:
    """Its parser takes loops and the rest of floats; engines with them are slow, or wrong beside infinities."""
    pytest.importorskip("tensorrt_rtx")
    engine = engines.get("tensorrt_rtx")
    for build, op_type in (
        (lambda: mx.sym.contrib.box_nms(mx.sym.var("x")), "Loop"),
        (lambda: mx.sym.broadcast_mod(mx.sym.var("x"), mx.sym.var("y")), "Mod"),
    ):
        row = Row("", "", build, {"x": (1, 5, 6), "y": (1, 5, 6)}, 0, 0)
        refused = engine.refused_nodes(row_model(row))
        assert refused
        assert all(op_type in reason for reason in refused.values())


@pytest.fixture
def broken_operators(monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Makes the entries of tanh and sigmoid write an operator that no engine has."""

    def emit(params: Any, node: NodeInfo, inputs: Sequence[str], writer: Any) -> Sequence[str]:
        return [writer.node(f"No{node.op}", [inputs[0]])]

    for name in ("tanh", "sigmoid"):
        monkeypatch.setitem(
            registry._OPERATORS, name, registry.Operator(name, registry.Parameters, registry._always, emit)
        )
    return ("tanh", "sigmoid")


def network() -> Any:
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=4, name="fc1")
    net = mx.sym.tanh(net, name="first")
    net = mx.sym.exp(mx.sym.FullyConnected(net, num_hidden=4, name="fc2"), name="exponential")
    net = mx.sym.sigmoid(net, name="second")
    return mx.sym.FullyConnected(net, num_hidden=2, name="fc3")


def test_refused_nodes_stay_with_mxnet(broken_operators: Sequence[str]) -> None:
    arrays = random_arrays(network(), {"data": (2, 5)})
    with backend("NONE"):
        stock = network().bind(mx.cpu(), arrays, grad_req="null")
    with backend("TensorRT", MXNET_TENSORRT_ON_ERROR="raise", MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="1"):
        ours = network().bind(mx.cpu(), arrays, grad_req="null")
        assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5
    assert taken_nodes(ours) == ["fc1", "fc2", "exponential", "fc3"]
    reasons = {d.node.name: d.reason for d in ours.tensorrt.made.decisions.refused}
    assert set(reasons) == {"first", "second"}
    assert all(str(reason).startswith("onnxruntime") and "refuses it" in str(reason) for reason in reasons.values())


def test_parser_of_tensorrt_is_asked(broken_operators: Sequence[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    from mxnet_trt_property import infer, settings
    from mxnet_trt_property.engines.trt import TensorRTEngine

    symbol = network()
    tensors = infer.infer_tensors(symbol, {"data": (2, 5)}, partitioner.complete_dtypes(symbol, {}))
    config = settings.read({"min_subgraph_size": "1"})
    found = support.decide(infer.read_symbol(symbol), tensors, config, TensorRTEngine("tensorrt_rtx", "tensorrt_rtx"))
    assert {d.node.name for d in found.refused} == {"first", "second"}
    assert all("its parser does not take ONNX operator No" in str(d.reason) for d in found.refused)
    assert found.subgraph_count == 3


def test_an_engine_is_asked_once_about_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    stock = OnnxRuntimeEngine.refused_nodes

    def count(self: Any, onnx: bytes) -> dict[str, str]:
        asked.append(len(onnx))
        return stock(self, onnx)

    monkeypatch.setattr(OnnxRuntimeEngine, "refused_nodes", count)
    monkeypatch.setattr(support, "_cache", type(support._cache)())
    arrays = random_arrays(network(), {"data": (2, 5)})
    with backend("TensorRT"):
        for _ in range(3):
            network().bind(mx.cpu(), arrays, grad_req="null")
    assert len(asked) == 1


def test_an_engine_that_cannot_be_asked_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, onnx: bytes) -> dict[str, str]:
        raise RuntimeError("no answer")

    monkeypatch.setattr(OnnxRuntimeEngine, "refused_nodes", fails)
    monkeypatch.setattr(support, "_cache", type(support._cache)())
    arrays = random_arrays(network(), {"data": (2, 5)})
    with backend("TensorRT"):
        executor = network().bind(mx.cpu(), arrays, grad_req="null")
    assert len(taken_nodes(executor)) == 6
    executor.forward()[0].wait_to_read()
