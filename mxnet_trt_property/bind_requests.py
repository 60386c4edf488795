"""What a program asks for when it binds: gradients, arrays, shapes, and what of that leaves a graph to MXNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import mxnet as mx

from mxnet_trt_property import infer
from mxnet_trt_property.logs import warn_once

_REQUESTS = ("null", "write", "add")


def why_stock(symbol: Any, grad_req: Any, group2ctx: Any, stype_dict: Any) -> Optional[str]:
    """Returns why MXNet binds the symbol without TensorRT, or None; says so once."""
    reason, step = None, ""
    if any(r != "null" for r in _requests(grad_req)):
        reason = "gradients are asked for (grad_req is not 'null'): training is left to MXNet"
        step = "for inference bind with grad_req='null' (Module: for_training=False)"
    elif group2ctx:
        reason = "group2ctx places nodes on several devices: the graph is left to MXNet"
        step = "bind without group2ctx to use TensorRT"
    elif any(v != "default" for v in (stype_dict or {}).values()):
        reason = "stype_dict asks for sparse arrays: the graph is left to MXNet"
        step = "bind without stype_dict to use TensorRT"
    elif len(set(symbol.list_inputs())) != len(symbol.list_inputs()):
        reason = "two arguments have one name: the graph is left to MXNet"
        step = "give each variable of the network a name of its own"
    if reason is not None:
        warn_once(reason, next_step=step)
    return reason


def _requests(grad_req: Any) -> list[Any]:
    requests = grad_req.values() if isinstance(grad_req, dict) else grad_req
    return [requests] if isinstance(requests, str) else list(requests or [])


def inference_request(args_grad: Any, grad_req: Any, names: Sequence[str]) -> Any:
    """Returns 'null' where bind was given no array to put a gradient in, whatever a valid grad_req says."""
    if isinstance(args_grad, dict):
        without = not any(name in args_grad for name in names)
    else:
        without = args_grad is None or (len(args_grad) == len(names) and all(g is None for g in args_grad))
    return "null" if without and all(r in _REQUESTS for r in _requests(grad_req)) else grad_req


def by_name(arrays: Any, names: list[str]) -> Optional[dict[str, Any]]:
    """Returns arrays by name, or None where bind itself has something to say about them, or one is sparse."""
    if isinstance(arrays, dict):
        found = {name: arrays[name] for name in names if name in arrays}
    elif isinstance(arrays, (list, tuple)):
        found = dict(zip(names, arrays))
    else:
        return None
    complete = len(found) == len(names) and (isinstance(arrays, dict) or len(arrays) == len(names))
    dense = all(isinstance(v, mx.nd.NDArray) and v.stype == "default" for v in found.values())
    return found if complete and dense else None


def argument_shapes(symbol: Any, known: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each argument that inference finds, from those in `known`; other names in it are ignored."""
    names = symbol.list_arguments()
    found, _, _ = symbol.infer_shape_partial(**{k: v for k, v in known.items() if k in names})
    shapes = {name: infer.known_shape(shape) for name, shape in zip(names, found or ())}
    return {name: shape for name, shape in shapes.items() if shape is not None}
