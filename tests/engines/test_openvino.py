"""The engine of another package: found by its entry point, chosen by its name, and used by all doors and commands."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

import mxnet_trt_property
from mxnet_trt_property import programs, settings
from mxnet_trt_property.engines import Device, EngineError, Options, registry, testing
from mxnet_trt_property.errors import SettingError
from tests.cli.networks import save
from tests.engines import models
from tests.models import sequences
from tests.models.build import from_gluon
from tests.symbols import assert_same, backend, conv_bn, fill, mlp, pair, random_arrays, relative_error, taken_nodes

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "examples" / "openvino_engine"
CPU = Device("cpu", 0)

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the package is installed, as `pip install ./examples/openvino_engine` does."""
    tree = tmp_path_factory.mktemp("source") / "openvino_engine"  # setuptools builds in its source tree
    shutil.copytree(SOURCE, tree, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", target, tree], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def openvino(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fresh_warnings: None, request: pytest.FixtureRequest
) -> Any:
    """The engine, as the registry finds it in the installed packages."""
    # Not monkeypatch.syspath_prepend: it would take away again what ONNX Runtime's tools add at their first import.
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    request.addfinalizer(lambda: sys.path.remove(str(folder)))
    monkeypatch.setattr(registry, "_FACTORIES", {k: v for k, v in registry._FACTORIES.items() if k in BUILT_IN})
    monkeypatch.setattr(registry, "_LOADED", dict(registry._LOADED))
    monkeypatch.setattr(registry, "_third_party_loaded", False)
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "openvino")
    programs.clear()
    gc.collect()  # `assert_same` counts the forwards of what is alive
    return registry.get("openvino")


BUILT_IN = ("tensorrt", "tensorrt_rtx", "onnxruntime")


def ran_on(engine: str, nodes: int = 1) -> bool:
    """Whether the TensorRT nodes made last ran on an engine."""
    return {r.engine for r in mxnet_trt_property.reports()[-nodes:]} == {engine}


def test_found_by_its_name(openvino: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.names() == (*BUILT_IN, "openvino")
    assert settings.value("ENGINE", " OpenVINO ") == "openvino"
    with pytest.raises(SettingError, match="one of auto, tensorrt, tensorrt_rtx, onnxruntime, openvino"):
        settings.value("ENGINE", "openvion")
    assert "openvino" not in settings.markdown_table(), "the README is the same wherever it is generated"
    assert [e.name for e in registry.choose("openvino", CPU).engines][0] == "openvino"
    assert registry.choose("auto", CPU).engines[-1] is openvino, "it is asked for by its name"
    reason = openvino.unusable(Device("gpu", 1, 1))
    assert "mx.gpu(1)" in reason and "next step" in reason
    assert openvino.version().count(".") == 2


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[..., None], openvino: Any) -> None:
    check(openvino)


def test_float32_is_asked_for(openvino: Any) -> None:
    program = openvino.build(models.convnet(), Options(), CPU, "tensorrt0")
    # By default this is bfloat16 or float16 on CPUs with instructions for it.
    assert program._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


@pytest.mark.slow
def test_resnet18(openvino: Any) -> None:
    network = from_gluon(vision.resnet18_v1(), {"data": (1, 3, 64, 64)})
    stock, ours = pair(network.symbol, {"data": (1, 3, 64, 64)})
    for executor in (stock, ours):
        executor.copy_params_from(network.arg_params, network.aux_params)
    assert taken_nodes(ours) == [n.name for n in ours.tensorrt.made.decisions.graph.operators], "all of it"
    for seed in range(3):
        data = mx.nd.array(np.random.default_rng(seed).standard_normal((1, 3, 64, 64)))
        assert_same(ours, stock, data=data)
    assert ran_on("openvino")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "language_model", "attention_step", "forecaster"])
def test_sequences(name: str, openvino: Any) -> None:
    network = getattr(sequences, name)()
    stock, ours = pair(network.symbol, dict(network.data_shapes))
    for executor in (stock, ours):
        executor.copy_params_from(network.arg_params, network.aux_params, allow_extra_params=True)
    assert_same(ours, stock, **network.data())


def test_several_outputs(openvino: Any) -> None:
    x = mx.sym.Variable("data")
    hidden = mx.sym.Activation(mx.sym.FullyConnected(x, num_hidden=6, name="fc"), act_type="tanh", name="tanh")
    parts = mx.sym.split(hidden, num_outputs=3, axis=1, name="parts")
    symbol = mx.sym.Group([hidden, parts[2], parts[0] * parts[1], mx.sym.argmax(hidden, axis=1), hidden.sum()])
    stock, ours = pair(symbol, {"data": (4, 5)})
    assert_same(ours, stock, data=mx.nd.random.normal(shape=(4, 5)))
    assert_same(ours, stock, data=mx.nd.random.normal(shape=(4, 5)))
    assert ran_on("openvino")


def test_weights_that_change(openvino: Any) -> None:
    stock, ours = pair(conv_bn(), {"data": (2, 3, 8, 8)})
    assert_same(ours, stock)
    for seed in (4, 5):
        for executor in (stock, ours):
            fill(executor, random_arrays(conv_bn(), {"data": (2, 3, 8, 8)}, seed))
        assert_same(ours, stock)
    for executor in (stock, ours):
        executor.arg_dict["fc_bias"][:] = 3
        executor.aux_dict["bn_moving_mean"][:] += 1
    assert_same(ours, stock)
    assert mxnet_trt_property.reports()[-1].builds >= 3


def test_other_shapes(openvino: Any) -> None:
    executors = pair(conv_bn(), {"data": (2, 3, 8, 8)})
    for batch in (5, 1, 2):
        shape = (batch, 3, 8, 8)
        executors = tuple(e.reshape(partial_shaping=True, allow_up_sizing=True, data=shape) for e in executors)
        data = mx.nd.random.normal(shape=shape)
        expected, found = (e.forward(data=data)[0] for e in executors)
        assert relative_error(found, expected) < 1e-5
        assert ran_on("openvino")


def test_gluon_and_compile(openvino: Any) -> None:
    mx.random.seed(3)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.GlobalAvgPool2D(), nn.Dense(5))
    net.initialize(mx.init.Xavier())
    x = mx.nd.random.normal(shape=(2, 3, 8, 8))
    expected = net(x)
    net.hybridize(backend="TensorRT", static_alloc=True, static_shape=True)
    for _ in range(2):
        assert relative_error(net(x), expected) < 1e-5
    assert ran_on("openvino")
    net.collect_params()[net[4].bias.name].set_data(mx.nd.arange(5))
    assert relative_error(net(x), expected - net(x) * 0) > 1e-2
    arrays = random_arrays(mlp(), {"data": (2, 5)})
    data = arrays.pop("data")
    with backend("NONE"):
        expected = mlp().bind(mx.cpu(), {**arrays, "data": data}, grad_req="null").forward()[0]
    with mxnet_trt_property.compile(mlp(), arrays, {}, {"data": (2, 5)}, engine="openvino") as model:
        assert model.engine == "openvino"
        assert relative_error(model(data), expected) < 1e-5
        bound = model.bind(data)
        assert relative_error(bound(), expected) < 1e-5
        assert bound.bare() is not None, "`mxnet-trt bench` calls it the limit"


def test_half_precision(openvino: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_PRECISION", "fp16")
    stock, ours = pair(conv_bn(), {"data": (2, 3, 8, 8)})
    assert_same(ours, stock, limit=5e-3)
    assert ran_on("openvino")


def whole_numbers() -> tuple[Any, dict[str, Any]]:
    """Returns a graph of int64 and int32, beside one that OpenVINO takes, and values that int32 does not hold."""
    wide, whole = mx.sym.Variable("wide"), mx.sym.Variable("whole")
    symbol = mx.sym.Group(
        [
            mx.sym.elemwise_mul(mx.sym.elemwise_add(wide, wide, name="sum"), wide, name="product"),
            mx.sym.elemwise_add(whole, whole, name="twice"),
            mx.sym.sqrt(mx.sym.cast(mx.sym.abs(whole, name="abs"), dtype="float32", name="cast"), name="root"),
        ]
    )
    wide_values = np.array([2**31 + 1, 3, -(2**20)])
    return symbol, {"wide": mx.nd.array(wide_values, dtype="int64"), "whole": mx.nd.array([5, 3, -7], dtype="int32")}


def outputs(symbol: Any, arrays: dict[str, Any], name: str) -> tuple[Any, list[Any]]:
    with backend(name, MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="1"):
        executor = symbol.bind(mx.cpu(), arrays, grad_req="null")
        return executor, [y.asnumpy() for y in executor.forward()]


def test_what_it_cannot_compute_exactly_stays_with_mxnet(openvino: Any, caplog: pytest.LogCaptureFixture) -> None:
    symbol, arrays = whole_numbers()
    with caplog.at_level(logging.DEBUG, "mxnet_trt_property"):
        executor, found = outputs(symbol, arrays, "TensorRT")
    assert taken_nodes(executor) == ["twice", "cast", "root"]
    assert ran_on("openvino", nodes=2)
    for ours, stock in zip(found, outputs(symbol, arrays, "NONE")[1]):
        np.testing.assert_array_equal(ours, stock)
    for node, words in (("sum", "int64"), ("product", "int64"), ("abs", "Abs of int32")):
        text = f"{node} .* openvino {openvino.version()} refuses it: .*{words}"
        assert any(re.search(text, r.getMessage()) for r in caplog.records), text


def test_a_failing_build_goes_to_the_next_engine(
    openvino: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Nobody asks it, so that it says no where it is too late for MXNet to take the node.
    monkeypatch.setattr(type(openvino), "refused_nodes", None)
    symbol, arrays = whole_numbers()
    executor, found = outputs(symbol, arrays, "TensorRT")
    for ours, stock in zip(found, outputs(symbol, arrays, "NONE")[1]):
        np.testing.assert_array_equal(ours, stock)
    assert [r.engine for r in mxnet_trt_property.reports()[-3:]] == ["onnxruntime", "openvino", "onnxruntime"]
    assert taken_nodes(executor) == ["sum", "product", "twice", "abs", "cast", "root"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any("failed on engine openvino; it goes on with onnxruntime" in w and "int64" in w for w in warnings)
    monkeypatch.setenv("MXNET_TENSORRT_ON_ERROR", "raise")
    with pytest.raises(mx.MXNetError, match="failed on engine openvino"):
        outputs(symbol, arrays, "TensorRT")


def test_errors_have_openvinos_words(openvino: Any) -> None:
    with pytest.raises(EngineError, match=r"OpenVINO [\d.]+ cannot build tensorrt0.*NoKind.*EXCLUDE_NODES"):
        openvino.build(models.refused().replace(b"Unique", b"NoKind"), Options(), CPU, "tensorrt0")
    with pytest.raises(EngineError, match="found: int8"):
        openvino.build(models.relu(), Options(precision="int8"), CPU, "tensorrt0")


def test_without_openvino(openvino: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert openvino.version() == ""
    assert 'pip install "openvino' in str(openvino.unusable(CPU))
    stock, ours = pair(mlp(), {"data": (2, 5)})
    assert_same(ours, stock)
    assert ran_on("onnxruntime")
    assert any("OpenVINO cannot be imported" in r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)


def test_threads(openvino: Any) -> None:
    pairs = [pair(conv_bn(), {"data": (2, 3, 8, 8)}, seed=seed) for seed in range(3)]
    failures: list[BaseException] = []

    def work(stock: Any, ours: Any) -> None:
        try:
            expected = stock.forward()[0]
            for _ in range(10):
                assert relative_error(ours.forward()[0], expected) < 1e-5
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=both) for both in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert ran_on("openvino", nodes=len(pairs))


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import mxnet as mx
import mxnet_trt_property

symbol = mx.sym.tanh(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=4, name="fc"))
executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(3, 5))
for array in executor.arg_arrays:
    array[:] = mx.nd.random.normal(shape=array.shape)
expected = executor.forward()[0].asnumpy()
child = os.fork()
for _ in range(3):
    np.testing.assert_allclose(executor.forward()[0].asnumpy(), expected, rtol=1e-5)
assert mxnet_trt_property.reports()[0].engine == "openvino", mxnet_trt_property.reports()
if child:
    assert os.waitpid(child, 0)[1] == 0
print("parent" if child else "child", flush=True)
"""


def program(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(folder), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "MXNET_TENSORRT_ENGINE": "openvino", **variables}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.slow
def test_fork(folder: Path) -> None:
    done = program(folder, "-c", FORK, MXNET_SUBGRAPH_BACKEND="TensorRT")
    assert (done.returncode, done.stdout.split()) == (0, ["child", "parent"]), done.stderr


@pytest.mark.slow
def test_commands(folder: Path, tmp_path: Path) -> None:
    prefix = save(conv_bn(), tmp_path, data=(2, 3, 8, 8))
    command = ("-m", "mxnet_trt_property")
    done = program(folder, *command, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    (row,) = [row for row in record["engines"] if row["name"] == "openvino"]
    assert (row["package"], row["reason"]) == ("mxnet-trt-openvino", None)
    assert record["activation"]["engines"] == ["openvino"]
    assert "openvino" in record["usable"] and not any(r["error"] for r in record["variables"])

    done = program(folder, *command, "demo", prefix, "--shape", "data=2,3,8,8", "--seconds", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["engines"], found["tolerance"], found["taken"]) == (["openvino"], 1e-5, 6)

    file = tmp_path / "bench.json"
    arguments = ("--shape", "data=2,3,8,8", "--batch", "2", "--seconds", "0.02", "--json", str(file))
    done = program(folder, *command, "bench", prefix, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["engine"], row["unavailable"], row["wrong"]) == ("openvino", {}, "")
    assert "limit" in row["milliseconds"]

    wide = mx.sym.cast(mx.sym.Variable("data"), dtype="int64", name="cast")
    mx.sym.elemwise_add(wide, wide, name="sum").save(str(tmp_path / "wide-symbol.json"))
    done = program(folder, *command, "explain", str(tmp_path / "wide"), "--shape", "data=2,3", "--json")
    assert done.returncode == 0, done.stderr
    reasons = {row["operator"]: row["reason"] for row in json.loads(done.stdout)["nodes"]}
    assert all("openvino" in reason and "int64" in reason for reason in reasons.values()), reasons
