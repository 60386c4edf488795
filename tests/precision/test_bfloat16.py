"""Bfloat16: rounded as the type says, the same nodes in float32 as with float16, and a model that TensorRT builds."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest

import mxnet_trt_property
from mxnet_trt_property.precision.bfloat16 import round_to_bfloat16, to_bfloat16
from tests.harness import build_engine
from tests.models import sequences, vision, zoo
from tests.models.test_models import run
from tests.precision.test_float16 import outputs
from tests.symbols import random_arrays, relative_error

S = mx.sym
FLOAT, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
BF16 = {"MXNET_TENSORRT_PRECISION": "bf16"}


def rounded(array: Any) -> np.ndarray:
    """Returns numbers rounded to bfloat16, in float32."""
    return (round_to_bfloat16(np.asarray(array, np.float32)).astype(np.uint32) << 16).view(np.float32)


def test_rounding() -> None:
    step = 2.0**-7
    values = [1.0, 1 + step / 2, 1 + 1.5 * step, 1 + 0.75 * step, -(1 + step / 2), 0.0, 1e-45, np.inf, -np.inf]
    expected = [1.0, 1.0, 1 + 2 * step, 1 + step, -1.0, 0.0, 0.0, np.inf, -np.inf]
    assert rounded(values).tolist() == expected
    assert np.isnan(rounded(np.array([0x7FFFFFFF, 0xFF800001], np.uint32).view(np.float32))).all()


@pytest.mark.parametrize("name", ["mlp", "lenet", "wavenet", "resnet18_v2"])
def test_network(name: str) -> None:
    network = zoo.BUILDERS[name]()
    data = network.data()
    arrays = {**random_arrays(network.symbol, network.data_shapes), **network.arg_params, **network.aux_params, **data}
    expected = outputs(network.symbol, arrays, "NONE")[0]
    found = outputs(network.symbol, arrays, "TensorRT", **BF16)[0]
    # A number has 8 bits.
    assert 1e-5 < relative_error(found, expected) < 5e-2
    assert found.dtype == np.float32


def test_numbers_are_those_of_rounded_operands() -> None:
    net = S.FullyConnected(S.var("data"), num_hidden=8, name="fc")
    arrays = random_arrays(net, {"data": (4, 16)})
    found = outputs(net, arrays, "TensorRT", **BF16)[0]
    data, weight, bias = (rounded(arrays[k].asnumpy()) for k in ("data", "fc_weight", "fc_bias"))
    expected = rounded(data @ weight.T + bias)
    # The sum's own order may be another one: one step at most, where it lies between two.
    assert np.mean(found == expected) > 0.9
    np.testing.assert_allclose(found, expected, rtol=2.0**-7)


def native_types(model: bytes) -> dict[str, tuple[int, int]]:
    """Returns the types of the first input and output of each operator of a model for TensorRT."""
    proto = onnx.load_from_string(to_bfloat16(model, (), (), native=True))
    graph = onnx.shape_inference.infer_shapes(proto).graph
    known = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return {n.op_type: (known[n.input[0]], known[n.output[0]]) for n in graph.node if n.op_type != "Cast"}


def test_delicate_operators_stay_in_float32() -> None:
    net = S.FullyConnected(S.exp(S.tanh(S.var("data"))), num_hidden=8, name="fc")
    net = S.softmax(S.relu(net))
    arrays = {k: v.asnumpy() for k, v in random_arrays(net, {"data": (4, 16)}).items()}
    parameters = {k: v for k, v in arrays.items() if k != "data"}
    model = mxnet_trt_property.compile(net, parameters, {}, {"data": (4, 16)}, engine="onnxruntime").onnx
    assert model is not None
    assert native_types(model) == {
        "Tanh": (BFLOAT16, BFLOAT16),
        "Exp": (FLOAT, FLOAT),
        "Gemm": (BFLOAT16, BFLOAT16),
        "Relu": (BFLOAT16, BFLOAT16),
        "Softmax": (FLOAT, FLOAT),
    }


@pytest.mark.parametrize("keep", ["fc", "FullyConnected"])
def test_keep_fp32(keep: str) -> None:
    net = S.FullyConnected(S.var("data"), num_hidden=8, name="fc")
    arrays = random_arrays(net, {"data": (4, 16)})
    found = outputs(net, arrays, "TensorRT", **BF16, MXNET_TENSORRT_KEEP_FP32=keep)[0]
    assert relative_error(found, outputs(net, arrays, "NONE")[0]) < 1e-6


def test_positions_are_exact() -> None:
    """Bfloat16 counts in steps of 16 at 3000."""
    net = S.take(S.var("w"), S.var("x") * 1)
    arrays = {"x": mx.nd.arange(0, 3000), "w": mx.nd.arange(0, 3000).reshape((3000, 1))}
    found = outputs(net, arrays, "TensorRT", **BF16)[0]
    np.testing.assert_allclose(found.ravel(), np.arange(3000), rtol=2.0**-8)


def test_numbers_beyond_bfloat16_stay_in_float32() -> None:
    """The largest float32 numbers would be rounded up to infinity."""
    net = S.FullyConnected(S.var("data"), num_hidden=2, no_bias=True, name="fc") * 1e-30
    arrays = {"data": mx.nd.array([[3.4e38, 0.0]]), "fc_weight": mx.nd.array([[1.0, 0], [0.5, 3.4e38]])}
    found = outputs(net, arrays, "TensorRT", **BF16)[0]
    assert np.isfinite(found).all()
    assert relative_error(found, outputs(net, arrays, "NONE")[0]) < 1e-2


# A detector is not among them: the order of its boxes is that of scores, of which 8 bits leave many equal.
@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [sequences.bert, sequences.crnn, sequences.language_model], ids=lambda build: build.__name__
)
def test_application(build: Any, built_models: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops, recurrent layers, masks of attention: near MXNet, and TensorRT builds them."""
    network = build()
    data = network.data()
    _, expected = run(network, "NONE", data)
    monkeypatch.setenv("MXNET_TENSORRT_PRECISION", "bf16")
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    _, found = run(network, "TensorRT", data)
    for ours, theirs in zip(found, expected):
        assert relative_error(ours, theirs) < 5e-2
    assert built_models


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [vision.ssd, sequences.bert, sequences.crnn, sequences.language_model], ids=lambda build: build.__name__
)
def test_engine_builds(build: Any, built_models: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    network = build()
    run(network, "TensorRT", network.data())[1][0].wait_to_read()
    assert built_models
    for model in built_models:
        native = to_bfloat16(model, (), (), native=True)
        onnx.checker.check_model(onnx.load_from_string(native))
        build_engine(native)


def test_compile_with_a_sample() -> None:
    network = zoo.BUILDERS["lenet"]()
    sample = network.data()["data"]
    arguments = (network.symbol, network.arg_params, network.aux_params, network.data_shapes)
    for kind, limit in (("bf16", 5e-2), ("fp16", 5e-3)):
        options: dict[str, Any] = {"engine": "onnxruntime", "calibration": sample}
        exact, narrow = (mxnet_trt_property.compile(*arguments, precision=p, **options) for p in ("fp32", kind))
        assert 1e-6 < relative_error(narrow(sample), exact(sample)) < limit
