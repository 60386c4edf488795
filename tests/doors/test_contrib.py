"""mx.contrib.tensorrt: the calls of MXNet 1.3 and 1.5 to 1.7, and where the weights lie after them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from tests.doors.test_frozen import parameters, stock_output
from tests.symbols import backend, conv_bn, mlp, relative_error, split_net, taken_nodes

SHAPES = {"data": (2, 3, 8, 8), "softmax_label": (2,)}
EXAMPLE = Path(__file__).parents[2] / "examples" / "mxnet_1_3.py"


def test_module_can_be_imported_by_name() -> None:
    import mxnet.contrib.tensorrt as by_name
    from mxnet.contrib import tensorrt as from_package

    assert by_name is from_package is mx.contrib.tensorrt


def test_tensorrt_bind() -> None:
    arguments, auxiliary, data = parameters(conv_bn(), SHAPES)
    expected = stock_output(conv_bn(), arguments, auxiliary, data)
    everything = {**arguments, **auxiliary, "of another network": mx.nd.zeros((1,))}
    with backend(None, MXNET_USE_TENSORRT="1"):
        executor = mx.contrib.tensorrt.tensorrt_bind(conv_bn(), mx.cpu(), everything, force_rebind=True, **SHAPES)
    assert taken_nodes(executor)
    assert list(everything) == ["of another network"]
    assert list(executor.arg_dict) == ["data", "softmax_label"]
    assert relative_error(executor.forward(**data)[0], mx.nd.array(expected)) < 1e-5
    assert "_TensorRT" in mx.contrib.tensorrt.get_optimized_symbol(executor).tojson()


def test_tensorrt_bind_keeps_what_mxnet_reads() -> None:
    arguments, _, data = parameters(split_net(), {"data": (2, 5)})
    expected = stock_output(split_net(), arguments, data)
    with backend("TensorRT", MXNET_TENSORRT_EXCLUDE_NODES="fc2"):
        executor = mx.contrib.tensorrt.tensorrt_bind(split_net(), mx.cpu(), arguments, data=(2, 5))
    assert set(arguments) == {"fc2_weight", "fc2_bias"}
    assert relative_error(executor.forward(**data)[0], mx.nd.array(expected)) < 1e-5


def test_tensorrt_bind_with_tensorrt_off_is_a_stock_executor() -> None:
    arguments, auxiliary, data = parameters(conv_bn(), SHAPES)
    expected = stock_output(conv_bn(), arguments, auxiliary, data)
    everything = {**arguments, **auxiliary}
    with backend(None):
        assert not mx.contrib.tensorrt.get_use_tensorrt()
        executor = mx.contrib.tensorrt.tensorrt_bind(conv_bn(), mx.cpu(), everything, **SHAPES)
    assert type(executor) is mx.executor.Executor
    assert set(everything) == {*arguments, *auxiliary}
    assert relative_error(executor.forward(**data)[0], mx.nd.array(expected)) < 1e-5


def test_frozen_executor_can_be_reshaped_and_train() -> None:
    arguments, _, _ = parameters(mlp(), {"data": (2, 5)})
    kept = dict(arguments)
    with backend("TensorRT"):
        executor = mx.contrib.tensorrt.tensorrt_bind(mlp(), mx.cpu(), arguments, data=(2, 5))
        new = executor.reshape(allow_up_sizing=True, data=(7, 5))
    data = {"data": mx.nd.array(np.random.default_rng(3).standard_normal((7, 5)))}
    expected = mx.nd.array(stock_output(mlp(), kept, data))
    assert taken_nodes(new)
    assert relative_error(new.forward(**data)[0], expected) < 1e-5
    assert relative_error(new.forward(is_train=True, **data)[0], expected) < 1e-5


def test_frozen_executor_falls_back_to_mxnet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from mxnet_trt_property import programs

    def fails(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("no engine today")

    monkeypatch.setattr(programs, "get", fails)
    arguments, _, data = parameters(mlp("falls_"), {"data": (2, 5)})
    expected = mx.nd.array(stock_output(mlp("falls_"), arguments, data))
    with backend("TensorRT"):
        executor = mx.contrib.tensorrt.tensorrt_bind(mlp("falls_"), mx.cpu(), arguments, data=(2, 5))
        assert not arguments
        assert relative_error(executor.forward(**data)[0], expected) < 1e-5
    assert "it goes on with MXNet" in caplog.text


def test_init_tensorrt_params() -> None:
    symbol = conv_bn()
    arguments, auxiliary, data = parameters(symbol, SHAPES)
    expected = stock_output(symbol, arguments, auxiliary, data)
    new = symbol.get_backend_symbol("TensorRT")
    left, left_auxiliary = mx.contrib.tensorrt.init_tensorrt_params(new, arguments, auxiliary)
    assert not left
    assert not left_auxiliary
    assert arguments, "the caller's dictionaries are not changed"
    executor = new.simple_bind(mx.cpu(), grad_req="null", **SHAPES)
    executor.copy_params_from(left, left_auxiliary)
    assert set(executor.arg_dict) == {"data", "softmax_label"}
    assert relative_error(executor.forward(**data)[0], mx.nd.array(expected)) < 1e-5


def test_switches() -> None:
    contrib = mx.contrib.tensorrt
    with backend(None, MXNET_USE_TENSORRT=None, MXNET_TENSORRT_USE_FP16=None):
        assert (contrib.get_use_tensorrt(), contrib.get_use_fp16()) == (False, False)
        contrib.set_use_tensorrt(True)
        contrib.set_use_fp16(True)
        assert (contrib.get_use_tensorrt(), contrib.get_use_fp16()) == (True, True)
        assert os.environ["MXNET_USE_TENSORRT"] == "1"
        assert os.environ["MXNET_TENSORRT_USE_FP16"] == "1"
        contrib.set_use_tensorrt(False)
        contrib.set_use_fp16(False)
        assert (contrib.get_use_tensorrt(), contrib.get_use_fp16()) == (False, False)


def test_example_of_mxnet_1_3() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE), "3"], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "98 arrays of parameters" in done.stdout
    assert "0 left outside the engine; nodes: data, tensorrt0_output" in done.stdout
    assert "same class: True" in done.stdout


def test_weights_are_held_once_in_the_frozen_ways(tmp_path: Path) -> None:
    """Counted, and measured: the memory of a process with 64 MB of weights."""
    net = mx.sym.Variable("data")
    for i in range(4):
        net = mx.sym.FullyConnected(net, num_hidden=2048, no_bias=True, name=f"fc{i}")
    shapes = {"data": (1, 2048)}
    arguments, _, _ = parameters(net, shapes)
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, net, arguments, {})
    command = [sys.executable, "-m", "mxnet_trt_property", "explain", str(tmp_path / "net"), "--shape", "data=1,2048"]
    done = subprocess.run([*command, "--memory", "--json"], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    plain, frozen = json.loads(done.stdout)
    megabytes = 4 * 2048 * 2048 * 4
    assert (plain["mxnet"], plain["twice"]) == (megabytes, megabytes)
    assert plain["engine"] >= megabytes
    assert (frozen["mxnet"], frozen["twice"]) == (0, 0)
    assert frozen["engine"] >= megabytes

    code = f"""
import os, sys, gc
os.environ["MXNET_SUBGRAPH_BACKEND"] = "TensorRT"
import mxnet as mx
symbol, arguments, auxiliary = mx.model.load_checkpoint({str(tmp_path / "net")!r}, 0)
if sys.argv[1] == "frozen":
    executor = mx.contrib.tensorrt.tensorrt_bind(symbol, mx.cpu(), arguments, data=(1, 2048))
else:
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(1, 2048))
    executor.copy_params_from(arguments)
del arguments
executor.forward()[0].wait_to_read()
gc.collect()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["RssAnon"].split()[0]) // 1024)
"""
    resident = {}
    for way in ("plain", "frozen"):
        done = subprocess.run(
            [sys.executable, "-c", code, way], capture_output=True, text=True, check=False, timeout=200
        )
        assert done.returncode == 0, done.stderr
        resident[way] = int(done.stdout)
    assert resident["plain"] - resident["frozen"] > 50, resident
