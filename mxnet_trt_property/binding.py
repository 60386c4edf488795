"""What simple_bind, bind and reshape do when TensorRT is on: executors with TensorRT nodes that look stock."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple, Optional

import mxnet as mx
import numpy as np
from mxnet.base import MXNetError
from mxnet.executor import Executor

from mxnet_trt_property import backend, native, session, settings
from mxnet_trt_property.errors import SettingError, message

_log = logging.getLogger("mxnet_trt_property")
_warned: set[str] = set()

# Options of MXNet's own pass, which Gluon passes through optimize_for too.
_PASS_OPTIONS = frozenset({"dedup_subgraph"})


class Stock(NamedTuple):
    """MXNet's own functions, as they were before `activation` wrapped them."""

    simple_bind: Callable[..., Any]
    bind: Callable[..., Any]
    get_backend_symbol: Callable[..., Any]
    optimize_for: Callable[..., Any]
    reshape: Callable[..., Any]


stock = Stock(
    mx.sym.Symbol.simple_bind,
    mx.sym.Symbol.bind,
    mx.sym.Symbol.get_backend_symbol,
    mx.sym.Symbol.optimize_for,
    Executor.reshape,
)


@dataclass
class Attachment:
    """What an executor with TensorRT nodes carries besides MXNet's own fields.

    Attributes:
        made: The partitioned symbol, and which nodes were taken and why the others were not.
        make_stock: Binds the original symbol to the same arrays without TensorRT.
        twin: The executor that `make_stock` made, once it was needed.
        use_twin: Whether every forward goes to the twin, after the TensorRT nodes failed.
        checked: Whether the first forward is behind, and so is a fallback.
        sessions: The sessions of the executor's TensorRT nodes.
        early: Starts the captured run of a graph that is one TensorRT node before MXNet's thread gets to it, after
            waiting for what is written to its inputs; None where that cannot be.
    """

    made: backend.Partitioned
    make_stock: Callable[[Any], Any]
    twin: Any = None
    use_twin: bool = False
    checked: bool = False
    sessions: list[session.Session] = field(default_factory=list)
    early: Optional[Callable[[], None]] = None


class TensorRTExecutor(Executor):  # type: ignore[misc]  # mxnet has no types
    """An executor whose graph has TensorRT nodes. Arrays and outputs have the names and order of the stock one."""

    tensorrt: Attachment

    def forward(self, is_train: bool = False, **kwargs: Any) -> Any:
        """Runs the graph, as Executor.forward does.

        With `is_train` the stock graph runs on the same arrays: Dropout, BatchNorm and others act differently in
        training, and an engine holds inference only.
        """
        state = self.tensorrt
        if is_train:
            _warn_once("forward(is_train=True) runs on MXNet: TensorRT nodes are for inference")
        if is_train or state.use_twin:
            return self._forward_twin(is_train, kwargs)
        self._assign(kwargs)
        if state.early is not None:
            state.early()
        if state.checked:
            return super().forward(is_train=False)
        try:
            outputs = super().forward(is_train=False)
            if settings.value("ON_ERROR") == "fallback":
                # Only this once: whether the engines could be had shows here, and MXNet can still take over.
                for output in outputs:
                    output.wait_to_read()
        except MXNetError as error:
            if settings.value("ON_ERROR") != "fallback":
                raise
            _log.warning(
                message(
                    "The TensorRT nodes of an executor failed; it goes on with MXNet",
                    found=str(error),
                    next_step="set MXNET_TENSORRT_ON_ERROR=raise to stop here, or unset MXNET_SUBGRAPH_BACKEND",
                )
            )
            state.use_twin = True
            return self._forward_twin(is_train, {})
        state.checked = True
        return outputs

    def _assign(self, arrays: Mapping[str, Any]) -> None:
        """Writes arrays into arguments as Executor.forward does with its keyword arguments."""
        arguments = self.arg_dict
        for name, array in arrays.items():
            if not isinstance(array, (mx.nd.NDArray, np.ndarray)):
                raise ValueError("only accept keyword argument of NDArrays and numpy.ndarray")
            if name not in arguments:
                raise TypeError(f"Unknown argument {name}")
            if arguments[name].shape != array.shape:
                raise ValueError(
                    f"Shape not match! Argument {name}, need: {arguments[name].shape}, received: {array.shape}"
                )
            if isinstance(array, mx.nd.NDArray) and array.handle is not arguments[name].handle:
                array.copyto(arguments[name])  # what the assignment below comes down to, without parsing an index
            else:
                arguments[name][:] = array

    def backward(self, out_grads: Any = None, is_train: bool = True) -> None:
        """Runs the backward pass of the stock graph after forward(is_train=True)."""
        if self.tensorrt.twin is not None:
            self.tensorrt.twin.backward(out_grads, is_train)
        else:
            super().backward(out_grads, is_train)

    def _forward_twin(self, is_train: bool, kwargs: Mapping[str, Any]) -> Any:
        state = self.tensorrt
        if state.twin is None:
            state.twin = state.make_stock(self)
            if self._monitor_callback is not None:
                mx.base.check_call(
                    mx.base._LIB.MXExecutorSetMonitorCallbackEX(
                        state.twin.handle, self._monitor_callback, None, int(bool(self._monitor_all))
                    )
                )
        self.outputs = state.twin.forward(is_train=is_train, **kwargs)
        self._output_dict = None
        return self.outputs

    def __del__(self) -> None:
        """Waits for the forward under way and lets go of the arrays' memory before MXNet frees the executor."""
        state = getattr(self, "tensorrt", None)
        if state is not None and state.sessions:
            for output in self.outputs:
                try:
                    output.wait_to_read()
                except MXNetError:
                    pass  # whoever wanted to know has asked
            for member in state.sessions:
                member.release_arrays()
        super().__del__()

    def set_monitor_callback(self, callback: Any, monitor_all: bool = False) -> None:
        """Installs a callback for each output, as Executor.set_monitor_callback does."""
        super().set_monitor_callback(callback, monitor_all)
        if self.tensorrt.twin is not None:
            self.tensorrt.twin.set_monitor_callback(callback, monitor_all)


def simple_bind(symbol: Any, arguments: Mapping[str, Any]) -> Any:
    """Does what Symbol.simple_bind does, with TensorRT nodes where they can be had.

    Args:
        symbol: The symbol.
        arguments: simple_bind's arguments by name; the shapes under "kwargs".
    """
    shapes = arguments["kwargs"]
    plain = {k: v for k, v in arguments.items() if k != "kwargs"}

    def stock_bind(sym: Any, extra: Mapping[str, Any], **changed: Any) -> Any:
        return stock.simple_bind(sym, **{**plain, **changed}, **{**shapes, **extra})

    with native_default_backend():
        reason = _why_stock(symbol, arguments["grad_req"], plain.get("group2ctx"), plain.get("stype_dict"))
        known = {k: v for k, v in shapes.items() if isinstance(v, tuple)}
        made = None if reason else _partition(symbol, known, plain.get("type_dict") or {})
        if made is None:
            return stock_bind(symbol, {})
        # Every shape and dtype is given, since inference cannot look backwards through a TensorRT node.
        all_shapes = _argument_shapes(symbol, known)
        free = {k: v for k, v in all_shapes.items() if k not in plain and k != "self"}
        dtypes = backend.complete_dtypes(symbol, plain.get("type_dict") or {})
        with session.collect() as sessions:
            executor = stock_bind(made.symbol, free, type_dict=dtypes)

        def make_stock(current: Any) -> Any:
            with native_default_backend():
                return stock.bind(
                    symbol, plain["ctx"], list(current.arg_arrays), None, "null", list(current.aux_arrays)
                )

        return _attach(executor, symbol, made, make_stock, sessions)


def bind(symbol: Any, arguments: Mapping[str, Any]) -> Any:
    """Does what Symbol.bind does, with TensorRT nodes where they can be had."""

    def stock_bind(sym: Any) -> Any:
        return stock.bind(sym, **arguments)

    with native_default_backend():
        no_gradients = _holds_nothing(arguments["args_grad"])
        grad_req = "null" if no_gradients else arguments["grad_req"]
        reason = _why_stock(symbol, grad_req, arguments["group2ctx"], None)
        arrays = _by_name(arguments["args"], symbol.list_arguments())
        if reason or arrays is None:
            return stock_bind(symbol)
        shapes = {k: tuple(v.shape) for k, v in arrays.items()}
        made = _partition(symbol, shapes, {k: v.dtype for k, v in arrays.items()})
        auxiliary = _by_name(arguments["aux_states"] or [], symbol.list_auxiliary_states())
        if made is None or auxiliary is None:
            return stock_bind(symbol)
        with session.collect() as sessions:
            executor = stock.bind(
                made.symbol,
                arguments["ctx"],
                arrays,
                None,
                "null",
                auxiliary,
                arguments["group2ctx"],
                arguments["shared_exec"],
            )

        def make_stock(current: Any) -> Any:
            with native_default_backend():
                return stock_bind(symbol)

        attached = _attach(executor, symbol, made, make_stock, sessions)
        attached.grad_arrays = arguments["args_grad"]
        attached._grad_req = arguments["grad_req"]
        return attached


def _spread(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments by name with those of `**kwargs` among them."""
    return {**{k: v for k, v in arguments.items() if k != "kwargs"}, **arguments.get("kwargs", {})}


def _check_unspecified(
    executor: Any, given: Mapping[str, tuple[int, ...]], inferred: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises what Executor.reshape raises where an argument that was not named gets another shape.

    MXNet makes the check by inference through the graph, which does not look backwards through a TensorRT node.
    """
    for name, array in executor.arg_dict.items():
        if name not in given and inferred.get(name, array.shape) != array.shape:
            raise MXNetError(
                message(
                    f"reshape would change the shape of argument '{name}', which was not named",
                    found=str(inferred[name]),
                    required=str(array.shape),
                    next_step="name it too, or pass partial_shaping=True",
                )
            )


def get_backend_symbol(symbol: Any, arguments: Mapping[str, Any]) -> Any:
    """Does what Symbol.get_backend_symbol does for TensorRT; no shapes are known, so what needs them is refused."""
    made = _partition(symbol, {}, {})
    return symbol.__copy__() if made is None else made.symbol


def optimize_for(symbol: Any, arguments: Mapping[str, Any]) -> Any:
    """Does what Symbol.optimize_for does for TensorRT: keyword options are the backend's, lower-case settings."""
    options = {k: str(v) for k, v in arguments["kwargs"].items() if k not in _PASS_OPTIONS}
    settings.read(options)
    given = {**(arguments["args"] or {}), **(arguments["aux"] or {})}
    shapes = {**{k: tuple(v.shape) for k, v in given.items()}, **(arguments["shape_dict"] or {})}
    dtypes = {**{k: v.dtype for k, v in given.items()}, **(arguments["type_dict"] or {})}
    made = _partition(symbol, {k: tuple(v) for k, v in shapes.items()}, dtypes, options)
    return symbol.__copy__() if made is None else made.symbol


def reshape(executor: Any, arguments: Mapping[str, Any]) -> Any:
    """Does what Executor.reshape does; an executor with TensorRT nodes is partitioned again for its new shapes."""
    with native_default_backend():
        if not isinstance(executor, TensorRTExecutor):
            return stock.reshape(executor, **_spread(arguments))
        state = executor.tensorrt
        symbol = executor._symbol
        shapes = {k: v for k, v in arguments["kwargs"].items() if isinstance(v, tuple)}
        all_shapes = _argument_shapes(symbol, shapes)
        if not arguments["partial_shaping"]:
            _check_unspecified(executor, shapes, all_shapes)
        # MXNet checks the sizes and shares the memory. Its arrays come in the order of the partitioned symbol.
        with session.collect() as sessions:
            new = stock.reshape(executor, True, arguments["allow_up_sizing"], **{**shapes, **all_shapes})
        arrays = dict(zip(state.made.symbol.list_arguments(), new.arg_arrays))
        auxiliary = dict(zip(state.made.symbol.list_auxiliary_states(), new.aux_arrays))
        made = _partition(symbol, {k: v.shape for k, v in arrays.items()}, {k: v.dtype for k, v in arrays.items()})

        def make_stock(current: Any) -> Any:
            with native_default_backend():
                return stock.bind(symbol, current._ctx, dict(arrays), None, "null", dict(auxiliary))

        if made is None:
            return make_stock(new)
        if made.decisions.groups != state.made.decisions.groups:
            # Other nodes can be taken at the new shapes.
            with session.collect() as sessions:
                new = stock.bind(made.symbol, executor._ctx, arrays, None, "null", auxiliary)
        return _attach(new, symbol, made, make_stock, sessions)


def _partition(
    symbol: Any,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, Any],
    options: Optional[Mapping[str, str]] = None,
) -> Optional[backend.Partitioned]:
    """Returns the partitioned symbol, or None where MXNet should bind the symbol as it is."""
    try:
        decisions = backend.decide(symbol, shapes, backend.complete_dtypes(symbol, dtypes), options)
        _log.info("bind: %s", decisions.summary())
        for decision in decisions.refused:
            _log.debug("%s (%s) stays with MXNet: %s", decision.node.name, decision.node.op, decision.reason)
        made = backend.build(symbol, decisions, options, stock_optimize_for=stock.optimize_for)
    except SettingError:
        raise
    except MXNetError as error:
        # Shapes that contradict the symbol: the stock bind says so in its own words, and raises.
        _log.warning("A graph could not be partitioned for TensorRT, since MXNet's inference failed: %s", error)
        return None
    except Exception as error:
        if settings.value("ON_ERROR") == "raise":
            raise
        _log.warning(
            message(
                "A graph could not be partitioned for TensorRT; MXNet runs all of it",
                found=f"{type(error).__name__}: {error}",
                next_step="set MXNET_TENSORRT_ON_ERROR=raise to see where, or unset MXNET_SUBGRAPH_BACKEND",
            ),
            exc_info=True,
        )
        return None
    return made


def _attach(
    executor: Any,
    symbol: Any,
    made: backend.Partitioned,
    make_stock: Callable[[Any], Any],
    sessions: list[session.Session],
) -> Any:
    """Makes an executor of the partitioned symbol look like one of the original."""
    arguments = backend.permutation(symbol.list_arguments(), made.symbol.list_arguments())
    auxiliary = backend.permutation(symbol.list_auxiliary_states(), made.symbol.list_auxiliary_states())
    executor.arg_arrays = [executor.arg_arrays[i] for i in arguments]
    executor.grad_arrays = [executor.grad_arrays[i] for i in arguments] if executor.grad_arrays else []
    executor.aux_arrays = [executor.aux_arrays[i] for i in auxiliary]
    executor._symbol = symbol.__copy__()
    executor._arg_dict = executor._grad_dict = executor._aux_dict = executor._output_dict = None
    executor.__class__ = TensorRTExecutor
    executor.tensorrt = Attachment(made, make_stock, sessions=sessions)
    if executor._ctx.device_type == "cpu":
        # The executor keeps these arrays until it is deleted, and then releases them first.
        held = (*executor.arg_arrays, *executor.aux_arrays, *executor.outputs)
        addresses = {_address(array) for array in held} - {0}
        for member in sessions:
            member.keep_in_place(addresses)
        if len(sessions) == 1:
            executor.tensorrt.early = _early_start(executor, sessions[0])
    return executor


def _early_start(executor: Any, member: session.Session) -> Optional[Callable[[], None]]:
    """Returns the function behind Attachment.early.

    MXNet's way to the operator costs two changes of thread and 0.3 us for each of its inputs; meanwhile the GPU works.
    """
    names = member.graph.input_names
    if not all(name in executor.arg_dict for name in names):
        return None
    inputs = [executor.arg_dict[name] for name in names]
    addresses = (ctypes.c_void_p * max(1, len(member.graph.roles)))()
    positions = list(zip(member.graph.input_positions, inputs))
    library, wait, check = native.library(), mx.base._LIB.MXNDArrayWaitToRead, mx.base.check_call
    handles = [array.handle for array in inputs]
    state_id = ctypes.c_int64(member.state_id)

    def early() -> None:
        for handle in handles:
            check(wait(handle))
        for position, array in positions:
            addresses[position] = _address(array)  # MXNet moves an array that changes its memory layout
        library.mxtrt_state_begin(state_id, addresses)

    return early


def _address(array: Any) -> int:
    """Returns the address of an array's memory."""
    pointer = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    return pointer.value or 0


def _why_stock(symbol: Any, grad_req: Any, group2ctx: Any, stype_dict: Any) -> Optional[str]:
    """Returns why MXNet binds the symbol without TensorRT, or None; says so once."""
    requests = grad_req.values() if isinstance(grad_req, dict) else grad_req
    requests = [requests] if isinstance(requests, str) else list(requests or [])
    reason = None
    if any(r != "null" for r in requests):
        reason = "gradients are asked for (grad_req is not 'null'): training is left to MXNet"
    elif group2ctx:
        reason = "group2ctx places nodes on several devices: the graph is left to MXNet"
    elif any(v != "default" for v in (stype_dict or {}).values()):
        reason = "stype_dict asks for sparse arrays: the graph is left to MXNet"
    elif len(set(symbol.list_inputs())) != len(symbol.list_inputs()):
        reason = "two arguments have one name: the graph is left to MXNet"
    if reason is not None:
        _warn_once(reason)
    return reason


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        _log.warning("%s", text)


def _holds_nothing(args_grad: Any) -> bool:
    """Whether bind was given no array to put a gradient in: the executor is for inference, whatever grad_req says."""
    values = args_grad.values() if isinstance(args_grad, dict) else (args_grad or [])
    return all(v is None for v in values)


def _by_name(arrays: Any, names: list[str]) -> Optional[dict[str, Any]]:
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


def _argument_shapes(symbol: Any, known: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each argument that inference finds."""
    names = symbol.list_arguments()
    found, _, _ = symbol.infer_shape_partial(**{k: v for k, v in known.items() if k in names})
    return {n: tuple(s) for n, s in zip(names, found or ()) if s and all(d > 0 for d in s)}


_native_lock = threading.Lock()
_native_depth = 0


@contextmanager
def native_default_backend() -> Iterator[None]:
    """Lets MXNet's C++ see its own default backend inside.

    With the variable set it would run its pass with the partitioner's stale answers, or fail where the backend is not
    registered yet, and would leave out the MKLDNN fusion of the nodes that stay with it. Only the C environment is
    changed (an empty value counts as unset there); `os.environ` and other threads' Python code see no difference.
    """
    global _native_depth
    name = settings.BACKEND_VARIABLE
    with _native_lock:
        _native_depth += 1
        hide = os.environ.get(name) == settings.BACKEND
        if hide:
            os.putenv(name, "")
    try:
        yield
    finally:
        with _native_lock:
            _native_depth -= 1
            if _native_depth == 0 and name in os.environ:
                os.putenv(name, os.environ[name])
