"""New weights for engines that are built: refitted, as a copy or in place, or built again, and never a mixture."""

from __future__ import annotations

import gc
import logging
import threading
from typing import Any

import mxnet as mx
import numpy as np
import onnx
import pytest

import mxnet_trt_property
from mxnet_trt_property import native, programs, session_table
from mxnet_trt_property.engines import trt, trt_refit
from mxnet_trt_property.engines.registry import Device, Options
from mxnet_trt_property.errors import EngineError
from tests.engines import models
from tests.engines.conftest import FakeCuda
from tests.engines.fake_tensorrt import State
from tests.symbols import backend, bound, conv_bn, fill, mlp, random_arrays, relative_error

pytestmark = pytest.mark.usefixtures("in_executors")

CPU = Device("cpu", 0)
SHAPES = {"data": (2, 3, 8, 8)}


class Twins:
    """A stock executor and one with TensorRT nodes that always get the same weights."""

    def __init__(self, symbol: Any, shapes: dict[str, tuple[int, ...]], seed: int = 0, **variables: str) -> None:
        self.symbol, self.shapes = symbol, shapes
        self.stock = bound(symbol, "NONE", shapes, seed)
        with backend("TensorRT", **variables):
            self.ours = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
        fill(self.ours, random_arrays(symbol, shapes, seed))

    @property
    def report(self) -> mxnet_trt_property.session.Report:
        """What the session of ours did."""
        return self.ours.tensorrt.sessions[0].report

    def give(self, seed: int) -> None:
        """Gives both new weights; the data stays."""
        arrays = random_arrays(self.symbol, self.shapes, seed)
        arrays["data"] = self.stock.arg_dict["data"]
        for executor in (self.stock, self.ours):
            fill(executor, arrays)

    def give_those_of(self, other: Twins) -> None:
        """Gives both the weights that other ones have."""
        arrays = {k: v for k, v in other.ours.arg_dict.items() if v.shape == self.ours.arg_dict[k].shape}
        for executor in (self.stock, self.ours):
            own = {name: array for name, array in executor.arg_dict.items() if name not in arrays}
            fill(executor, {**own, **arrays, **other.ours.aux_dict})

    def check(self) -> None:
        """Compares a forward of each."""
        assert relative_error(self.ours.forward()[0], self.stock.forward()[0]) < 1e-5


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns the warnings that were logged."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("symbol", [mlp, conv_bn], ids=["mlp", "conv_bn"])
def test_the_second_change_of_weights_refits(symbol: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mxnet_trt_property")
    twins = Twins(symbol(), {"data": (2, 5)} if symbol is mlp else SHAPES)
    for seed in range(12):
        twins.give(seed)
        for _ in range(3):
            twins.check()
    assert twins.report.engine == "tensorrt"
    assert (twins.report.builds, twins.report.refits) == (2, 10)
    assert State.refits == 10
    text = caplog.text
    assert "engine built again because it was built without the means to change its weights" in text
    assert text.count("tensorrt engine refitted in ") == 10
    assert not warnings(caplog)
    calls = native.callback_count()
    twins.check()
    assert native.callback_count() == calls, "a refitted engine is captured and replayed like any other"


def test_always_and_never(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mxnet_trt_property")
    for mode, expected in (("always", (1, 3)), ("never", (4, 0))):
        twins = Twins(conv_bn(), SHAPES, seed=40, MXNET_TENSORRT_REFIT=mode)
        for seed in range(4):
            twins.give(seed + 50)
            twins.check()
        assert (twins.report.builds, twins.report.refits) == expected, mode
        del twins
        gc.collect()
        programs.clear()
    assert "built again because MXNET_TENSORRT_REFIT is 'never'" in caplog.text


def test_weights_that_were_there_before_need_neither() -> None:
    twins, other = (Twins(conv_bn(), SHAPES, seed=1, MXNET_TENSORRT_REFIT="always") for _ in range(2))
    twins.check()
    other.check()
    assert (other.report.builds, other.report.refits) == (0, 0)
    twins.give(2)
    twins.check()
    other.give(2)
    other.check()
    assert (other.report.builds, other.report.refits) == (0, 0)


def test_who_shares_an_engine_keeps_the_old_weights() -> None:
    """Two executors of one program; only one gets new weights, while the other one runs on a thread."""
    first, second = (Twins(conv_bn(), SHAPES, seed=3, MXNET_TENSORRT_REFIT="always") for _ in range(2))
    first.check()
    second.check()
    assert State.builds - 1 == 1, "the probe and one engine for both"
    old = second.stock.forward()[0].asnumpy()
    wrong: list[float] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            wrong.append(relative_error(second.ours.forward()[0], old))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for seed in range(10, 16):
            first.give(seed)
            first.check()
    finally:
        stop.set()
        thread.join()
    assert wrong
    assert max(wrong) < 1e-5
    assert (first.report.builds, first.report.refits) == (1, 6)
    assert State.refits == 6
    second.give(30)
    second.check()
    first.check()
    assert (second.report.builds, second.report.refits) == (0, 1)


def test_executors_that_share_their_arrays() -> None:
    symbol = conv_bn()
    arrays = random_arrays(symbol, SHAPES)
    names = symbol.list_arguments(), symbol.list_auxiliary_states()
    args, auxs = ({name: arrays[name] for name in group} for group in names)
    with backend("NONE"):
        stock = symbol.bind(mx.cpu(), args, grad_req="null", aux_states=auxs)
    with backend("TensorRT"):
        ours = [symbol.bind(mx.cpu(), args, grad_req="null", aux_states=auxs) for _ in range(2)]
    for seed in range(4):
        for name, array in random_arrays(symbol, SHAPES, seed).items():
            arrays[name][:] = array
        expected = stock.forward()[0]
        for executor in ours:
            for _ in range(2):
                assert relative_error(executor.forward()[0], expected) < 1e-5
    reports = [executor.tensorrt.sessions[0].report for executor in ours]
    assert sum(r.builds for r in reports) == 2
    assert sum(r.refits for r in reports) == 2


@pytest.mark.parametrize("fault", ["cannot_build_refittable", "hidden_weights", "refit_fails"])
def test_what_cannot_be_refitted_is_built_again(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mxnet_trt_property")
    twins = Twins(mlp(), {"data": (2, 5)})
    twins.check()
    hidden = next(w.name for w in twins.ours.tensorrt.sessions[0].graph.model.weights if "bias" in w.name)
    monkeypatch.setattr(State, fault, (hidden,) if fault == "hidden_weights" else True)
    for seed in range(5):
        twins.give(seed + 1)
        twins.check()
        twins.check()
    assert twins.report.engine == "tensorrt"
    assert (twins.report.builds, twins.report.refits) == (6, 0)
    assert not warnings(caplog), "an engine that is built again is no fault of the program"
    reason = {
        "cannot_build_refittable": "no engine that can take new weights could be made",
        "hidden_weights": f"weights that the engine does not list: {hidden}",
        "refit_fails": "the fake refitter was told to fail",
    }[fault]
    assert f"built again because {reason}" in caplog.text or reason in caplog.text
    if fault != "refit_fails":
        # Tried at the first change, and then known: one build for each change.
        assert State.builds - 1 == 1 + 2 + 4


def test_onnx_runtime_builds_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mxnet_trt_property")
    twins = Twins(conv_bn(), SHAPES, MXNET_TENSORRT_ENGINE="onnxruntime")
    for seed in range(3):
        twins.give(seed)
        twins.check()
    assert (twins.report.engine, twins.report.builds, twins.report.refits) == ("onnxruntime", 3, 0)
    assert "built again because ONNX Runtime cannot change the weights of a session" in caplog.text


def test_where_kernels_overlap_wrongly_engines_are_built_again(
    engine: trt.TensorRTEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fake GPUs are of compute capability 9.0."""
    caplog.set_level(logging.INFO, "mxnet_trt_property")
    monkeypatch.setattr(engine._library, "title", "TensorRT-RTX")
    for trusted in (False, True):
        monkeypatch.setattr(trt_refit, "TRUST_OVERLAPPING_KERNELS", trusted)
        twins = Twins(mlp(), {"data": (2, 5)}, MXNET_TENSORRT_REFIT="always")
        for seed in range(3):
            twins.give(seed + 10 * trusted)
            twins.check()
        assert (twins.report.builds, twins.report.refits) == ((1, 2) if trusted else (3, 0))
    assert "99.0 lets kernels overlap that must not on GPU 0 (Fake H100, compute capability 9.0)" in caplog.text


def test_float16_is_refitted_with_the_rewritten_model() -> None:
    twins = Twins(conv_bn(), SHAPES, MXNET_TENSORRT_PRECISION="fp16", MXNET_TENSORRT_REFIT="always")
    for seed in range(4):
        twins.give(seed)
        assert relative_error(twins.ours.forward()[0], twins.stock.forward()[0]) < 5e-3
    assert twins.report.engine == "tensorrt"
    assert twins.report.builds + twins.report.refits == 4
    assert twins.report.refits


def test_a_model_that_differs_in_more_than_weights_does_not_fit() -> None:
    model = models.convnet()
    outline = trt_refit.outline(model)
    proto = onnx.load_from_string(model)
    tensor = next(t for t in proto.graph.initializer if t.name in outline.weights)
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values + 1, tensor.name))
    assert outline.misfit(trt_refit.outline(proto.SerializeToString())) == ""
    tensor.doc_string = "another structure"
    assert "the ONNX model itself differs" in outline.misfit(trt_refit.outline(proto.SerializeToString()))
    bound_ = onnx.load_from_string(model)
    bound_.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.float32(1), "scalar"))
    first = trt_refit.outline(bound_.SerializeToString())
    bound_.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(np.float32(2), "scalar"))
    assert "no refittable weights differ: scalar" in first.misfit(trt_refit.outline(bound_.SerializeToString()))


def test_a_refitted_engine_is_not_loaded_elsewhere_with_its_old_weights(engine: trt.TensorRTEngine) -> None:
    program = engine.build(models.convnet(), Options(refittable=True), CPU, "tensorrt0")
    assert program.no_refit == ""
    program.refit(models.convnet(), ())
    program.runner(CPU).close()
    with pytest.raises(EngineError, match="new weights, which were given to it on GPU 0 only"):
        program.runner(Device("cpu", 0, 1))
    program.close()


def test_the_arrays_of_an_executor_stay_pinned_through_a_refit(cuda: FakeCuda) -> None:
    twins = Twins(conv_bn(), {"data": (16, 3, 32, 32)}, MXNET_TENSORRT_REFIT="always")
    for seed in range(3):
        twins.give(seed)
        twins.check()
        assert cuda.pins() == 1
    del twins
    gc.collect()
    assert cuda.pins() == 0


def test_a_gluon_block_is_refitted() -> None:
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(4, 3, in_channels=3), mx.gluon.nn.BatchNorm(in_channels=4), mx.gluon.nn.Dense(3))
    net.initialize()
    x = mx.nd.array(np.random.default_rng(0).standard_normal(SHAPES["data"]))
    net(x)
    ids = {id(s) for s in session_table._sessions.values()}
    found: dict[str, list[Any]] = {"stock": [], "ours": []}
    for name, results in found.items():
        if name == "ours":
            net.hybridize(backend="TensorRT", static_alloc=True, static_shape=True)
        for seed in range(5):
            rng = np.random.default_rng(seed)
            for parameter in net.collect_params().values():
                parameter.set_data(mx.nd.array(np.abs(rng.standard_normal(parameter.shape)) + 0.5))
            results.extend(net(x).asnumpy() for _ in range(2))
    for ours, stock in zip(found["ours"], found["stock"]):
        assert relative_error(ours, stock) < 1e-5
    made = [s for s in session_table._sessions.values() if id(s) not in ids]
    assert {s.report.engine for s in made} == {"tensorrt"}
    assert sum(s.report.refits for s in made) >= 3


def test_the_real_library_builds_with_the_flag() -> None:
    """TensorRT for RTX needs a GPU for a refittable convolution; for a node without weights it does not."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX builds without a GPU, and is not installed")
    library = trt.library("tensorrt_rtx")
    plan = library.build(models.relu(), "the model", refittable=True)
    assert plan.outline is not None
    assert not plan.outline.weights
    assert library.build(models.relu(), "the model").outline is None
    assert trt_refit.outline(models.convnet()).weights
    for name in ("Refitter", "OnnxParserRefitter"):
        assert hasattr(library.module(), name)


RANGE = {"MXNET_TENSORRT_MAX_BATCH_SIZE": "8", "MXNET_TENSORRT_REFIT": "always"}


def test_an_engine_of_a_range_is_refitted_for_all_sizes() -> None:
    twins = Twins(conv_bn(), {"data": (2, 3, 8, 8)}, **RANGE)
    for seed in range(3):
        twins.give(seed)
        twins.check()
        twins.check()
    assert (twins.report.builds, twins.report.refits) == (1, 2)
    other = Twins(conv_bn(), {"data": (5, 3, 8, 8)}, **RANGE)
    other.give_those_of(twins)
    other.check()
    assert (other.report.builds, other.report.refits) == (0, 0), "it runs the refitted engine"
    other.give(7)  # the other session still has it: a copy is refitted
    for _ in range(2):
        other.check()
        twins.check()
    assert (other.report.builds, other.report.refits) == (0, 1)
    twins.give_those_of(other)
    twins.check()
    assert (twins.report.builds, twins.report.refits) == (1, 2), "it has become the other's"


def test_weights_that_change_when_the_engine_was_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MAX_ENGINES", "1")
    first, second = (Twins(conv_bn(), SHAPES, seed, MXNET_TENSORRT_REFIT="always") for seed in (0, 1))
    for seed in range(3, 9, 2):
        first.give(seed)
        second.give(seed + 1)
        for twins in (first, second, first):
            twins.check()
    assert sum(twins.report.engine_bytes > 0 for twins in (first, second)) == 1


def test_threads_that_change_weights_and_free_each_others_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MAX_ENGINES", "1")
    every = [Twins(conv_bn(), {"data": (count, 3, 8, 8)}, count, **RANGE) for count in (1, 2, 5)]
    failures: list[BaseException] = []

    def work(twins: Twins) -> None:
        try:
            for seed in range(6):
                twins.give(seed)
                twins.check()
                twins.check()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(twins,)) for twins in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
