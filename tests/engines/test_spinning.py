"""Threads that wait awake for a forward's results, over a driver that keeps captured work."""

from __future__ import annotations

import copy
import ctypes
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.base import MXNetError

from mxnet_trt_property import native, spinning
from mxnet_trt_property.errors import SettingError
from tests.engines.conftest import FakeCuda
from tests.engines.test_trt_graph import bound, random
from tests.symbols import conv_bn, relative_error

SHAPES = {"data": (2, 3, 8, 8)}


@pytest.fixture
def awake(in_executors: None, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets one thread wait awake, for a minute, however few CPUs the machine has."""
    monkeypatch.setattr(spinning, "most_threads", lambda: 1)
    monkeypatch.setenv("MXNET_TENSORRT_SPIN_US", "60000000")


@pytest.fixture
def seen(awake: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each wait answered: 1 for a result that was seen."""
    answers: list[int] = []
    spin = native.library().mxtrt_spin

    class Library:
        def __getattr__(self, name: str) -> Any:
            return getattr(native.library(), name)

        def mxtrt_spin(self, *args: Any) -> int:
            answers.append(spin(*args))
            return answers[-1]

    original = spinning.Spin.__init__

    def init(self: Any, state_id: int, context: Any) -> None:
        original(self, state_id, context)
        self._library = Library()

    monkeypatch.setattr(spinning.Spin, "__init__", init)
    return answers


def under_way(executor: Any) -> threading.Event:
    """Holds the executor's next forward back until the event is set."""
    go = threading.Event()
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: go.wait(20))
    array = executor.arg_dict["data"]
    context = (ctypes.c_int32 * 2)(1, 0)
    handles = (ctypes.c_void_p * 1)(array.handle)
    mx.base.check_call(
        mx.base._LIB.MXEnginePushSyncND(function, None, None, context, None, 0, handles, 1, None, 1, b"held back")
    )
    executor.held = function
    return go


def test_results_are_waited_for_awake(seen: list[int]) -> None:
    stock, ours = bound(conv_bn(), "NONE", SHAPES), bound(conv_bn(), "TensorRT", SHAPES)
    ours.forward()[0].wait_to_read()
    seen.clear()
    ways = (mx.nd.NDArray.asnumpy, spinning.AwaitedArray.wait_to_read, spinning.AwaitedArray.asnumpy)
    for seed, read in enumerate(ways):
        data = mx.nd.array(random(SHAPES["data"], seed))
        ours.tensorrt.early._pause = 1  # so that nothing waits for the input before the forward is announced
        go = under_way(ours)
        (output,) = ours.forward()
        threading.Timer(0.05, go.set).start()
        read(output)
        ours.forward(data=data)
        expected = stock.forward(data=data)[0]
        assert relative_error(ours.outputs[0], expected) < 1e-5
        assert mx.nd.NDArray.asnumpy(ours.outputs[0]).shape == expected.shape
    assert seen.count(1) >= 2
    assert 0 not in seen


def test_a_result_that_is_there_is_not_waited_for(seen: list[int]) -> None:
    ours = bound(conv_bn(), "TensorRT", SHAPES)
    for _ in range(3):
        ours.forward()
        mx.nd.waitall()
        seen.clear()
        ours.outputs[0].wait_to_read()
        ours.outputs[0].asnumpy()
        assert not seen


def test_a_copied_input_is_waited_for_awake(seen: list[int]) -> None:
    shapes = {"data": (32, 3, 64, 64)}  # more than what is staged from the caller's array
    stock, ours = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    ours.forward()[0].wait_to_read()
    for seed in range(3):
        seen.clear()
        data = mx.nd.array(random(shapes["data"], seed))
        ours.forward(data=data)
        assert seen == [1]
        assert relative_error(ours.outputs[0], stock.forward(data=data)[0]) < 1e-5


def test_an_error_is_told_by_the_wait(awake: None) -> None:
    ours = bound(conv_bn(), "TensorRT", SHAPES)
    ours.forward()[0].wait_to_read()
    for read in ("wait_to_read", "asnumpy"):
        ours.tensorrt.early._pause = 1
        ours.arg_dict["data"][:] = mx.nd.random.normal(0, -1, shape=SHAPES["data"])  # fails when it runs
        (output,) = ours.forward()
        with pytest.raises(MXNetError, match="scale"):
            getattr(output, read)()
        ours.arg_dict["data"][:] = 1
        ours.forward()[0].wait_to_read()


def test_too_many_threads_and_too_long_a_wait(awake: None, seen: list[int]) -> None:
    ours = bound(conv_bn(), "TensorRT", SHAPES)
    other = bound(conv_bn(), "TensorRT", SHAPES)
    for executor in (ours, other):
        executor.forward()[0].wait_to_read()
        executor.tensorrt.early._pause = 1
    other.tensorrt.early.spin._spin.most_us = 1000
    go = [under_way(executor) for executor in (ours, other)]
    outputs = [executor.forward()[0] for executor in (ours, other)]
    seen.clear()
    spin = other.tensorrt.early.spin
    spin.until_run(outputs[1])
    assert seen == [0]  # too long
    first = threading.Thread(target=outputs[0].wait_to_read, daemon=True)
    first.start()
    time.sleep(0.2)
    spin._spin.most_us = 60_000_000
    spin.until_run(outputs[1])
    assert seen == [0, 0]  # one thread at most
    for event in go:
        event.set()
    first.join(20)
    outputs[1].wait_to_read()
    assert seen[:3] == [0, 0, 1]
    assert 0 not in seen[2:]
    assert relative_error(outputs[0], outputs[1]) < 1e-5


def test_in_a_bulk(seen: list[int]) -> None:
    """MXNet puts off what is pushed in a bulk."""
    stock, ours = bound(conv_bn(), "NONE", SHAPES), bound(conv_bn(), "TensorRT", SHAPES)
    ours.forward()[0].wait_to_read()
    with mx.engine.bulk(20):
        for seed in range(3):
            data = mx.nd.array(random(SHAPES["data"], seed))
            ours.tensorrt.early._pause = 1
            ours.forward(data=data)
            assert relative_error(ours.outputs[0], stock.forward(data=data)[0]) < 1e-5
    assert 0 not in seen


def test_outputs_are_arrays_as_any_other(awake: None) -> None:
    ours = bound(conv_bn(), "TensorRT", SHAPES)
    (output,) = ours.forward()
    values = output.asnumpy()
    assert isinstance(output, mx.nd.NDArray)
    for made in (copy.deepcopy(output), copy.copy(output), pickle.loads(pickle.dumps(output)), output.copy()):  # noqa: S301
        assert type(made) is mx.nd.NDArray
        assert np.array_equal(made.asnumpy(), values)
    for made in (output[0], output + 0, output.as_np_ndarray(), output.detach(), output.reshape((-1,))):
        made.wait_to_read()
    assert output.as_in_context(mx.cpu()) is output
    ours.forward(data=mx.nd.ones(SHAPES["data"]))
    assert output.asnumpy().shape == values.shape
    assert repr(output) == repr(output.copy())
    assert repr(output[0]) == repr(output.copy()[0])


def test_an_output_is_given_to_another_executor(awake: None) -> None:
    symbol = mx.sym.Activation(mx.sym.var("data") * 2, act_type="relu")
    first, second = (bound(symbol, "TensorRT", {"data": (2, 3)}) for _ in range(2))
    stock = bound(symbol, "NONE", {"data": (2, 3)})
    for seed in range(4):
        data = mx.nd.array(random((2, 3), seed))
        found = second.forward(data=first.forward(data=data)[0])[0]
        expected = stock.forward(data=stock.forward(data=data)[0].copy())[0]
        assert relative_error(found, expected) < 1e-6


def test_the_cpus_of_a_container_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spinning.os, "sched_getaffinity", lambda _: set(range(64)))
    names = {"_QUOTA": "cpu.max", "_QUOTA_V1": "cpu.cfs_quota_us", "_PERIOD_V1": "cpu.cfs_period_us"}
    for name, file in names.items():
        monkeypatch.setattr(spinning, name, tmp_path / file)
    assert (spinning.usable_cpus(), spinning.most_threads()) == (64, 16)
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    for text, cpus in (("-1\n", 64), ("150000\n", 1.5), ("damaged", 64)):
        (tmp_path / "cpu.cfs_quota_us").write_text(text)
        assert spinning.usable_cpus() == cpus
    for text, cpus, threads in (("max 100000\n", 64, 16), ("800000 100000\n", 8, 2), ("150000 100000\n", 1.5, 0)):
        (tmp_path / "cpu.max").write_text(text)
        assert (spinning.usable_cpus(), spinning.most_threads()) == (cpus, threads)


def test_it_can_be_turned_off(in_executors: None, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spinning, "most_threads", lambda: 1)
    for text, threads in (("0", 0), ("100", 1), ("", 1)):
        monkeypatch.setenv("MXNET_TENSORRT_SPIN_US", text)
        ours = bound(conv_bn(), "TensorRT", SHAPES)
        ours.forward()[0].wait_to_read()
        assert ours.tensorrt.early.spin._spin.most_threads == threads
    monkeypatch.setenv("MXNET_TENSORRT_SPIN_US", "long")
    with pytest.raises(SettingError, match="SPIN_US"):
        spinning.Spin(0, mx.cpu())
