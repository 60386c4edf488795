"""`compile`: results, kinds of arrays, refusals, threads and memory."""

from __future__ import annotations

import contextlib
import gc
import threading
from typing import Any

import mxnet as mx
import numpy as np
import pytest

import mxnet_trt_property
from mxnet_trt_property import compiled, cuda_driver
from mxnet_trt_property.compiled import ArrayError, CompiledModel, CompileError
from mxnet_trt_property.engines import registry
from mxnet_trt_property.engines.registry import Buffer, Device
from mxnet_trt_property.errors import EngineError, SettingError
from tests.compiled.nets import SHAPE, compile_net, reference, split
from tests.symbols import backend, conv_bn, mlp, random_arrays, relative_error, split_net


class Foreign:
    """An array of a library that offers DLPack."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.array = array
        self.streams: list[Any] = []
        self.device = device

    def __array_namespace__(self) -> Any:
        return Foreign

    @staticmethod
    def from_dlpack(array: Any) -> Foreign:
        return Foreign(np.from_dlpack(array))

    @staticmethod
    def empty(shape: Any, dtype: Any, device: Any) -> Foreign:
        return Foreign(np.zeros(shape, dtype), device)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__()


# ---- results ----


def test_attributes(model: CompiledModel) -> None:
    assert model.engine == "onnxruntime"
    assert model.input_names == ("data",)
    assert model.output_names == ("fc2_output",)
    assert model.inputs[0] == ("data", SHAPE, np.dtype("float32"))
    assert model.outputs[0].shape == (2, 3)
    assert "onnxruntime" in repr(model)


@pytest.mark.parametrize("kind", ["numpy", "ndarray", "np_ndarray", "dlpack"])
def test_returns_the_kind_that_it_was_given(
    model: CompiledModel, arrays: dict[str, Any], expected: Any, kind: str
) -> None:
    data = arrays["data"]
    given = {
        "numpy": data.asnumpy(),
        "ndarray": data,
        "np_ndarray": data.as_np_ndarray(),
        "dlpack": Foreign(data.asnumpy()),
    }[kind]
    for found in (model(given), model(data=given)):
        assert type(found) is type(given)
        values = found.array if isinstance(found, Foreign) else found.asnumpy() if kind != "numpy" else found
        assert relative_error(values, expected.asnumpy()) < 1e-6


def test_each_call_returns_new_arrays(model: CompiledModel, arrays: dict[str, Any]) -> None:
    data = arrays["data"].asnumpy()
    first = model(data)
    before = first.copy()
    second = model(data + 1)
    assert first is not second
    assert np.array_equal(first, before)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("kind", ["numpy", "ndarray", "dlpack"])
def test_out_is_written_and_returned(model: CompiledModel, arrays: dict[str, Any], expected: Any, kind: str) -> None:
    values = np.zeros((2, 3), "float32")
    out = {"numpy": values, "ndarray": mx.nd.array(values), "dlpack": Foreign(values)}[kind]
    assert model(arrays["data"], out=out) is out
    found = out.asnumpy() if kind == "ndarray" else values
    assert relative_error(found, expected.asnumpy()) < 1e-6


def test_an_ndarray_that_mxnet_still_computes_is_waited_for(model: CompiledModel, arrays: dict[str, Any]) -> None:
    big = mx.nd.ones((400, 400))
    data = arrays["data"]
    late = data + 0 * mx.nd.dot(mx.nd.dot(big, big), big)[:2, :5]
    assert relative_error(model(late), model(data)) < 1e-6


def test_a_slice_of_an_ndarray_is_read_at_its_place(model: CompiledModel, arrays: dict[str, Any]) -> None:
    data = arrays["data"]
    both = mx.nd.concat(data + 1, data, dim=0)
    assert np.array_equal(model(both[2:4]).asnumpy(), model(data).asnumpy())


def test_several_outputs_come_as_a_list(arrays: dict[str, Any]) -> None:
    net = mlp()
    group = mx.sym.Group([net, net.get_internals()["relu1_output"]])
    with compile_net(group, arrays, "data") as made:
        found = made(arrays["data"])
        assert isinstance(found, list)
        for ours, theirs in zip(found, reference(group, arrays)):
            assert relative_error(ours, theirs) < 1e-6
        out = [np.empty((2, 3), "float32"), np.empty((2, 8), "float32")]
        assert made(arrays["data"].asnumpy(), out=out)[1] is out[1]
        with pytest.raises(EngineError, match=r"out=.*found: 1 .*required: 2"):
            made(arrays["data"], out=out[0])


def test_batch_norm_statistics_and_an_unused_label() -> None:
    net = conv_bn()
    arrays = random_arrays(net, {"data": (2, 3, 8, 8)})
    with compile_net(net, arrays, "data") as made:
        assert made.unused_names == ("softmax_label",)
        expected = reference(net, arrays)[0]
        assert relative_error(made(arrays["data"]), expected) < 1e-5
        assert relative_error(made(data=arrays["data"], softmax_label=arrays["softmax_label"]), expected) < 1e-5


def test_a_parameter_outside_weight_slots_is_frozen() -> None:
    net = mx.sym.broadcast_add(mlp(), mx.sym.Variable("offset", shape=(1, 3)))
    arrays = random_arrays(net, {"data": SHAPE})
    with compile_net(net, arrays, "data") as made:
        assert made.input_names == ("data",)
        expected = reference(net, arrays)[0]
        arrays["offset"][:] = 0
        assert relative_error(made(arrays["data"]), expected) < 1e-6


def test_a_parameter_that_is_an_output() -> None:
    group = mx.sym.Group([mlp(), mx.sym.Variable("extra", shape=(4,))])
    arrays = random_arrays(group, {"data": SHAPE})
    with compile_net(group, arrays, "data") as made:
        assert relative_error(made(arrays["data"])[1], arrays["extra"]) == 0


def test_two_inputs_by_position_and_by_name() -> None:
    net = mx.sym.broadcast_sub(mx.sym.Variable("left"), mx.sym.Variable("right"))
    arrays = {k: mx.nd.array(np.random.default_rng(i).standard_normal(SHAPE)) for i, k in enumerate(("left", "right"))}
    with compile_net(net, arrays, "left", "right") as made:
        expected = reference(net, arrays)[0]
        for found in (
            made(arrays["left"], arrays["right"]),
            made(arrays["left"], right=arrays["right"]),
            made(right=arrays["right"], left=arrays["left"]),
        ):
            assert relative_error(found, expected) < 1e-6


def test_numpy_values_and_another_dtype() -> None:
    net = mx.sym.relu(mx.sym.broadcast_add(mx.sym.Variable("data"), mx.sym.Variable("offset", shape=(1, 5))))
    offset = np.full((1, 5), 0.5, "float16")
    with mxnet_trt_property.compile(
        net, {"offset": offset, "of_another_network": offset}, {}, {"data": SHAPE}, dtypes={"data": "float16"},
        engine="onnxruntime",
    ) as made:  # fmt: skip
        data = np.random.default_rng(0).standard_normal(SHAPE).astype("float16")
        assert made(data).dtype == np.float16
        assert np.array_equal(made(data), np.maximum(data + offset, 0))


def test_the_variables_are_the_defaults(arrays: dict[str, Any]) -> None:
    with backend(None, MXNET_TENSORRT_ENGINE="onnxruntime", MXNET_TENSORRT_EXCLUDE_OPS="Activation"):
        with pytest.raises(CompileError, match="relu1.*EXCLUDE_OPS"):
            compile_net(mlp(), arrays, "data", engine=None)
        assert compile_net(mlp(), arrays, "data", engine=None, exclude_ops="").engine == "onnxruntime"


# ---- bind ----


@pytest.mark.parametrize("kind", ["numpy", "ndarray"])
def test_bound_reads_what_is_in_its_arrays(model: CompiledModel, arrays: dict[str, Any], kind: str) -> None:
    data = arrays["data"].asnumpy() if kind == "numpy" else arrays["data"].copy()
    bound = model.bind(data)
    found = bound()
    assert found is bound.outputs is bound()
    first = found.copy()
    data[:] = data + 1
    if kind == "ndarray":
        data.wait_to_read()
    assert relative_error(bound(), model(data)) == 0
    assert relative_error(first, found) > 1e-3
    assert bound.bare() is None


def test_bound_writes_the_outputs_it_was_given(model: CompiledModel, arrays: dict[str, Any], expected: Any) -> None:
    out = np.zeros((2, 3), "float32")
    bound = model.bind(data=arrays["data"], out=out)
    assert bound() is out
    assert relative_error(out, expected.asnumpy()) < 1e-6


def test_bound_pins_its_arrays_and_replays_the_captured_run(
    model: CompiledModel, arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    class Runner:
        def pin(self, addresses: list[int]) -> None:
            calls.append(("pin", *addresses))

        def unpin(self) -> None:
            calls.append("unpin")

        def run(self, inputs: Any, outputs: Any, stream: int) -> None:
            calls.append("run")

        def bare(self, inputs: Any, outputs: Any, stream: int) -> Any:
            return lambda: calls.append("replay")

        def close(self) -> None:
            calls.append("close")

    model._idle.take((Device("cpu", 0, 0), None))
    monkeypatch.setattr(model._program, "runner", lambda device: Runner())
    data, out = arrays["data"].asnumpy(), np.zeros((2, 3), "float32")
    bound = model.bind(data, out=out)
    for _ in range(3):
        bound()
    assert calls == [("pin", data.ctypes.data, out.ctypes.data), "run", "replay", "replay"]
    calls.clear()
    del bound
    assert calls == ["unpin"]
    bound = model.bind(data, out=out)
    bound()
    bound()
    model.close()
    calls.clear()
    bound()
    assert calls == ["run"]  # the real runner raises: it is closed, and its replay is gone


# ---- refusals ----


def test_every_node_that_stops_the_compilation_is_listed() -> None:
    net = mx.sym.gammaln(split_net(), name="second")
    arrays = random_arrays(net, {"data": SHAPE})
    with pytest.raises(CompileError, match=r"2 of 6 nodes(.|\n)*wave \(gammaln\): .*\n.*second \(gammaln\)") as caught:
        compile_net(net, arrays, "data")
    assert [(name, op) for name, op, _ in caught.value.refused] == [("wave", "gammaln"), ("second", "gammaln")]
    assert "MXNET_SUBGRAPH_BACKEND" in str(caught.value)


def test_a_missing_value_is_named(arrays: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match=r"neither a value nor a shape.*fc1_bias, fc2_weight"):
        mxnet_trt_property.compile(
            mlp(), {k: arrays[k] for k in ("fc1_weight", "fc2_bias")}, {}, {"data": SHAPE}, engine="onnxruntime"
        )


def test_contradicting_shapes(arrays: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match="contradict"):
        mxnet_trt_property.compile(mlp(), split(mlp(), arrays, "data")[0], {}, {"data": (2, 7)})


def test_a_name_that_the_network_does_not_have(arrays: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match="found: image"):
        mxnet_trt_property.compile(mlp(), split(mlp(), arrays)[0], {}, {"image": SHAPE})


def test_something_else_than_a_symbol() -> None:
    with pytest.raises(CompileError, match=r"found: Dense.*mx\.sym\.Symbol"):
        mxnet_trt_property.compile(mx.gluon.nn.Dense(3), {}, {}, {"data": SHAPE})


def test_settings_are_checked(arrays: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="one of auto"):
        compile_net(mlp(), arrays, "data", engine="nothing")
    with pytest.raises(SettingError, match="PRECISION|precision"):
        compile_net(mlp(), arrays, "data", precision="fp7")
    with pytest.raises(SettingError, match="does not have"):
        compile_net(mlp(), arrays, "data", speed="high")


def test_an_engine_that_was_named_is_not_replaced(arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(registry.get("tensorrt")), "unusable", lambda self, device: "out of order")
    with pytest.raises(EngineError, match=r"on engine tensorrt .*out of order"):
        compile_net(mlp(), arrays, "data", engine="tensorrt")


def test_auto_goes_on_to_the_next_engine(
    arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def build(self: Any, *arguments: Any) -> Any:
        raise EngineError(f"{self.name} is out of order")

    monkeypatch.setattr(type(registry.get("tensorrt")), "unusable", lambda self, device: None)
    monkeypatch.setattr(type(registry.get("tensorrt")), "build", build)
    with compile_net(mlp(), arrays, "data", engine="auto") as made:
        assert made.engine == "onnxruntime"
    texts = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any("tensorrt_rtx is out of order" in text and "onnxruntime" in text for text in texts)
    with pytest.raises(EngineError, match="tensorrt is out of order"):
        compile_net(mlp(), arrays, "data", engine="auto", on_error="raise")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((3, 5), "float32"), r"input 'data' .*found: float32 \(3, 5\).*required: float32 \(2, 5\)"),
        (np.zeros(SHAPE), "found: float64"),
        (np.zeros((5, 2), "float32").T, "C-contiguous"),
        (np.zeros((4, 5), "float32")[::2], "C-contiguous"),
        ([[0.0] * 5] * 2, r"is no array.*found: builtins\.list"),
        (mx.nd.zeros(SHAPE, dtype="float16"), "found: float16"),
        (mx.nd.zeros(SHAPE).tostype("csr"), "sparse"),
        (Foreign(np.zeros((5, 2), "float32").T), "C-contiguous"),
        (Foreign(np.zeros(SHAPE, "complex64")), "type code 5"),
        (Foreign(np.zeros(SHAPE, "float32"), (10, 0)), "DLPack device type 10"),
    ],
)
def test_arrays_that_do_not_fit(model: CompiledModel, array: Any, text: str) -> None:
    with pytest.raises(ArrayError, match=text):
        model(array)


def test_outputs_that_do_not_fit(model: CompiledModel, arrays: dict[str, Any]) -> None:
    with pytest.raises(ArrayError, match="output 'fc2_output'"):
        model(arrays["data"], out=np.zeros((2, 4), "float32"))
    locked = np.zeros((2, 3), "float32")
    locked.flags.writeable = False
    with pytest.raises(ArrayError, match="read-only"):
        model(arrays["data"], out=locked)


def test_wrong_names_and_numbers_of_inputs(model: CompiledModel, arrays: dict[str, Any]) -> None:
    data = arrays["data"]
    for arguments, named in (((), {}), ((data, data), {}), ((), {"dta": data}), ((data,), {"data": data})):
        with pytest.raises(ArrayError, match=r"wrong inputs.*required: 1: data"):
            model(*arguments, **named)


def test_a_closed_model_says_so(model: CompiledModel, arrays: dict[str, Any]) -> None:
    bound = model.bind(arrays["data"])
    model(arrays["data"])
    model.close()
    model.close()
    for call in (lambda: model(arrays["data"]), bound, lambda: model.bind(arrays["data"])()):
        with pytest.raises(EngineError, match="closed"):
            call()


# ---- memory and threads ----


def living_ndarrays() -> int:
    gc.collect()
    return sum(isinstance(o, mx.nd.NDArray) for o in gc.get_objects())  # MXNet's class allows no weak references


def test_no_array_of_mxnets_is_kept() -> None:
    before = living_ndarrays()
    net = conv_bn()
    arrays = random_arrays(net, {"data": (2, 3, 8, 8)})
    assert living_ndarrays() > before
    data = arrays["data"].asnumpy()
    with compile_net(net, arrays, "data") as made:
        expected = made(mx.nd.array(data)).asnumpy()
        del arrays
        assert living_ndarrays() == before
        assert np.array_equal(made(data), expected)


def test_several_threads_at_once(model: CompiledModel, arrays: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    inputs = [rng.standard_normal(SHAPE).astype("float32") for _ in range(4)]
    wanted = [model(x) for x in inputs]
    barrier = threading.Barrier(len(inputs))
    wrong: list[int] = []

    def work(index: int) -> None:
        barrier.wait()
        for _ in range(200):
            if not np.array_equal(model(inputs[index]), wanted[index]):
                wrong.append(index)

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    # Threads that ended left their runners to those after them: one for this thread, one for each of the four.
    assert len(model._seats) <= 1 + len(inputs)


def test_no_lock_is_held_while_the_engine_runs(model: CompiledModel, arrays: dict[str, Any]) -> None:
    data = arrays["data"].asnumpy()
    inside, leave = threading.Event(), threading.Event()
    seat = model._seat(Device("cpu", 0, 0))
    run = seat.runner.run

    def slow(*arguments: Any) -> None:
        inside.set()
        assert leave.wait(20)
        run(*arguments)

    def work() -> None:
        mine = model._seat(Device("cpu", 0, 0))
        mine.runner = type("Slow", (), {"run": staticmethod(slow), "close": lambda self: None})()
        model(data)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(20)
    model(data)
    leave.set()
    thread.join()


class FakeDriver:
    """What compiled models ask of the CUDA driver."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_device(self, index: int) -> Any:
        return contextlib.nullcontext()

    def stream_create(self) -> int:
        return 77

    def stream_destroy(self, stream: int) -> None:
        self.calls.append(("destroy", stream))

    def synchronize(self, stream: int) -> None:
        self.calls.append(("synchronize", stream))


def test_arrays_on_a_gpu(arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(cuda_driver, "default", lambda: driver)
    runs: list[tuple[Device, tuple[Buffer, ...], int]] = []

    class Runner:
        def __init__(self, device: Device) -> None:
            self.device = device

        def run(self, inputs: Any, outputs: Any, stream: int) -> None:
            runs.append((self.device, (*inputs, *outputs), stream))

        def close(self) -> None:
            pass

    made = compile_net(mlp(), arrays, "data")
    monkeypatch.setattr(made._program, "runner", Runner)
    data = Foreign(arrays["data"].asnumpy(), (2, 1))
    found = made(data)
    assert found.device == (2, 1)
    device, buffers, stream = runs[-1]
    assert (device, stream) == (Device("gpu", 1, 1), 77)
    assert [b.address for b in buffers] == [data.array.ctypes.data, found.array.ctypes.data]
    assert (data.streams, found.streams) == ([77], [77])  # both libraries put our stream behind what they had queued
    assert driver.calls == [("synchronize", 77)]

    made(data, stream=5)
    assert runs[-1][2] == 5
    assert data.streams[-1] == 5
    made(data, stream=0)
    assert data.streams[-1] == 1  # DLPack's word for the legacy default stream
    assert driver.calls == [("synchronize", 77)]

    bound = made.bind(data, stream=9)
    bound()
    assert runs[-1][2] == 9
    made.bind(data)()
    assert driver.calls[-1] == ("synchronize", 77)
    with pytest.raises(ArrayError, match=r"several devices.*data on gpu\(1\), fc2_output on cpu\(0\)"):
        made(data, out=np.zeros((2, 3), "float32"))


def test_names_of_the_package() -> None:
    assert mxnet_trt_property.compile is compiled.compile
    assert mxnet_trt_property.load is compiled.load
    with pytest.raises(AttributeError, match="nothing_here"):
        mxnet_trt_property.nothing_here  # noqa: B018
