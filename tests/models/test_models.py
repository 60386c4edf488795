"""Whole networks: one TensorRT node, MXNet's results, and an engine that TensorRT-RTX builds without a GPU."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mxnet_trt_property.engines.trt import build_ahead_of_time
from tests.models import zoo
from tests.models.build import Network
from tests.symbols import backend, mx, relative_error, taken_nodes

# The everyday run takes one of each family; CI runs all.
FAST = ("alexnet", "mobilenet0.25", "mobilenetv2_0.25", "resnet18_v1", "resnet18_v2", "mlp", "lenet", "wavenet")
TOLERANCE = 1e-5


def cases(names: Any) -> list[Any]:
    """Returns parameters with all but the fast ones marked slow."""
    return [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in names]


def run(network: Network, name: str, data: dict[str, Any]) -> tuple[Any, Any]:
    """Binds and runs a network; returns the executor and its outputs."""
    with backend(name):
        executor = network.symbol.simple_bind(mx.cpu(), grad_req="null", **network.data_shapes)
    executor.copy_params_from(network.arg_params, network.aux_params, allow_extra_params=True)
    return executor, executor.forward(is_train=False, **data)


@pytest.mark.parametrize("name", cases(zoo.BUILDERS))
def test_network(name: str, built_models: list[bytes]) -> None:
    network = zoo.BUILDERS[name]()
    data = network.data()
    _, expected = run(network, "NONE", data)
    executor, found = run(network, "TensorRT", data)
    operators = [n["op"] for n in json.loads(executor.get_optimized_symbol().tojson())["nodes"] if n["op"] != "null"]
    assert operators == ["_TensorRT"]
    assert len(found) == len(expected)
    for ours, stock in zip(found, expected):
        assert relative_error(ours, stock) <= TOLERANCE
    assert len(built_models) == 1
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this machine")
    assert len(build_ahead_of_time(built_models[0])) > 1000


def test_wavenet_splits_where_its_gate_is_excluded() -> None:
    network = zoo.wavenet()
    data = network.data()
    _, expected = run(network, "NONE", data)
    with backend("TensorRT", MXNET_TENSORRT_EXCLUDE_OPS="sigmoid"):
        executor, found = run(network, "TensorRT", data)
    operators = [n["op"] for n in json.loads(executor.get_optimized_symbol().tojson())["nodes"] if n["op"] != "null"]
    assert operators.count("_TensorRT") >= 4
    assert set(operators) == {"_TensorRT", "sigmoid"}
    assert taken_nodes(executor)
    assert relative_error(found[0], expected[0]) <= TOLERANCE
