"""Networks of mx.contrib.quantization run as one TensorRT node, with the numbers of MXNet's own int8 kernels."""

from __future__ import annotations

import json
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest

from tests.harness import build_engine
from tests.precision import quantized
from tests.symbols import relative_error, taken_nodes


def operators(symbol: Any) -> list[str]:
    return [n["op"] for n in json.loads(symbol.tojson())["nodes"] if n["op"] != "null"]


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (quantized.lenet, {"quantized_dtype": "auto", "quantize_mode": "full", "signed": False}),
        (quantized.residual, {"quantized_dtype": "auto", "quantize_mode": "full", "signed": True}),
        (quantized.residual, {"quantized_dtype": "int8", "quantize_mode": "smart", "signed": True}),
    ],
)
def test_equals_mxnet(build: Any, options: Any, built_models: list[bytes]) -> None:
    network = quantized.quantize(build(), **options)
    _, expected = quantized.run(network, "NONE")
    executor, found = quantized.run(network, "TensorRT")
    assert operators(executor.get_optimized_symbol()) == ["_TensorRT"]
    assert len(taken_nodes(executor)) == len(operators(network.symbol)) >= 10
    # Integers agree, and what follows them in float32.
    assert relative_error(found, expected) < 1e-6
    pytest.importorskip("tensorrt_rtx")
    assert len(built_models) == 1
    build_engine(built_models[0])


@pytest.mark.parametrize("kind", ["fp16", "bf16", "int8"])
def test_integers_stay_what_they_are(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float16 would round the sums, and end before some of them."""
    network = quantized.quantize(quantized.residual(), signed=True, quantized_dtype="int8")
    _, expected = quantized.run(network, "NONE")
    monkeypatch.setenv("MXNET_TENSORRT_PRECISION", kind)
    monkeypatch.setenv("MXNET_TENSORRT_CALIBRATION_ITERS", "0" if kind != "int8" else "1")
    for _ in range(2):
        executor, found = quantized.run(network, "TensorRT")
        assert len(taken_nodes(executor)) >= 10
        assert relative_error(found, expected) < 1e-6


def test_convolutions_quantized_for_a_gpu(built_models: list[bytes]) -> None:
    """MXNet's CPU kernels refuse them; here they run, and TensorRT gets the pairs that it makes int8 kernels of."""
    symbol = quantized.convolutions()
    network = quantized.quantize(symbol, signed=True, quantized_dtype="int8", quantize_mode="full")
    with pytest.raises(mx.MXNetError, match="only supports uint8"):
        quantized.run(network, "NONE")
    executor, found = quantized.run(network, "TensorRT")
    assert operators(executor.get_optimized_symbol()) == ["_TensorRT"]
    assert np.isfinite(found).all()
    (model,) = built_models
    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    writers = {name: node.op_type for node in proto.graph.node for name in node.output}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 2
    assert all(writers[name] == "DequantizeLinear" for node in convolutions for name in node.input[:2])
    pytest.importorskip("tensorrt_rtx")
    build_engine(model)
