"""`mxnet-trt profile`: its table, its record, and its timeline by the rules of the trace event format."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest

from mxnet_trt_property import programs
from mxnet_trt_property.cli import main, profile
from mxnet_trt_property.engines import registry, trt
from mxnet_trt_property.engines.layers import Layer, NodeNames
from mxnet_trt_property.engines.ort import OnnxRuntimeEngine
from mxnet_trt_property.engines.registry import Device, Options
from mxnet_trt_property.errors import EngineError
from mxnet_trt_property.session import Session
from tests.cli.networks import environment, save
from tests.engines import conftest as engine_fixtures
from tests.engines import models
from tests.symbols import conv_bn, split_net

cuda, fake_library, fake_module = engine_fixtures.cuda, engine_fixtures.fake_library, engine_fixtures.fake_module


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(conv_bn(), tmp_path_factory.mktemp("profile"), data=(2, 3, 8, 8))


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MXNET_TENSORRT_ENGINE", "onnxruntime")
    programs.clear()  # an engine that an earlier test built was not built to be profiled
    yield
    programs.clear()


def call(*arguments: object) -> int:
    return main.main(["profile", *(str(a) for a in arguments), "--runs", "3"])


def check_trace(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Asserts what the format demands of an object of metadata and complete events; returns the complete ones."""
    assert found["displayTimeUnit"] in ("ms", "ns")
    slices = []
    for event in found["traceEvents"]:
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        else:
            assert event["ph"] == "X"
            assert isinstance(event["name"], str) and event["name"] and isinstance(event["cat"], str)
            assert event["ts"] >= 0 and event["dur"] >= 0
            slices.append(event)
    for thread in {e["tid"] for e in slices}:
        # Complete events of one thread must nest: that is how a viewer stacks them.
        stack: list[float] = []
        for event in sorted((e for e in slices if e["tid"] == thread), key=lambda e: (e["ts"], -e["dur"])):
            while stack and stack[-1] <= event["ts"] + 1e-6:
                stack.pop()
            assert not stack or event["ts"] + event["dur"] <= stack[-1] + 1e-6
            stack.append(event["ts"] + event["dur"])
    return slices


def test_as_a_program(prefix: str, tmp_path: Path) -> None:
    record_file, trace_file = tmp_path / "profile.json", tmp_path / "trace.json"
    command = [sys.executable, "-m", "mxnet_trt_property", "profile", prefix, "--shape", "data=2,3,8,8", "--runs", "3"]
    done = subprocess.run(
        [*command, "--json", str(record_file), "--trace", str(trace_file)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "tensorrt0 (6 operators, onnxruntime)" in done.stdout
    record = json.loads(record_file.read_text())
    assert (record["runs"], record["operators_left"]) == (3, 0)
    (node,) = record["nodes"]
    assert (node["name"], node["engine"], node["operators"]) == ("tensorrt0", "onnxruntime", 6)
    assert 0 < node["run_ms"] <= record["forward_ms"] + record["mxnet_ms"] + node["run_ms"]
    assert (node["copy_in_ms"], node["copy_out_ms"]) == (0, 0)
    operators = set(conv_bn().get_internals().list_outputs())
    for layer in node["layers"]:
        assert layer["milliseconds"] >= 0 and layer["kind"]
        assert {f"{name}_output" for name in layer["nodes"]} <= operators
    assert any(layer["nodes"] for layer in node["layers"])
    assert node["layers_ms"] == pytest.approx(sum(layer["milliseconds"] for layer in node["layers"]))
    slices = check_trace(json.loads(trace_file.read_text()))
    assert {"forward", "tensorrt0"} <= {e["name"] for e in slices}
    assert sum(e["tid"] == 2 for e in slices) == len(node["layers"])


def test_operators_that_stay_with_mxnet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = save(split_net(), tmp_path, data=(2, 8))
    found = profile.profile(prefix, 0, {"data": (2, 8)}, 2, {"ENGINE": "onnxruntime"})
    assert found.operators_left > 0
    assert len(found.nodes) > 1
    assert f"{found.operators_left} operator(s) among it" in profile.text(found)
    assert capsys.readouterr() == ("", "")


def test_a_tensorrt_engine(
    prefix: str, cuda: engine_fixtures.FakeCuda, fake_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the fake library and driver: copies by events, layers by the profiler, names by the engine inspector."""
    engine = trt.TensorRTEngine("tensorrt", fake_module, cuda.driver)
    monkeypatch.setitem(registry._LOADED, "tensorrt", engine)
    found = profile.profile(prefix, 0, {"data": (2, 3, 8, 8)}, 2, {"ENGINE": "tensorrt"})
    (node,) = found.nodes
    assert (node.engine, found.operators_left) == ("tensorrt", 0)
    assert {row.milliseconds for row in node.layers} == {0.25}
    assert {row.kind for row in node.layers} == {"kgen"}
    names = {name for row in node.layers for name in row.nodes}
    assert len(names) == 6, "each of the network's nodes is found under MXNet's name"
    assert node.layers_ms == pytest.approx(0.25 * len(node.layers))
    assert node.copy_in_ms >= 0 and node.run_ms > 0
    programs.clear()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--shape", "data=1,2"], "nowhere-symbol.json cannot be loaded"),
        (
            ["PREFIX", "--shape", "dat=1,2"],
            "--shape names what is not there | found: dat | required: inputs of the network, such as data",
        ),
        (["PREFIX", "--shape", "data=2,3,8,8", "--engine", "best"], "required: one of auto, tensorrt"),
        (["PREFIX", "--shape", "data=2,3,8,8", "--json", "/nowhere/file"], "/nowhere/file cannot be written"),
        (["PREFIX", "--shape", "data=2,3"], "cannot be bound: the shapes do not fit the network"),
        (
            ["PREFIX", "--epoch", "7"],
            "net-0007.params cannot be loaded | found: no such file, but epoch 0 | next step: --epoch 0",
        ),
    ],
)
def test_what_cannot_be_done_is_told(
    prefix: str, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert call(*(prefix if a == "PREFIX" else a for a in arguments)) == 1
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""


def test_a_network_of_which_nothing_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = save(mx.sym.gammaln(mx.sym.Variable("data")), tmp_path, data=(4, 2))
    assert call(prefix, "--shape", "data=4,2") == 1
    assert "No node of the network was taken | next step: mxnet-trt explain" in capsys.readouterr().err


def test_an_engine_that_cannot_be_profiled(
    prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Session, "program", property(lambda self: object()))
    assert call(prefix, "--shape", "data=2,3,8,8") == 1
    assert "Engine onnxruntime cannot be profiled" in capsys.readouterr().err


def test_a_program_that_was_not_built_to_be_profiled() -> None:
    program = OnnxRuntimeEngine().build(models.relu(), Options(), Device("cpu", 0), "a relu")
    with pytest.raises(EngineError, match="a relu was not built to be profiled"):
        program.layer_times(Device("cpu", 0), 1)


@pytest.mark.parametrize(
    ("name", "origin", "nodes"),
    [
        ("conv/Convolution", "", ("conv",)),
        ("conv/Convolution + relu/Relu", "", ("conv", "relu")),
        ("conv/Convolution_nchwc", "", ("conv",)),
        ("InsertedPrecisionFreeCast_conv/Convolution", "", ("conv",)),
        ("conv/Convolution_1", "", ("second",)),
        ("__myl_Conv_myl0_3", "[ONNX Layer: relu/Relu]\x1e[ONNX Layer: conv/Convolution]", ("relu", "conv")),
        ("aconv/Convolution", "", ()),
        ("ReorderOutput", "", ()),
    ],
)
def test_names_of_layers(name: str, origin: str, nodes: tuple[str, ...]) -> None:
    names = NodeNames({"conv/Convolution": "conv", "conv/Convolution_1": "second", "relu/Relu": "relu"})
    assert names.find(Layer(name, "", origin, 0.0)) == nodes
