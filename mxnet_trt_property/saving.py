"""Symbols with frozen weights to text and files, and back: the values travel with the symbol.

While a program runs, a symbol only names its weights (`freezing`). `Symbol.tojson` and `Symbol.save`, and so pickle and
`HybridBlock.export`, write the values themselves; `mx.sym.load` and `load_json` take them out again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from mxnet_trt_property import freezing
from mxnet_trt_property.errors import FrozenWeightsError, message

_OPERATOR = '"_TensorRT"'


def tojson(stock: Callable[..., str], symbol: Any, arguments: Mapping[str, Any]) -> str:
    """Does what Symbol.tojson does, with frozen weights in the text."""
    return freezing.embed(stock(symbol, **arguments))


def save(stock: Callable[..., None], tojson: Callable[..., str], symbol: Any, arguments: Mapping[str, Any]) -> None:
    """Does what Symbol.save does, with frozen weights in the file.

    Raises:
        FrozenWeightsError: The symbol has frozen weights and `fname` is not a local file.
        OSError: The file cannot be written.
    """
    text = tojson(symbol, remove_amp_cast=arguments["remove_amp_cast"])
    embedded = freezing.embed(text)
    fname = arguments["fname"]
    if embedded is text or embedded == text or not isinstance(fname, str):
        stock(symbol, **arguments)
        return
    if "://" in fname:
        raise FrozenWeightsError(
            message(
                "A symbol with frozen weights can only be saved to a local file",
                found=fname,
                next_step="save it to a local file and copy that, or write Symbol.tojson() yourself",
            )
        )
    partial = f"{fname}.partial{os.getpid()}"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(embedded)
        os.replace(partial, fname)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def load(stock: Callable[..., Any], stock_load_json: Callable[..., Any], fname: Any) -> Any:
    """Does what mx.sym.load does; frozen weights are taken out of the text before MXNet keeps it."""
    if isinstance(fname, str) and os.path.isfile(fname):
        with open(fname, encoding="utf-8") as file:
            text = file.read()
        if _OPERATOR in text:
            return load_json(stock_load_json, text)
    return stock(fname)


def load_json(stock: Callable[..., Any], text: Any) -> Any:
    """Does what mx.sym.load_json does; frozen weights are taken out of the text before MXNet keeps it."""
    return stock(_prepared(text))


def set_state(stock: Callable[..., None], symbol: Any, arguments: Mapping[str, Any]) -> None:
    """Does what Symbol.__setstate__ does, which reads a pickled symbol."""
    state = arguments["state"]
    stock(symbol, {**state, "handle": _prepared(state["handle"])})


def _prepared(text: Any) -> Any:
    """Returns a symbol's text as MXNet can read it."""
    if not isinstance(text, str) or _OPERATOR not in text:
        return text
    from mxnet_trt_property import backend

    backend.load_native()  # MXNet must know the operator before it reads one
    return freezing.extract(text)
