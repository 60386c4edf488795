"""Captured runs and the hot path in C++, over a driver that keeps captured work and a library that computes."""

from __future__ import annotations

import ctypes
import gc
import logging
import mmap
import threading
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.base import MXNetError

import mxnet_trt_property
from mxnet_trt_property import cuda_graph, native
from mxnet_trt_property.engines import registry, trt, trt_graph, trt_program, trt_run
from mxnet_trt_property.engines.registry import Device, Options
from mxnet_trt_property.errors import EngineError
from tests.engines import models
from tests.engines.conftest import FakeCuda
from tests.engines.fake_tensorrt import State
from tests.engines.models import buffer
from tests.engines.test_trt import Aligned
from tests.symbols import backend, conv_bn, fill, mlp, random_arrays, relative_error

CPU, GPU = Device("cpu", 0), Device("gpu", 0)
LARGE = (512, 512)  # 1 MiB of float32: worth pinning, as input and as output


def random(shape: tuple[int, ...], seed: int) -> Any:
    """Returns a float32 array."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def paged(values: Any) -> Any:
    """Returns a copy of an array on memory pages of its own, as the driver pins whole pages."""
    array = np.frombuffer(mmap.mmap(-1, values.nbytes), values.dtype).reshape(values.shape)
    array[...] = values
    return array


# -- the runner ----------------------------------------------------------------------------------


def test_host_arrays_are_replayed_through_staging_memory(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    runner = engine.build(models.relu(LARGE), Options(), CPU, "tensorrt0").runner(CPU)
    launches = cuda.launches()
    for seed in range(4):
        x, y = random(LARGE, seed), np.full(LARGE, np.nan, np.float32)
        runner.run([buffer(x)], [buffer(y)], 0)
        assert np.array_equal(y, np.maximum(x, 0))
    assert cuda.launches() == launches + 4
    assert len(runner.native_replays([0])) == 1
    runner.close()


def test_arrays_that_stay_are_pinned_and_used_in_place(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    runner = engine.build(models.relu(LARGE), Options(), CPU, "tensorrt0").runner(CPU)
    x, y = paged(random(LARGE, 0)), paged(random(LARGE, 1))
    runner.pin([x.ctypes.data, y.ctypes.data])
    runner.run([buffer(x)], [buffer(y)], 0)
    assert len(runner.native_replays([0])) == 2
    assert cuda.pins() == 2
    bare = runner.bare([buffer(x)], [buffer(y)])
    for seed in range(3):
        x[...] = random(LARGE, seed)
        bare()
        assert np.array_equal(y, np.maximum(x, 0))
    other, result = random(LARGE, 9), np.empty(LARGE, np.float32)
    runner.run([buffer(other)], [buffer(result)], 0)  # arrays that were not promised go through staging memory
    assert np.array_equal(result, np.maximum(other, 0))
    runner.unpin()
    assert cuda.pins() == 0
    runner.run([buffer(x)], [buffer(y)], 0)
    assert np.array_equal(y, np.maximum(x, 0))
    runner.close()


def test_a_run_on_gpu_arrays_that_stay_can_start_early(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    """It reads the arrays and writes memory of the runner's; its results are copied when MXNet's stream is there."""
    runner = engine.build(models.relu(LARGE), Options(), GPU, "tensorrt0").runner(GPU)
    x, y = Aligned(random(LARGE, 0)), Aligned(random(LARGE, 1))
    runner.run([x.buffer], [y.buffer], 7)  # through a capture of arrays that were not promised
    assert len(runner.native_replays([0])) == 1
    runner.pin([x.buffer.address, y.buffer.address])
    runner.run([x.buffer], [y.buffer], 7)
    in_place, early = runner.native_replays([0])
    for seed, handle in enumerate((in_place, early, early, in_place)):
        x.array[...] = random(LARGE, seed)
        y.array[...] = np.nan
        inputs, outputs = ((ctypes.c_void_p * 1)(a.buffer.address) for a in (x, y))
        assert native.library().mxtrt_replay_run(handle, inputs, outputs, None) == native.OK
        assert np.array_equal(y.array, np.maximum(x.array, 0))
    runner.unpin()
    assert runner.native_replays([0]) == []
    runner.close()


def test_a_replay_whose_runner_is_closed_is_refused(engine: trt.TensorRTEngine) -> None:
    runner = engine.build(models.relu(LARGE), Options(), CPU, "tensorrt0").runner(CPU)
    x, y = random(LARGE, 0), np.empty(LARGE, np.float32)
    runner.run([buffer(x)], [buffer(y)], 0)
    bare = runner.bare([buffer(x)], [buffer(y)])
    bare()
    runner.close()
    with pytest.raises(EngineError, match="was closed"):
        bare()


def test_a_bare_run_keeps_its_arrays(engine: trt.TensorRTEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._LOADED, "tensorrt", engine)
    arrays = random_arrays(mlp(), {"data": (2, 5)})
    data = arrays.pop("data").asnumpy()
    model = mxnet_trt_property.compile(mlp(), arrays, {}, {"data": (2, 5)}, engine="tensorrt")
    bound = model.bind(data)
    expected = bound().copy()
    bare, outputs = bound.bare(), bound.outputs
    assert bare is not None
    del bound, data
    gc.collect()
    outputs[...] = 0
    bare()
    assert relative_error(outputs, expected) == 0
    model.close()
    with pytest.raises(EngineError, match="was closed"):
        bare()
    del bare


def test_edges_are_made_full_where_kernels_overlap_wrongly(
    engine: trt.TensorRTEngine, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = engine.build(models.relu(LARGE), Options(), CPU, "tensorrt0")
    program.load(0).kernels_overlap_wrongly = True
    before = cuda_graph.replaced_edges
    runner = program.runner(CPU)
    x, y = random(LARGE, 0), np.empty(LARGE, np.float32)
    runner.run([buffer(x)], [buffer(y)], 0)
    assert np.array_equal(y, np.maximum(x, 0))
    # The fake graph has three edges, the middle one programmatic.
    assert cuda_graph.replaced_edges == before + 1
    assert (cuda.library.fake_removed_edge(), cuda.library.fake_added_edge()) == (2, 2)
    runner.close()
    monkeypatch.setenv("FAKE_CUDA_MODE", "capture_fails")
    runner = program.runner(CPU)
    with pytest.raises(EngineError, match="cannot be relied on"):
        runner.run([buffer(x)], [buffer(y)], 0)
    runner.close()


def test_an_array_of_two_runners_stays_pinned_for_the_other(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    program = engine.build(models.relu(LARGE), Options(), CPU, "tensorrt0")
    x, results = paged(random(LARGE, 0)), [paged(random(LARGE, 1)) for _ in range(2)]
    runners = [program.runner(CPU) for _ in range(2)]
    for runner, y in zip(runners, results):
        runner.pin([x.ctypes.data, y.ctypes.data])
        runner.run([buffer(x)], [buffer(y)], 0)
    assert cuda.pins() == 3
    runners[0].close()
    assert cuda.pins() == 2
    runners[1].run([buffer(x)], [buffer(results[1])], 0)
    assert np.array_equal(results[1], np.maximum(x, 0))
    runners[1].close()
    assert cuda.pins() == 0


def test_gpu_arrays_that_move(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    runner = engine.build(models.relu((4, 4)), Options(), GPU, "tensorrt0").runner(GPU)
    arrays = [(Aligned(random((4, 4), i)), Aligned(np.zeros((4, 4)))) for i in range(8)]
    for _ in range(3):
        for x, y in arrays:
            y.array[...] = np.nan
            runner.run([x.buffer], [y.buffer], 0)
            assert np.array_equal(y.array, np.maximum(x.array, 0))
    assert len(runner.native_replays([0])) == 5  # four at their own addresses, and one for all others
    launches = cuda.launches()
    for x, y in arrays:
        x.array[...] *= -1
        runner.run([x.buffer], [y.buffer], 0)
        assert np.array_equal(y.array, np.maximum(x.array, 0))
    assert cuda.launches() == launches + len(arrays)
    runner.close()


def test_a_runner_that_is_collected_during_a_capture(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    """The collector may run anywhere; this one runs in the thread that captures."""
    program = engine.build(models.relu(), Options(), CPU, "tensorrt0")
    runner = program.runner(CPU)
    x, y = random((2, 3), 0), np.empty((2, 3), np.float32)
    runner.run([buffer(x)], [buffer(y)], 0)
    live = cuda.live()

    def work() -> None:
        nonlocal runner
        with trt_graph.CAPTURE_LOCK:
            cycle = [runner]
            cycle.append(cycle)  # type: ignore[arg-type]
            del cycle, runner
            gc.collect()
            assert cuda.live() == live, "not while a capture is under way"
        assert cuda.live() < live
        done.append(True)

    done: list[bool] = []
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert done
    program.close()


def test_what_cannot_be_captured_runs_all_the_same(
    engine: trt.TensorRTEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_CUDA_MODE", "capture_fails")
    runner = engine.build(models.relu(), Options(), CPU, "tensorrt0").runner(CPU)
    x = random((2, 3), 0)
    for _ in range(3):
        y = np.empty_like(x)
        runner.run([buffer(x)], [buffer(y)], 0)
        assert np.array_equal(y, np.maximum(x, 0))
    assert [r.getMessage().count("cannot be captured") for r in caplog.records if r.levelno == logging.WARNING] == [1]
    with pytest.raises(EngineError, match="no captured run"):
        runner.bare([buffer(x)], [buffer(y)])
    runner.close()


# -- executors -----------------------------------------------------------------------------------


@pytest.fixture(params=["cpu", "gpu"])
def started_early(request: pytest.FixtureRequest, in_executors: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with runners for arrays in host memory and with those for a GPU, whose memory is the host's here."""
    if request.param == "gpu":
        monkeypatch.setattr(trt_program.TensorRTProgram, "runner", lambda self, device: trt_run.TensorRTRunner(
            self.load(device.gpu_index), host_arrays=False
        ))  # fmt: skip


def bound(symbol: Any, name: str, shapes: dict[str, tuple[int, ...]]) -> Any:
    """Returns a filled executor."""
    with backend(name):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    fill(executor, random_arrays(symbol, shapes))
    return executor


def test_a_replayed_forward_calls_no_python(in_executors: None, cuda: FakeCuda) -> None:
    shapes = {"data": (2, 5)}
    stock, ours = bound(mlp(), "NONE", shapes), bound(mlp(), "TensorRT", shapes)
    assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5
    calls, launches = native.callback_count(), cuda.launches()
    for seed in range(5):
        data = mx.nd.array(random(shapes["data"], seed))
        assert relative_error(ours.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5
    assert native.callback_count() == calls
    assert cuda.launches() == launches + 5
    assert cuda.pins() == 0  # the arrays are too small for it to pay


def test_arrays_of_an_executor_are_pinned_until_it_is_deleted(in_executors: None, cuda: FakeCuda) -> None:
    shapes = {"data": (16, 3, 32, 32)}
    stock, ours = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5
    assert cuda.pins() == 1
    calls = native.callback_count()
    for seed in range(3):
        data = mx.nd.array(random(shapes["data"], seed))
        assert relative_error(ours.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5
    assert native.callback_count() == calls
    data_array = ours.arg_dict["data"]
    del ours
    gc.collect()
    assert cuda.pins() == 0
    assert data_array.asnumpy().shape == shapes["data"]


def test_new_weights_end_the_replay(in_executors: None, cuda: FakeCuda) -> None:
    shapes = {"data": (2, 3, 8, 8)}
    stock, ours = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    for name in ("conv_weight", "bn_moving_mean", "bn_moving_var", "fc_bias"):
        for _ in range(3):
            assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5, name
        for executor in (stock, ours):
            array = {**executor.arg_dict, **executor.aux_dict}[name]
            array[:] = array * 0.5 + 0.25
        assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5, name
    calls = native.callback_count()
    ours.forward()[0].wait_to_read()
    assert native.callback_count() == calls


def test_a_run_is_started_before_mxnet_gets_to_it(started_early: None, cuda: FakeCuda) -> None:
    shapes = {"data": (16, 3, 32, 32)}
    stock, ours = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    for executor in (stock, ours):
        executor.forward()[0].wait_to_read()
    launches, calls = cuda.launches(), native.callback_count()
    early = ours.tensorrt.early
    assert early is not None
    early.start({})
    assert cuda.launches() == launches + 1
    expected = stock.forward()[0].asnumpy()
    mx.executor.Executor.forward(ours)[0].wait_to_read()  # takes the run that was started
    assert cuda.launches() == launches + 1
    assert native.callback_count() == calls
    assert relative_error(ours.outputs[0], expected) < 1e-5


@pytest.mark.parametrize("on_error", ["fallback", "raise"])
def test_runs_start_early_whether_or_not_the_first_was_waited_for(
    in_executors: None, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, on_error: str
) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", on_error)
    ours = bound(conv_bn(), "TensorRT", {"data": (2, 3, 8, 8)})
    ours.forward()
    ours.forward()[0].wait_to_read()
    launches = cuda.launches()
    ours.tensorrt.early.start({})
    assert cuda.launches() == launches + 1
    mx.executor.Executor.forward(ours)[0].wait_to_read()
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "onnxruntime")
    other = bound(conv_bn(), "TensorRT", {"data": (2, 3, 8, 8)})
    for _ in range(2):
        other.forward()[0].wait_to_read()
    assert other.tensorrt.early is None  # an engine on the CPU has nothing to start


def test_a_run_is_not_taken_by_a_later_forward(
    in_executors: None, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come after the run was started and before MXNet was told of the forward."""
    shapes = {"data": (2, 3, 8, 8)}
    stock, ours = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    ours.forward()[0].wait_to_read()
    launches = cuda.launches()

    def interrupt(self: Any, is_train: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mx.executor.Executor, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ours.forward(data=mx.nd.array(random(shapes["data"], 1)))
    assert cuda.launches() == launches + 1
    for seed in range(2, 5):
        data = mx.nd.array(random(shapes["data"], seed))
        assert relative_error(ours.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5


def test_an_error_on_an_input_leaves_no_run_behind(in_executors: None, cuda: FakeCuda) -> None:
    shapes = {"data": (2, 3, 8, 8)}
    stock, ours = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    ours.forward()[0].wait_to_read()
    with pytest.raises(MXNetError, match="scale"):
        ours.arg_dict["data"][:] = mx.nd.random.normal(0, -1, shape=shapes["data"])  # fails when it runs
        ours.forward(data=mx.nd.array(random(shapes["data"], 1)))[0].wait_to_read()
    for seed in range(2, 5):
        data = mx.nd.array(random(shapes["data"], seed))
        assert relative_error(ours.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5


def test_inputs_that_are_given_each_other(in_executors: None, cuda: FakeCuda) -> None:
    """They are assigned one after the other, as stock MXNet does it."""
    shapes = {"a": (2, 3), "b": (2, 3)}
    symbol = mx.sym.var("a") * 2 + mx.sym.var("b")
    stock, ours = bound(symbol, "NONE", shapes), bound(symbol, "TensorRT", shapes)
    for seed, names in enumerate(("ab", "ba", "ab", "ba")):
        found = []
        for executor in (ours, stock):
            given = {names[0]: mx.nd.array(random(shapes["a"], seed)), names[1]: executor.arg_dict[names[0]]}
            found.append(executor.forward(**given)[0])
        assert relative_error(*found) < 1e-5


def test_a_started_run_is_thrown_away_when_a_weight_moved(started_early: None, cuda: FakeCuda) -> None:
    shapes = {"data": (16, 3, 32, 32)}
    stock, ours = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    for executor in (stock, ours):
        executor.forward()[0].wait_to_read()
    for i in range(4):
        for executor in (stock, ours):
            executor.arg_dict["fc_weight"][:] = 0.1 * (i + 1)
        assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5


def test_forwards_that_are_not_waited_for(started_early: None, cuda: FakeCuda) -> None:
    shapes = {"data": (16, 3, 32, 32)}
    stock, ours = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    results = []
    for seed in range(12):
        data = mx.nd.array(random(shapes["data"], seed))
        results.append((ours.forward(data=data)[0].copy(), stock.forward(data=data)[0].copy()))
        ours.forward()  # the same again, with the first one possibly under way
    for found, expected in results:
        assert relative_error(found, expected) < 1e-5


def test_a_driver_that_refuses_a_replay_is_told_and_survived(
    in_executors: None, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = {"data": (2, 5)}
    stock, ours = bound(mlp(), "NONE", shapes), bound(mlp(), "TensorRT", shapes)
    for _ in range(2):
        ours.forward()[0].wait_to_read()
    monkeypatch.setenv("FAKE_CUDA_MODE", "launch_fails")
    State.enqueue_fails = True
    for _ in range(3):
        assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5
    texts = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert sum("it goes on with onnxruntime" in t for t in texts) == 1


def test_executors_that_come_and_go_leave_nothing(in_executors: None, cuda: FakeCuda) -> None:
    shapes = {"data": (16, 3, 32, 32)}
    live = []
    for _ in range(6):
        executor = bound(conv_bn(), "TensorRT", shapes)
        executor.forward()
        executor.forward()
        del executor
        mx.nd.waitall()
        live.append(cuda.live())
    assert live[1:] == live[1:2] * 5, "each executor leaves something behind"
