"""The doors that activation wraps: what comes back is what stock MXNet gives, and TensorRT nodes did the work."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

import mxnet_trt_property
from mxnet_trt_property import native, programs
from mxnet_trt_property.errors import SettingError
from tests.symbols import backend, bound, conv_bn, fill, mlp, random_arrays, relative_error, split_net, taken_nodes

SHAPE = (2, 3, 8, 8)


def test_unset_variable_changes_nothing() -> None:
    executor = bound(mlp(), None, {"data": (2, 5)})
    assert type(executor) is mx.executor.Executor


def test_node_names() -> None:
    executor = bound(split_net(), "TensorRT", {"data": (2, 5)})
    nodes = json.loads(executor.get_optimized_symbol().tojson())["nodes"]
    names = [n["name"] for n in nodes if n["op"] != "null"]
    assert names == ["tensorrt0", "wave", "tensorrt1"]


def test_new_weights_are_seen() -> None:
    shapes = {"data": SHAPE}
    stock, ours = bound(conv_bn(), "NONE", shapes), bound(conv_bn(), "TensorRT", shapes)
    stock.forward(), ours.forward()
    for name in ("conv_weight", "bn_gamma", "bn_moving_mean", "bn_moving_var", "fc_bias"):
        before = ours.outputs[0].asnumpy()
        for executor in (stock, ours):
            array = {**executor.arg_dict, **executor.aux_dict}[name]
            array[:] = array * 0.5 + 0.25
        assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5, name
        assert not np.allclose(before, ours.outputs[0].asnumpy()), f"writing {name} changed nothing"
    params = random_arrays(conv_bn(), shapes, seed=9)
    arguments = {k: v for k, v in params.items() if k in ours.arg_dict and k != "data"}
    auxiliary = {k: v for k, v in params.items() if k in ours.aux_dict}
    for executor in (stock, ours):
        executor.copy_params_from(arguments, auxiliary)
    assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5


def test_one_callback_a_forward_and_no_build() -> None:
    executor = bound(conv_bn(), "TensorRT", {"data": SHAPE})
    executor.forward()[0].wait_to_read()
    calls, builds = native.callback_count(), programs.build_count()
    for _ in range(5):
        executor.forward()[0].wait_to_read()
    assert native.callback_count() - calls == 5
    assert programs.build_count() == builds


def test_second_executor_does_not_build_again() -> None:
    first = bound(mlp("twice_"), "TensorRT", {"data": (4, 5)}, seed=5)
    first.forward()[0].wait_to_read()
    builds = programs.build_count()
    second = bound(mlp("twice_"), "TensorRT", {"data": (4, 5)}, seed=5)
    assert relative_error(second.forward()[0], first.outputs[0]) == 0
    assert programs.build_count() == builds


def test_training_is_left_to_mxnet(caplog: pytest.LogCaptureFixture, fresh_warnings: None) -> None:
    gradients = {}
    for name in ("NONE", "TensorRT"):
        with backend(name):
            executors = [conv_bn().simple_bind(mx.cpu(), data=SHAPE) for _ in range(2)]
        for executor in executors:
            assert not taken_nodes(executor)
            fill(executor, random_arrays(conv_bn(), {"data": SHAPE}))
            executor.forward(is_train=True)
            executor.backward()
        gradients[name] = executors[0].grad_dict["conv_weight"].asnumpy()
    assert np.array_equal(gradients["NONE"], gradients["TensorRT"])
    assert np.abs(gradients["NONE"]).max() > 0
    assert sum("training is left to MXNet" in r.message for r in caplog.records) == 1


def test_excluded_operators_split_the_graph() -> None:
    with backend("TensorRT", MXNET_TENSORRT_EXCLUDE_OPS="Activation", MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="1"):
        executor = conv_bn().simple_bind(mx.cpu(), grad_req="null", data=SHAPE)
    fill(executor, random_arrays(conv_bn(), {"data": SHAPE}))
    assert taken_nodes(executor) == ["conv", "bn", "pool", "fc", "softmax"]
    stock = bound(conv_bn(), "NONE", {"data": SHAPE})
    assert relative_error(executor.forward()[0], stock.forward()[0]) < 1e-5


def test_excluded_nodes_and_smallest_size() -> None:
    with backend("TensorRT", MXNET_TENSORRT_EXCLUDE_NODES="act,fc"):
        executor = conv_bn().simple_bind(mx.cpu(), grad_req="null", data=SHAPE)
        assert taken_nodes(executor) == ["conv", "bn"]
        with backend("TensorRT", MXNET_TENSORRT_MIN_SUBGRAPH_SIZE="3"):
            assert not taken_nodes(conv_bn().simple_bind(mx.cpu(), grad_req="null", data=SHAPE))


def test_old_switch_of_mxnet_1_3() -> None:
    with backend(None, MXNET_USE_TENSORRT="1"):
        assert taken_nodes(mlp().simple_bind(mx.cpu(), grad_req="null", data=(1, 5)))


def test_get_backend_symbol() -> None:
    symbol = conv_bn()
    new = symbol.get_backend_symbol("TensorRT")
    operators = [n["op"] for n in json.loads(new.tojson())["nodes"] if n["op"] != "null"]
    # No shapes are known here, and SoftmaxOutput is convertible for some only.
    assert operators == ["_TensorRT", "SoftmaxOutput"]
    assert new.list_arguments() == symbol.list_arguments()
    stock, ours = bound(symbol, "NONE", {"data": SHAPE}), bound(new, None, {"data": SHAPE, "softmax_label": (2,)})
    fill(ours, random_arrays(symbol, {"data": SHAPE}))
    assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5
    assert [n["op"] for n in json.loads(symbol.get_backend_symbol("MKLDNN").tojson())["nodes"]]


def test_optimize_for_options() -> None:
    arrays = random_arrays(mlp(), {"data": (2, 5)})
    new = mlp().optimize_for("TensorRT", arrays, {}, mx.cpu(), exclude_ops="Activation", min_subgraph_size=1)
    assert list(arrays) == ["data"], "weights were frozen"
    operators = [n["op"] for n in json.loads(new.tojson())["nodes"] if n["op"] != "null"]
    assert operators == ["_TensorRT", "Activation", "_TensorRT"]
    executor = new.bind(mx.cpu(), arrays, grad_req="null")
    with backend("NONE"):
        stock = mlp().bind(mx.cpu(), random_arrays(mlp(), {"data": (2, 5)}), grad_req="null")
    assert relative_error(executor.forward()[0], stock.forward()[0]) < 1e-5
    with pytest.raises(SettingError, match="colour"):
        mlp().optimize_for("TensorRT", arrays, {}, mx.cpu(), colour="red")


def test_gradients_of_a_tensorrt_node_are_an_error() -> None:
    new = mlp().get_backend_symbol("TensorRT")
    executor = new.simple_bind(mx.cpu(), grad_req="write", data=(2, 5))
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones((2, 3)))
    with pytest.raises(mx.MXNetError, match="inference only"):
        executor.grad_dict["fc1_weight"].wait_to_read()


def test_wrong_setting_is_an_error() -> None:
    with backend("TensorRT", MXNET_TENSORRT_ENGINE="cuda"):
        with pytest.raises(SettingError, match="auto, tensorrt, tensorrt_rtx, onnxruntime"):
            mlp().simple_bind(mx.cpu(), grad_req="null", data=(1, 5))


def test_report_and_log(caplog: pytest.LogCaptureFixture, fresh_warnings: None) -> None:
    with caplog.at_level(logging.DEBUG, "mxnet_trt_property"):
        executor = bound(mlp("logged_"), "TensorRT", {"data": (3, 5)}, seed=11)
        executor.forward()[0].wait_to_read()
    text = caplog.text
    assert "3 of 3 nodes in 1 subgraphs" in text
    assert "engine for arrays on cpu(0): onnxruntime; not tensorrt:" in text
    assert "engine built in" in text
    report = mxnet_trt_property.reports()[-1]
    assert (report.engine, report.nodes, report.builds, report.forwards) == ("onnxruntime", 3, 1, 1)


SCRIPT = """
import os, sys
{before}
import mxnet as mx
{after}
net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc")
net = mx.sym.Activation(net, act_type="relu")
executor = net.simple_bind(mx.cpu(), grad_req="null", data=(1, 2))
executor.forward()[0].wait_to_read()
sys.exit(0 if hasattr(executor, "tensorrt") else 3)
"""


@pytest.mark.parametrize(
    ("before", "after", "autoload", "status"),
    [
        ("os.environ['MXNET_SUBGRAPH_BACKEND'] = 'TensorRT'", "", "1", 0),
        ("", "os.environ['MXNET_SUBGRAPH_BACKEND'] = 'TensorRT'", "1", 0),
        ("import mxnet_trt_property", "os.environ['MXNET_SUBGRAPH_BACKEND'] = 'TensorRT'", "0", 0),
        ("", "import mxnet_trt_property; os.environ['MXNET_SUBGRAPH_BACKEND'] = 'TensorRT'", "1", 0),
        ("", "", "1", 3),
    ],
    ids=["set-before", "set-after", "package-first", "package-after", "unset"],
)
def test_variable_is_read_at_each_bind(
    before: str, after: str, autoload: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXNET_TENSORRT_AUTOLOAD", autoload)
    code = SCRIPT.format(before=before, after=after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert not done.stdout


def test_binding_again_and_again_needs_no_more_memory() -> None:
    deep = mx.sym.Variable("data")
    for layer in range(40):
        deep = mx.sym.FullyConnected(deep, num_hidden=2, name=f"layer{layer}")
    # Has nodes that stay with MXNet, so that its passes run, which infer the graph three times more.
    deep = mx.sym.FullyConnected(mx.sym.gammaln(mx.sym.abs(deep) + 1.5), num_hidden=2, name="last")

    def bind_and_run(count: int) -> int:
        for _ in range(count):
            bound(conv_bn(), "TensorRT", {"data": SHAPE}).forward()[0].wait_to_read()
            with backend("TensorRT"):
                assert "layer0" in taken_nodes(deep.simple_bind(mx.cpu(), grad_req="null", data=(1, 2)))
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = bind_and_run(30)
    # MXNet's own inference would lose 1.4 MB here.
    assert bind_and_run(60) - before < 500_000
