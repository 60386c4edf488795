"""ONNX Runtime as an engine: right results in place, for every element type, and its own words in errors."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from mxnet_trt_property.cuda_driver import Driver
from mxnet_trt_property.engines.ort import MAX_BINDINGS, OnnxRuntimeEngine
from mxnet_trt_property.engines.registry import Buffer, Device, Options
from mxnet_trt_property.errors import EngineError
from tests.engines import models
from tests.engines.conftest import FakeCuda
from tests.engines.models import buffer

onnxruntime = pytest.importorskip("onnxruntime")

CPU = Device("cpu", 0)


@pytest.fixture
def engine() -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(Driver("libno-such-driver.so.1"))


def _runner(engine: OnnxRuntimeEngine, model: bytes, device: Device = CPU) -> Any:
    return engine.build(model, Options(), device, "tensorrt0").runner(device)


def test_convnet_matches_a_plain_session(engine: OnnxRuntimeEngine) -> None:
    model = models.checked(models.convnet())
    x = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)
    y = np.zeros((2, 10), np.float32)
    program = engine.build(model, Options(), CPU, "tensorrt0")
    assert program.size_bytes == len(model)
    program.runner(CPU).run([buffer(x)], [buffer(y)], 0)
    (expected,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_array_equal(y, expected)


def test_order_is_the_models(engine: OnnxRuntimeEngine) -> None:
    a, b = np.array([1, 2, 3, 4], np.float32), np.array([2, 4, 8, 16], np.float32)
    difference, ratio = np.zeros(4, np.float32), np.zeros(4, np.float32)
    unused = np.zeros(3, np.float32)
    inputs = [buffer(a), buffer(unused), buffer(b)]
    _runner(engine, models.two_by_two()).run(inputs, [buffer(difference), buffer(ratio)], 0)
    np.testing.assert_array_equal(difference, a - b)
    np.testing.assert_array_equal(ratio, a / b)


def test_new_contents_and_new_addresses_are_seen(engine: OnnxRuntimeEngine) -> None:
    runner = _runner(engine, models.relu())
    kept = []
    for step in range(3 * MAX_BINDINGS):
        x, y = np.full((2, 3), step - 4, np.float32), np.zeros((2, 3), np.float32)
        kept.append((x, y))  # so that no address comes twice
        for _ in range(2):
            x += 1
            runner.run([buffer(x)], [buffer(y)], 0)
            np.testing.assert_array_equal(y, np.maximum(x, 0))
    assert len(runner._bindings) == MAX_BINDINGS


def test_a_repeated_run_binds_nothing(engine: OnnxRuntimeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = _runner(engine, models.relu())
    x, y = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    runner.run([buffer(x)], [buffer(y)], 0)

    def fail(*_: Any) -> None:
        raise AssertionError("bound again")

    monkeypatch.setattr(runner, "_bind", fail)
    x[:] = 5
    runner.run([buffer(x)], [buffer(y)], 0)
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("name", ["FLOAT", "DOUBLE", "FLOAT16", "INT8", "UINT8", "INT32", "INT64", "BOOL"])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 3), (1,)])
def test_element_types_and_shapes(engine: OnnxRuntimeEngine, name: str, shape: tuple[int, ...]) -> None:
    kind = getattr(TensorProto, name)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    x = np.asarray(np.random.default_rng(2).integers(0, 2, shape)).astype(dtype)
    y = np.zeros(shape, dtype)
    _runner(engine, models.identity(shape, kind)).run([buffer(x)], [buffer(y)], 0)
    np.testing.assert_array_equal(x, y)


@pytest.mark.skipif(
    tuple(int(n) for n in onnxruntime.__version__.split(".")[:2]) < (1, 20),
    reason="ONNX Runtime binds bfloat16 arrays since 1.20",
)
def test_bfloat16(engine: OnnxRuntimeEngine) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x, y = np.arange(6).astype(bfloat16), np.zeros(6, bfloat16)
    _runner(engine, models.identity((6,), TensorProto.BFLOAT16)).run([buffer(x)], [buffer(y)], 0)
    np.testing.assert_array_equal(x.view(np.uint16), y.view(np.uint16))


def test_empty_array_without_memory(engine: OnnxRuntimeEngine) -> None:
    empty = Buffer(0, (0, 3), np.dtype(np.float32))
    _runner(engine, models.identity((0, 3), models.FLOAT)).run([empty], [empty], 0)


def test_same_number_of_elements_is_enough(engine: OnnxRuntimeEngine) -> None:
    x, y = np.array([-1, 2, -3, 4, -5, 6], np.float32), np.zeros((3, 2), np.float32)
    _runner(engine, models.relu((2, 3))).run([buffer(x)], [buffer(y)], 0)
    np.testing.assert_array_equal(y.reshape(-1), np.maximum(x, 0))


@pytest.mark.parametrize(
    ("array", "words"),
    [(np.zeros(7, np.float32), r"float32 \(7,\)"), (np.zeros((2, 3)), r"float64 \(2, 3\)")],
)
def test_arrays_that_do_not_fit_are_refused(engine: OnnxRuntimeEngine, array: Any, words: str) -> None:
    runner = _runner(engine, models.relu())
    fitting = np.zeros((2, 3), np.float32)
    good = buffer(fitting)
    for inputs, outputs, name in (([buffer(array)], [good], "x"), ([good], [buffer(array)], "y")):
        with pytest.raises(EngineError, match=f"tensorrt0.*'{name}'.*{words}.*float32 \\(2, 3\\)"):
            runner.run(inputs, outputs, 0)
    with pytest.raises(EngineError, match="wrong number of inputs"):
        runner.run([good, good], [good], 0)


def test_two_threads_share_a_program(engine: OnnxRuntimeEngine) -> None:
    models.run_in_two_threads(engine.build(models.convnet(), Options(), CPU, "tensorrt0"), CPU)


def test_build_error_has_onnxruntimes_words(engine: OnnxRuntimeEngine, capfd: pytest.CaptureFixture[str]) -> None:
    bad = models.model([helper.make_node("Nope", ["x"], ["y"], name="bad")], [("x", 1, (2,))], [("y", 1, (2,))])
    with pytest.raises(EngineError, match=r"cannot build tensorrt0.*bad.*Nope.*EXCLUDE_NODES"):
        engine.build(bad, Options(), CPU, "tensorrt0")
    assert capfd.readouterr().err == ""


def test_run_error_has_onnxruntimes_words(engine: OnnxRuntimeEngine, capfd: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("Gather", ["data", "index"], ["y"], name="gather0")
    inputs = [("data", models.FLOAT, (3,)), ("index", TensorProto.INT64, (2,))]
    runner = _runner(engine, models.model([node], inputs, [("y", models.FLOAT, (2,))]))
    data, index, y = np.array([1, 2, 3], np.float32), np.array([0, 9], np.int64), np.zeros(2, np.float32)
    with pytest.raises(EngineError, match="cannot run tensorrt0.*indices element out of data bounds"):
        runner.run([buffer(data), buffer(index)], [buffer(y)], 0)
    index[1] = 2
    runner.run([buffer(data), buffer(index)], [buffer(y)], 0)
    np.testing.assert_array_equal(y, [1, 3])
    assert capfd.readouterr().err == ""


def test_other_precisions_are_refused(engine: OnnxRuntimeEngine) -> None:
    with pytest.raises(EngineError, match="tensorrt0: this precision is not implemented.*fp8.*fp32"):
        engine.build(models.relu(), Options(precision="fp8"), CPU, "tensorrt0")


def test_closed(engine: OnnxRuntimeEngine) -> None:
    program = engine.build(models.relu(), Options(), CPU, "tensorrt0")
    first, second = program.runner(CPU), program.runner(CPU)
    x, y = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    for thing in (first, first, program, program):
        thing.close()
    with pytest.raises(EngineError, match="closed"):
        first.run([buffer(x)], [buffer(y)], 0)
    with pytest.raises(EngineError, match="closed"):
        program.runner(CPU)
    second.run([buffer(x)], [buffer(y)], 0)
    np.testing.assert_array_equal(x, y)


def test_omp_num_threads_is_respected(engine: OnnxRuntimeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("1", 1), ("3,2", 3), ("", 0), ("many", 0)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        program = engine.build(models.relu(), Options(), CPU, "tensorrt0")
        session: Any = program._session
        assert session.get_session_options().intra_op_num_threads == expected


def test_missing_package(engine: OnnxRuntimeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    reason = engine.unusable(CPU)
    assert reason is not None
    assert reason.endswith("pip install onnxruntime")
    assert engine.version() == ""


def test_gpu_arrays_need_a_driver(engine: OnnxRuntimeEngine) -> None:
    assert engine.unusable(CPU) is None
    reason = engine.unusable(Device("gpu", 1, 1))
    assert reason is not None
    assert "mx.gpu(1)" in reason
    assert "libno-such-driver.so.1" in reason


def test_gpu_arrays_are_copied_both_ways(cuda: FakeCuda) -> None:
    engine = OnnxRuntimeEngine(cuda.driver)
    gpu = Device("gpu", 1, 1)
    assert engine.unusable(gpu) is None
    runner = _runner(engine, models.two_by_two(), gpu)
    a, b = np.array([1, 2, 3, 4], np.float32), np.array([2, 4, 8, 16], np.float32)
    unused, difference, ratio = np.zeros(3, np.float32), np.zeros(4, np.float32), np.zeros(4, np.float32)
    for step in range(3):
        a += step
        before = cuda.copies()
        runner.run([buffer(a), buffer(unused), buffer(b)], [buffer(difference), buffer(ratio)], 0)
        assert cuda.copies() - before == 5
        np.testing.assert_array_equal(difference, a - b)
        np.testing.assert_array_equal(ratio, a / b)
    with pytest.raises(EngineError, match="does not fit"):
        runner.run([buffer(a), buffer(unused), buffer(unused)], [buffer(difference), buffer(ratio)], 0)
    runner.close()
    with pytest.raises(EngineError, match="closed"):
        runner.run([buffer(a), buffer(unused), buffer(b)], [buffer(difference), buffer(ratio)], 0)


def test_gpu_memory_is_freed_without_close(cuda: FakeCuda) -> None:
    before = cuda.live()
    runner = _runner(OnnxRuntimeEngine(cuda.driver), models.relu(), Device("gpu", 0, 0))
    assert cuda.live() > before
    del runner
    assert cuda.live() == before
