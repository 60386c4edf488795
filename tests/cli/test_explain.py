"""`mxnet-trt explain`: what is printed for taken and refused nodes, and for files that are not networks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import pytest

from tests.symbols import conv_bn, split_net


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """A checkpoint's prefix with a network that is cut in two."""
    split_net().save(str(tmp_path / "net-symbol.json"))
    return str(tmp_path / "net")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    command = [sys.executable, "-m", "mxnet_trt_property", "explain", *arguments]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


def test_reasons_and_counts(prefix: str) -> None:
    done = run(prefix, "--shape", "data=2,5", "--nodes")
    assert done.returncode == 0, done.stderr
    assert "4 of 5 nodes taken (80%), in 2 TensorRT node(s)" in done.stdout
    assert "gammaln: operator gammaln has no conversion to TensorRT (wave)" in done.stdout
    assert ["fc2", "FullyConnected", "in", "TensorRT", "node", "1"] in [
        line.split() for line in done.stdout.splitlines()
    ]


def test_json(prefix: str) -> None:
    done = run(prefix + "-symbol.json", "--shape", "data=2,5", "--json", MXNET_TENSORRT_EXCLUDE_OPS="FullyConnected")
    record = json.loads(done.stdout)
    assert (record["operators"], record["taken"], record["subgraphs"]) == (5, 0, 0)
    reasons = {node["name"]: node["reason"] for node in record["nodes"]}
    assert reasons["fc1"] == "operator FullyConnected is excluded by MXNET_TENSORRT_EXCLUDE_OPS"
    assert "MIN_SUBGRAPH_SIZE" in reasons["sigmoid1"]


def test_flops(tmp_path: Path) -> None:
    data = mx.sym.Variable("data")
    net = mx.sym.Convolution(data, kernel=(3, 3), num_filter=6, num_group=2, no_bias=True, name="conv")
    net = mx.sym.Deconvolution(net, kernel=(2, 2), stride=(2, 2), num_filter=5, no_bias=True, name="deconv")
    net = mx.sym.gammaln(net, name="gammaln")
    net = mx.sym.FullyConnected(net, num_hidden=7, no_bias=True, name="fc")
    net.save(str(tmp_path / "net-symbol.json"))
    variables = {"MXNET_TENSORRT_EXCLUDE_NODES": "fc", "MXNET_TENSORRT_MIN_SUBGRAPH_SIZE": "1"}
    record = json.loads(run(str(tmp_path / "net"), "--shape", "data=2,4,6,6", "--json", **variables).stdout)
    work = {node["name"]: node["flops"] for node in record["nodes"]}
    assert work["conv"] == 2 * (2 * 6 * 4 * 4) * (2 * 3 * 3)
    assert work["deconv"] == 2 * (2 * 6 * 4 * 4) * (5 * 2 * 2)
    assert work["gammaln"] == 2 * 5 * 8 * 8
    assert work["fc"] >= 2 * 2 * 7 * (5 * 8 * 8), "a node that is left out is weighed too"
    assert record["taken_flops"] == sum(n["flops"] for n in record["nodes"] if n["reason"] is None)
    assert record["flops"] == sum(work.values())
    done = run(str(tmp_path / "net"), "--shape", "data=2,4,6,6", **variables)
    assert f"about {record['flops']:.3g} FLOPs, {record['taken_flops'] / record['flops']:.1%} of them" in done.stdout
    assert "unknown" in run(str(tmp_path / "net")).stdout


def test_sizes(prefix: str, tmp_path: Path) -> None:
    done = run(prefix, "--shape", "data=2,5", MXNET_TENSORRT_MAX_BATCH_SIZE="16")
    for number, columns in ((0, 5), (1, 6)):
        text = f"one engine of TensorRT node {number} serves inputs of (1, {columns}) to (16, {columns})"
        assert text in done.stdout, done.stderr
    (mx.sym.diag(mx.sym.Variable("data"), name="matrix") * 2).save(str(tmp_path / "diag-symbol.json"))
    done = run(
        str(tmp_path / "diag"), "--shape", "data=3", "--json", MXNET_TENSORRT_PROFILES="{'data': ((1,),(2,),(4,))}"
    )
    (line,) = json.loads(done.stdout)["sizes"]
    assert line.startswith("TensorRT node 0 has one engine per shape, because node 'matrix' (diag) needs a constant")
    assert not json.loads(run(prefix, "--shape", "data=2,5", "--json").stdout)["sizes"]


def test_without_shapes(tmp_path: Path) -> None:
    conv_bn().save(str(tmp_path / "net-symbol.json"))
    done = run(str(tmp_path / "net"))
    assert "SoftmaxOutput: number of axes: found an unknown shape" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing",), "missing-symbol.json cannot be loaded | found: no such file | required: a checkpoint's PREFIX"),
        (("PREFIX", "--shape", "dat=2,5"), "--shape names what is not there"),
        (("PREFIX", "--shape", "data=2,x"), "NAME=1,3,224,224"),
        (("PREFIX", "--shape", "data=2,5", "--shape", "fc1_weight=1,1"), "cannot be explained"),
    ],
)
def test_errors_are_one_line_and_no_trace(prefix: str, arguments: tuple[str, ...], words: str) -> None:
    done = run(*(prefix if a == "PREFIX" else a for a in arguments))
    assert done.returncode == 1
    assert words in done.stderr
    assert 'File "' not in done.stderr.split("mxnet-trt:")[0]


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "net-symbol.json").write_text("{]")
    done = run(str(tmp_path / "net"))
    assert done.returncode == 1
    assert "net-symbol.json cannot be loaded" in done.stderr
