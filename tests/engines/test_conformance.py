"""The checks that packages with engines are offered, on the engines here, and on ones that keep no promise."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mxnet_trt_property.engines import Device, EngineError, Options, testing, trt
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_onnxruntime(check: Callable[..., None]) -> None:
    check(OnnxRuntimeEngine())


# The fake library computes with ONNX Runtime and refuses little; what the real one does is seen on a GPU (ci/gpu).
@pytest.mark.parametrize(
    "check", [c for c in testing.CHECKS if c is not testing.tells_what_it_refuses], ids=lambda check: check.__name__
)
def test_tensorrt(check: Callable[..., None], engine: trt.TensorRTEngine) -> None:
    check(engine)


def test_what_tensorrt_refuses() -> None:
    pytest.importorskip("tensorrt_rtx")
    testing.tells_what_it_refuses(trt.TensorRTEngine("tensorrt_rtx", "tensorrt_rtx"))


class Faulty:
    """ONNX Runtime with one fault."""

    def __init__(self, fault: str) -> None:
        self._engine = OnnxRuntimeEngine()
        self.fault = fault
        self.name = "" if fault == "no name" else "faulty"
        self.tolerance = 1e-5

    def version(self) -> str:
        return self._engine.version()

    def unusable(self, device: Device) -> Any:
        return "not today" if self.fault == "unusable" else self._engine.unusable(device)

    def refused_nodes(self, model: bytes) -> Any:
        found = self._engine.refused_nodes(model)
        return {} if self.fault == "refuses nothing" else found

    def build(self, model: bytes, options: Options, device: Device, label: str) -> Any:
        if self.fault == "another error":
            raise RuntimeError("a bug")
        return FaultyProgram(self._engine.build(model, options, device, label), self.fault)


class FaultyProgram:
    """Makes the runners of a faulty engine."""

    def __init__(self, program: Any, fault: str) -> None:
        self._program, self._fault = program, fault
        self.size_bytes = program.size_bytes

    def runner(self, device: Device) -> Any:
        return FaultyRunner(self._program.runner(device), self._fault)

    def close(self) -> None:
        if self._fault != "never closed":
            self._program.close()


class FaultyRunner:
    """Runs as ONNX Runtime does, but for the fault."""

    def __init__(self, runner: Any, fault: str) -> None:
        self._runner, self._fault = runner, fault
        self._first: Any = None

    def run(self, inputs: Any, outputs: Any, stream: int) -> None:
        if self._fault == "first arrays only":
            self._first = self._first or (inputs, outputs)
            inputs, outputs = self._first
        if self._fault == "ignores what does not fit":
            try:
                self._runner.run(inputs, outputs, stream)
            except EngineError:
                return
        self._runner.run(inputs, outputs, stream)
        if self._fault == "low precision":
            found = float_array(outputs[0])
            found *= np.float32(1 + 2**-8)

    def close(self) -> None:
        self._runner.close()


def float_array(buffer: Any) -> Any:
    """Returns the array of a float32 buffer."""
    count = int(np.prod(buffer.shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(buffer.address))


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("no name", testing.names_itself, "name.*required: a text"),
        ("unusable", testing.names_itself, "not today"),
        ("low precision", testing.computes, "off by"),
        ("low precision", testing.keeps_float32, "off by"),
        ("first arrays only", testing.reads_and_writes_in_place, "repeated run"),
        ("ignores what does not fit", testing.refuses_arrays_that_do_not_fit, "found: no error"),
        ("never closed", testing.closes, r"runner\(\) after close"),
        ("another error", testing.refuses_what_it_cannot_build, "RuntimeError: a bug"),
        ("refuses nothing", testing.tells_what_it_refuses, "unknown operator"),
    ],
)
def test_faults_are_found(fault: str, check: Callable[..., None], words: str) -> None:
    with pytest.raises(testing.ConformanceError, match=words):
        check(Faulty(fault))


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_no_fault_no_error(check: Callable[..., None]) -> None:
    check(Faulty(""))
