"""What a HybridBlock does when its graph has TensorRT nodes: parameters stay its own, and training is an error."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.base import MXNetError

from mxnet_trt_property import infer, native
from mxnet_trt_property.errors import TrainingError, message
from mxnet_trt_property.logs import warn_once

_thread = threading.local()
_STATE = "_tensorrt_state"

Groups = tuple[int, ...]
Signature = tuple[tuple[tuple[int, ...], str], ...]


@dataclass
class State:
    """What a block with TensorRT nodes carries besides Gluon's own fields.

    Attributes:
        symbol: The graph before it was partitioned; None where it was loaded with its TensorRT nodes.
        groups: The group of each of its nodes in the partition that the block runs now.
        decide: Returns the groups for other shapes and dtypes of the data, by name.
        known: Shapes and dtypes that this partition was made for, or would have been.
        others: Gluon's fields for other partitions of the same graph.
    """

    symbol: Any
    groups: Groups
    decide: Callable[[Mapping[str, Any]], Groups]
    known: set[Signature] = field(default_factory=set)
    others: dict[Groups, tuple[dict[str, Any], set[Signature]]] = field(default_factory=dict)


def inside() -> bool:
    """Whether this thread is building a HybridBlock's graph: its parameters stay its own, and may change later."""
    return getattr(_thread, "inside", False)


def data_names() -> frozenset[str]:
    """Returns the names of the inputs of the HybridBlock whose graph this thread is building."""
    return frozenset(data.name for data in _thread.block._cached_graph[0])


def note_partition(symbol: Any, groups: Groups, decide: Callable[[Mapping[str, Any]], Groups]) -> None:
    """Tells `build_cache`, which is under way in this thread, what its graph was and how it was partitioned."""
    _thread.noted = State(symbol, groups, decide)


def build_cache(stock: Callable[..., Any], block: Any, args: Sequence[Any]) -> Any:
    """Does what HybridBlock._build_cache does, and notes whether the graph has TensorRT nodes."""
    before, outer = (inside(), getattr(_thread, "block", None)), getattr(_thread, "noted", None)
    _thread.inside, _thread.noted, _thread.block = True, None, block
    try:
        result = stock(block, *args)
        state = _thread.noted
    finally:
        (_thread.inside, _thread.block), _thread.noted = before, outer
    if state is None and native.is_in_mxnet() and infer.has_tensorrt_nodes(block._cached_graph[1]):
        state = State(None, (), lambda arrays: ())
    if state is not None:
        state.known.add(_signature(_arrays(args)))
    vars(block)[_STATE] = state
    return result


def call(stock: Callable[..., Any], block: Any, args: Sequence[Any]) -> Any:
    """Does what HybridBlock._call_cached_op does; gradients through TensorRT nodes are an error at once.

    Raises:
        TrainingError: autograd would record the call. The backward pass would fail too, but only where its result is
            read, and stock MXNet would name neither the block nor the reason.
    """
    if block._cached_op is None:
        block._build_cache(*args)
    if vars(block).get(_STATE) is not None:
        if autograd.is_recording() or autograd.is_training():
            _refuse_training(block, args)
        _fit_partition(block, args)
    return stock(block, *args)


_FIELDS = ("_cached_graph", "_cached_op", "_cached_op_args")


def _fit_partition(block: Any, args: Sequence[Any]) -> None:
    """Partitions the graph again where other nodes can be taken at the shapes of this call.

    What an operator's converter can do may depend on shapes; a TensorRT node that was made for others would fail.
    """
    state: State = vars(block)[_STATE]
    if state.symbol is None:
        return
    arrays = _arrays(args)
    signature = _signature(arrays)
    if signature in state.known:
        return
    try:
        groups = state.decide({s.name: a for s, a in zip(block._cached_graph[0], arrays)})
    except MXNetError:
        return  # shapes that contradict the graph: the call itself says so
    if groups != state.groups:
        others = {**state.others, state.groups: ({k: getattr(block, k) for k in _FIELDS}, state.known)}
        if groups in others:
            fields, known = others.pop(groups)
            vars(block).update(fields)
            state = State(state.symbol, groups, state.decide, known, others)
        else:
            block._cached_graph = (block._cached_graph[0], state.symbol)
            block._build_cache(*args)
            state = vars(block)[_STATE] or State(state.symbol, groups, state.decide)
            state.groups, state.others = groups, others
        vars(block)[_STATE] = state
    state.known.add(signature)


def _arrays(args: Sequence[Any]) -> list[Any]:
    return [a for a in mx.gluon.block._flatten(args, "input")[0] if isinstance(a, mx.nd.NDArray)]


def _signature(arrays: Sequence[Any]) -> Signature:
    return tuple((a.shape, np.dtype(a.dtype).str) for a in arrays)


def _refuse_training(block: Any, args: Sequence[Any]) -> None:
    parameters = [p for is_data, p in block._cached_op_args if not is_data]
    wanting = [p.name for p in parameters if p.grad_req != "null"]
    # Asked before the call: afterwards the inputs would be part of autograd's graph, and stay so.
    if autograd.is_recording() and (wanting or _is_recorded(args)):
        raise TrainingError(
            message(
                f"{block.name} was called inside autograd.record(), and its graph has TensorRT nodes",
                found=f"{wanting[0]} and {len(wanting) - 1} others have gradients" if wanting else "inputs of autograd",
                required="no gradients: TensorRT nodes are for inference only",
                next_step="call hybridize() without a backend to train; to use the block with fixed parameters, set "
                "their grad_req to 'null'",
            )
        )
    if autograd.is_training():
        warn_once(
            "a HybridBlock with TensorRT nodes was called in training mode: it does inference all the same "
            "(Dropout does nothing, BatchNorm uses its running statistics)",
            next_step="call it outside autograd.train_mode(), or hybridize() it without a backend to train",
        )


def _is_recorded(value: Any) -> bool:
    """Whether autograd could go back from any array of a block's input."""
    if isinstance(value, (list, tuple)):
        return any(_is_recorded(item) for item in value)
    if not isinstance(value, mx.nd.NDArray):
        return False
    handle = mx.base.SymbolHandle()
    if mx.base._LIB.MXAutogradGetSymbol(value.handle, ctypes.byref(handle)) != 0:
        return False
    mx.base.check_call(mx.base._LIB.MXSymbolFree(handle))
    return True
