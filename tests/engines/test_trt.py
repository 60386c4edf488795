"""TensorRT: real builds without a GPU, the parser's words, reasons, and the runner over a fake library and driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mxnet_trt_property import cuda_driver
from mxnet_trt_property.cuda_driver import Driver
from mxnet_trt_property.engines import registry, trt, trt_build, trt_int8
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from mxnet_trt_property.engines.registry import Buffer, Device, Options
from mxnet_trt_property.errors import EngineError
from tests.engines import models
from tests.engines.conftest import FakeCuda
from tests.engines.fake_tensorrt import State
from tests.engines.models import buffer

ROOT = Path(__file__).resolve().parents[2]
CPU = Device("cpu", 0)
GPU = Device("gpu", 0)

MODELS = {
    "relu": models.relu(),
    "scalar": models.relu(()),
    "empty": models.relu((0, 3)),
    "int64": models.identity((3,), TensorProto.INT64),
    "bool": models.identity((3,), TensorProto.BOOL),
    "float16": models.relu((2, 3), TensorProto.FLOAT16),
    "unused input": models.two_by_two(),
    "convnet": models.convnet(),
    "resnet18": models.resnet18(),
}


@pytest.fixture
def rtx() -> trt_build.Library:
    """The real TensorRT-RTX."""
    library = trt_build.library("tensorrt_rtx")
    try:
        library.module()
    except EngineError as error:
        pytest.skip(str(error))
    return library


class Aligned:
    """A float32 array at a given offset from an address that is a multiple of 256, as GPU memory is."""

    def __init__(self, values: Any, offset_bytes: int = 0) -> None:
        values = np.asarray(values, np.float32)
        self._memory = np.zeros(values.nbytes + 512 + offset_bytes, np.uint8)
        start = -int(self._memory.ctypes.data) % 256 + offset_bytes
        self.array = self._memory[start : start + values.nbytes].view(np.float32).reshape(values.shape)
        self.array[...] = values
        self.buffer = buffer(self.array)


# -- building for real, without a GPU ----------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_builds_without_a_gpu(rtx: trt_build.Library, name: str) -> None:
    plan = rtx.build(models.checked(MODELS[name]), name)
    assert len(plan.data) > 1000
    assert rtx.module().Runtime(rtx.logger).engine_header_size < len(plan.data)


def test_plan_has_the_models_order(rtx: trt_build.Library) -> None:
    plan = rtx.build(models.two_by_two(), "tensorrt0")
    assert [spec.name for spec in plan.inputs] == ["a", "unused", "b"]
    assert [spec.name for spec in plan.outputs] == ["difference", "ratio"]
    assert plan.inputs[1] == trt_build.TensorSpec("unused", (3,), "float32")


def test_build_ahead_of_time(rtx: trt_build.Library) -> None:
    portable = trt.build_ahead_of_time(models.convnet())
    single = trt.build_ahead_of_time(models.convnet(), compute_capabilities=["8.6", "8.9"])
    assert min(len(portable), len(single)) > 10_000
    with pytest.raises(EngineError, match="compute capability 1.0.*8.6, 8.9"):
        trt.build_ahead_of_time(models.relu(), compute_capabilities=["1.0"])


def test_parser_error_names_node_operator_and_code(rtx: trt_build.Library) -> None:
    with pytest.raises(EngineError) as error:
        trt.build_ahead_of_time(models.checked(models.refused()), label="tensorrt7")
    for word in ("TensorRT-RTX", "tensorrt7", "node 'bad_node' (Unique)", "UNSUPPORTED_NODE", "EXCLUDE_NODES"):
        assert word in str(error.value)


def test_every_parser_error_is_told(rtx: trt_build.Library) -> None:
    nodes = [helper.make_node("Nope", ["x"], ["m"], name="one"), helper.make_node("Unique", ["m"], ["y"], name="two")]
    bad = models.model(nodes, [("x", 1, (2,))], [("y", 1, (2,))])
    with pytest.raises(EngineError, match=r"node 'one' \(Nope\).*node 'two' \(Unique\)"):
        trt.build_ahead_of_time(bad)


def test_garbage_is_refused(rtx: trt_build.Library) -> None:
    with pytest.raises(EngineError, match="the model: .*Failed to parse the ONNX model"):
        trt.build_ahead_of_time(b"garbage")


def test_failed_build_has_the_loggers_words(rtx: trt_build.Library) -> None:
    empty = models.model([], [("x", 1, (2,))], [])
    with pytest.raises(EngineError, match="must have at least one output"):
        trt.build_ahead_of_time(empty)


def test_real_library_with_a_driver_that_is_not_there(rtx: trt_build.Library, cuda: FakeCuda) -> None:
    """The real library finds no GPU behind the fake driver: its own words must arrive in the reason."""
    if cuda_driver.default().unavailable() is None:
        pytest.skip("this machine has a GPU")
    engine = trt.TensorRTEngine("tensorrt_rtx", "tensorrt_rtx", cuda.driver)
    reason = engine.unusable(CPU)
    assert reason is not None
    assert f"TensorRT-RTX {rtx.version} refuses GPU 0 (Fake H100, compute capability 9.0)" in reason
    assert "loading an engine of one node" in reason
    assert "Cuda Runtime" in reason
    assert "pip install tensorrt-rtx-cu12==1.5.0.114" in reason


# -- reasons -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "extra"), [("tensorrt", "tensorrt-cu12"), ("tensorrt_rtx", "rtx-cu12")])
def test_missing_module(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    monkeypatch.setattr(trt_build, "_libraries", {})
    for name in (module, module + "_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    engine = trt.TensorRTEngine(module, module, cuda.driver)
    reason = engine.unusable(CPU)
    assert reason is not None
    assert "cannot be imported" in reason
    assert reason.endswith(f'pip install "mxnet-trt-property[{extra}]"')
    assert engine.version() == ""


def test_missing_module_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bind asks each engine whether it is usable, and a search in vain takes about a millisecond."""
    asked: list[str] = []

    def find(name: str) -> Any:
        asked.append(name)
        raise ImportError(name)

    monkeypatch.setattr(trt_build.importlib, "import_module", find)
    library = trt_build.Library("tensorrt")
    messages = []
    for _ in range(2):
        with pytest.raises(EngineError) as caught:
            library.module()
        messages.append(str(caught.value))
    assert asked == ["tensorrt", "tensorrt_bindings"]
    assert messages[0] == messages[1]


def test_reasons_in_order(cuda: FakeCuda, fake_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = trt.TensorRTEngine("tensorrt", fake_module, Driver("libno-such-driver.so.1")).unusable(CPU)
    assert absent is not None
    assert "libno-such-driver.so.1 cannot be loaded" in absent
    engine = trt.TensorRTEngine("tensorrt", fake_module, cuda.driver)
    beyond = engine.unusable(Device("cpu", 0, 2))
    assert beyond is not None
    assert "no CUDA device 2" in beyond
    assert "from 0 to 1" in beyond
    monkeypatch.setenv("FAKE_CUDA_MODE", "no_device")
    none = engine.unusable(CPU)
    assert none is not None
    assert "CUDA_ERROR_NO_DEVICE" in none


def test_refused_gpu_is_remembered(cuda: FakeCuda, fake_module: str) -> None:
    engine = trt.TensorRTEngine("tensorrt", fake_module, cuda.driver)
    State.refuses_gpu = True
    reason = engine.unusable(CPU)
    assert reason is not None
    assert "99.0 refuses GPU 0 (Fake H100, compute capability 9.0)" in reason
    assert "this GPU architecture is not supported" in reason
    State.refuses_gpu = False
    assert engine.unusable(CPU) == reason
    assert engine.unusable(Device("cpu", 0, 1)) is None
    assert State.live_contexts == 0


# -- building and running over the fake library ------------------------------------------------


def test_network_flags_and_workspace(engine: trt.TensorRTEngine) -> None:
    engine.build(models.relu(), Options(workspace_bytes=1 << 20), CPU, "tensorrt0").close()
    assert State.flags == 0b10, "strongly typed"
    assert State.workspace == 1 << 20


@pytest.mark.parametrize("words", ["CUDA error 2 when loading function '__myl_Relu_0x1'", "CUDA runtime error"])
def test_a_gpu_without_free_memory_is_asked_again(
    cuda: FakeCuda, fake_module: str, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    engine = trt.TensorRTEngine("tensorrt", fake_module, cuda.driver)
    with monkeypatch.context() as patch:
        patch.setattr(trt_build.Library, "words", lambda self, mark: words)
        patch.setattr(State, "no_context", True)
        patch.setattr(type(cuda.driver), "mem_get_info", lambda self: (100 << 20, 80 << 30))
        reason = engine.unusable(CPU)
    assert reason is not None
    assert words in reason and "free memory on the GPU" in reason
    assert engine.unusable(CPU) is None


def test_precision_is_refused(engine: trt.TensorRTEngine) -> None:
    with pytest.raises(EngineError, match="tensorrt0: this precision is not implemented.*fp8.*fp32"):
        engine.build(models.relu(), Options(precision="fp8"), CPU, "tensorrt0")


def test_host_arrays(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    program = engine.build(models.two_by_two(), Options(), CPU, "tensorrt0")
    assert program.size_bytes > 0
    runner = program.runner(CPU)
    a, b = np.array([1, 2, 3, 4], np.float32), np.array([2, 4, 8, 16], np.float32)
    unused, difference, ratio = np.zeros(3, np.float32), np.zeros(4, np.float32), np.zeros(4, np.float32)
    for step in range(3):
        a += step
        before = cuda.copies()
        runner.run([buffer(a), buffer(unused), buffer(b)], [buffer(difference), buffer(ratio)], 0)
        # The first run is queued anew, captured, and replayed: the graph's result counts from the start.
        expected = 8 if step == 0 else 4
        assert cuda.copies() - before == expected, "the input that nothing reads is not copied"
        np.testing.assert_array_equal(difference, a - b)
        np.testing.assert_array_equal(ratio, a / b)
    other = np.zeros(4, np.float32)
    runner.run([buffer(b), buffer(unused), buffer(a)], [buffer(other), buffer(ratio)], 0)
    np.testing.assert_array_equal(other, b - a)


def test_gpu_arrays_are_used_in_place(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    runner = engine.build(models.relu((4,)), Options(), GPU, "tensorrt0").runner(GPU)
    before = cuda.copies()
    for values in ([-1, 2, -3, 4], [5, -6, 7, -8]):
        x, y = Aligned(values), Aligned([0] * 4)
        runner.run([x.buffer], [y.buffer], 0)
        np.testing.assert_array_equal(y.array, np.maximum(x.array, 0))
    assert cuda.copies() == before
    assert runner.stream == 0


def test_unaligned_gpu_arrays_are_copied(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    runner = engine.build(models.relu((4,)), Options(), GPU, "tensorrt0").runner(GPU)
    for x_offset, y_offset, copies in ((4, 8, 2), (0, 8, 1), (0, 0, 0), (4, 0, 1)):
        x, y = Aligned([-1, 2, -3, 4], x_offset), Aligned([9] * 4, y_offset)
        before = cuda.copies()
        runner.run([x.buffer], [y.buffer], 0)
        assert cuda.copies() - before == 2 * copies  # queued anew, and replayed
        np.testing.assert_array_equal(y.array, [0, 2, 0, 4])


@pytest.mark.parametrize("device", [CPU, GPU])
def test_empty_and_scalar(engine: trt.TensorRTEngine, device: Device) -> None:
    empty = Buffer(0, (0, 3), np.dtype(np.float32))
    engine.build(models.relu((0, 3)), Options(), device, "tensorrt0").runner(device).run([empty], [empty], 0)
    x, y = Aligned([3]), Aligned([0])
    engine.build(models.relu(()), Options(), device, "tensorrt0").runner(device).run([x.buffer], [y.buffer], 0)
    assert y.array[0] == 3


@pytest.mark.parametrize("dtype", ["INT64", "BOOL", "INT8", "UINT8", "INT32", "FLOAT16"])
def test_other_element_types(engine: trt.TensorRTEngine, dtype: str) -> None:
    kind = getattr(TensorProto, dtype)
    x = np.array([0, 1, 1, 0]).astype(helper.tensor_dtype_to_np_dtype(kind))
    y = np.zeros_like(x)
    engine.build(models.identity((4,), kind), Options(), CPU, "t").runner(CPU).run([buffer(x)], [buffer(y)], 0)
    np.testing.assert_array_equal(x, y)


def test_float64_is_refused_not_rounded(engine: trt.TensorRTEngine) -> None:
    runner = engine.build(models.identity((4,), TensorProto.DOUBLE), Options(), CPU, "tensorrt0").runner(CPU)
    x = np.zeros(4)
    with pytest.raises(EngineError, match="tensorrt0.*'x'.*float64.*float32"):
        runner.run([buffer(x)], [buffer(x)], 0)


def test_failed_enqueue_has_the_librarys_words(engine: trt.TensorRTEngine) -> None:
    runner = engine.build(models.relu((4,)), Options(), CPU, "tensorrt0").runner(CPU)
    x, y = np.ones(4, np.float32), np.zeros(4, np.float32)
    State.enqueue_fails = True
    with pytest.raises(EngineError, match="cannot run tensorrt0.*the fake engine was told to fail"):
        runner.run([buffer(x)], [buffer(y)], 0)
    State.enqueue_fails = False
    runner.run([buffer(x)], [buffer(y)], 0)
    np.testing.assert_array_equal(x, y)


def test_out_of_memory_frees_what_was_had(
    engine: trt.TensorRTEngine, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = engine.build(models.relu((4,)), Options(), CPU, "tensorrt0")
    before = cuda.live()
    monkeypatch.setenv("FAKE_CUDA_MODE", "oom")
    with pytest.raises(EngineError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        program.runner(CPU)
    assert cuda.live() == before
    assert State.live_contexts == 0


def test_everything_is_freed(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    program = engine.build(models.relu((4,)), Options(), CPU, "tensorrt0")
    start = cuda.live()
    first, second = program.runner(CPU), program.runner(CPU)
    x, y = np.ones(4, np.float32), np.zeros(4, np.float32)
    program.close()
    second.run([buffer(x)], [buffer(y)], 0)  # outlives its program
    np.testing.assert_array_equal(x, y)
    assert State.live_contexts == 2
    first.close()
    first.close()
    del second
    assert cuda.live() == start
    assert State.live_contexts == 0
    with pytest.raises(EngineError, match="closed"):
        first.run([buffer(x)], [buffer(y)], 0)
    with pytest.raises(EngineError, match="closed"):
        program.runner(CPU)


def test_two_threads_share_a_program(engine: trt.TensorRTEngine) -> None:
    models.run_in_two_threads(engine.build(models.convnet(), Options(), CPU, "tensorrt0"), CPU)


EXIT_WHILE_RUNNING = """
import sys, threading, time
import numpy as np
from mxnet_trt_property.cuda_driver import Driver
from mxnet_trt_property.engines.registry import Device, Options
from mxnet_trt_property.engines.trt import TensorRTEngine
from mxnet_trt_property.errors import EngineError
from tests.engines import fake_tensorrt, models

engine = TensorRTEngine("tensorrt", fake_tensorrt.install(), Driver(sys.argv[1]))
cpu = Device("cpu", 0)
runner = engine.build(models.relu((4,)), Options(), cpu, "tensorrt0").runner(cpu)
x, y = np.ones(4, np.float32), np.zeros(4, np.float32)

def forever():
    try:
        while True:
            runner.run([models.buffer(x)], [models.buffer(y)], 0)
    except EngineError as error:
        assert "closed" in str(error)

threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
assert y[0] == 1
"""


def test_exit_while_a_thread_runs(cuda: FakeCuda) -> None:
    command = [sys.executable, "-c", EXIT_WHILE_RUNNING, cuda.path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_after_a_real_build(rtx: trt_build.Library) -> None:
    code = "from mxnet_trt_property.engines import trt; from tests.engines import models\n"
    code += "print(len(trt.build_ahead_of_time(models.convnet())))"
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 10_000


# -- on a GPU ----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["relu", "scalar", "empty", "unused input", "convnet", "resnet18"])
def test_on_a_gpu(name: str) -> None:
    choice = registry.choose("auto", CPU)
    engine = choice.engines[0]
    if engine.name == "onnxruntime":
        pytest.skip("; ".join(choice.reasons.values()))
    reference = OnnxRuntimeEngine().build(MODELS[name], Options(), CPU, name)
    program = engine.build(MODELS[name], Options(), CPU, name)
    plan = trt_build.library(engine.name).build(MODELS[name], name)
    rng = np.random.default_rng(5)
    inputs = [rng.normal(size=spec.shape).astype(spec.dtype) for spec in plan.inputs]
    results = []
    for built in (reference, program):
        outputs = [np.zeros(spec.shape, spec.dtype) for spec in plan.outputs]
        built.runner(CPU).run([buffer(a) for a in inputs], [buffer(a) for a in outputs], 0)
        results.append(outputs)
    for expected, found in zip(*results):
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_what_is_not_built_in_int8(rtx: trt_build.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is asked by building; its words are those of its version."""
    expected = {"Conv", "ConvTranspose"} if rtx.version.startswith("1.5.") else set()
    trt_int8.unbuilt.cache_clear()
    assert trt_int8.unbuilt(rtx) == expected
    monkeypatch.setattr(trt_int8, "_is_built", lambda library, op_type: op_type == "MatMul")
    trt_int8.unbuilt.cache_clear()
    assert trt_int8.unbuilt(rtx) == {"Conv", "ConvTranspose", "Gemm"}
    model = onnx.load_from_string(trt_int8._probe("Gemm"))
    (node,) = trt_int8.quantized(model, trt_int8.unbuilt(rtx))
    engine = trt.TensorRTEngine("tensorrt_rtx", "tensorrt_rtx")
    assert engine.refused_nodes(model.SerializeToString()) == {node.name: "it builds no Gemm in int8"}
    trt_int8.unbuilt.cache_clear()
