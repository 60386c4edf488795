"""What simple_bind, bind and reshape do when TensorRT is on: executors with TensorRT nodes that look stock."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Callable, Optional

import mxnet as mx
from mxnet.base import MXNetError

from mxnet_trt_property import backend, blocks, freezing, packing, session_table, settings
from mxnet_trt_property.bind_partition import partitioned
from mxnet_trt_property.bind_requests import argument_shapes, by_name, inference_request, why_stock
from mxnet_trt_property.environment import DEFAULT_BACKEND, IDLE_BACKEND, native_backend
from mxnet_trt_property.errors import FrozenWeightsError, SettingError, message
from mxnet_trt_property.executor import TensorRTExecutor, attach
from mxnet_trt_property.logs import warn_of_fallback, warn_once
from mxnet_trt_property.stock import stock

# Options of MXNet's own pass, which Gluon passes through optimize_for too.
_PASS_OPTIONS = frozenset({"dedup_subgraph"})


def simple_bind(symbol: Any, arguments: Mapping[str, Any], values: Optional[Mapping[str, Any]] = None) -> Any:
    """Does what Symbol.simple_bind does, with TensorRT nodes where they can be had.

    Args:
        symbol: The symbol.
        arguments: simple_bind's arguments by name; the shapes under "kwargs".
        values: Parameters to freeze into TensorRT nodes; the executor then has no arrays for them.
    """
    shapes = arguments["kwargs"]
    plain = {k: v for k, v in arguments.items() if k != "kwargs"}

    def stock_bind(sym: Any, extra: Mapping[str, Any], **changed: Any) -> Any:
        return stock.simple_bind(sym, **{**plain, **changed}, **{**shapes, **extra})

    with native_backend(DEFAULT_BACKEND):
        reason = why_stock(symbol, arguments["grad_req"], plain.get("group2ctx"), plain.get("stype_dict"))
        known = {k: v for k, v in shapes.items() if isinstance(v, tuple)}
        made = (
            None
            if reason
            else partitioned(symbol, known, plain.get("type_dict") or {}, context=plain["ctx"], data=frozenset(known))
        )
        if made is None:
            return stock_bind(symbol, {})
        # Every shape and dtype is given, since inference cannot look backwards through a TensorRT node.
        all_shapes = argument_shapes(symbol, known)
        free = {k: v for k, v in all_shapes.items() if k not in plain and k != "self"}
        dtypes = backend.complete_dtypes(symbol, plain.get("type_dict") or {})
        made = _freeze(made, values or {})
        left = {k: v for k, v in free.items() if k not in made.frozen}
        try:
            with session_table.collect() as sessions, _backend_beside(made):
                arrays = _packed(made, left, dtypes, plain)
                if arrays is None:
                    executor = stock_bind(made.symbol, left, type_dict=dtypes)
                else:
                    executor = stock.bind(made.symbol, plain["ctx"], arrays[0], None, plain["grad_req"], arrays[1])
                    executor.grad_arrays = [None] * len(executor.arg_arrays)
        except (MXNetError, RuntimeError) as error:
            return _bind_without(error, lambda: stock_bind(symbol, {}))
        return attach(executor, made.symbol if made.frozen else symbol, made, _twin_maker(symbol, made), sessions)


def _packed(
    made: backend.Partitioned,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> Optional[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns the arrays that simple_bind is to make, with the weights side by side; None where it does so itself.

    Args:
        made: The partitioned symbol.
        shapes: The shapes of arguments, as far as known.
        dtypes: The dtype of each argument.
        arguments: simple_bind's arguments by name.
    """
    shared = any(arguments.get(k) is not None for k in ("shared_exec", "shared_buffer", "shared_arg_names"))
    if shared or made.decisions.refused or made.frozen or not packing.is_possible(arguments["ctx"]):
        return None
    symbol, given = made.symbol, made.data or frozenset()
    names = packing.weight_names(made.decisions.graph) - given
    auxiliary = symbol.list_auxiliary_states()
    _, _, aux_shapes = symbol.infer_shape(**shapes)
    _, _, aux_dtypes = symbol.infer_type(**dtypes)
    if aux_shapes is None or aux_dtypes is None:
        return None
    all_shapes = {**shapes, **dict(zip(auxiliary, aux_shapes))}
    all_dtypes = {**dtypes, **dict(zip(auxiliary, aux_dtypes))}
    together = {name: all_shapes[name] for name in all_shapes if name in names}
    arrays = packing.zeros(together, all_dtypes, arguments["ctx"])
    for name in (*symbol.list_arguments(), *auxiliary):
        if name not in arrays:
            arrays[name] = mx.nd.zeros(all_shapes[name], arguments["ctx"], all_dtypes[name])
    return arrays, {name: arrays.pop(name) for name in auxiliary}


def bind(symbol: Any, arguments: Mapping[str, Any]) -> Any:
    """Does what Symbol.bind does, with TensorRT nodes where they can be had."""

    def stock_bind(sym: Any) -> Any:
        return stock.bind(sym, **arguments)

    with native_backend(DEFAULT_BACKEND):
        grad_req = inference_request(arguments["args_grad"], arguments["grad_req"], symbol.list_arguments())
        reason = why_stock(symbol, grad_req, arguments["group2ctx"], None)
        arrays = by_name(arguments["args"], symbol.list_arguments())
        if reason or arrays is None:
            return stock_bind(symbol)
        shapes = {k: tuple(v.shape) for k, v in arrays.items()}
        dtypes = {k: v.dtype for k, v in arrays.items()}
        made = partitioned(symbol, shapes, dtypes, context=arguments["ctx"])
        auxiliary = by_name(arguments["aux_states"] or [], symbol.list_auxiliary_states())
        if made is None or auxiliary is None:
            return stock_bind(symbol)
        rest = ("null", auxiliary, arguments["group2ctx"], arguments["shared_exec"])
        try:
            with session_table.collect() as sessions, _backend_beside(made):
                executor = stock.bind(made.symbol, arguments["ctx"], arrays, None, *rest)
        except (MXNetError, RuntimeError) as error:
            return _bind_without(error, lambda: stock_bind(symbol))

        def make_stock(current: Any) -> Any:
            with native_backend(DEFAULT_BACKEND):
                return stock_bind(symbol)

        attached = attach(executor, symbol, made, make_stock, sessions)
        attached.grad_arrays = None if arguments["args_grad"] is None else [None] * len(attached.arg_arrays)
        attached._grad_req = arguments["grad_req"]
        return attached


def _bind_without(error: Exception, stock_bind: Callable[[], Any]) -> Any:
    """Binds without TensorRT after the bind with it has failed; what MXNet itself refuses, fails in its own words."""
    if settings.value("ON_ERROR") == "raise":
        raise error
    executor = stock_bind()
    warn_of_fallback("A network could not be bound with its TensorRT nodes; MXNet runs all of it", error)
    return executor


def _backend_beside(made: backend.Partitioned) -> AbstractContextManager[None]:
    """MXNet's own backend where any node stays with MXNet; otherwise none needs to look at the graph."""
    return native_backend(DEFAULT_BACKEND if made.decisions.refused else IDLE_BACKEND)


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
    made = partitioned(symbol, {}, {})
    return symbol.__copy__() if made is None else made.symbol


def optimize_for(symbol: Any, arguments: Mapping[str, Any]) -> Any:
    """Does what Symbol.optimize_for does for TensorRT: keyword options are the backend's, lower-case settings."""
    given_options = _flat_options(arguments["kwargs"])
    options = {k: str(v) for k, v in given_options.items() if k not in _PASS_OPTIONS}
    settings.read(options)
    given = {**(arguments["args"] or {}), **(arguments["aux"] or {})}
    shapes = {**{k: tuple(v.shape) for k, v in given.items()}, **(arguments["shape_dict"] or {})}
    dtypes = {**{k: v.dtype for k, v in given.items()}, **(arguments["type_dict"] or {})}
    data = blocks.data_names() if blocks.inside() else None
    made = partitioned(symbol, {k: tuple(v) for k, v in shapes.items()}, dtypes, options, arguments["ctx"], data)
    if made is None:
        return symbol.__copy__()
    if blocks.inside():
        context = arguments["ctx"]

        def decide(arrays: Mapping[str, Any]) -> tuple[int, ...]:
            new_shapes = {**shapes, **{k: v.shape for k, v in arrays.items()}}
            new_dtypes = {**dtypes, **{k: v.dtype for k, v in arrays.items()}}
            found = backend.decide(symbol, new_shapes, backend.complete_dtypes(symbol, new_dtypes), options, context)
            return tuple(found.groups)

        blocks.note_partition(symbol, tuple(made.decisions.groups), decide)
        return made.symbol
    if given_options.get("dedup_subgraph"):
        return made.symbol
    made = _freeze(made, given)
    for group in (arguments["args"], arguments["aux"]):
        for name in made.frozen & set(group or ()):
            del group[name]
    return made.symbol


def _flat_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options with those of `backend_opts` among them.

    MXNet's tutorial on TensorRT passes a dictionary of that name, which MXNet 1.9 itself takes for one unknown option.
    """
    nested = options.get("backend_opts") or {}
    if not isinstance(nested, Mapping):
        raise SettingError(
            message(
                "The option backend_opts of the TensorRT backend is not valid",
                found=repr(nested),
                required="a dictionary of options",
                next_step="give the options as keyword arguments",
            )
        )
    return {**nested, **{k: v for k, v in options.items() if k != "backend_opts"}}


def reshape(executor: Any, arguments: Mapping[str, Any]) -> Any:
    """Does what Executor.reshape does; an executor with TensorRT nodes is partitioned again for its new shapes."""
    new = _reshape(executor, arguments)
    if isinstance(executor, TensorRTExecutor):
        executor.pass_monitor_to(new)
    return new


def _reshape(executor: Any, arguments: Mapping[str, Any]) -> Any:
    with native_backend(DEFAULT_BACKEND):
        if not isinstance(executor, TensorRTExecutor):
            return stock.reshape(executor, **_spread(arguments))
        state = executor.tensorrt
        symbol = executor._symbol
        shapes = {k: v for k, v in arguments["kwargs"].items() if isinstance(v, tuple)}
        all_shapes = argument_shapes(symbol, shapes)
        if not arguments["partial_shaping"]:
            _check_unspecified(executor, shapes, all_shapes)
        # MXNet checks the sizes and shares the memory. Its arrays come in the order of the partitioned symbol.
        with session_table.collect() as sessions, _backend_beside(state.made):
            new = stock.reshape(executor, True, arguments["allow_up_sizing"], **{**shapes, **all_shapes})
        arrays = dict(zip(state.made.symbol.list_arguments(), new.arg_arrays))
        auxiliary = dict(zip(state.made.symbol.list_auxiliary_states(), new.aux_arrays))
        if state.made.frozen:
            # The nodes stay those of the first shapes: the weights are in them.
            return attach(new, symbol, state.made, state.make_stock, sessions)
        dtypes = {k: v.dtype for k, v in arrays.items()}
        data = state.made.data
        made = partitioned(symbol, {k: v.shape for k, v in arrays.items()}, dtypes, context=executor._ctx, data=data)
        if made is None:
            return _bind_stock(symbol, executor._ctx, {**arrays, **auxiliary})
        if made.decisions.groups != state.made.decisions.groups:
            # Other nodes can be taken at the new shapes.
            with session_table.collect() as sessions, _backend_beside(made):
                new = stock.bind(made.symbol, executor._ctx, arrays, None, "null", auxiliary)
        return attach(new, symbol, made, _twin_maker(symbol, made), sessions)


def _bind_stock(symbol: Any, ctx: Any, arrays: Mapping[str, Any]) -> Any:
    """Binds a symbol as it is, for inference, to arrays by name."""
    arguments, auxiliary = symbol.list_arguments(), symbol.list_auxiliary_states()
    with native_backend(DEFAULT_BACKEND):
        return stock.bind(symbol, ctx, [arrays[k] for k in arguments], None, "null", [arrays[k] for k in auxiliary])


def _twin_maker(symbol: Any, made: backend.Partitioned) -> Callable[[Any], Any]:
    """Returns what binds the original symbol to the arrays of an executor of the partitioned one."""

    def make_stock(current: Any) -> Any:
        frozen = freezing.values(stock.tojson(made.symbol, remove_amp_cast=False))
        arrays = {k: mx.nd.array(v, current._ctx, v.dtype) for k, v in frozen.items()}
        return _bind_stock(symbol, current._ctx, {**arrays, **current.arg_dict, **current.aux_dict})

    return make_stock


def tensorrt_bind(symbol: Any, ctx: Any, all_params: Any, **options: Any) -> Any:
    """Does what `contrib.tensorrt_bind` says."""
    bound = inspect.signature(stock.simple_bind).bind(symbol, ctx, **{"grad_req": "null", **options})
    bound.apply_defaults()
    arguments = {k: v for k, v in bound.arguments.items() if k != "self"}
    if settings.backend_is_on():
        executor = simple_bind(symbol, arguments, all_params)
    else:
        executor = stock.simple_bind(symbol, **_spread(arguments))
    held = {**executor.arg_dict, **executor.aux_dict}
    for name, value in all_params.items():
        if name in held:
            held[name][:] = value
    known = (*symbol.list_arguments(), *symbol.list_auxiliary_states())
    if isinstance(all_params, MutableMapping):
        for name in [k for k in all_params if k in known and k not in held]:
            del all_params[name]
    return executor


def freeze_in_place(symbol: Any, values: Mapping[str, Any]) -> frozenset[str]:
    """Freezes weights into the TensorRT nodes of a symbol, and returns the names of those that it has no longer.

    Raises:
        FrozenWeightsError: The weights cannot be written to a temporary file.
    """
    new, names = _frozen_symbol(symbol, values)
    # The object that the program holds has to change: its old handle goes away with the new object.
    symbol.handle, new.handle = new.handle, symbol.handle
    return names


def _freeze(made: backend.Partitioned, values: Mapping[str, Any]) -> backend.Partitioned:
    """Freezes weights into the TensorRT nodes, or says once why it cannot and leaves them with the program."""
    if not values:
        return made
    try:
        new, names = _frozen_symbol(made.symbol, values)
    except FrozenWeightsError as error:
        warn_once(
            "Weights were not moved into TensorRT nodes; they stay with the program, and results are the same",
            found=str(error),
            next_step="mend what was found, or ignore this where memory for both copies is there",
        )
        return made
    return dataclasses.replace(made, symbol=new, frozen=names)


def _frozen_symbol(symbol: Any, values: Mapping[str, Any]) -> tuple[Any, frozenset[str]]:
    text, names = freezing.freeze(stock.tojson(symbol, remove_amp_cast=False), values)
    return (_like(symbol, stock.load_json(text)), names) if names else (symbol, names)


def _like(symbol: Any, new: Any) -> Any:
    """Returns `new` as one of the array front end of `symbol`: mx.np or mx.nd."""
    return new.as_np_ndarray() if isinstance(symbol, mx.symbol.numpy._Symbol) else new
