"""Turns an mx.sym.Symbol into one with TensorRT nodes: our decisions, MXNet's own BuildSubgraph pass.

MXNet's property objects are process-wide, so one partition runs at a time. The decisions travel to the native
callback in a thread-local, since the pass calls back on the thread that started it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mxnet_trt_property import closed, infer, native, partition, session, settings
from mxnet_trt_property.errors import ConversionError, message
from mxnet_trt_property.graph import Graph

_log = logging.getLogger("mxnet_trt_property")

_partition_lock = threading.RLock()
_pending = threading.local()


@dataclass(frozen=True)
class Partitioned:
    """A symbol with TensorRT nodes, and the decisions that made it."""

    symbol: Any
    decisions: partition.Partition


def decide(
    symbol: Any,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, Any],
    options: Optional[Mapping[str, str]] = None,
) -> partition.Partition:
    """Returns the decisions for a symbol.

    Args:
        symbol: An `mx.sym.Symbol`.
        shapes: Known shapes of arguments; may be empty, then what depends on a shape is refused.
        dtypes: Known dtypes of arguments.
        options: Backend options by lower-case name.

    Raises:
        SettingError: A setting or an option is not valid.
        mxnet.base.MXNetError: The shapes or dtypes contradict the symbol.
    """
    config = settings.read(options)
    graph = infer.read_symbol(symbol)
    tensors = infer.infer_tensors(symbol, shapes, dtypes)
    refused: dict[int, str] = {}
    while True:
        decisions = partition.decide(graph, tensors, config, refused)
        found = closed.open_nodes(decisions, tensors)
        if not found:
            return decisions
        refused.update(dict.fromkeys(found, closed.REASON))


def build(
    symbol: Any,
    decisions: partition.Partition,
    options: Optional[Mapping[str, str]] = None,
    stock_optimize_for: Optional[Callable[..., Any]] = None,
) -> Optional[Partitioned]:
    """Returns the symbol with its groups replaced by TensorRT nodes, or None where nothing is taken.

    Args:
        symbol: The symbol that `decisions` were made for.
        decisions: What `decide` returned.
        options: Backend options; they are written into the new nodes and so outlive a save and load.
        stock_optimize_for: MXNet's own Symbol.optimize_for.

    Raises:
        NativeLibraryError: The native library cannot be used.
    """
    if not decisions.taken:
        return None
    load_native()
    optimize = stock_optimize_for or type(symbol).optimize_for
    heads = decisions.graph.heads
    unique = list(dict.fromkeys(heads))
    if len(unique) < len(heads):
        # MXNet's pass gives each repetition of a head an output of the new node that the node does not have; binding
        # such a symbol crashes.
        import mxnet as mx

        reduced = mx.sym.Group([symbol[heads.index(head)] for head in unique])
        made = _run_pass(reduced, decisions, options, optimize)
        new = mx.sym.Group([made[unique.index(head)] for head in heads])
    else:
        new = _run_pass(symbol, decisions, options, optimize)
    _name_nodes(new, {node.name for node in decisions.graph.nodes})
    return Partitioned(new, decisions)


def _run_pass(
    symbol: Any, decisions: partition.Partition, options: Optional[Mapping[str, str]], optimize: Callable[..., Any]
) -> Any:
    """Runs MXNet's BuildSubgraph pass with our decisions."""
    with _partition_lock:
        _pending.work = (decisions, dict(options or {}))
        try:
            # No arrays are passed: shapes were inferred here already, and MXNet would want every one of them.
            return optimize(symbol, settings.BACKEND, dedup_subgraph=True)
        finally:
            _pending.work = None
            native.set_groups(())


def load_native() -> None:
    """Loads the native library and connects this package's handlers; does nothing the second time.

    Raises:
        NativeLibraryError: The library is missing, is of another version, or MXNet refuses it.
    """
    native.load(native.Handlers(_on_decide, session.create, session.forward, session.destroy, session.write_report))


def complete_dtypes(symbol: Any, dtypes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a dtype for every argument: the given ones, what follows from them, float32 for the rest.

    float32 is what MXNet's simple_bind gives an argument that nothing says more about.
    """
    from mxnet.base import MXNetError

    names = symbol.list_arguments()
    known = {k: np.dtype(v) for k, v in dtypes.items() if k in names}
    try:
        found, _, _ = symbol.infer_type_partial(**known)
    except MXNetError:
        # Some operators (Dropout) fail instead of leaving an unknown dtype open.
        found = None
    missing = [n for n, t in zip(names, found or [None] * len(names)) if t is None]
    inferred = {n: np.dtype(t) for n, t in zip(names, found or ()) if t is not None}
    return {**dict.fromkeys(missing, np.dtype("float32")), **inferred, **known}


def _on_decide(json_text: str, options: Mapping[str, str]) -> None:
    """Answers MXNet's pass with the pending decisions; without any, the pass takes nothing."""
    work = getattr(_pending, "work", None)
    if work is None:
        _log.warning(
            message(
                "A graph was partitioned for TensorRT by a call that this package does not know; nothing was taken",
                next_step="use Symbol.optimize_for, simple_bind, bind or get_backend_symbol of mxnet's Python package",
            )
        )
        return
    decisions, node_options = work
    graph = Graph.from_json(json_text)
    expected = [(n.op, n.name) for n in decisions.graph.nodes]
    if [(n.op, n.name) for n in graph.nodes] != expected:
        raise ConversionError(
            message(
                "Internal error: MXNet numbered the graph's nodes in another order than its JSON text",
                next_step="report this with the symbol's JSON file",
            )
        )
    attrs = {f"{session.OPTION_PREFIX}{k}__": v for k, v in node_options.items()}
    native.set_groups(decisions.groups, attrs)


def _name_nodes(symbol: Any, taken_names: set[str]) -> None:
    """Names the new nodes tensorrt0, tensorrt1, ...; MXNet calls them _op0, _op1."""
    internals = symbol.get_internals()
    graph = infer.read_symbol(internals)
    first_output: dict[int, int] = {}
    for position, head in enumerate(graph.heads):
        first_output.setdefault(head.node, position)
    number = 0
    for node in graph.nodes:
        if node.op != "_TensorRT" or session.LABEL_ATTRIBUTE in node.attrs:
            continue
        while f"tensorrt{number}" in taken_names:
            number += 1
        name = f"tensorrt{number}"
        taken_names.add(name)
        internals[first_output[node.id]]._set_attr(**{"name": name, session.LABEL_ATTRIBUTE: name})


def permutation(wanted: Sequence[str], given: Sequence[str]) -> list[int]:
    """Returns for each name of `wanted` its position in `given`.

    Raises:
        ConversionError: The two are not the same names.
    """
    position = {name: i for i, name in enumerate(given)}
    if len(position) != len(given) or sorted(wanted) != sorted(given):
        raise ConversionError(
            message(
                "Internal error: the partitioned graph has other arguments than the original",
                found=", ".join(sorted(set(given) ^ set(wanted))),
                next_step="report this with the symbol's JSON file",
            )
        )
    return [position[name] for name in wanted]
