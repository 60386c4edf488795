"""Float16: results near those of float32, exact positions, no overflow, and what stays in float32."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest

import mxnet_trt_property
from mxnet_trt_property.errors import EngineError, SettingError
from mxnet_trt_property.precision.float16 import to_float16
from tests.harness import build_engine, converted_model
from tests.models import sequences, vision, zoo
from tests.models.test_models import run
from tests.symbols import backend, random_arrays, relative_error, taken_nodes

S = mx.sym
X = S.var("x")


def outputs(symbol: Any, arrays: dict[str, Any], name: str, **settings: str) -> list[Any]:
    auxiliary = symbol.list_auxiliary_states()
    with backend(name, MXNET_TENSORRT_ON_ERROR="raise", MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="1", **settings):
        executor = symbol.bind(
            mx.cpu(),
            {k: v for k, v in arrays.items() if k not in auxiliary},
            grad_req="null",
            aux_states={k: arrays[k] for k in auxiliary},
        )
        assert name == "NONE" or len(taken_nodes(executor)) > 0
        return [o.asnumpy() for o in executor.forward()]


def float16_model(symbol: Any, arrays: dict[str, Any], data: set[str], keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    values = {k: v.asnumpy() for k, v in arrays.items()}
    converted, _ = converted_model(symbol, values, dict.fromkeys(data))
    assert converted is not None
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    nodes = {node["name"]: i for i, node in enumerate(json.loads(symbol.tojson())["nodes"])}
    assert set(names) <= set(nodes)
    model = converted.serialize({nodes[k]: v for k, v in values.items()})
    return onnx.load_from_string(to_float16(model, keep, (), "the tested model"))


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the element type of every value, by the type inference that engines use as well."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return {**found, **{t.name: t.data_type for t in graph.initializer}}


TOLERANCE = 5e-3
"""Relative to the output."""


@pytest.mark.parametrize("name", ["mlp", "lenet", "wavenet", "resnet18_v2"])
def test_network(name: str) -> None:
    assert_near(name, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.VISION)
def test_vision_network(name: str) -> None:
    """Rounded to the nearest, the weights of Inception v3 alone would move its output by 7e-3."""
    assert_near(name, 2e-3)


def assert_near(name: str, tolerance: float) -> None:
    network = zoo.BUILDERS[name]()
    rng = np.random.default_rng(0)
    data = {k: mx.nd.array(rng.standard_normal(s)) for k, s in network.data_shapes.items()}
    arrays = {**random_arrays(network.symbol, network.data_shapes), **network.arg_params, **network.aux_params, **data}
    expected = outputs(network.symbol, arrays, "NONE")[0]
    found = outputs(network.symbol, arrays, "TensorRT", MXNET_TENSORRT_PRECISION="fp16")[0]
    error = relative_error(mx.nd.array(found), mx.nd.array(expected))
    assert 1e-6 < error < tolerance, "not float16, or not near"
    assert found.dtype == np.float32
    assert np.array_equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize(
    "build", [vision.ssd, sequences.bert, sequences.crnn, sequences.language_model], ids=lambda build: build.__name__
)
def test_application(build: Any, built_models: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops, recurrent layers, masks of attention; and what is written is a model that TensorRT builds."""
    network = build()
    data = network.data()
    _, expected = run(network, "NONE", data)
    monkeypatch.setenv("MXNET_TENSORRT_PRECISION", "fp16")
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    _, found = run(network, "TensorRT", data)
    for ours, theirs in zip(found, expected):
        assert relative_error(ours, theirs) < 5e-3
    assert built_models
    pytest.importorskip("tensorrt_rtx")
    for model in built_models:
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
        build_engine(model)


def test_engine_builds() -> None:
    pytest.importorskip("tensorrt_rtx")
    network = zoo.BUILDERS["resnet18_v2"]()
    data = {k: mx.nd.zeros(s) for k, s in network.data_shapes.items()}
    model = float16_model(network.symbol, {**network.arg_params, **network.aux_params, **data}, set(data))
    onnx.checker.check_model(model, full_check=True)
    build_engine(model.SerializeToString())


def test_batch_norm_of_tiny_variances() -> None:
    """A variance below float16's smallest number must not become one that is larger."""
    symbol = S.BatchNorm(S.Convolution(S.var("data"), kernel=(1, 1), num_filter=4, name="conv"), eps=1e-9, name="bn")
    arrays = random_arrays(symbol, {"data": (2, 3, 4, 4)})
    arrays["bn_moving_var"][:] = 1e-8
    expected = outputs(symbol, arrays, "NONE")[0]
    found = outputs(symbol, arrays, "TensorRT", MXNET_TENSORRT_PRECISION="fp16")[0]
    assert relative_error(mx.nd.array(found), mx.nd.array(expected)) < 5e-3


@pytest.mark.parametrize(
    "symbol",
    [
        S.Embedding(S.var("x"), S.var("w"), input_dim=6000, output_dim=2),
        S.take(S.var("w"), X * 2 - X),
        S.Embedding(S.floor(S.clip(S.var("x"), 0, 6000)), S.var("w"), input_dim=6000, output_dim=2),
        S.argmax(S.reshape(S.exp(X / 6000), (1, -1)), axis=1) * 1,
    ],
    ids=["embedding", "computed index", "rounded index", "argmax"],
)
def test_positions_are_exact(symbol: Any) -> None:
    """Float16 counts in steps of 4 at 5000."""
    arrays = {"x": mx.nd.arange(0, 6000), "w": mx.nd.array(np.random.default_rng(0).standard_normal((6000, 2)))}
    arrays = {k: v for k, v in arrays.items() if k in symbol.list_arguments()}
    expected = outputs(symbol, arrays, "NONE")[0]
    found = outputs(symbol, arrays, "TensorRT", MXNET_TENSORRT_PRECISION="fp16")[0]
    if "w" not in arrays:
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def overflowing() -> tuple[Any, dict[str, Any]]:
    net = S.FullyConnected(S.var("data"), num_hidden=4, no_bias=True, name="big")
    net = S.relu(net, name="act")
    net = S.FullyConnected(net, num_hidden=3, no_bias=True, name="small")
    arrays = random_arrays(net, {"data": (2, 8)})
    arrays["big_weight"][:] = mx.nd.abs(arrays["big_weight"]) * 3e4
    arrays["data"][:] = mx.nd.abs(arrays["data"])
    arrays["small_weight"] *= 1e-4
    return net, arrays


def test_values_beyond_float16_stay_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    symbol, arrays = overflowing()
    expected = outputs(symbol, arrays, "NONE")[0]
    with caplog.at_level(logging.WARNING, "mxnet_trt_property"):
        found = outputs(symbol, arrays, "TensorRT", MXNET_TENSORRT_PRECISION="fp16")[0]
    assert np.isfinite(found).all()
    assert relative_error(mx.nd.array(found), mx.nd.array(expected)) < 5e-3
    assert "node big stays in float32: it met a value of" in caplog.text


def test_inputs_and_weights_beyond_float16() -> None:
    symbol = S.FullyConnected(S.var("data"), num_hidden=4, no_bias=True, name="fc") * 1e-6
    arrays = random_arrays(symbol, {"data": (2, 8)})
    arrays["data"] *= 1e6
    arrays["fc_weight"][0] = 1e5
    expected = outputs(symbol, arrays, "NONE")[0]
    found = outputs(symbol, arrays, "TensorRT", MXNET_TENSORRT_PRECISION="fp16")[0]
    assert relative_error(mx.nd.array(found), mx.nd.array(expected)) < 5e-3


def test_first_layers_of_an_ill_conditioned_network_stay_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    """Its second layer takes the difference of nearly equal numbers, which no later layer makes good."""
    net = S.var("data")
    for i in range(8):
        net = S.FullyConnected(net, num_hidden=16, no_bias=True, name=f"fc{i}")
    arrays = random_arrays(net, {"data": (2, 16)})
    for i in range(8):
        arrays[f"fc{i}_weight"] /= 4
    first, second = (arrays[f"fc{i}_weight"].asnumpy() for i in range(2))
    first[1::2] = first[::2] + first[1::2] / 100
    second[:, 1::2] = -second[:, ::2]
    arrays["fc0_weight"][:], arrays["fc1_weight"][:] = first, second
    expected = outputs(net, arrays, "NONE")[0]
    with caplog.at_level(logging.INFO, "mxnet_trt_property"):
        found = outputs(net, arrays, "TensorRT", MXNET_TENSORRT_PRECISION="fp16")[0]
    assert relative_error(mx.nd.array(found), mx.nd.array(expected)) < TOLERANCE
    assert "layers stay in float32 (fc0" in caplog.text


def test_delicate_operators_and_those_asked_for_stay_in_float32() -> None:
    net = S.FullyConnected(S.var("data"), num_hidden=8, name="first")
    net = S.FullyConnected(S.exp(net, name="exponential"), num_hidden=8, name="second")
    net = S.softmax(S.FullyConnected(S.tanh(net), num_hidden=8, name="third"))
    arrays = random_arrays(net, {"data": (2, 8)})
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for keep, expected in (
        ((), {"first": half, "second": half, "tanh": half, "third": half}),
        (("second", "tanh"), {"first": half, "second": single, "tanh": single, "third": half}),
        (("FullyConnected",), {"first": single, "second": single, "tanh": half, "third": single}),
    ):
        model = float16_model(net, arrays, {"data"}, keep)
        onnx.checker.check_model(model, full_check=True)
        known = types(model)
        found = {}
        for node in model.graph.node:
            operator, _, name = node.doc_string.partition(" ")
            if node.op_type in ("Exp", "Softmax"):
                assert known[node.input[0]] == single
            elif node.op_type in ("Gemm", "MatMul", "Tanh"):
                found[name if operator == "FullyConnected" else operator] = known[node.input[0]]
        assert found == expected, keep


def test_float32_is_not_rounded_on_its_way_between_float32_nodes() -> None:
    """The converter casts every input of the model to float16 first."""
    symbol = S.exp(S.var("data"), name="exponential")
    data = {"data": mx.nd.array([[1.0001, 2.0003]])}
    expected = outputs(symbol, data, "NONE")[0]
    found = outputs(symbol, data, "TensorRT", MXNET_TENSORRT_PRECISION="fp16")[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_compile_and_save(tmp_path: Path) -> None:
    network = zoo.BUILDERS["lenet"]()
    data = {k: np.random.default_rng(0).standard_normal(s).astype("float32") for k, s in network.data_shapes.items()}
    options: dict[str, Any] = {"engine": "onnxruntime"}
    both = {}
    for kind in ("fp32", "fp16"):
        arguments = (network.symbol, network.arg_params, network.aux_params, network.data_shapes)
        model = mxnet_trt_property.compile(*arguments, precision=kind, **options)
        model.save(tmp_path / kind)
        assert model.precision == kind
        both[kind] = model(data["data"])
        again = mxnet_trt_property.load(tmp_path / kind, **options)
        assert again.precision == kind
        assert np.array_equal(again(data["data"]), both[kind])
    assert 1e-6 < relative_error(mx.nd.array(both["fp16"]), mx.nd.array(both["fp32"])) < 5e-3


def test_new_weights_are_looked_at_again() -> None:
    symbol, arrays = overflowing()
    small = arrays["big_weight"] * 1e-5
    big = arrays["big_weight"].copy()
    arrays["big_weight"][:] = small
    with backend("TensorRT", MXNET_TENSORRT_ON_ERROR="raise", MXNET_TENSORRT_PRECISION="fp16"):
        executor = symbol.bind(mx.cpu(), arrays, grad_req="null")
        executor.forward()[0].wait_to_read()
    arrays["big_weight"][:] = big
    assert np.isfinite(executor.forward()[0].asnumpy()).all()
    assert relative_error(executor.outputs[0], mx.nd.array(outputs(symbol, arrays, "NONE")[0])) < 5e-3


def test_without_the_converter_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.transformers.float16", None)
    with pytest.raises(
        EngineError, match="next step: pip install --upgrade onnx onnxruntime, or set MXNET_TENSORRT_PREC"
    ):
        to_float16(b"", (), (), "x")

    def not_installed(_: str) -> Any:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr("mxnet_trt_property.precision.runtime.importlib.import_module", not_installed)
    with pytest.raises(EngineError, match="next step: pip install onnxruntime, or set MXNET_TENSORRT_PRECISION=fp32"):
        to_float16(b"", (), (), "x")


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, "fp32"),
        ({"MXNET_TENSORRT_PRECISION": "fp16"}, "fp16"),
        ({"MXNET_TENSORRT_USE_FP16": "1"}, "fp16"),
        ({"MXNET_TENSORRT_USE_FP16_FOR_FP32": "1"}, "fp16"),
        ({"MXNET_TENSORRT_USE_FP16": "1", "MXNET_TENSORRT_PRECISION": "fp32"}, "fp32"),
        ({"MXNET_TENSORRT_USE_FP16": "0"}, "fp32"),
    ],
)
def test_names_of_older_versions(variables: dict[str, str], found: str) -> None:
    from mxnet_trt_property import settings

    with backend("TensorRT", **variables):
        assert settings.read().precision == found
        assert settings.read({"precision": "fp32"}).precision == "fp32"
        assert settings.read({"precision": "fp32_fp16", "calibration_iters": "3"}).precision == "fp16"
        assert settings.read({"precision": "fp16_int8", "calibration_iters": "3"}).calibration_iters == 3
        with pytest.raises(SettingError, match="one of fp32, fp16, bf16, int8"):
            settings.read({"precision": "fp8"})
