"""What happens when something fails: the next engine, then MXNet, with one warning; or the error, told in full."""

from __future__ import annotations

import logging
from typing import Any, Optional

import mxnet as mx
import numpy as np
import pytest

import mxnet_trt_property
from mxnet_trt_property import operators, programs
from mxnet_trt_property.engines import registry
from mxnet_trt_property.engines.registry import Device, Options, Program
from mxnet_trt_property.errors import EngineError
from tests.symbols import backend, conv_bn, fill, mlp, random_arrays, relative_error, taken_nodes

PARSER_WORDS = "UNSUPPORTED_NODE: node fc1/Gemm"


class BrokenEngine:
    """An engine that fails at the point that a test chooses."""

    name = "tensorrt"

    def __init__(self, fail_at: str) -> None:
        self.fail_at = fail_at
        self.builds = 0

    def version(self) -> str:
        return "0"

    def unusable(self, device: Device) -> Optional[str]:
        return "the test says so | next step: none" if self.fail_at == "choice" else None

    def build(self, model: bytes, options: Options, device: Device, label: str) -> Program:
        self.builds += 1
        if self.fail_at == "build":
            raise EngineError(f"{label}: {PARSER_WORDS}")
        return self  # type: ignore[return-value]

    size_bytes = 0

    def runner(self, device: Device) -> Any:
        if self.fail_at == "runner":
            raise EngineError("CUDA_ERROR_OUT_OF_MEMORY: out of memory")
        return self

    def run(self, inputs: Any, outputs: Any, stream: int) -> None:
        if self.fail_at == "bug":
            raise ZeroDivisionError("a bug in an engine")
        raise EngineError("CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, fresh_warnings: None) -> BrokenEngine:
    """Puts a broken engine where TensorRT would be."""
    programs.clear()
    engine = BrokenEngine(request.param)
    monkeypatch.setitem(registry._LOADED, "tensorrt", engine)
    return engine


def executor_for(symbol: Any, name: str, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Any:
    """Returns a filled executor."""
    with backend(name):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    fill(executor, random_arrays(symbol, shapes, seed))
    return executor


@pytest.mark.parametrize("broken", ["build", "runner", "run", "bug"], indirect=True)
def test_the_next_engine_takes_over(broken: BrokenEngine, caplog: pytest.LogCaptureFixture) -> None:
    shapes = {"data": (2, 5)}
    expected = executor_for(mlp(), "NONE", shapes).forward()[0]
    executor = executor_for(mlp(), "TensorRT", shapes)
    for _ in range(3):
        assert relative_error(executor.forward()[0], expected) < 1e-5
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    text = warnings[0].getMessage()
    assert "tensorrt0 failed on engine tensorrt; it goes on with onnxruntime" in text
    assert "MXNET_TENSORRT_ENGINE=onnxruntime" in text
    assert "Traceback" in text
    assert mxnet_trt_property.reports()[-1].engine == "onnxruntime"
    assert broken.builds == 1


@pytest.mark.parametrize("broken", ["build", "runner", "run", "bug"], indirect=True)
def test_raise_gives_the_error_to_the_program(broken: BrokenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    executor = executor_for(mlp(), "TensorRT", {"data": (2, 5)})
    with pytest.raises(mx.MXNetError) as caught:
        executor.forward()[0].wait_to_read()
    text = str(caught.value)
    assert "tensorrt0 failed on engine tensorrt" in text
    assert "MXNET_TENSORRT_EXCLUDE_NODES" in text
    assert "Traceback" in text
    expected = {"build": PARSER_WORDS, "runner": "OUT_OF_MEMORY", "run": "LAUNCH_FAILED", "bug": "a bug in an engine"}
    assert expected[broken.fail_at] in text


@pytest.mark.parametrize("broken", ["build"], indirect=True)
def test_the_program_goes_on_after_an_error(broken: BrokenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    executor = executor_for(conv_bn(), "TensorRT", {"data": (2, 3, 8, 8)})
    for _ in range(2):
        with pytest.raises(mx.MXNetError, match="failed on engine"):
            executor.forward()[0].wait_to_read()
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "onnxruntime")
    stock = executor_for(conv_bn(), "NONE", {"data": (2, 3, 8, 8)})
    again = executor_for(conv_bn(), "TensorRT", {"data": (2, 3, 8, 8)})
    assert relative_error(again.forward()[0], stock.forward()[0]) < 1e-5


@pytest.mark.parametrize("broken", ["choice"], indirect=True)
def test_a_named_engine_that_cannot_be_had(
    broken: BrokenEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "tensorrt")
    executor = executor_for(mlp(), "TensorRT", {"data": (2, 5)})
    executor.forward()[0].wait_to_read()
    assert [r for r in caplog.records if r.levelno == logging.WARNING and "the test says so" in r.getMessage()]
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    with pytest.raises(RuntimeError, match="the test says so"):
        executor_for(mlp(), "TensorRT", {"data": (2, 5)})


@pytest.mark.parametrize("on_cpu", [True, False], ids=["mlp", "conv_bn"])
def test_mxnet_takes_over_when_every_engine_fails(
    on_cpu: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fresh_warnings: None
) -> None:
    symbol, shapes = (mlp(), {"data": (2, 5)}) if on_cpu else (conv_bn(), {"data": (2, 3, 8, 8)})
    programs.clear()
    monkeypatch.setitem(registry._LOADED, "onnxruntime", BrokenEngine("build"))
    executor = executor_for(symbol, "TensorRT", shapes, seed=21)
    assert taken_nodes(executor)
    stock = executor_for(symbol, "NONE", shapes, seed=21)
    assert relative_error(executor.forward()[0], stock.forward()[0]) < 1e-5
    data = mx.nd.array(np.random.default_rng(8).standard_normal(shapes["data"]))
    assert relative_error(executor.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5
    texts = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert sum("it goes on with MXNet" in t and PARSER_WORDS in t for t in texts) == 1
    mx.nd.waitall()


def test_a_fault_of_a_converter_leaves_the_node_to_mxnet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry = operators.find("Activation")
    assert entry is not None

    def emit(*_: Any) -> Any:
        raise KeyError("a bug in a converter")

    monkeypatch.setitem(operators.registry._OPERATORS, "Activation", entry.__class__(**{**vars(entry), "emit": emit}))
    with caplog.at_level(logging.DEBUG, "mxnet_trt_property"):
        executor = executor_for(conv_bn(), "TensorRT", {"data": (2, 3, 8, 8)})
    assert taken_nodes(executor) == ["conv", "bn", "pool", "fc", "softmax"]
    assert "a bug in a converter" in caplog.text
    stock = executor_for(conv_bn(), "NONE", {"data": (2, 3, 8, 8)})
    assert relative_error(executor.forward()[0], stock.forward()[0]) < 1e-5


def test_a_fault_of_the_partition_leaves_the_graph_to_mxnet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def decide(*_: Any) -> Any:
        raise RuntimeError("a bug in the partitioner")

    monkeypatch.setattr("mxnet_trt_property.backend.decide", decide)
    assert not taken_nodes(executor_for(mlp(), "TensorRT", {"data": (2, 5)}))
    assert "a bug in the partitioner" in caplog.text
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    with pytest.raises(RuntimeError, match="a bug in the partitioner"):
        executor_for(mlp(), "TensorRT", {"data": (2, 5)})


@pytest.mark.parametrize("door", ["simple_bind", "bind"])
def test_a_node_that_cannot_be_set_up_leaves_the_graph_to_mxnet(
    door: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def restore(*_: Any) -> Any:
        raise RuntimeError("a bug in the set-up")

    arrays = random_arrays(mlp(), {"data": (2, 5)})

    def run() -> Any:
        if door == "bind":
            return mlp().bind(mx.cpu(), arrays, grad_req="null")
        executor = mlp().simple_bind(mx.cpu(), grad_req="null", data=(2, 5))
        executor.copy_params_from(arrays)
        return executor

    with backend("NONE"):
        expected = run().forward()[0]
    monkeypatch.setattr("mxnet_trt_property.freezing.restore", restore)
    with backend("TensorRT"):
        executor = run()
    assert type(executor) is mx.executor.Executor
    assert relative_error(executor.forward()[0], expected) < 1e-5
    assert "a bug in the set-up" in caplog.text
    with backend("TensorRT", MXNET_TENSORRT_ON_ERROR="raise"), pytest.raises(Exception, match="a bug in the set-up"):
        run()
