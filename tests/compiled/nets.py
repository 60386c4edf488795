"""What the tests of compiled models share: a network, its compilation, and stock MXNet's results."""

from __future__ import annotations

from typing import Any

import mxnet as mx

import mxnet_trt_property
from mxnet_trt_property.compiled import CompiledModel
from tests.symbols import backend, fill

SHAPE = (2, 5)


def split(symbol: Any, arrays: dict[str, Any], *inputs: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns arg_params and aux_params, without the inputs."""
    states = set(symbol.list_auxiliary_states())
    return (
        {k: v for k, v in arrays.items() if k not in states and k not in inputs},
        {k: v for k, v in arrays.items() if k in states},
    )


def reference(symbol: Any, arrays: dict[str, Any]) -> list[Any]:
    """Returns the outputs of stock MXNet."""
    with backend("NONE"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **{k: v.shape for k, v in arrays.items()})
    fill(executor, arrays)
    return [o.copy() for o in executor.forward(is_train=False)]


def compile_net(symbol: Any, arrays: dict[str, Any], *inputs: str, **options: Any) -> CompiledModel:
    """Compiles with every array but the inputs frozen."""
    arg, aux = split(symbol, arrays, *inputs, "softmax_label")
    shapes = {name: arrays[name].shape for name in inputs}
    options.setdefault("engine", "onnxruntime")
    return mxnet_trt_property.compile(symbol, arg, aux, shapes, **options)
