"""Small symbols and arrays that tests of several modules use, and the switch that turns TensorRT on around a block."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Optional

import mxnet as mx
import numpy as np

import mxnet_trt_property
from mxnet_trt_property.environment import environment

BACKENDS = ("NONE", "TensorRT")


def backend(name: Optional[str], **variables: str) -> AbstractContextManager[None]:
    """Sets MXNET_SUBGRAPH_BACKEND (None: unset) and other variables for a block."""
    return environment({"MXNET_SUBGRAPH_BACKEND": name, **variables})


def mlp(prefix: str = "") -> Any:
    """Returns data (N, 5) -> FullyConnected 8 -> relu -> FullyConnected 3."""
    data = mx.sym.Variable("data")
    hidden = mx.sym.FullyConnected(data, num_hidden=8, name=prefix + "fc1")
    hidden = mx.sym.Activation(hidden, act_type="relu", name=prefix + "relu1")
    return mx.sym.FullyConnected(hidden, num_hidden=3, name=prefix + "fc2")


def conv_bn() -> Any:
    """Returns data (N, 3, H, W) -> Convolution -> BatchNorm -> relu -> global pooling -> FullyConnected -> Softmax."""
    net = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=4, pad=(1, 1), name="conv")
    net = mx.sym.BatchNorm(net, fix_gamma=False, name="bn")
    net = mx.sym.Activation(net, act_type="relu", name="act")
    net = mx.sym.Pooling(net, global_pool=True, pool_type="avg", kernel=(1, 1), name="pool")
    net = mx.sym.FullyConnected(net, num_hidden=5, name="fc")
    return mx.sym.SoftmaxOutput(net, name="softmax")


def split_net() -> Any:
    """Returns a chain that an operator without ONNX counterpart cuts in two: fc1, sigmoid1 | gammaln | fc2, tanh2."""
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=6, name="fc1")
    net = mx.sym.Activation(net, act_type="sigmoid", name="sigmoid1")
    net = mx.sym.gammaln(net, name="wave")
    net = mx.sym.FullyConnected(net, num_hidden=4, name="fc2")
    return mx.sym.Activation(net, act_type="tanh", name="tanh2")


def random_arrays(symbol: Any, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Any]:
    """Returns an NDArray for each argument and auxiliary state; variances are positive."""
    rng = np.random.default_rng(seed)
    args, _, auxs = symbol.infer_shape(**shapes)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    return {
        name: mx.nd.array(np.abs(v) + 0.5 if name.endswith("var") else v)
        for name, v in ((n, rng.standard_normal(s).astype("float32")) for n, s in zip(names, args + auxs))
    }


def fill(executor: Any, arrays: Mapping[str, Any]) -> None:
    """Copies arrays into an executor's arguments and auxiliary states."""
    for name, array in {**executor.arg_dict, **executor.aux_dict}.items():
        array[:] = arrays[name]


def bound(symbol: Any, name: Optional[str], shapes: Mapping[str, tuple[int, ...]], seed: int = 0, **named: Any) -> Any:
    """Returns an executor from simple_bind under a backend, with random parameters.

    Args:
        symbol: The symbol.
        name: The value of MXNET_SUBGRAPH_BACKEND; None leaves it unset.
        shapes: The shapes that simple_bind gets.
        seed: Of the parameters.
        named: Other arguments of simple_bind.
    """
    with backend(name):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **named, **shapes)
    fill(executor, random_arrays(symbol, shapes, seed))
    return executor


def relative_error(found: Any, expected: Any) -> float:
    """Returns ||a - b|| / ||b||."""
    a, b = (x.asnumpy() if isinstance(x, mx.nd.NDArray) else np.asarray(x) for x in (found, expected))
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    return float(np.linalg.norm((a - b).ravel()) / max(float(np.linalg.norm(b.ravel())), 1e-30))


def taken_nodes(executor: Any) -> list[str]:
    """Returns the names of the operator nodes inside an executor's TensorRT nodes."""
    attachment = getattr(executor, "tensorrt", None)
    return [] if attachment is None else [d.node.name for d in attachment.made.decisions.taken]


def pair(symbol: Any, shapes: dict[str, tuple[int, ...]], **named: Any) -> tuple[Any, Any]:
    """Returns a stock executor and one with TensorRT nodes, both with the same parameters."""
    stock, ours = (bound(symbol, name, shapes, **named) for name in BACKENDS)
    assert taken_nodes(ours)
    return stock, ours


def assert_same(ours: Any, stock: Any, limit: float = 1e-5, **data: Any) -> None:
    """Runs both executors and compares every output."""
    before = sum(r.forwards for r in mxnet_trt_property.reports())
    found, expected = ours.forward(is_train=False, **data), stock.forward(is_train=False, **data)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert relative_error(a, b) < limit
    assert sum(r.forwards for r in mxnet_trt_property.reports()) > before, "no TensorRT node ran"
