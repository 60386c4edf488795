"""Turns an mx.sym.Symbol into one with TensorRT nodes: our decisions, MXNet's own BuildSubgraph pass.

MXNet's property objects are process-wide, so one partition runs at a time. The decisions travel to the native
callback in a thread-local, since the pass calls back on the thread that started it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mxnet_trt_property import dynamic_shapes, forks, infer, native, partition, ranges, session_table, settings, support
from mxnet_trt_property.engines import registry as engines
from mxnet_trt_property.engines.registry import Device
from mxnet_trt_property.errors import ConversionError, message
from mxnet_trt_property.generalize import NotGeneralError
from mxnet_trt_property.graph import Graph, load
from mxnet_trt_property.logs import warn_once
from mxnet_trt_property.precision import tables

_partition_lock = threading.RLock()
_pending = threading.local()


@dataclass(frozen=True)
class Partitioned:
    """A symbol with TensorRT nodes.

    Attributes:
        symbol: The symbol.
        decisions: The decisions that made it.
        frozen: The variables that were frozen into the nodes.
        data: The arguments that are no parameters; None where nobody has said.
    """

    symbol: Any
    decisions: partition.Partition
    frozen: frozenset[str] = frozenset()
    data: Optional[frozenset[str]] = None


def decide(
    symbol: Any,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, Any],
    options: Optional[Mapping[str, str]] = None,
    context: Any = None,
) -> partition.Partition:
    """Returns the decisions for a symbol.

    Args:
        symbol: An `mx.sym.Symbol`.
        shapes: Known shapes of arguments; may be empty, then what depends on a shape is refused.
        dtypes: Known dtypes of arguments.
        options: Backend options by lower-case name.
        context: Where the arrays will lie, an `mx.Context`; mx.cpu() where nobody says.

    Raises:
        SettingError: A setting or an option is not valid.
        mxnet.base.MXNetError: The shapes or dtypes contradict the symbol.
    """
    config = settings.read(options)
    if config.precision == "int8":
        tables.check(config.calibration_table, config.calibration_iters)
    graph = infer.read_symbol(symbol)
    return support.decide(graph, infer.infer_tensors(symbol, shapes, dtypes), config, first_engine(config, context))


def first_engine(config: settings.Settings, context: Any = None) -> Optional[engines.Engine]:
    """Returns the engine that is tried first for arrays of an `mx.Context`, or None where none is usable."""
    on_gpu = context is not None and context.device_type == "gpu"
    index = context.device_id if on_gpu else 0
    choice = engines.choose(
        config.engine, Device("gpu" if on_gpu else "cpu", index, index if on_gpu else config.device)
    )
    return choice.engines[0] if choice.engines else None


def build(
    symbol: Any,
    decisions: partition.Partition,
    options: Optional[Mapping[str, str]] = None,
    stock_optimize_for: Optional[Callable[..., Any]] = None,
    flexible: Optional[ranges.Flexible] = None,
) -> Optional[Partitioned]:
    """Returns the symbol with its groups replaced by TensorRT nodes, or None where nothing is taken.

    Args:
        symbol: The symbol that `decisions` were made for.
        decisions: What `decide` returned.
        options: Backend options; they are written into the new nodes and so outlive a save and load.
        stock_optimize_for: MXNet's own Symbol.optimize_for.
        flexible: The graph's shapes over the range that the new nodes are to serve.

    Raises:
        NativeLibraryError: The native library cannot be used.
    """
    if not decisions.taken:
        return None
    load_native()
    optimize = stock_optimize_for or type(symbol).optimize_for
    new = _run_pass(symbol, decisions, options, optimize)
    _name_nodes(new, {node.name for node in decisions.graph.nodes}, decisions.graph, flexible)
    return Partitioned(new, decisions)


def _run_pass(
    symbol: Any, decisions: partition.Partition, options: Optional[Mapping[str, str]], optimize: Callable[..., Any]
) -> Any:
    """Runs MXNet's BuildSubgraph pass with our decisions."""
    with _partition_lock:
        _pending.work = (decisions, dict(options or {}))
        try:
            # No arrays are passed: shapes were inferred here already, and MXNet would want every one of them.
            return optimize(symbol, settings.BACKEND, dedup_subgraph=_can_merge(decisions))
        finally:
            _pending.work = None
            native.set_groups(())


@forks.in_child
def _leave_behind() -> None:
    global _partition_lock
    _partition_lock = threading.RLock()


def _can_merge(decisions: partition.Partition) -> bool:
    """Whether MXNet's pass may give a value that a group reads at several places one input of the new node.

    The same option merges what the new node writes for several readers, but the readers are then connected as if
    nothing had been merged: from the second on they would read another output, or one that is not there. And values are
    told apart by the names of their nodes.
    """
    graph, groups = decisions.graph, decisions.groups
    readers = Counter(graph.heads)
    for node in graph.nodes:
        readers.update(entry for entry in node.inputs if groups[entry.node] != groups[node.id])
    is_read_once = all(count == 1 for entry, count in readers.items() if groups[entry.node] >= 0)
    return is_read_once and len({node.name for node in graph.nodes}) == len(graph.nodes)


def load_native() -> None:
    """Loads the native library and connects this package's handlers; does nothing the second time.

    Raises:
        NativeLibraryError: The library is missing, is of another version, or MXNet refuses it.
    """
    native.load(
        native.Handlers(
            _on_decide, session_table.create, session_table.forward, session_table.destroy, session_table.write_report
        )
    )


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
        warn_once(
            "A graph was partitioned for TensorRT by a call that this package does not know; nothing was taken",
            next_step="use Symbol.optimize_for, simple_bind, bind or get_backend_symbol of mxnet's Python package",
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
    attrs = {f"{session_table.OPTION_PREFIX}{k}__": v for k, v in node_options.items()}
    native.set_groups(decisions.groups, attrs)


def _name_nodes(symbol: Any, taken_names: set[str], before: Graph, flexible: Optional[ranges.Flexible]) -> None:
    """Names the new nodes tensorrt0, tensorrt1, ...; MXNet calls them _op0, _op1. Says what sizes they serve."""
    internals = symbol.get_internals()
    text = infer.text_of(internals)
    graph = Graph.from_json(text)
    inner = {i: n["subgraphs"][0] for i, n in enumerate(load(text)["nodes"]) if n.get("subgraphs")} if flexible else {}
    first_output: dict[int, int] = {}
    for position, head in enumerate(graph.heads):
        first_output.setdefault(head.node, position)
    number = 0
    for node in graph.nodes:
        if node.op != "_TensorRT" or session_table.LABEL_ATTRIBUTE in node.attrs:
            continue
        while f"tensorrt{number}" in taken_names:
            number += 1
        name = f"tensorrt{number}"
        taken_names.add(name)
        attrs = {"name": name, session_table.LABEL_ATTRIBUTE: name}
        if flexible is not None:
            try:
                described = dynamic_shapes.describe(inner[node.id], before, flexible)
            except NotGeneralError as error:
                dynamic_shapes.tell(name, str(error))
                described = None
            if described is not None:
                attrs[dynamic_shapes.ATTRIBUTE] = described
        internals[first_output[node.id]]._set_attr(**attrs)


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
