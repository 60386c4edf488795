"""The converter and the writer: roles, names, heads, messages and limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from mxnet_trt_property import onnx_writer, operators
from mxnet_trt_property.convert import ConvertedModel, convert, variable_roles
from mxnet_trt_property.errors import ConversionError
from mxnet_trt_property.infer import infer_tensors, read_symbol
from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators import registry
from tests.harness import all_arrays, compare, mx, run_onnx, stock_outputs

S = mx.sym
X, Y = S.var("x"), S.var("y")
EXP = S.exp(X)


def _convert(symbol: Any, shapes: dict[str, tuple[int, ...]]) -> ConvertedModel:
    graph = read_symbol(symbol)
    tensors = infer_tensors(symbol, shapes, {name: np.dtype("float32") for name in shapes})
    return convert(graph, tensors, variable_roles(graph, lambda node: node.name not in shapes), "subgraph 7")


def _check(symbol: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    arrays = all_arrays(symbol, shapes)
    outputs = run_onnx(_convert(symbol, shapes), read_symbol(symbol), arrays)
    compare(outputs, stock_outputs(symbol, arrays), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "symbol",
    [
        S.Group([X, S.exp(X)]),
        S.Group([X, X, S.exp(X)]),
        S.Group([EXP, EXP, EXP + 1]),
        S.Group([S.Dropout(X), S.exp(X)]),
        S.Group([S.SliceChannel(X, num_outputs=3)[i] for i in (2, 0, 2)]),
    ],
    ids=["variable", "variable_twice", "node_twice", "identity", "outputs_out_of_order"],
)
def test_unusual_heads(symbol: Any) -> None:
    """Heads that are variables, that repeat, or that are passed through."""
    _check(symbol, {"x": (2, 3)})


def test_model_of_variables_only() -> None:
    """A symbol without operators is an Identity for each head."""
    graph = read_symbol(X)
    arrays = all_arrays(X, {"x": (2, 3)})
    (output,) = run_onnx(_convert(X, {"x": (2, 3)}), graph, arrays)
    np.testing.assert_array_equal(output, arrays["x"])


def test_roles() -> None:
    """Weights are read in weight slots only; a label and what only it depends on are unused."""
    shared = S.var("shared")
    data = S.FullyConnected(X, shared, num_hidden=3, name="fc")
    symbol = S.SoftmaxOutput(S.FullyConnected(data + S.sum(shared), num_hidden=4, name="fc2"), S.exp(S.var("label")))
    graph = read_symbol(symbol)
    roles = {graph.nodes[i].name: role for i, role in variable_roles(graph, lambda node: node.name != "x").items()}
    assert roles == {
        "x": "input",
        "shared": "input",
        "fc_bias": "weight",
        "fc2_weight": "weight",
        "fc2_bias": "weight",
        "label": "unused",
    }
    assert set(variable_roles(graph, lambda node: False).values()) == {"input", "unused"}


def test_roles_of_what_is_folded() -> None:
    """A layer of Gluon packs its parameters in the graph; they are weights, unless another node reads them."""
    layer = mx.gluon.rnn.LSTM(4, prefix="lstm_")
    graph = read_symbol(layer(X))
    roles = {graph.nodes[i].name: role for i, role in variable_roles(graph, lambda node: node.name != "x").items()}
    assert roles.pop("x") == "input"
    assert set(roles.values()) == {"weight"}
    assert len(roles) == 4
    shared = layer.l0_h2h_bias.var()
    for head in (S.exp(shared), S.Reshape(shared, shape=(-1,))):
        graph = read_symbol(S.Group([layer(X), head]))
        roles = {graph.nodes[i].name: role for i, role in variable_roles(graph, lambda node: True).items()}
        assert roles["lstm_l0_h2h_bias"] == "input"
        assert roles["lstm_l0_i2h_bias"] == "weight"


def test_weight_that_is_a_head_is_an_input() -> None:
    """An initializer could not follow the array that the program reads back."""
    weight = S.var("w")
    graph = read_symbol(S.Group([S.FullyConnected(X, weight, num_hidden=3, no_bias=True), weight]))
    assert set(variable_roles(graph, lambda node: node.name == "w").values()) == {"input"}


def test_only_what_is_read_is_listed() -> None:
    """A gamma that counts as 1 and the second input of slice_like are no inputs of the model."""
    symbol = S.slice_like(S.BatchNorm(X, name="bn"), Y)
    shapes = {"x": (2, 3, 4), "y": (2, 3, 2)}
    converted = _convert(symbol, shapes)
    names = [node.name for node in read_symbol(symbol).nodes]
    assert [names[port.node] for port in converted.inputs] == ["x"]
    assert [names[port.node] for port in converted.weights] == ["bn_beta", "bn_moving_mean", "bn_moving_var"]
    _check(symbol, shapes)


def test_names_of_any_kind() -> None:
    """Two nodes share a name, others are called as the model's own inputs and outputs are."""
    one = S.tanh(S.var("weird /:\u00e9 name"), name="twin")
    two = S.tanh(one, name="twin")
    three = S.FullyConnected(S.sin(two, name="output0"), num_hidden=3, name="input0")
    symbol = S.cos(three, name="w1_input0_weight")
    shapes = {"weird /:\u00e9 name": (2, 3)}
    _check(symbol, shapes)
    converted = _convert(symbol, shapes)
    assert [port.name for port in converted.inputs] == ["input0"]
    assert converted.weights[0].name.endswith("_input0_weight")


def test_onnx_nodes_lead_back_to_mxnet() -> None:
    """Each ONNX node's name begins with its MXNet node's, and the map says which."""
    converted = _convert(S.L2Normalization(S.LeakyReLU(X, act_type="gelu", name="act"), name="l2"), {"x": (2, 3)})
    assert set(converted.node_names.values()) == {"act", "l2"}
    assert all(name.startswith(owner + "/") for name, owner in converted.node_names.items())
    proto = onnx.load_from_string(converted.serialize({}))
    assert {node.name for node in proto.graph.node} == set(converted.node_names)
    assert proto.opset_import[0].version == 17
    assert proto.ir_version == 8


def test_weights_come_in_at_serialize() -> None:
    """One conversion serves every set of values, and the initializers are the arrays as they are."""
    symbol = S.FullyConnected(X, num_hidden=4, name="fc")
    graph, converted = read_symbol(symbol), _convert(symbol, {"x": (2, 3)})
    for seed in (1, 2):
        arrays = all_arrays(symbol, {"x": (2, 3)}, seed=seed)
        np.testing.assert_allclose(run_onnx(converted, graph, arrays)[0], stock_outputs(symbol, arrays)[0], rtol=1e-5)
        values = {port.node: arrays[graph.nodes[port.node].name] for port in converted.weights}
        proto = onnx.load_from_string(converted.serialize(values))
        for port, tensor in zip(converted.weights, proto.graph.initializer[-2:]):
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), values[port.node])


def test_wrong_value_is_an_error() -> None:
    """A weight of another shape, dtype, or none at all."""
    converted = _convert(S.FullyConnected(X, num_hidden=4, no_bias=True, name="fc"), {"x": (2, 3)})
    node = converted.weights[0].node
    for values, found in (
        ({}, "found: nothing"),
        ({node: np.zeros((4, 2), "float32")}, r"found: float32 \(4, 2\)"),
        ({node: np.zeros((4, 3))}, r"found: float64 \(4, 3\) \| required: float32 \(4, 3\)"),
    ):
        with pytest.raises(ConversionError, match=f"Weight 'w.*_fc_weight' of subgraph 7 .*{found}"):
            converted.serialize(values)


def test_limit_of_two_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the limit and what goes beyond it."""
    converted = _convert(S.FullyConnected(X, num_hidden=400, name="fc"), {"x": (2, 3)})
    monkeypatch.setattr(onnx_writer, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(ConversionError, match=r"subgraph 7 is too large .* bytes with its weights \| .* 2 GiB"):
        converted.serialize({})


def test_refused_node_is_named() -> None:
    """A node that should have been left to MXNet."""
    with pytest.raises(ConversionError, match=r"Node 'drop' \(Dropout\) of subgraph 7 .* found: mode: found always"):
        _convert(S.Dropout(X, mode="always", name="drop"), {"x": (2, 3)})
    with pytest.raises(ConversionError, match=r"Node 'g' \(gammaln\) of subgraph 7 has no converter"):
        _convert(S.gammaln(X, name="g"), {"x": (2, 3)})


def test_unknown_shape_is_named() -> None:
    """Inputs and outputs need a shape and a dtype."""
    graph = read_symbol(S.exp(X, name="e"))
    with pytest.raises(ConversionError, match=r"Output 0 of node 'e' of subgraph 7 .* found: shape None"):
        convert(graph, {}, variable_roles(graph, lambda node: False), "subgraph 7")


def _replace_emit(monkeypatch: pytest.MonkeyPatch, name: str, emit: Any) -> None:
    entry = operators.find(name)
    assert entry is not None
    monkeypatch.setitem(registry._OPERATORS, name, registry.Operator(name, entry.parameters, entry.check, emit))


def test_failing_entry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an entry raises is chained, and the message says where it was."""

    def fail(*arguments: Any) -> list[str]:
        raise KeyError("lost")

    _replace_emit(monkeypatch, "exp", fail)
    with pytest.raises(ConversionError, match=r"Node 'e' \(exp\) of subgraph 7 .* KeyError: 'lost'") as caught:
        _convert(S.exp(X, name="e"), {"x": (2, 3)})
    assert isinstance(caught.value.__cause__, KeyError)


def test_miscounting_entry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that forgets an output is a fault of this package."""
    _replace_emit(monkeypatch, "exp", lambda *arguments: [])
    with pytest.raises(ConversionError, match=r"Internal error: the entry of operator exp .* found: 0 \| required: 1"):
        _convert(S.exp(X, name="e"), {"x": (2, 3)})


def test_writer_keeps_equal_constants_once() -> None:
    """And tells constants apart by dtype and shape."""
    writer = OnnxWriter()
    with writer.scope("n", "op"):
        one = writer.scalar(1.0, np.dtype("float32"))
        assert writer.scalar(1.0, np.dtype("float32")) == one
        assert writer.scalar(1.0, np.dtype("float16")) != one
        assert writer.constant(np.ones(1, "float32")) != one
    assert one.startswith("n/")
    writer.reserve("input0")
    with pytest.raises(ValueError, match="'input0' is taken"):
        writer.reserve("input0")
