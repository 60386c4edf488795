"""`mx.contrib.tensorrt`, as MXNet's own TensorRT builds of 1.3 (tensorrt_bind) and 1.5 to 1.7 (the rest) had it.

Each function does what the one of that name did, with TensorRT nodes of this package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Optional

from mxnet_trt_property import settings

__all__ = [
    "get_optimized_symbol",
    "get_use_fp16",
    "get_use_tensorrt",
    "init_tensorrt_params",
    "set_use_fp16",
    "set_use_tensorrt",
    "tensorrt_bind",
]


def set_use_tensorrt(status: bool) -> None:
    """Turns TensorRT on or off for later binds; sets MXNET_USE_TENSORRT."""
    os.environ[settings.OLD_SWITCH] = str(int(status))


def get_use_tensorrt() -> bool:
    """Returns whether binds use TensorRT now."""
    return settings.backend_is_on()


def set_use_fp16(status: bool) -> None:
    """Lets later engines compute in float16, or not; sets MXNET_TENSORRT_USE_FP16."""
    os.environ[settings.PREFIX + "USE_FP16"] = str(int(status))


def get_use_fp16() -> bool:
    """Returns whether later engines compute in float16. Without any setting they do not, unlike in MXNet 1.5."""
    return settings.read().precision == "fp16"


def get_optimized_symbol(executor: Any) -> Any:
    """Returns the symbol that an executor runs, TensorRT nodes included.

    Args:
        executor: An executor that was bound with TensorRT on.
    """
    return executor.get_optimized_symbol()


def tensorrt_bind(
    symbol: Any,
    ctx: Any,
    all_params: Mapping[str, Any],
    type_dict: Optional[Mapping[str, Any]] = None,
    stype_dict: Optional[Mapping[str, str]] = None,
    group2ctx: Optional[Mapping[str, Any]] = None,
    **kwargs: Any,
) -> Any:
    """Binds a symbol for inference with its parameters set; returns the executor.

    Parameters that only TensorRT nodes read are frozen into them: the executor has no arrays for them, and they are
    removed from `all_params` if it is a dictionary, so that their memory is free once nothing else holds them.

    Args:
        symbol: The network.
        ctx: Where the executor's arrays lie.
        all_params: Arguments and auxiliary states by name.
        type_dict: Dtypes of inputs, as in simple_bind.
        stype_dict: Storage types, as in simple_bind; anything but 'default' leaves the graph to MXNet.
        group2ctx: Contexts of groups, as in simple_bind; leaves the graph to MXNet.
        kwargs: The shapes of the inputs, and other arguments of simple_bind.

    Raises:
        RuntimeError: MXNet could not bind the symbol.
    """
    from mxnet_trt_property import binding

    named = {"type_dict": type_dict, "stype_dict": stype_dict, "group2ctx": group2ctx}
    return binding.tensorrt_bind(symbol, ctx, all_params, **named, **kwargs)


def init_tensorrt_params(
    sym: Any, arg_params: Mapping[str, Any], aux_params: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Freezes parameters into the TensorRT nodes of a symbol, which is changed in place.

    Args:
        sym: A symbol from `get_backend_symbol('TensorRT')`.
        arg_params: Its arguments by name.
        aux_params: Its auxiliary states by name.

    Returns:
        New dictionaries without the parameters that the symbol has no longer.
    """
    from mxnet_trt_property import binding

    frozen = binding.freeze_in_place(sym, {**arg_params, **aux_params})
    return (
        {k: v for k, v in arg_params.items() if k not in frozen},
        {k: v for k, v in aux_params.items() if k not in frozen},
    )
