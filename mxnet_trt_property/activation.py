"""Makes MXNET_SUBGRAPH_BACKEND=TensorRT work in unchanged programs: the only module that patches MXNet.

MXNet reads the variable in its C++ executor, where a partitioner of the extension interface is registered but never
asked (see docs/architecture.md). So the Python functions that bind are wrapped, and each looks at the variable
at each call, as MXNet does. With the variable unset a wrapper costs one look-up.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mxnet_trt_property import profiling, settings

_lock = threading.Lock()
_installed = False


def install() -> None:
    """Wraps the functions of the imported mxnet once.

    Raises:
        ImportError: mxnet cannot be imported.
    """
    global _installed
    with _lock:
        if _installed:
            return
        import mxnet as mx
        from mxnet.executor import Executor

        symbol = mx.sym.Symbol
        from mxnet_trt_property import binding, blocks, contrib, saving
        from mxnet_trt_property.stock import stock  # keeps MXNet's own functions before they are replaced

        symbol.simple_bind = _when_on(symbol.simple_bind, binding.simple_bind)
        symbol.bind = _when_on(symbol.bind, binding.bind)
        Executor.reshape = _when_on(Executor.reshape, binding.reshape, also=lambda e: hasattr(e, "tensorrt"))
        symbol.get_backend_symbol = _for_backend(symbol.get_backend_symbol, binding.get_backend_symbol)
        symbol.optimize_for = _for_backend(symbol.optimize_for, binding.optimize_for)
        symbol.tojson = _with_stock(symbol.tojson, saving.tojson)
        symbol.__setstate__ = _with_stock(symbol.__setstate__, saving.set_state)
        symbol.save = _with_stock(symbol.save, functools.partial(saving.save, tojson=stock.tojson))
        for module in (mx.symbol.symbol, mx.symbol.numpy._symbol):
            load, load_json = module.load, module.load_json
            wrapped = functools.partial(saving.load, load, load_json)
            _replace(load, functools.update_wrapper(wrapped, load))
            wrapped = functools.partial(saving.load_json, load_json)
            _replace(load_json, functools.update_wrapper(wrapped, load_json))
        block = mx.gluon.HybridBlock
        block._build_cache = _of_block(block._build_cache, blocks.build_cache)
        block._call_cached_op = _of_block(block._call_cached_op, blocks.call)
        set_state = mx.profiler.set_state
        _replace(set_state, functools.update_wrapper(profiling.watched(set_state), set_state))
        mx.contrib.tensorrt = sys.modules["mxnet.contrib.tensorrt"] = contrib
        _installed = True


def _by_name(
    signature: inspect.Signature, owner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a method's arguments by name, with defaults; a wrong call fails as the stock one does, with TypeError."""
    bound = signature.bind(owner, *args, **kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "self"}


def _when_on(
    stock: Callable[..., Any],
    ours: Callable[[Any, Mapping[str, Any]], Any],
    also: Callable[[Any], bool] = lambda owner: False,
) -> Callable[..., Any]:
    """Wraps a method: `ours` gets its arguments by name while the backend is on, or `also` says so of the object."""
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not settings.backend_is_on() and not also(self):
            return stock(self, *args, **kwargs)
        return ours(self, _by_name(signature, self, args, kwargs))

    return wrapper


def _with_stock(stock: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method: `ours` gets the stock one, the object, and the arguments by name."""
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(stock, symbol=self, arguments=_by_name(signature, self, args, kwargs))

    return wrapper


def _of_block(stock: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method of HybridBlock: `ours` gets the stock one, the block, and the block's inputs."""

    @functools.wraps(stock)
    def wrapper(self: Any, *args: Any) -> Any:
        return ours(stock, self, args)

    return wrapper


def _replace(stock: Any, ours: Any) -> None:
    """Puts a function in the place of another in every module of mxnet that has imported it by name."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "mxnet":
            for key, value in list(vars(module).items()):
                if value is stock:
                    setattr(module, key, ours)


def _for_backend(stock: Callable[..., Any], ours: Callable[[Any, Mapping[str, Any]], Any]) -> Callable[..., Any]:
    """Wraps a method whose argument `backend` names the backend."""
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = _by_name(signature, self, args, kwargs)
        if arguments["backend"] != settings.BACKEND:
            return stock(self, *args, **kwargs)
        return ours(self, arguments)

    return wrapper
