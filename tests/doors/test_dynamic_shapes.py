"""One engine for a range of shapes, through every door: MXNet's results at each size, and one build for all of them."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

import mxnet_trt_property
from mxnet_trt_property import programs
from mxnet_trt_property.compiled import ArrayError, CompileError
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from mxnet_trt_property.errors import SettingError
from tests.models import sequences, zoo
from tests.models.test_models import run
from tests.symbols import backend, conv_bn, mlp, random_arrays, relative_error, split_net

BATCH = {"MXNET_TENSORRT_MAX_BATCH_SIZE": "8"}
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[bytes, Any]]]:
    """The models that were built, each with its profile; none is taken from the cache on disk."""
    monkeypatch.setenv("MXNET_TENSORRT_CACHE", "0")
    models: list[tuple[bytes, Any]] = []
    build = OnnxRuntimeEngine.build

    def recording(self: Any, model: bytes, options: Any, *rest: Any) -> Any:
        models.append((model, options.profile))
        return build(self, model, options, *rest)

    monkeypatch.setattr(OnnxRuntimeEngine, "build", recording)
    programs.clear()
    yield models
    programs.clear()
    gc.collect()  # blocks are cycles: their states must not end in the middle of another test


def images(count: int, seed: int = 0) -> Any:
    return mx.nd.array(np.random.default_rng(seed).standard_normal((count, 3, 8, 8)))


def stock(symbol: Any, arrays: dict[str, Any], **data: Any) -> list[Any]:
    """Returns stock MXNet's outputs with these parameters and data."""
    with backend("NONE"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **{k: v.shape for k, v in data.items()})
    executor.copy_params_from(
        {k: v for k, v in arrays.items() if k in executor.arg_dict and k not in data and "label" not in k},
        {k: v for k, v in arrays.items() if k in executor.aux_dict},
    )
    return [o.copy() for o in executor.forward(is_train=False, **data)]


def bind(symbol: Any, arrays: dict[str, Any], **shapes: tuple[int, ...]) -> Any:
    """Returns an executor with TensorRT nodes and these parameters."""
    with backend("TensorRT"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    assert tensorrt_nodes(executor)
    for name, target in {**executor.arg_dict, **executor.aux_dict}.items():
        if name in arrays and name not in shapes and "label" not in name:
            target[:] = arrays[name]
    return executor


def tensorrt_nodes(executor: Any) -> list[str]:
    nodes = json.loads(executor.get_optimized_symbol().tojson())["nodes"]
    return [node["name"] for node in nodes if node["op"] == "_TensorRT"]


def assert_same(found: Any, expected: Any) -> None:
    for ours, theirs in zip(found, expected):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) < TOLERANCE


# ---- the doors ----


def test_reshape_up_and_down(built: list[Any]) -> None:
    arrays = random_arrays(conv_bn(), {"data": (3, 3, 8, 8)})
    with backend("TensorRT", **BATCH):
        executor = bind(conv_bn(), arrays, data=(3, 3, 8, 8))
        for count in (3, 5, 1, 8, 2):
            executor = executor.reshape(partial_shaping=True, allow_up_sizing=True, data=(count, 3, 8, 8))
            assert tensorrt_nodes(executor)
            assert_same(
                executor.forward(is_train=False, data=images(count)), stock(conv_bn(), arrays, data=images(count))
            )
    assert [profile for _, profile in built] == [(((1, 3, 8, 8), (8, 3, 8, 8), (8, 3, 8, 8)),)]
    assert sum(report.builds for report in mxnet_trt_property.reports()) <= 1


def test_executors_of_each_size_share_one_engine(built: list[Any]) -> None:
    arrays = random_arrays(mlp(), {"data": (1, 5)})
    executors = []
    with backend("TensorRT", **BATCH):
        for count in range(1, 9):
            executors.append(bind(mlp(), arrays, data=(count, 5)))
            executor = executors[-1]
            data = mx.nd.random.normal(shape=(count, 5))
            assert_same(executor.forward(is_train=False, data=data), stock(mlp(), arrays, data=data))
    assert len(built) == 1
    # A weight that is written is seen by each of them, and shared again.
    for executor in executors:
        executor.arg_dict["fc1_weight"][:] = 2
    arrays["fc1_weight"][:] = 2
    for count in (1, 8):
        data = mx.nd.random.normal(shape=(count, 5))
        assert_same(executors[count - 1].forward(data=data), stock(mlp(), arrays, data=data))
    assert len(built) == 2


def test_two_nodes_with_mxnet_between_them(built: list[Any]) -> None:
    arrays = random_arrays(split_net(), {"data": (2, 5)})
    with backend("TensorRT", MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="1", **BATCH):
        executor = bind(split_net(), arrays, data=(2, 5))
        for count in (2, 7, 1):
            executor = executor.reshape(allow_up_sizing=True, data=(count, 5))
            data = mx.nd.random.uniform(shape=(count, 5))
            assert len(tensorrt_nodes(executor)) == 2
            assert_same(executor.forward(is_train=False, data=data), stock(split_net(), arrays, data=data))
    assert len(built) == 2


def test_module_with_a_short_last_batch(built: list[Any]) -> None:
    def predict(name: str) -> Any:
        with backend(name, **BATCH):
            mx.random.seed(1)
            module = mx.mod.Module(conv_bn(), label_names=["softmax_label"])
            module.bind([("data", (4, 3, 8, 8))], [("softmax_label", (4,))], for_training=False)
            module.init_params(mx.init.Xavier())
            outputs = []
            for count in (4, 4, 2, 4, 3):
                module.forward(mx.io.DataBatch([images(count, count)], [mx.nd.zeros(count)]), is_train=False)
                outputs.append(module.get_outputs()[0].copy())
            return outputs

    assert_same(predict("TensorRT"), predict("NONE"))
    assert len(built) == 1


def sentence(length: int) -> tuple[Any, list[str], list[str]]:
    """Returns a network over words (N, T), and its inputs' names: embedding, LSTM, a class for the last word."""
    data = mx.sym.var("data")
    words = mx.sym.Embedding(data, input_dim=20, output_dim=6, name="words")
    steps = mx.sym.transpose(words, axes=(1, 0, 2))
    states = [mx.sym.zeros((1, 0, 5)), mx.sym.zeros((1, 0, 5))]
    hidden = mx.sym.RNN(
        steps,
        mx.sym.var("lstm_weight", shape=(2 * 4 * 5 + 4 * 5 * 11,)),
        *states,
        state_size=5,
        num_layers=1,
        mode="lstm",
        name="lstm",
    )
    last = mx.sym.SequenceLast(hidden)
    return mx.sym.softmax(mx.sym.FullyConnected(last, num_hidden=4, name="fc")), ["data"], []


def test_bucketing_module_over_lengths_and_batches(built: list[Any]) -> None:
    def predict(name: str) -> Any:
        profiles = "{'data': ((1, 2), (4, 8), (4, 12))}"
        with backend(name, MXNET_TENSORRT_PROFILES=profiles):
            mx.random.seed(2)
            module = mx.mod.BucketingModule(sentence, default_bucket_key=12)
            module.bind([mx.io.DataDesc("data", (4, 12))], for_training=False)
            module.init_params(mx.init.Uniform(0.5))
            outputs = []
            for count, length in ((4, 12), (4, 5), (4, 2), (2, 12), (4, 7)):
                words = mx.nd.array(np.random.RandomState(length).randint(0, 20, (count, length)))
                described = [mx.io.DataDesc("data", words.shape)]
                batch = mx.io.DataBatch([words], bucket_key=length, provide_data=described)
                module.forward(batch, is_train=False)
                outputs.append(module.get_outputs()[0].copy())
            return outputs

    assert_same(predict("TensorRT"), predict("NONE"))
    assert [profile for _, profile in built] == [(((1, 2), (4, 8), (4, 12)),)]


def network() -> Any:
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.Flatten(), nn.Dense(5))
    net.initialize(mx.init.Xavier())
    net(images(2))
    return net


@pytest.mark.parametrize("static", [False, True])
def test_hybridize(built: list[Any], static: bool) -> None:
    net = network()
    counts = (3, 1, 8, 3, 5)
    expected = [net(images(count, count)) for count in counts]
    net.hybridize(backend="TensorRT", static_alloc=static, static_shape=static, max_batch_size=8)
    for count, right in zip(counts, expected):
        assert_same([net(images(count, count))], [right])
    assert len(built) == 1
    net.hybridize(backend="TensorRT", profiles={"data": ((1, 3, 8, 8), (4, 3, 8, 8), (6, 3, 8, 8))})
    assert_same([net(images(2))], [stock_of(net, images(2))])
    assert built[-1][1] == (((1, 3, 8, 8), (4, 3, 8, 8), (6, 3, 8, 8)),)


def stock_of(net: Any, data: Any) -> Any:
    """Returns what a block gives without TensorRT."""
    active = net._active
    net._active = False
    try:
        return net(data)
    finally:
        net._active = active


def test_block_optimize_for(built: list[Any]) -> None:
    net = network()
    expected = {count: net(images(count)) for count in (2, 6)}
    net.optimize_for(images(2), backend="TensorRT", max_batch_size=8)
    for count, right in expected.items():
        assert_same([net(images(count))], [right])
    assert len(built) == 1


def test_symbol_optimize_for_with_frozen_weights(built: list[Any], tmp_path: Any) -> None:
    arrays = random_arrays(conv_bn(), {"data": (2, 3, 8, 8)})
    states = conv_bn().list_auxiliary_states()
    args, aux = ({k: v for k, v in arrays.items() if (k in states) == flag} for flag in (False, True))
    profiles = {"data": [[1, 3, 8, 8], [2, 3, 8, 8], [8, 3, 8, 8]]}
    symbol = conv_bn().optimize_for("TensorRT", args, aux, mx.cpu(), profiles=profiles)
    symbol.save(str(tmp_path / "symbol.json"))
    for each in (symbol, mx.sym.load(str(tmp_path / "symbol.json"))):
        for count in (2, 8, 1):
            executor = each.bind(mx.cpu(), {"data": images(count), "softmax_label": mx.nd.zeros(count)})
            assert_same(executor.forward(is_train=False), stock(conv_bn(), arrays, data=images(count)))
    assert len(built) == 1


def test_compile(built: list[Any], tmp_path: Any) -> None:
    arrays = random_arrays(conv_bn(), {"data": (2, 3, 8, 8)})
    states = conv_bn().list_auxiliary_states()
    args, aux = ({k: v for k, v in arrays.items() if (k in states) == flag} for flag in (False, True))
    profile = ((1, 3, 8, 8), (4, 3, 8, 8), (9, 3, 8, 8))
    del args["data"], args["softmax_label"]
    model = mxnet_trt_property.compile(conv_bn(), args, aux, profiles={"data": profile}, engine="onnxruntime")
    assert model.profiles == {"data": profile}
    assert model.inputs[0].shape == (4, 3, 8, 8)
    model.save(tmp_path / "model")
    loaded = mxnet_trt_property.load(tmp_path / "model", engine="onnxruntime")
    for count in (4, 1, 9, 2, 4):
        data = images(count, count)
        expected = stock(conv_bn(), arrays, data=data)
        for each in (model, loaded):
            assert_same([each(data)], expected)
            assert_same([each.bind(data)()], expected)
            assert np.abs(each(data.asnumpy()) - expected[0].asnumpy()).max() < TOLERANCE
    assert [shapes for _, shapes in built] == [(profile,)] * 2
    for shape in ((10, 3, 8, 8), (2, 3, 8, 9), (2, 3, 8)):
        with pytest.raises(ArrayError, match=r"not compiled for.*\(1, 3, 8, 8\) to \(9, 3, 8, 8\)"):
            model(np.zeros(shape, np.float32))


# ---- networks ----


def batches(build: Callable[..., Any]) -> Callable[[int], Any]:
    return lambda count: build(batch=count)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda count: zoo.vision("resnet18_v2", batch=count, size=32), id="resnet18"),
        pytest.param(batches(sequences.bert), id="bert"),
        pytest.param(batches(sequences.crnn), id="lstm"),
        pytest.param(batches(sequences.attention_step), id="attention"),
        pytest.param(batches(sequences.forecaster), id="forecaster", marks=pytest.mark.slow),
    ],
)
def test_network_at_each_batch_and_its_engine(make: Any, built: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MAX_BATCH_SIZE", "4")
    parameters = make(4)
    for count in (4, 1, 3):
        here = make(count)._replace(arg_params=parameters.arg_params, aux_params=parameters.aux_params)
        here = here._replace(symbol=parameters.symbol)
        data = here.data()
        executor, found = run(here, "TensorRT", data)
        assert len(tensorrt_nodes(executor)) == 1
        assert_same(found, run(here, "NONE", data)[1])
    assert len(built) == 1
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this machine")
    from mxnet_trt_property.engines.trt_build import library

    model, profile = built[0]
    plan = library("tensorrt_rtx").build(model, "tensorrt0", profile=profile)
    assert any(-1 in spec.shape for spec in plan.inputs)


def test_the_lengths_of_a_bucketing_network_build_an_engine(built: list[Any]) -> None:
    test_bucketing_module_over_lengths_and_batches(built)
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this machine")
    from mxnet_trt_property.engines.trt_build import library

    plan = library("tensorrt_rtx").build(built[0][0], "tensorrt0", profile=built[0][1])
    assert plan.inputs[0].shape == (-1, -1)


def test_height_and_width_vary_on_their_own(built: list[Any]) -> None:
    arrays = random_arrays(conv_bn(), {"data": (2, 3, 8, 8)})
    profiles = "{'data': ((2, 3, 6, 6), (2, 3, 8, 8), (2, 3, 12, 12))}"
    with backend("TensorRT", MXNET_TENSORRT_PROFILES=profiles):
        for height, width in ((8, 8), (6, 12), (11, 7)):
            data = mx.nd.random.normal(shape=(2, 3, height, width))
            executor = bind(conv_bn(), arrays, data=data.shape)
            assert_same(executor.forward(is_train=False, data=data), stock(conv_bn(), arrays, data=data))
    assert len(built) == 1


def test_float16(built: list[Any]) -> None:
    arrays = random_arrays(conv_bn(), {"data": (2, 3, 8, 8)})
    with backend("TensorRT", MXNET_TENSORRT_PRECISION="fp16", **BATCH):
        for count in (2, 8, 1):
            executor = bind(conv_bn(), arrays, data=(count, 3, 8, 8))
            found = executor.forward(is_train=False, data=images(count))[0]
            assert relative_error(found, stock(conv_bn(), arrays, data=images(count))[0]) < 5e-3
    assert len(built) == 1


# ---- what no one engine can serve ----


def test_a_size_out_of_range_has_an_engine_of_its_own(built: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    arrays = random_arrays(mlp(), {"data": (2, 5)})
    with backend("TensorRT", **BATCH), caplog.at_level(logging.WARNING):
        for count in (9, 2, 9):
            executor = bind(mlp(), arrays, data=(count, 5))
            data = mx.nd.random.normal(shape=(count, 5))
            assert_same(executor.forward(data=data), stock(mlp(), arrays, data=data))
    assert [bool(profile) for _, profile in built] == [False, True]
    told = [r.message for r in caplog.records if "these shapes alone" in r.message]
    assert len(told) == 1
    assert "(9, 5)" in told[0]
    assert "(1, 5) to (8, 5)" in told[0]


def flips() -> Any:
    """Returns a network that a matrix of the batch's size multiplies: no constant of one size gives another's."""
    return mx.sym.diag(mx.sym.var("data")) * 2


def test_a_network_that_is_another_one_at_each_size(built: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    symbol = flips()
    with backend("TensorRT", **BATCH), caplog.at_level(logging.WARNING):
        for count in (2, 3, 2):
            data = mx.nd.random.normal(shape=(count,))
            executor = bind(symbol, {}, data=data.shape)
            assert_same(executor.forward(data=data), stock(symbol, {}, data=data))
    assert [profile for _, profile in built] == [(), ()]
    assert len([r for r in caplog.records if "one engine per shape, because node 'diag" in r.message]) == 1


def test_compile_says_why_no_engine_serves_all() -> None:
    with pytest.raises(CompileError, match=r"no one engine serves all shapes.*node 'diag.*next step: compile a model"):
        mxnet_trt_property.compile(flips(), {}, {}, profiles={"data": ((2,), (2,), (4,))}, engine="onnxruntime")


def test_compile_is_asked_for_a_range_by_options_only(built: list[Any]) -> None:
    arrays = random_arrays(mlp(), {"data": (2, 5)})
    args = {k: v for k, v in arrays.items() if k != "data"}
    with backend(None, MXNET_TENSORRT_MAX_BATCH_SIZE="8", MXNET_TENSORRT_ENGINE="onnxruntime"):
        fixed = mxnet_trt_property.compile(mlp(), args, {}, {"data": (16, 5)})
        assert fixed(np.ones((16, 5), np.float32)).shape == (16, 3)
        ranged = mxnet_trt_property.compile(mlp(), args, {}, {"data": (2, 5)}, max_batch_size=4)
    assert ranged.profiles == {"data": ((1, 5), (4, 5), (4, 5))}
    assert ranged(np.ones((3, 5), np.float32)).shape == (3, 3)


def test_a_batch_that_the_network_cannot_have(caplog: pytest.LogCaptureFixture, built: list[Any]) -> None:
    symbol = mx.sym.Reshape(mx.sym.var("data"), shape=(6, 2)) + mx.sym.var("other")
    with backend("TensorRT", **BATCH), caplog.at_level(logging.WARNING):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(3, 4), other=(6, 2))
        executor.forward()[0].wait_to_read()
    assert len(built) <= 1
    assert any("one engine per shape, because" in r.message for r in caplog.records)


def test_an_engine_that_cannot_build_ranges(
    built: list[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimeEngine, "takes_profiles", False)
    arrays = random_arrays(mlp("no_"), {"data": (2, 5)})
    with backend("TensorRT", **BATCH), caplog.at_level(logging.WARNING):
        for count in (2, 3):
            executor = bind(mlp("no_"), arrays, data=(count, 5))
            data = mx.nd.random.normal(shape=(count, 5))
            assert_same(executor.forward(data=data), stock(mlp("no_"), arrays, data=data))
    assert [profile for _, profile in built] == [(), ()]
    assert any("engine onnxruntime cannot have one for all of them" in r.message for r in caplog.records)


@pytest.mark.parametrize(
    "profiles",
    [
        "nonsense",
        "{'data': ((1, 5), (2, 5))}",
        "{'data': ((2, 5), (1, 5), (8, 5))}",
        "{'data': ((1,), (2, 5), (8, 5))}",
    ],
)
def test_profiles_that_are_not_valid(profiles: str) -> None:
    with pytest.raises(SettingError, match="profiles.*required: {'input'"):
        mlp().optimize_for("TensorRT", profiles=profiles)


def test_profiles_of_inputs_that_are_not_there() -> None:
    arrays = random_arrays(mlp(), {"data": (2, 5)})
    with pytest.raises(SettingError, match="names inputs that the network does not have.*dta"):
        mlp().optimize_for("TensorRT", arrays, {}, profiles={"dta": ((1, 5), (2, 5), (8, 5))})
    # As a variable it may be meant for another network of the program.
    with backend("TensorRT", MXNET_TENSORRT_PROFILES="{'dta': ((1, 5), (2, 5), (8, 5))}"):
        assert bind(mlp(), arrays, data=(2, 5))


# ---- how many engines are held ----


def test_the_least_recently_used_engine_goes(built: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_MAX_ENGINES", "2")
    arrays = random_arrays(mlp(), {"data": (1, 5)})
    executors = {count: bind(mlp(), arrays, data=(count, 5)) for count in (1, 2, 3)}

    def forward(count: int) -> None:
        data = mx.nd.random.normal(shape=(count, 5))
        assert_same(executors[count].forward(data=data), stock(mlp(), arrays, data=data))

    def held() -> list[bool]:
        return [e.tensorrt.sessions[0].report.engine_bytes > 0 for e in executors.values()]

    forward(1)
    forward(2)
    forward(1)
    forward(3)
    assert held() == [True, False, True]
    assert len(built) == 3
    forward(2)
    assert held() == [False, True, True]
    assert len(built) == 4
    forward(3)
    assert len(built) == 4


def test_freed_engines_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    build = OnnxRuntimeEngine.build

    def recording(self: Any, *arguments: Any) -> Any:
        program = build(self, *arguments)
        alive.add(program)
        return program

    monkeypatch.setattr(OnnxRuntimeEngine, "build", recording)
    monkeypatch.setenv("MXNET_TENSORRT_MAX_ENGINES", "3")
    net = network()
    net.hybridize(backend="TensorRT")
    for count in range(1, 9):
        net(images(count)).wait_to_read()
    gc.collect()
    assert len(alive) <= 3


# ---- the cache on disk ----

TWO_SIZES = """
import json, mxnet as mx, numpy as np
import mxnet_trt_property
data = mx.sym.Variable("data")
net = mx.sym.Convolution(data, kernel=(3, 3), num_filter=4, name="conv")
net = mx.sym.FullyConnected(mx.sym.Flatten(mx.sym.Activation(net, act_type="relu")), num_hidden=3, name="fc")
values, executors = [], []
for count in (2, 5):
    executor = net.simple_bind(mx.cpu(), grad_req="null", data=(count, 3, 6, 6))
    for array in executor.arg_arrays:
        array[:] = mx.nd.arange(array.size).reshape(array.shape) / array.size
    values += executor.forward()[0].asnumpy().ravel().tolist()
    executors.append(executor)
print(json.dumps([values, [(r.builds, r.loads) for r in mxnet_trt_property.reports()]]))
"""


def test_the_next_process_reads_the_engine_of_a_range(tmp_path: Path) -> None:
    variables = {"MXNET_TENSORRT_ENGINE": "onnxruntime", "MXNET_TENSORRT_CACHE_DIR": str(tmp_path)}

    def run(seed: str, **more: str) -> Any:
        process = subprocess.run(
            [sys.executable, "-c", TWO_SIZES],
            env={**os.environ, **variables, "MXNET_TENSORRT_CACHE": "1", "PYTHONHASHSEED": seed, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(process.stdout)

    on = {"MXNET_SUBGRAPH_BACKEND": "TensorRT", "MXNET_TENSORRT_MAX_BATCH_SIZE": "8"}
    stock_values, _ = run("1", MXNET_SUBGRAPH_BACKEND="NONE")
    first, built = run("1", **on)
    second, read = run("2", **on)
    assert built == [[1, 0], [0, 0]]
    assert read == [[0, 1], [0, 0]]
    np.testing.assert_allclose(first, stock_values, rtol=1e-5)
    assert second == first
    _, other = run("3", **{**on, "MXNET_TENSORRT_MAX_BATCH_SIZE": "16"})
    assert other == [[1, 0], [0, 0]]  # another range is another engine
