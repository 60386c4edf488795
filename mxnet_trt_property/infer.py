"""Shapes and dtypes of every edge of a symbol, by MXNet's own inference.

`Symbol.get_internals()` lists the visible outputs of all nodes; its JSON text has the same nodes in the
same order as the symbol's own, and its heads say which node and output each one is. So one inference
over the internals gives one Tensor an Entry, also where two nodes share a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.graph import Entry, Graph, Tensor, dump

Tensors = Mapping[Entry, Tensor]

OPERATOR = "_TensorRT"
"""The operator that this package registers."""


def read_symbol(symbol: Any) -> Graph:
    """Returns the graph of an `mx.sym.Symbol`."""
    return Graph.from_json(text_of(symbol))


def text_of(symbol: Any) -> str:
    """Returns the JSON text of an `mx.sym.Symbol`, complete and as it is.

    `tojson()` without the argument would leave out amp_cast nodes, which are there when the symbol is bound, and never
    free the copy of the symbol that it makes for that.
    """
    tojson = type(symbol).tojson
    # Our own wrapper would put frozen weights into the text.
    text: str = getattr(tojson, "__wrapped__", tojson)(symbol, remove_amp_cast=False)
    return text


def has_tensorrt_nodes(symbol: Any) -> bool:
    """Whether a symbol has nodes of this package's operator."""
    return any(node.op == OPERATOR for node in read_symbol(symbol).operators)


def load_symbol(data: Mapping[str, Any]) -> Any:
    """Returns the symbol of a graph in the form of MXNet's JSON text, without the version."""
    import mxnet as mx

    # Without it MXNet takes the text for one of version 0.8, upgrades it, and says so on stderr.
    version = {"mxnet_version": ["int", _version_number(mx.__version__)]}
    return mx.sym.load_json(dump({**data, "attrs": version}))


def _version_number(text: str) -> int:
    """Returns MXNet's version as its JSON files hold it: 1.9.1 is 10901."""
    major, minor, patch = (int(part) for part in text.split(".")[:3])
    return major * 10000 + minor * 100 + patch


def infer_tensors(
    symbol: Any,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, Any],
) -> dict[Entry, Tensor]:
    """Returns what MXNet infers for each visible output of each node.

    Args:
        symbol: An `mx.sym.Symbol`.
        shapes: Known shapes of arguments, by name; may be empty.
        dtypes: Known dtypes of arguments, by name.

    Raises:
        mxnet.base.MXNetError: The shapes or dtypes contradict the symbol.
    """
    internals = symbol.get_internals()
    heads = read_symbol(internals).heads
    arguments = set(symbol.list_arguments())
    known = {k: v for k, v in shapes.items() if k in arguments}
    # With nothing to go on some operators fail; a symbol of creations alone has nothing that could be given.
    is_possible = bool(known) or not arguments
    args, outs, auxs = internals.infer_shape_partial(**known) if is_possible else (None, None, None)
    found_shapes = _by_entry(internals, heads, args, outs, auxs)
    types = {k: v for k, v in dtypes.items() if k in arguments}
    found_types = _by_entry(internals, heads, *_infer_types(internals, types))
    return {
        entry: Tensor(
            shape=known_shape(found_shapes.get(entry)),
            dtype=None if found_types.get(entry) is None else np.dtype(found_types[entry]),
        )
        for entry in heads
    }


def has_dynamic_shapes(symbol: Any, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether MXNet cannot tell all shapes of a graph before it runs, with those of all arguments known.

    Args:
        symbol: An `mx.sym.Symbol`.
        shapes: Known shapes of arguments, by name. Without any, a graph with control flow counts as one.

    Raises:
        mxnet.base.MXNetError: The shapes contradict the symbol.
    """
    names = symbol.list_arguments()
    known = {k: v for k, v in shapes.items() if k in names}
    if not known:
        return any(node.has_subgraphs and node.op != OPERATOR for node in read_symbol(symbol).operators)
    if symbol._infer_shape_impl(False, **known)[0] is not None:
        return False
    arguments, _, auxiliary = symbol.infer_shape_partial(**known)
    return all(known_shape(shape) is not None for shape in (*(arguments or [None]), *(auxiliary or ())))


def _infer_types(internals: Any, types: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Infers dtypes; MXNet's full inference fails on a bare symbol, so the partial one stands behind it."""
    result: tuple[Any, Any, Any] = internals.infer_type_partial(**types)
    return result


def _by_entry(internals: Any, heads: tuple[Entry, ...], args: Any, outs: Any, auxs: Any) -> dict[Entry, Any]:
    if outs is None:
        return {}
    found = dict(zip(heads, outs))
    # A variable is its own output; where an output came back unknown the argument list may know it.
    for names, values in ((internals.list_arguments(), args), (internals.list_auxiliary_states(), auxs)):
        by_name = dict(zip(names, values or ()))
        for entry, name in zip(heads, internals.list_outputs()):
            if found.get(entry) is None and name in by_name:
                found[entry] = by_name[name]
    return found


def known_shape(value: Any) -> Optional[tuple[int, ...]]:
    """Returns a shape as inference gave it, or None where any part is unknown.

    What 0 and () mean is a switch of the calling thread in MXNet (`mx.util.np_shape`, which `npx.set_np` turns on):
    with NumPy's semantics an axis of size 0 and a 0-d array, without it what is not known.
    """
    import mxnet as mx

    if value is None:
        return None
    if mx.util.is_np_shape():
        return None if any(d < 0 for d in value) else tuple(int(d) for d in value)
    return None if len(value) == 0 or any(d <= 0 for d in value) else tuple(int(d) for d in value)
