"""MXNet's own functions that `activation` wraps, as they were before."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import mxnet as mx
from mxnet.executor import Executor


class Stock(NamedTuple):
    """MXNet's functions, each under its own name."""

    simple_bind: Callable[..., Any]
    bind: Callable[..., Any]
    get_backend_symbol: Callable[..., Any]
    optimize_for: Callable[..., Any]
    reshape: Callable[..., Any]
    tojson: Callable[..., str]
    load_json: Callable[..., Any]


stock = Stock(
    mx.sym.Symbol.simple_bind,
    mx.sym.Symbol.bind,
    mx.sym.Symbol.get_backend_symbol,
    mx.sym.Symbol.optimize_for,
    Executor.reshape,
    mx.sym.Symbol.tojson,
    mx.sym.load_json,
)
