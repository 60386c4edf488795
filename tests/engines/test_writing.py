"""Inputs that the calling thread writes and sends to the GPU, over a driver that keeps captured work."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.base import MXNetError

from mxnet_trt_property import early_start, native
from tests.engines.conftest import FakeCuda
from tests.engines.test_trt_graph import bound, random
from tests.symbols import backend, conv_bn, relative_error

MIB = 1 << 20
LARGE = {"data": (64, 3, 64, 64)}  # 3 MiB
SMALL = {"data": (2, 3, 8, 8)}
TWO = {"a": (MIB,), "b": (MIB,)}


@pytest.fixture(params=[1, 8])
def cpus(request: pytest.FixtureRequest, in_executors: None, monkeypatch: pytest.MonkeyPatch) -> int:
    """As on machines of so many CPUs: without helpers, and with three."""
    monkeypatch.setattr(early_start, "usable_cpus", lambda: float(request.param))
    return int(request.param)


def pair(shapes: dict[str, tuple[int, ...]], symbol: Any = None) -> tuple[Any, Any]:
    """Returns a stock executor and ours, whose run is captured."""
    symbol = conv_bn() if symbol is None else symbol
    stock, ours = bound(symbol, "NONE", shapes), bound(symbol, "TensorRT", shapes)
    ours.forward()[0].wait_to_read()
    return stock, ours


def written_by(executor: Any, **given: Any) -> list[str]:
    """Returns what the calling thread writes, and drops what it has sent."""
    written = executor.tensorrt.early.write(given)
    executor.tensorrt.early.cancel()
    return sorted(written)


@pytest.mark.parametrize("numpy", [False, True], ids=["NDArray", "numpy"])
@pytest.mark.parametrize("shapes", [LARGE, SMALL], ids=["large", "small"])
def test_an_input_is_written_and_sent(cpus: int, cuda: FakeCuda, shapes: Any, numpy: bool) -> None:
    stock, ours = pair(shapes)
    calls = native.callback_count()
    nbytes = 4 * int(np.prod(shapes["data"]))
    for seed in range(3):
        launches, sent = cuda.launches(), cuda.sent()
        values = random(shapes["data"], seed)
        data = values.copy() if numpy else mx.nd.array(values)
        outputs = ours.forward(data=data)
        data[:] = np.nan  # after it was read
        assert relative_error(outputs[0], stock.forward(data=mx.nd.array(values))[0]) < 1e-5
        assert cuda.launches() == launches + 1
        assert cuda.sent() - sent == (nbytes if nbytes >= MIB else 0)
        assert relative_error(ours.arg_dict["data"], values) == 0
        # What is in the array counts where nothing is given.
        ours.arg_dict["data"][:] = stock.arg_dict["data"][:] = mx.nd.array(values * 2)
        assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5
        assert cuda.sent() - sent == (nbytes if nbytes >= MIB else 0)
    assert native.callback_count() == calls


@pytest.mark.parametrize("elements", [1, 15, 65536, 65537, 262143, 262145, 524288 + 3, 3 * MIB + 1])
def test_every_element_is_written(cpus: int, elements: int) -> None:
    """Whole pieces and parts of one, at addresses of any alignment."""
    symbol = mx.sym.slice(mx.sym.var("data") * 2, begin=(0,), end=(elements,), step=(max(1, elements // 7),))
    stock, ours = pair({"data": (elements,)}, symbol)
    whole = mx.nd.array(random((elements + 3,), 1))
    for offset in range(3):
        data = whole[offset : offset + elements]
        assert written_by(ours, data=data) == ["data"]
        assert np.array_equal(ours.arg_dict["data"].asnumpy(), data.asnumpy())
        assert relative_error(ours.forward(data=data)[0], stock.forward(data=data)[0]) == 0


def test_what_is_left_to_mxnet(cpus: int, cuda: FakeCuda) -> None:
    stock, ours = pair(LARGE)
    values = random(LARGE["data"], 1)
    own = ours.arg_dict["data"]
    left = {
        "another dtype": mx.nd.array(values, dtype="float16"),
        "NumPy of another dtype": values.astype("float64"),
        "NumPy with gaps": np.concatenate([values, values], axis=1)[:, ::2],
        "a subclass": np.ma.masked_array(values),
        "itself": own,
        "a view of itself": own.reshape((64, 3, 64, 64)),
    }
    for why, data in left.items():
        assert written_by(ours, data=data) == [], why
        given = stock.arg_dict["data"] if data is own else data
        assert relative_error(ours.forward(data=data)[0], stock.forward(data=given)[0]) < 1e-5, why
    data = mx.nd.array(values)
    data.attach_grad()
    with mx.autograd.record():
        assert written_by(ours, data=data) == []
        found = ours.forward(data=data)[0]
    assert relative_error(found, stock.forward(data=data)[0]) < 1e-5
    weight = mx.nd.array(random(ours.arg_dict["fc_weight"].shape, 2))
    assert written_by(ours, data=data, fc_weight=weight) == []
    assert written_by(ours, fc_weight=weight) == []
    for executor in (ours, stock):
        executor.forward(data=data, fc_weight=weight)
    assert relative_error(ours.outputs[0], stock.outputs[0]) < 1e-5


def test_two_inputs(cpus: int, cuda: FakeCuda) -> None:
    symbol = mx.sym.slice(mx.sym.var("a") * 2 + mx.sym.var("b"), begin=(7,), end=(MIB,), step=(101,))
    stock, ours = pair(TWO, symbol)
    arrays = [mx.nd.array(random(TWO["a"], seed)) for seed in range(4)]
    given: list[dict[str, Any]] = [
        {"a": arrays[0], "b": arrays[1]},
        {"a": arrays[2]},
        {"b": arrays[3]},
        {"a": arrays[3].asnumpy(), "b": arrays[0]},
        {"b": arrays[1], "a": arrays[1]},
        {},
    ]
    for arguments in given:
        sent, launches = cuda.sent(), cuda.launches()
        assert relative_error(ours.forward(**arguments)[0], stock.forward(**arguments)[0]) < 1e-5
        if cuda.pins() == 2:  # not where they share a page of memory
            assert cuda.sent() - sent == 4 * MIB * len(arguments)
        # What is sent of one counts only with the other.
        assert cuda.launches() == launches + 1
    for executor in (ours, stock):  # given each other, they are assigned one after the other
        executor.forward(a=executor.arg_dict["b"], b=executor.arg_dict["a"])
    assert relative_error(ours.outputs[0], stock.outputs[0]) < 1e-5
    for executor in (ours, stock):
        executor.arg_dict["a"][:] = mx.nd.arange(MIB)
        executor.forward(a=executor.arg_dict["a"][::-1], b=executor.arg_dict["a"].reshape((-1,)))
    assert relative_error(ours.outputs[0], stock.outputs[0]) < 1e-5


def test_a_write_counts_as_mxnets_own(cpus: int) -> None:
    """Another executor that has the array as its weight sees new values."""
    shapes = {"data": (16, 3, 32, 32)}
    stock, ours = pair(shapes)
    x = mx.nd.array(random((4, 9), 100))
    shared = ours.arg_dict["data"].reshape((-1,))[:45].reshape((5, 9))
    dense = mx.sym.tanh(mx.sym.FullyConnected(mx.sym.var("x"), num_hidden=5, no_bias=True, name="other")) * 2
    with backend("TensorRT"):
        other = dense.bind(mx.cpu(), {"x": x, "other_weight": shared}, grad_req="null")
    for seed in range(3):
        data = mx.nd.array(random(shapes["data"], seed))
        assert relative_error(ours.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5
        expected = np.tanh(x.asnumpy() @ data.asnumpy().reshape(-1)[:45].reshape(5, 9).T) * 2
        assert relative_error(other.forward()[0], expected) < 1e-5
    assert other.tensorrt.sessions


def test_who_still_reads_the_array_is_waited_for(cpus: int) -> None:
    stock, ours = pair(LARGE)
    own = ours.arg_dict["data"]
    copies = []
    for seed in range(5):
        data = mx.nd.array(random(LARGE["data"], seed))
        result = ours.forward(data=data)[0].copy()
        copies.append((seed, data, mx.nd.dot(own.reshape((768, -1)), own.reshape((768, -1)), transpose_b=True), result))
    for seed, data, product, result in copies:
        flat = data.asnumpy().reshape(768, -1)
        assert relative_error(product, flat @ flat.T) < 1e-4, seed
        assert relative_error(result, stock.forward(data=data)[0]) < 1e-5


def test_parts_of_one_array(cpus: int) -> None:
    """An operator that reads one and writes the other would wait for itself."""
    symbol = mx.sym.slice(mx.sym.var("data") * 2 + 1, begin=(0,), end=(MIB,), step=(101,))
    whole = mx.nd.array(random((4 * MIB,), 1))
    with backend("TensorRT"):
        ours = symbol.bind(mx.cpu(), {"data": whole[:MIB]}, grad_req="null")
    for i in (0, 1, 3, 2):
        part = whole[i * MIB : (i + 1) * MIB]
        expected = part.asnumpy()[::101] * 2 + 1
        assert relative_error(ours.forward(data=part)[0], expected) < 1e-6
        assert relative_error(whole[:MIB], part) == 0
    assert written_by(ours, data=whole[MIB : 2 * MIB]) == []
    assert written_by(ours, data=mx.nd.zeros((MIB,))) == ["data"]


def test_other_threads_write_before_or_after(cpus: int) -> None:
    symbol = mx.sym.slice(mx.sym.var("data") * 2, begin=(0,), end=(MIB,), step=(101,))
    _, ours = pair({"data": (MIB,)}, symbol)
    data, others = mx.nd.zeros((MIB,)), [mx.nd.full((MIB,), i) for i in range(1, 5)]
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            for other in others:
                other.copyto(data)
            data.wait_to_read()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(200):
            found = ours.forward(data=data)[0].asnumpy()
            assert np.all(found == found[0])
            ours.arg_dict["data"].wait_to_read()
    finally:
        stop.set()
        thread.join()


def test_new_weights_and_forwards_without_waiting(cpus: int) -> None:
    stock, ours = pair(LARGE)
    results = []
    for seed in range(8):
        data = mx.nd.array(random(LARGE["data"], seed))
        for executor in (stock, ours):
            if seed % 2:
                executor.arg_dict["fc_weight"][:] = 0.1 * (seed + 1)
        results.append((ours.forward(data=data)[0].copy(), stock.forward(data=data)[0].copy()))
        data[:] = np.nan  # after it was read
    for found, expected in results:
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("where", ["given", "own"])
def test_an_error_on_an_array(cpus: int, where: str) -> None:
    stock, ours = pair(LARGE)
    failing = mx.nd.random.normal(0, -1, shape=LARGE["data"])
    with pytest.raises(MXNetError, match="scale"):
        if where == "own":
            ours.arg_dict["data"][:] = failing
        data = failing if where == "given" else mx.nd.array(random(LARGE["data"], 1))
        ours.forward(data=data)[0].wait_to_read()
    for seed in range(3):
        data = mx.nd.array(random(LARGE["data"], seed))
        assert relative_error(ours.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5


def test_a_driver_that_refuses_to_copy(cpus: int, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent in part does not count; the run that copies all by itself is taken."""
    stock, ours = pair(LARGE)
    for seed in range(3):
        launches = cuda.launches()
        data = mx.nd.array(random(LARGE["data"], seed))
        with monkeypatch.context() as patch:
            patch.setenv("FAKE_CUDA_FAIL", "cuMemcpyHtoDAsync_v2:999")
            found = ours.forward(data=data)[0]
            found.wait_to_read()
        assert relative_error(found, stock.forward(data=data)[0]) < 1e-5
        assert cuda.launches() == launches + 1


def test_what_was_sent_is_not_taken_by_a_later_forward(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come when an input is written, and before a run was started."""
    stock, ours = pair(LARGE)
    start = early_start.EarlyStart.start

    def interrupt(self: Any, written: Any = ()) -> None:
        raise KeyboardInterrupt

    for seed in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(early_start.EarlyStart, "start", interrupt)
            with pytest.raises(KeyboardInterrupt):
                ours.forward(data=mx.nd.array(random(LARGE["data"], 10 + seed)))
        ours.arg_dict["data"][:] = data = mx.nd.array(random(LARGE["data"], seed))
        assert relative_error(ours.forward()[0], stock.forward(data=data)[0]) < 1e-5
        assert relative_error(ours.forward(data=data * 3)[0], stock.forward(data=data * 3)[0]) < 1e-5
    assert start is early_start.EarlyStart.start


def test_nothing_is_taken_away_from_what_is_being_fed(cpus: int) -> None:
    _, ours = pair(LARGE)
    early = ours.tensorrt.early
    library, state = native.library(), early._state_id
    assert early.write({"data": mx.nd.array(random(LARGE["data"], 1))}) == ["data"]
    assert library.mxtrt_state_release(state) == native.FAIL
    early.cancel()
    assert early.write({"data": mx.nd.array(random(LARGE["data"], 1))}) == ["data"]
    early.start()
    assert early.write({"data": mx.nd.array(random(LARGE["data"], 2))}) == []  # its forward is under way
    mx.executor.Executor.forward(ours)[0].wait_to_read()
    assert library.mxtrt_state_release(state) == native.OK
    write = native.CWrite()
    by_reference = early.spin.by_reference
    assert library.mxtrt_state_write(ctypes.c_int64(1 << 40), by_reference, ctypes.byref(write)) == native.FAIL


def test_executors_that_come_and_go(cpus: int, cuda: FakeCuda) -> None:
    live = None
    for _ in range(3):
        stock, ours = pair(LARGE)
        data = mx.nd.array(random(LARGE["data"], 1))
        assert relative_error(ours.forward(data=data)[0], stock.forward(data=data)[0]) < 1e-5
        kept = ours.arg_dict["data"]
        del ours, stock
        gc.collect()
        assert cuda.pins() == 0
        assert kept.asnumpy().shape == LARGE["data"]
        live = live or cuda.live()
        assert cuda.live() == live


def test_threads_that_write_at_once(cpus: int) -> None:
    """One copy has the helpers, the others go on alone."""
    pairs = [pair(LARGE) for _ in range(3)]
    expected = {
        (i, seed): stock.forward(data=mx.nd.array(random(LARGE["data"], 10 * i + seed)))[0].asnumpy()
        for i, (stock, _) in enumerate(pairs)
        for seed in range(4)
    }
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for turn in range(12):
                data = mx.nd.array(random(LARGE["data"], 10 * i + turn % 4))
                assert relative_error(pairs[i][1].forward(data=data)[0], expected[i, turn % 4]) < 1e-5
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(pairs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_child_has_helpers_of_its_own(cpus: int) -> None:
    stock, ours = pair(LARGE)
    values = random(LARGE["data"], 1)
    assert relative_error(ours.forward(data=mx.nd.array(values))[0], stock.forward(data=mx.nd.array(values))[0]) < 1e-5
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        own, other = np.zeros_like(values), random(LARGE["data"], 2)
        early = ours.tensorrt.early
        write = native.CWrite(
            array=ours.arg_dict["data"].handle,
            target=own.ctypes.data,
            source=other.ctypes.data,
            bytes=own.nbytes,
            helpers=cpus // 2,
        )
        done = early._library.mxtrt_state_write(early._state_id, early.spin.by_reference, ctypes.byref(write))
        os._exit(0 if done == native.OK and np.array_equal(own, other) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert relative_error(ours.forward(data=mx.nd.array(values))[0], stock.outputs[0]) < 1e-5
