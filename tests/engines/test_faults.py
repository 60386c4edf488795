"""Faults at the boundary to the driver and to TensorRT: right results by other means or a clear error, never a crash.

Each through an executor; the fake driver and the fake TensorRT fail as they are told.
"""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

import mxnet_trt_property
from mxnet_trt_property import programs
from mxnet_trt_property.cuda_driver import Driver
from mxnet_trt_property.engines import registry, trt
from mxnet_trt_property.engines.registry import Device, Options
from mxnet_trt_property.errors import EngineError
from tests.engines import models
from tests.engines.conftest import FakeCuda, compile_fake
from tests.engines.fake_tensorrt import State
from tests.engines.models import buffer
from tests.symbols import backend, bound, conv_bn, relative_error

SHAPES = {"data": (2, 3, 8, 8)}
LARGE = {"data": (16, 3, 32, 32)}  # pinned in place
CPU = Device("cpu", 0)

pytestmark = pytest.mark.usefixtures("in_executors", "fresh_warnings")

LOST = {
    46: "CUDA_ERROR_DEVICE_UNAVAILABLE",
    214: "CUDA_ERROR_ECC_UNCORRECTABLE",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS",
}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns the warnings so far."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def engine_of(executor: Any) -> str:
    """Returns the engine that an executor's node runs on."""
    return str(executor.tensorrt.sessions[0].report.engine)


def check(executor: Any, stock: Any, times: int = 3) -> None:
    """Compares forwards, also of other data."""
    for seed in range(times):
        data = mx.nd.array(np.random.default_rng(seed).standard_normal(executor.arg_dict["data"].shape))
        assert relative_error(executor.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5


@pytest.fixture
def stock() -> Any:
    """A stock executor."""
    return bound(conv_bn(), "NONE", SHAPES)


@pytest.mark.parametrize("fault", ["build_fails", "no_context", "oom", "cuMemHostAlloc:2", "cuStreamCreate:2"])
def test_an_engine_that_cannot_be_had_and_the_next_bind(
    fault: str, stock: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bound(conv_bn(), "TensorRT", SHAPES)  # the engine is asked whether it is usable while all is well
    if ":" in fault:
        monkeypatch.setenv("FAKE_CUDA_FAIL", fault)
    elif fault == "oom":
        monkeypatch.setenv("FAKE_CUDA_MODE", fault)
    else:
        monkeypatch.setattr(State, fault, True)
    executor = bound(conv_bn(), "TensorRT", SHAPES)
    check(executor, stock)
    assert engine_of(executor) == "onnxruntime"
    (warning,) = warnings(caplog)
    assert "tensorrt0 failed on engine tensorrt; it goes on with onnxruntime" in warning
    assert "next step: " in warning
    words = {"build_fails": "the fake builder was told to fail", "no_context": "out of memory"}
    assert words.get(fault, "CUDA_ERROR_OUT_OF_MEMORY: out of memory") in warning
    monkeypatch.delenv("FAKE_CUDA_FAIL", raising=False)
    monkeypatch.delenv("FAKE_CUDA_MODE", raising=False)
    monkeypatch.setattr(State, "build_fails", False)
    monkeypatch.setattr(State, "no_context", False)
    after = bound(conv_bn(), "TensorRT", SHAPES)
    check(after, stock)
    assert engine_of(after) == "tensorrt"
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(
    ("place", "shapes", "code"),
    [
        ("cuGraphLaunch", SHAPES, 46),
        ("cuGraphLaunch", LARGE, 700),
        ("cuStreamSynchronize", SHAPES, 214),
        ("cuStreamSynchronize", LARGE, 700),
        ("cuCtxPushCurrent_v2", SHAPES, 46),
    ],
    ids=["launch", "launch-pinned", "wait", "wait-pinned", "enter"],
)
def test_a_gpu_that_is_lost_during_forwards(
    place: str,
    shapes: Any,
    code: int,
    cuda: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stock, executor = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    check(executor, stock)
    assert engine_of(executor) == "tensorrt"
    monkeypatch.setenv("FAKE_CUDA_FAIL", f"{place}:{code}")
    check(executor, stock)
    assert engine_of(executor) == "onnxruntime"
    (warning,) = warnings(caplog)
    assert "it goes on with onnxruntime" in warning
    assert f"found: {LOST[code]}" in warning
    assert "next step: " in warning
    # As long as the GPU is lost, and when it is back.
    during = bound(conv_bn(), "TensorRT", shapes)
    check(during, stock)
    assert engine_of(during) == "onnxruntime"
    assert len(set(warnings(caplog))) == len(warnings(caplog)) <= 2, "what is known is not told again"
    gc.collect()
    if place == "cuCtxPushCurrent_v2":
        cuda.library.fake_forget()  # a context that cannot be entered keeps what is in it
    monkeypatch.delenv("FAKE_CUDA_FAIL")
    after = bound(conv_bn(), "TensorRT", shapes)
    check(after, stock)
    assert engine_of(after) == "tensorrt"


def test_a_library_that_does_not_run_an_engine(
    stock: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(State, "enqueue_fails", True)
    executor = bound(conv_bn(), "TensorRT", SHAPES)
    check(executor, stock)
    assert engine_of(executor) == "onnxruntime"
    (warning,) = warnings(caplog)
    assert "cannot run tensorrt0 | found: the fake engine was told to fail" in warning
    monkeypatch.setattr(State, "enqueue_fails", False)
    after = bound(conv_bn(), "TensorRT", SHAPES)
    check(after, stock)
    assert engine_of(after) == "tensorrt"


def test_a_lost_gpu_where_failures_are_errors(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    executor = bound(conv_bn(), "TensorRT", SHAPES)
    check(executor, stock)
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuGraphLaunch:700")
    with pytest.raises(mx.MXNetError) as caught:
        executor.forward()[0].wait_to_read()
    for words in (
        "tensorrt0 failed on engine tensorrt",
        "replaying the captured run of tensorrt0 failed",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "next step: CUDA works in no part of this process any more: restart the program",
    ):
        assert words in str(caught.value)
    monkeypatch.delenv("FAKE_CUDA_FAIL")
    check(executor, stock)


def test_an_error_that_does_not_come_again(
    stock: Any, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """C++ forgets a captured run that failed once; Python runs it again, and gives it back."""
    executor = bound(conv_bn(), "TensorRT", SHAPES)
    check(executor, stock)
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuGraphLaunch:700")
    early = executor.tensorrt.early
    assert early is not None
    early.start({})  # cannot be started
    monkeypatch.delenv("FAKE_CUDA_FAIL")
    check(executor, stock)
    assert engine_of(executor) == "tensorrt"
    assert not warnings(caplog)


def test_nothing_of_a_lost_gpu_is_freed(
    stock: Any, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The libraries corrupt the heap there, and the program with it."""
    before = cuda.live()
    executor = bound(conv_bn(), "TensorRT", SHAPES)
    check(executor, stock)
    held = State.live_contexts
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuGraphLaunch:700,cuMemGetInfo_v2:700")
    check(executor, stock)
    assert engine_of(executor) == "onnxruntime"
    after = bound(conv_bn(), "TensorRT", SHAPES)
    check(after, stock)
    assert engine_of(after) == "onnxruntime"
    assert len(warnings(caplog)) == 1
    del executor, after
    gc.collect()
    assert State.live_contexts == held > 0
    State.left_behind = cuda.live() - before
    State.live_contexts -= held  # of which this process is free now


def test_a_replay_outside_of_mxnet(engine: trt.TensorRTEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = engine.build(models.relu(), Options(), CPU, "tensorrt0").runner(CPU)
    x, y = np.ones((2, 3), np.float32), np.empty((2, 3), np.float32)
    runner.run([buffer(x)], [buffer(y)], 0)
    bare = runner.bare([buffer(x)], [buffer(y)])
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuStreamSynchronize:214")
    for run in (bare, lambda: runner.run([buffer(x)], [buffer(y)], 0)):
        with pytest.raises(EngineError, match=r"replaying the captured run of tensorrt0 failed .*ECC.*next step"):
            run()
    runner.close()


def test_a_compiled_model_tells_of_a_lost_gpu(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    symbol = conv_bn()
    arrays = {n: a for n, a in {**stock.arg_dict, **stock.aux_dict}.items() if n not in ("data", "softmax_label")}
    args = {n: arrays[n] for n in arrays if n in symbol.list_arguments()}
    auxs = {n: arrays[n] for n in arrays if n not in args}
    model = mxnet_trt_property.compile(symbol, args, auxs, SHAPES)
    x = stock.arg_dict["data"].asnumpy()
    expected = stock.forward()[0]
    assert relative_error(model(x), expected) < 1e-5
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuGraphLaunch:700")
    with pytest.raises(EngineError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        model(x)
    monkeypatch.delenv("FAKE_CUDA_FAIL")
    assert relative_error(model(x), expected) < 1e-5
    model.close()


@pytest.mark.parametrize("fault", ["missing", "cuInit:803", "cuInit:100"])
def test_a_driver_that_is_missing_or_does_not_start(
    fault: str,
    stock: Any,
    fake_module: str,
    cuda: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = Driver("libcuda-not-here.so.1" if fault == "missing" else cuda.path)
    monkeypatch.setitem(registry._LOADED, "tensorrt", trt.TensorRTEngine("tensorrt", fake_module, driver))
    if fault != "missing":
        monkeypatch.setenv("FAKE_CUDA_FAIL", fault)
    caplog.set_level(logging.DEBUG, "mxnet_trt_property")
    executor = bound(conv_bn(), "TensorRT", SHAPES)
    check(executor, stock)
    assert engine_of(executor) == "onnxruntime"
    assert not warnings(caplog), "nobody asked for TensorRT by name"
    words = {
        "missing": "libcuda-not-here.so.1 cannot be loaded | found: libcuda-not-here.so.1: cannot open shared object",
        "cuInit:803": "initialising the driver failed | found: CUDA_ERROR_UNKNOWN: unknown error | next step: update",
        "cuInit:100": "CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected | next step: check that nvidia-smi",
    }
    assert words[fault] in caplog.text
    with backend("TensorRT", MXNET_TENSORRT_ENGINE="tensorrt"):
        bound(conv_bn(), "TensorRT", SHAPES)
    assert any(words[fault] in text for text in warnings(caplog))


def test_a_driver_that_is_too_old_to_capture(
    stock: Any,
    fake_module: str,
    cuda: FakeCuda,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = compile_fake(tmp_path / "libold.so", "-DOLD_DRIVER")
    monkeypatch.setattr(State, "record", None)
    monkeypatch.setattr(State, "device", None)
    made = trt.TensorRTEngine("tensorrt", fake_module, Driver(str(old)))
    monkeypatch.setitem(registry._LOADED, "tensorrt", made)
    executor = bound(conv_bn(), "TensorRT", SHAPES)
    check(executor, stock)
    assert engine_of(executor) == "tensorrt", "runs are queued one by one, and right"
    (warning,) = warnings(caplog)
    assert "has no function cuGraphInstantiateWithFlags | required: the driver of CUDA 11.4 or newer" in warning
    assert "next step: update the NVIDIA driver" in warning
    del executor
    gc.collect()
    programs.clear()
