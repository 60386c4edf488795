"""Two GPUs in one process: engine, memory, streams and graphs of each stay on it.

The fake driver refuses memory, streams and graphs in the context of another device than theirs, and the fake TensorRT
counts what is freed there.
"""

from __future__ import annotations

import gc
import threading
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from mxnet_trt_property import native, programs
from mxnet_trt_property.engines import trt
from mxnet_trt_property.engines.registry import Buffer, Device, Options
from tests.engines import models
from tests.engines.conftest import FakeCuda
from tests.engines.fake_tensorrt import State
from tests.engines.models import buffer
from tests.symbols import backend, bound, conv_bn, fill, random_arrays, relative_error

SHAPES = {"data": (16, 3, 32, 32)}  # large enough to be pinned in place


def bound_on(device: int, **variables: str) -> Any:
    """Returns a filled executor whose engine is on a device."""
    with backend("TensorRT", MXNET_TENSORRT_DEVICE=str(device), **variables):
        executor = conv_bn().simple_bind(mx.cpu(), grad_req="null", **SHAPES)
    fill(executor, random_arrays(conv_bn(), SHAPES))
    return executor


def test_the_variable_is_read_at_each_bind(in_executors: None, cuda: FakeCuda) -> None:
    stock = bound(conv_bn(), "NONE", SHAPES)
    for device in (1, 0):
        executor = bound_on(device)
        assert cuda.used_on(device) == 0
        assert relative_error(executor.forward()[0], stock.forward()[0]) < 1e-5
        assert cuda.used_on(device) > 0
        assert cuda.used_on(1 - device) == 0
        report = executor.tensorrt.sessions[0].report
        assert (report.engine, report.builds) == ("tensorrt", 1)
        del executor
        gc.collect()
        programs.clear()
        gc.collect()
    assert (cuda.used_on(0), cuda.used_on(1)) == (0, 0)
    assert State.misplaced == 0


def test_two_devices_at_once(in_executors: None, cuda: FakeCuda) -> None:
    stock = bound(conv_bn(), "NONE", SHAPES)
    data = [mx.nd.random.normal(shape=SHAPES["data"]) for _ in range(4)]
    expected = [stock.forward(data=x)[0].asnumpy() for x in data]
    executors = [bound_on(0), bound_on(1)]
    worst = [0.0, 0.0]

    def work(device: int) -> None:
        for i in range(40):
            found = executors[device].forward(data=data[i % 4])[0]
            worst[device] = max(worst[device], relative_error(found, expected[i % 4]))
            if i % 10 == 9:  # new weights, and the old ones again: captures and refits beside the other device's runs
                for factor in (2, 0.5):
                    executors[device].arg_dict["fc_weight"][:] *= factor
                    executors[device].forward()[0].wait_to_read()

    threads = [threading.Thread(target=work, args=(device,)) for device in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) < 1e-5
    assert cuda.used_on(0) > 0
    assert cuda.used_on(1) > 0
    for executor in executors:
        report = executor.tensorrt.sessions[0].report
        assert report.engine == "tensorrt"
        assert report.refits >= 1
    calls = native.callback_count()
    for executor in executors:
        assert relative_error(executor.forward(data=data[0])[0], expected[0]) < 1e-5
    assert native.callback_count() == calls
    del executor
    executors.clear()
    gc.collect()
    programs.clear()
    gc.collect()
    assert State.misplaced == 0


def test_the_option_of_optimize_for_and_hybridize(in_executors: None, cuda: FakeCuda) -> None:
    arrays = random_arrays(conv_bn(), SHAPES)
    with backend(None):
        expected = bound(conv_bn(), None, SHAPES).forward(data=arrays["data"])[0]
        for device in (1, 0):
            args = {n: a.copy() for n, a in arrays.items() if n in conv_bn().list_arguments()}
            auxs = {n: arrays[n].copy() for n in conv_bn().list_auxiliary_states()}
            made = conv_bn().optimize_for("TensorRT", args, auxs, mx.cpu(), device=device)
            args["data"] = arrays["data"]
            executor = made.bind(mx.cpu(), args, aux_states=auxs, grad_req="null")
            assert relative_error(executor.forward()[0], expected) < 1e-5
            assert cuda.used_on(device) > 0
        net = mx.gluon.nn.HybridSequential()
        net.add(mx.gluon.nn.Conv2D(4, 3, in_channels=3), mx.gluon.nn.Activation("relu"))
        net.initialize()
        plain = net(arrays["data"])
        used = cuda.used_on(1)
        net.hybridize(backend="TensorRT", device=1, static_alloc=True, static_shape=True)
        assert relative_error(net(arrays["data"]), plain) < 1e-5
        assert cuda.used_on(1) > used


def test_a_device_that_is_not_there(in_executors: None, caplog: pytest.LogCaptureFixture, fresh_warnings: None) -> None:
    stock = bound(conv_bn(), "NONE", SHAPES)
    executor = bound_on(7, MXNET_TENSORRT_ENGINE="tensorrt")
    assert relative_error(executor.forward()[0], stock.forward()[0]) < 1e-5
    assert executor.tensorrt.sessions[0].report.engine == "onnxruntime"
    assert "There is no CUDA device 7 | found: 2 device(s) | required: an index from 0 to 1" in caplog.text


def test_gpu_arrays_of_the_second_device(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    """As MXNet's engine threads run it: with no current context, or with the other device's."""
    device = Device("gpu", 1, 1)
    x = np.random.default_rng(0).standard_normal((4, 4)).astype("float32")
    y = np.empty_like(x)
    runner = engine.build(models.relu((4, 4)), Options(), device, "tensorrt0").runner(device)
    driver = cuda.driver
    with driver.on_device(1):
        stream = driver.stream_create()
        arrays = [driver.malloc(x.nbytes) for _ in range(2)]
        driver.copy_to_device(arrays[0], x.ctypes.data, x.nbytes)
    source, target = (Buffer(address, x.shape, x.dtype) for address in arrays)
    for _ in range(3):
        runner.run([source], [target], stream)
        with driver.on_device(0):
            runner.run([source], [target], stream)
    assert len(runner.native_replays([0])) == 1
    with driver.on_device(1):
        driver.copy_to_host(y.ctypes.data, arrays[1], y.nbytes)
        for address in arrays:
            driver.free(address)
    assert np.array_equal(y, np.maximum(x, 0))
    runner.close()
    with driver.on_device(1):
        driver.stream_destroy(stream)
    assert cuda.used_on(0) == 0


def test_one_program_on_both_devices(engine: trt.TensorRTEngine, cuda: FakeCuda) -> None:
    program = engine.build(models.relu((512, 512)), Options(), Device("cpu", 0, 0), "tensorrt0")
    x = np.random.default_rng(0).standard_normal((512, 512)).astype("float32")
    runners = [program.runner(Device("cpu", 0, device)) for device in (0, 1)]
    for runner in (*runners, *runners):
        y = np.empty_like(x)
        runner.pin([x.ctypes.data])
        runner.run([buffer(x)], [buffer(y)], 0)
        assert np.array_equal(y, np.maximum(x, 0))
    for runner in runners:
        runner.close()
    program.close()
    assert cuda.pins() == 0
    del runner, runners, program
    gc.collect()
    assert State.misplaced == 0
