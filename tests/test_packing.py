"""Weights that are views of one array, as executors on a GPU have them, on the CPU and without MKLDNN's layouts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from mxnet_trt_property import packing
from tests.models import zoo
from tests.symbols import backend, bound, conv_bn, relative_error

SHAPES = {"data": (2, 3, 8, 8)}


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats mx.cpu() as a GPU, whose arrays MXNet's own operators leave in place."""
    monkeypatch.setattr(packing, "is_possible", lambda context: True)


def address(array: mx.nd.NDArray) -> int:
    """Returns where an array's memory begins."""
    from mxnet_trt_property.early_start import address_of

    return address_of(array)


def random(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def test_arrays_are_aligned_views_of_zeros() -> None:
    shapes = {"a": (3, 5), "b": (7,), "c": (2, 2), "d": (1,)}
    dtypes = {"a": np.float32, "b": "float32", "c": np.float16, "d": np.float32}
    found = packing.zeros(shapes, dtypes, mx.cpu())
    for name, array in found.items():
        assert array.shape == shapes[name] and array.dtype == np.dtype(dtypes[name])
        assert not array.asnumpy().any()
    begin = address(found["a"])
    assert [address(found[name]) - begin for name in "abd"] == [0, 256, 512]
    found["b"][:] = 1
    assert found["b"].asnumpy().all() and not found["a"].asnumpy().any() and not found["d"].asnumpy().any()


def test_more_than_an_array_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_MOST_ELEMENTS", 128)
    shapes = {"a": (60,), "b": (60,), "c": (300,), "d": (4,)}
    found = packing.zeros(shapes, dict.fromkeys(shapes, "float32"), mx.cpu())
    assert {name: array.shape for name, array in found.items()} == shapes
    assert address(found["b"]) - address(found["a"]) == 256


def test_an_executor_with_weights_side_by_side(packed: None) -> None:
    stock, ours = bound(conv_bn(), "NONE", SHAPES), bound(conv_bn(), "TensorRT", SHAPES)
    assert ours.tensorrt.sessions
    weights = {**ours.arg_dict, **ours.aux_dict}
    data = weights.pop("data")
    del weights["softmax_label"]  # nothing reads it in inference: it is no weight
    places = sorted((address(array), array.size * 4) for array in weights.values())
    assert all(after - (begin + size) < 256 for (begin, size), (after, _) in zip(places, places[1:]))
    assert not places[0][0] <= address(data) <= places[-1][0]
    assert [a.shape for a in ours.arg_arrays] == [a.shape for a in stock.arg_arrays]
    assert [a.shape for a in ours.aux_arrays] == [a.shape for a in stock.aux_arrays]
    assert ours.grad_arrays == stock.grad_arrays
    for seed in range(3):
        x = mx.nd.array(random(SHAPES["data"], seed))
        assert relative_error(ours.forward(data=x)[0], stock.forward(data=x)[0]) < 1e-5
    session = ours.tensorrt.sessions[0]
    assert session.report.builds <= 1
    assert session.report.forwards <= 1 or session.report.engine == "onnxruntime"


@pytest.mark.parametrize("name", ["conv_weight", "fc_bias", "bn_moving_mean", "bn_moving_var"])
def test_each_weight_can_be_written(packed: None, name: str) -> None:
    stock, ours = bound(conv_bn(), "NONE", SHAPES), bound(conv_bn(), "TensorRT", SHAPES)
    ours.forward()[0].wait_to_read()
    for executor in (stock, ours):
        array = {**executor.arg_dict, **executor.aux_dict}[name]
        array[:] = array * 0.5 + 0.25
    assert relative_error(ours.forward()[0], stock.forward()[0]) < 1e-5


def test_data_and_what_is_shared_stay_apart(packed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[set[str]] = []
    stock = packing.zeros

    def zeros(shapes: Any, dtypes: Any, context: Any) -> Any:
        together.append(set(shapes))
        return stock(shapes, dtypes, context)

    monkeypatch.setattr(packing, "zeros", zeros)
    with backend("TensorRT"):
        first = conv_bn().simple_bind(mx.cpu(), grad_req="null", **SHAPES)
        # An argument with a shape may be data, which is written at each forward.
        conv_bn().simple_bind(mx.cpu(), grad_req="null", fc_bias=first.arg_dict["fc_bias"].shape, **SHAPES)
        shared = conv_bn().simple_bind(
            mx.cpu(), grad_req="null", shared_exec=first, shared_arg_names=["conv_weight"], shared_buffer={}, **SHAPES
        )
        buffer: dict[str, Any] = {}
        conv_bn().simple_bind(mx.cpu(), grad_req="null", shared_buffer=buffer, **SHAPES)
    assert "data" in buffer
    assert len(together) == 2
    assert together[0] - together[1] == {"fc_bias"}
    assert not {"data", "softmax_label"} & together[0]
    assert address(shared.arg_dict["conv_weight"]) == address(first.arg_dict["conv_weight"])


ANYTHING = """
import mxnet as mx
import mxnet_trt_property
from mxnet_trt_property import packing
packing.is_possible = lambda context: True
from tests.models import zoo
from tests.symbols import backend, relative_error
net = zoo.vision("resnet18_v2", batch=2, size=32)
shapes = {"data": net.data_shapes["data"]}
executors = []
for name in ("NONE", "TensorRT"):
    with backend(name):
        executors.append(net.symbol.simple_bind(mx.cpu(), grad_req="null", **shapes))
    executors[-1].copy_params_from(net.arg_params, net.aux_params)
x = mx.nd.random.normal(shape=shapes["data"])
def compare(label, **arguments):
    stock, ours = (executor.forward(**arguments)[0] for executor in executors)
    assert relative_error(ours, stock) < 1e-5, label
compare("inference", is_train=False, data=x)
compare("training", is_train=True, data=x)
for executor in executors:
    executor.set_monitor_callback(lambda name, array: None)
compare("monitored", is_train=False, data=x)
stays = executors[:]  # MXNet's reshape passes the monitor on, and frees it with the old executor
executors[:] = [executor.reshape(data=(1, *shapes["data"][1:])) for executor in executors]
compare("reshaped", is_train=False, data=x[:1])
print("right")
"""


def test_what_mxnet_runs_on_such_weights() -> None:
    """Training, monitors and reshape, in a process whose MXNet has no MKLDNN, as none has on a GPU."""
    variables = {**os.environ, "MXNET_MKLDNN_ENABLED": "0", "MXNET_STORAGE_FALLBACK_LOG_VERBOSE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", ANYTHING], env=variables, cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "right", done.stderr


def test_of_a_zoo_network_only_the_data_is_no_weight() -> None:
    from mxnet_trt_property import infer

    net = zoo.vision("resnet18_v2", batch=1, size=32)
    names = {*net.symbol.list_arguments(), *net.symbol.list_auxiliary_states()}
    assert packing.weight_names(infer.read_symbol(net.symbol)) == names - {"data"}
