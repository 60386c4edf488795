"""`mxnet-trt demo` as a program: its record, its table and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.networks import environment, save
from tests.symbols import conv_bn, split_net


def demo(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mxnet_trt_property", "demo", *arguments, "--seconds", "0.2"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(**variables))


def record(done: subprocess.CompletedProcess[str], status: int) -> dict[str, Any]:
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["passed"] == (status == 0)
    return found


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(conv_bn(), tmp_path_factory.mktemp("demo"), data=(2, 3, 8, 8))


def test_a_checkpoint(prefix: str) -> None:
    found = record(demo(prefix, "--shape", "data=2,3,8,8", "--json"), 0)
    assert found["model"] == prefix
    assert found["engines"] == ["onnxruntime"]
    assert (found["taken"], found["operators"], found["subgraphs"]) == (6, 6, 1)
    assert found["relative_error"] <= found["tolerance"] == 1e-5
    assert found["same_argmax"]
    assert found["mxnet_ms"] > 0 < found["tensorrt_ms"]


def test_a_network_that_is_taken_in_parts(tmp_path: Path) -> None:
    prefix = save(split_net(), tmp_path, data=(2, 5))
    found = record(demo(prefix, "--shape", "data=2,5", "--json"), 0)
    assert (found["taken"], found["operators"], found["subgraphs"]) == (4, 5, 2)


def test_the_table(prefix: str) -> None:
    done = demo(prefix, "--shape", "data=2,3,8,8")
    assert done.returncode == 0, done.stderr
    rows = dict(line.split("  ", 1) for line in done.stdout.strip().splitlines())
    assert rows["nodes taken"].strip() == "6 of 6, in 1 subgraph(s)"
    assert rows["result"].strip() == "passed"


def test_nothing_taken_is_a_failure(prefix: str) -> None:
    operators = "Convolution,BatchNorm,Activation,Pooling,FullyConnected,SoftmaxOutput"
    found = record(demo(prefix, "--shape", "data=2,3,8,8", "--json", MXNET_TENSORRT_EXCLUDE_OPS=operators), 1)
    assert (found["taken"], found["engines"]) == (0, [])


def test_a_checkpoint_that_is_not_there_is_told_in_a_line(tmp_path: Path) -> None:
    done = demo(str(tmp_path / "missing"), "--json")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "missing-symbol.json" in done.stderr


def test_a_program_that_fails_is_shown(prefix: str) -> None:
    done = demo(prefix, "--shape", "data=2,3,8,8", MXNET_TENSORRT_ENGINE="best")
    assert done.returncode == 1
    assert "SettingError: MXNET_TENSORRT_ENGINE has a value that is not valid | found: 'best'" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("mxnet-trt: The plain program failed with TensorRT on | found: exit")


def test_a_shape_that_is_not_valid(prefix: str) -> None:
    done = demo(prefix, "--shape", "data=a,b")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("mxnet-trt: --shape has a value that is not valid | found: data=a,b")


@pytest.mark.slow
def test_without_a_checkpoint() -> None:
    found = record(demo("--json"), 0)
    assert found["model"] == "resnet18_v2"
    assert found["taken"] == found["operators"] > 60
    assert found["subgraphs"] == 1
