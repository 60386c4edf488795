"""Programs that serve a range of shapes: ONNX Runtime, and TensorRT over a fake library and driver."""

from __future__ import annotations

import gc
import threading
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mxnet_trt_property import native, programs
from mxnet_trt_property.engines import registry, trt
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from mxnet_trt_property.engines.registry import Device, Options, Shapes
from mxnet_trt_property.errors import EngineError
from tests.engines.conftest import FakeCuda
from tests.engines.fake_tensorrt import State
from tests.engines.models import buffer
from tests.symbols import backend, conv_bn, fill, random_arrays, relative_error

CPU = Device("cpu", 0)
PROFILE = (((1, 3), (4, 3), (8, 3)),)
OPTIONS = Options(profile=PROFILE)


def doubled() -> bytes:
    """Returns x (size0, 3) -> x + x, with the size in its name."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("size0", 3)) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"], name="add")], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def shapes(count: int) -> Shapes:
    return Shapes(((count, 3),), ((count, 3),))


def run(runner: Any, count: int) -> None:
    x = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    y = np.zeros_like(x)
    for _ in range(3):
        y[:] = 0
        runner.run([buffer(x)], [buffer(y)], 0)
        np.testing.assert_array_equal(y, 2 * x)
        x += 1


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def any_engine(request: pytest.FixtureRequest) -> Any:
    return OnnxRuntimeEngine() if request.param == "onnxruntime" else request.getfixturevalue("engine")


def test_one_program_runs_all_sizes(any_engine: Any) -> None:
    assert any_engine.takes_profiles
    program = any_engine.build(doubled(), OPTIONS, CPU, "tensorrt0")
    runners = {count: program.runner_for(CPU, shapes(count)) for count in (1, 4, 7, 8)}
    for count in (8, 1, 7, 4, 1):
        run(runners[count], count)
    with pytest.raises(EngineError, match="tensorrt0.*'x'"):
        run(program.runner_for(CPU, shapes(4)), 5)
    with pytest.raises(EngineError, match=r"cannot have this shape.*\(2, 4\).*required: \(-1, 3\)"):
        program.runner_for(CPU, Shapes(((2, 4),), ((2, 3),)))


def test_the_shapes_to_tune_for_have_kernels_of_their_own(engine: trt.TensorRTEngine) -> None:
    program = engine.build(doubled(), OPTIONS, CPU, "tensorrt0")
    for count, taken in ((4, []), (3, [1]), (8, [1]), (4, [])):
        State.profiles_taken.clear()
        run(program.runner_for(CPU, shapes(count)), count)
        assert State.profiles_taken == taken


def test_a_model_of_unknown_sizes_without_a_profile_is_refused(any_engine: Any) -> None:
    with pytest.raises(EngineError, match="tensorrt0"):
        any_engine.build(doubled(), Options(), CPU, "tensorrt0")


def test_captured_runs_are_each_size_s_own(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    program = engine.build(doubled(), OPTIONS, CPU, "tensorrt0")
    small, large = (program.runner_for(CPU, shapes(count)) for count in (2, 8))
    run(small, 2)
    run(large, 8)
    before = cuda.launches()
    run(small, 2)
    run(large, 8)
    assert cuda.launches() - before == 6
    assert State.builds == 1


def test_a_shape_outside_of_the_profile_has_the_librarys_words(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    program = engine.build(doubled(), OPTIONS, CPU, "tensorrt0")
    before = cuda.live()
    with pytest.raises(EngineError, match=r"input 'x' of shape \(9, 3\).*outside of the profile"):
        program.runner_for(CPU, shapes(9))
    with pytest.raises(EngineError, match="'y' has another shape"):
        program.runner_for(CPU, Shapes(((2, 3),), ((3, 3),)))
    gc.collect()
    assert cuda.live() == before
    assert State.live_contexts == 0


def test_tensorrt_builds_it_for_real() -> None:
    rtx = trt.library("tensorrt_rtx")
    try:
        rtx.module()
    except EngineError as error:
        pytest.skip(str(error))
    plan = rtx.build(doubled(), "tensorrt0", profile=PROFILE)
    assert plan.inputs[0].shape == plan.outputs[0].shape == (-1, 3)
    with pytest.raises(EngineError, match="cannot build tensorrt0.*profile"):
        rtx.build(doubled(), "tensorrt0", profile=(((4, 3), (2, 3), (1, 3)),))


# ---- in executors, where C++ replays the captured runs ----


class Executors:
    """Executors of one network at several batches, on the fake library and in stock MXNet."""

    def __init__(self) -> None:
        self.symbol = conv_bn()
        self.arrays = random_arrays(self.symbol, {"data": (1, 3, 16, 16)})
        self.ours: dict[int, Any] = {}
        self.stock: dict[int, Any] = {}

    def bind(self, count: int) -> Any:
        for name, group in (("NONE", self.stock), ("TensorRT", self.ours)):
            with backend(name):
                executor = self.symbol.simple_bind(mx.cpu(), grad_req="null", data=(count, 3, 16, 16))
            fill(executor, {**self.arrays, "data": 0, "softmax_label": 0})
            group[count] = executor
        return self.ours[count]

    def assert_same(self, count: int) -> None:
        data = mx.nd.random.normal(shape=(count, 3, 16, 16))
        found, right = (group[count].forward(data=data)[0] for group in (self.ours, self.stock))
        assert relative_error(found, right) < 1e-5

    def holds(self, count: int) -> bool:
        return bool(self.ours[count].tensorrt.sessions[0].report.engine_bytes)


@pytest.fixture
def executors(engine: trt.TensorRTEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(registry._LOADED, "tensorrt", engine)
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "tensorrt")
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    monkeypatch.setenv("MXNET_TENSORRT_CACHE", "0")
    programs.clear()
    made = Executors()
    yield made
    made.ours.clear()
    made.stock.clear()
    programs.clear()
    gc.collect()


def test_executors_of_each_size_replay_one_engine(
    executors: Executors, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MAX_BATCH_SIZE", "8")
    for count in (2, 8, 1):
        executors.bind(count)
        for _ in range(2):
            executors.assert_same(count)
    calls, launches = native.callback_count(), cuda.launches()
    for count in (8, 2, 1, 8):
        executors.assert_same(count)
    assert native.callback_count() == calls
    assert cuda.launches() == launches + 4
    assert State.builds == 2, "one for the GPU's probe and one for all sizes"


def test_an_engine_that_refuses_the_profile_builds_one_for_each_size(
    executors: Executors, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mxnet_trt_property import dynamic_shapes

    monkeypatch.setattr(dynamic_shapes, "_refusals", {})
    monkeypatch.setenv("MXNET_TENSORRT_MAX_BATCH_SIZE", "8")
    State.refuses_profiles = True
    for count in (2, 3):
        executors.bind(count)
        executors.assert_same(count)
    told = [r.getMessage() for r in caplog.records if "one engine per shape" in r.getMessage()]
    assert len(told) == 1
    assert "engine tensorrt cannot have one for all of them" in told[0]
    assert "no optimization profile" in told[0]
    assert executors.ours[3].tensorrt.sessions[0].report.engine == "tensorrt"


def test_an_engine_for_a_range_that_cannot_be_run_is_replaced_by_one_for_each_size(
    executors: Executors, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mxnet_trt_property import dynamic_shapes
    from mxnet_trt_property.engines import trt_run

    stock = trt_run.TensorRTRunner.run

    def run(self: Any, *arguments: Any) -> None:
        if self._is_flexible:
            raise EngineError("a run that cannot be captured")
        stock(self, *arguments)

    monkeypatch.setattr(trt_run.TensorRTRunner, "run", run)
    monkeypatch.setattr(dynamic_shapes, "_refusals", {})
    monkeypatch.setenv("MXNET_TENSORRT_MAX_BATCH_SIZE", "8")
    for count in (2, 3, 2):
        if count not in executors.ours:
            executors.bind(count)
        executors.assert_same(count)
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(told) == 1
    assert "one engine per shape" in told[0] and "a run that cannot be captured" in told[0]
    assert executors.ours[3].tensorrt.sessions[0].report.engine == "tensorrt"


def test_an_engine_goes_though_its_runs_are_captured(
    executors: Executors, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MAX_ENGINES", "2")
    for count in (1, 2):
        executors.bind(count)
        for _ in range(3):
            executors.assert_same(count)
    executors.assert_same(1)  # replayed: only C++ knows that it was used last
    executors.bind(3)
    executors.assert_same(3)
    assert [executors.holds(count) for count in (1, 2, 3)] == [True, False, True]
    gc.collect()  # contexts of the fake library are cycles
    assert State.live_contexts == 2
    for count in (2, 2, 3, 1, 1, 2):
        executors.assert_same(count)


def test_an_engine_stays_while_its_run_is_under_way(
    executors: Executors, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MAX_ENGINES", "1")
    ours = executors.bind(1)
    executors.assert_same(1)
    executors.assert_same(1)
    ours.tensorrt.early.start({})
    executors.bind(2)
    executors.assert_same(2)
    assert executors.holds(1)
    mx.executor.Executor.forward(ours)[0].wait_to_read()
    executors.bind(3)
    executors.assert_same(3)
    assert not executors.holds(1)
    executors.assert_same(1)


def test_threads_that_take_each_others_engines(executors: Executors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MAX_ENGINES", "1")
    for count in (1, 2, 3):
        executors.bind(count)
    failures: list[BaseException] = []

    def work(count: int) -> None:
        try:
            for _ in range(15):
                executors.assert_same(count)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(count,)) for count in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_an_engine_of_a_range_comes_out_of_the_cache(executors: Executors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MAX_BATCH_SIZE", "8")
    monkeypatch.setenv("MXNET_TENSORRT_CACHE", "1")
    executors.bind(2)
    executors.assert_same(2)
    plans = State.plans
    executors.ours.clear()
    gc.collect()
    programs.clear()
    for count in (5, 1, 2):
        executors.bind(count)
        executors.assert_same(count)
        executors.assert_same(count)
    reports = [executors.ours[count].tensorrt.sessions[0].report for count in (5, 1, 2)]
    assert [(report.engine, report.builds, report.loads) for report in reports] == [
        ("tensorrt", 0, 1),
        ("tensorrt", 0, 0),
        ("tensorrt", 0, 0),
    ]
    assert State.plans == plans
