"""From a symbol and its parameters to the ONNX model of `compile`, with every weight inside.

Unlike a TensorRT node's subgraph, whose weights may be written at any time, nothing here changes after `compile`: a
parameter that is read in no weight slot (a bias that a broadcast_add adds) is frozen as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from mxnet_trt_property import backend, compiled_sizes, infer, ranges, settings, sizes, support
from mxnet_trt_property import convert as conversion
from mxnet_trt_property.compiled import CompileError
from mxnet_trt_property.compiled_build import LABEL
from mxnet_trt_property.errors import ConversionError, message
from mxnet_trt_property.generalize import NotGeneralError, Template, generalize
from mxnet_trt_property.graph import Entry, Graph

# At so many sizes at most the model of a range is compared with the network's own conversion: a batch up to 32 wholly.
_COMPARED = 32


def convert(
    symbol: Any,
    arg_params: Mapping[str, Any],
    aux_params: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    dtypes: Mapping[str, Any],
    config: settings.Settings,
) -> tuple[dict[str, Any], bytes, conversion.ConvertedModel]:
    """Returns inputs, outputs and unused arguments of a network as JSON values, and its ONNX model with its bytes.

    Raises:
        CompileError: See `compiled.compile`.
    """
    from mxnet.base import MXNetError

    if not hasattr(symbol, "list_arguments"):
        raise CompileError(
            message(
                "compile was given something else than a network",
                found=type(symbol).__name__,
                required="an mx.sym.Symbol",
                next_step="of a Gluon network, export() a checkpoint, or call it with mx.sym.var('data')",
            )
        )
    inputs = {name: tuned for name, (_, tuned, _) in config.profiles}
    inputs.update({name: tuple(int(n) for n in shape) for name, shape in shapes.items()})
    arguments, states = symbol.list_arguments(), symbol.list_auxiliary_states()
    values = {k: v for k, v in arg_params.items() if k in arguments and k not in inputs}
    values.update({k: v for k, v in aux_params.items() if k in states})
    _check_names([*arguments, *states], inputs)
    known_shapes = {**inputs, **{k: tuple(v.shape) for k, v in values.items() if k in arguments}}
    known_dtypes = {**dtypes, **{k: v.dtype for k, v in values.items() if k in arguments}}
    graph = infer.read_symbol(symbol)
    try:
        tensors = infer.infer_tensors(symbol, known_shapes, backend.complete_dtypes(symbol, known_dtypes))
    except MXNetError as error:
        raise CompileError(
            message(f"{LABEL}: shapes and values contradict the network", found=str(error).strip().splitlines()[-1])
        ) from error
    roles = _roles(graph, set(values), set(inputs))
    _check_nodes(graph, tensors, config)
    template = _template(symbol, (known_shapes, known_dtypes), config, graph, roles, set(inputs))
    if template is not None:
        # The engine is tuned for these shapes, whatever was in `shapes`.
        point = tuple(r.tuned for r in template[0].ranges)
        tensors = dict(template[1].at(point))
    model = template[0].model if template is not None else conversion.convert(graph, tensors, roles, LABEL)
    names = {node.id: node.name for node in graph.nodes}
    onnx = model.serialize({port.node: _numpy(values[names[port.node]]) for port in model.weights})
    read = {names[port.node] for port in model.inputs}
    heads = zip(symbol.list_outputs(), (tensors[head] for head in graph.heads))
    meta: dict[str, Any] = {
        "inputs": [(names[p.node], tensors[Entry(p.node, 0)].shape, p.dtype.name) for p in model.inputs],
        "outputs": [(name, t.shape, np.dtype(t.dtype).name) for name, t in heads],
        "unused": [name for name in arguments if name not in read and name not in values],
    }
    if template is not None:
        meta["sizes"] = compiled_sizes.to_meta(template[0])
    return meta, onnx, model


def _template(
    symbol: Any,
    known: tuple[Mapping[str, Any], Mapping[str, Any]],
    config: settings.Settings,
    graph: Graph,
    roles: Mapping[int, conversion.Role],
    inputs: set[str],
) -> Optional[tuple[Template, ranges.Flexible]]:
    """Returns the model that serves the range that the settings ask for, and the graph's shapes; None for no range.

    Raises:
        CompileError: No one model serves it.
    """
    if not ranges.wanted(config):
        return None
    try:
        flexible = ranges.find(symbol, known[0], backend.complete_dtypes(symbol, known[1]), config, inputs)
        if flexible is None:
            return None
        models = [conversion.convert(graph, tensors, roles, LABEL) for tensors in flexible.tensors]
        template = generalize(models, flexible.points, flexible.ranges)
        for point in sizes.spread(flexible.ranges, _COMPARED):
            different = template.misfit(conversion.convert(graph, flexible.at(point), roles, LABEL), point)
            if different is not None:
                raise NotGeneralError(different)
    except ConversionError as error:
        raise CompileError(
            message(
                f"{LABEL}: no one engine serves all shapes that were asked for",
                found=str(error),
                next_step="compile a model for each shape with shapes= alone, or give narrower profiles",
            )
        ) from error
    return template, flexible


def _check_names(names: Sequence[str], inputs: Mapping[str, Any]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CompileError(message("The network has several arguments of one name", found=", ".join(twice)))
    unknown = sorted(set(inputs) - set(names))
    if unknown:
        raise CompileError(
            message(
                "shapes= names inputs that the network does not have",
                found=", ".join(unknown),
                required="names out of " + ", ".join(names[:20]) + (", ..." if len(names) > 20 else ""),
            )
        )


def _roles(graph: Graph, with_value: set[str], inputs: set[str]) -> dict[int, conversion.Role]:
    """Returns the role of each variable: whatever has a value is a weight, wherever it is read."""
    roles = conversion.variable_roles(graph, lambda node: node.name in with_value)
    missing = []
    for node in graph.nodes:
        if roles.get(node.id) == "input" and node.name in with_value:
            roles[node.id] = "weight"
        elif roles.get(node.id) == "input" and node.name not in inputs:
            missing.append(node.name)
    if missing:
        raise CompileError(
            message(
                "Arguments of the network have neither a value nor a shape",
                found=", ".join(missing),
                required="a value in arg_params or aux_params, or for an input its shape in shapes=",
            )
        )
    return roles


def _check_nodes(graph: Graph, tensors: infer.Tensors, config: settings.Settings) -> None:
    """Refuses a network with a node that has no conversion, and lists all such nodes."""
    alone = dataclasses.replace(config, min_subgraph_size=1)
    found = support.decide(graph, tensors, alone, backend.first_engine(config))
    if not found.refused:
        return
    refused = [(d.node.name, d.node.op, str(d.reason)) for d in found.refused]
    raise CompileError(
        message(
            f"The network cannot be compiled as a whole: {len(refused)} of {len(found.decisions)} nodes are refused",
            found="".join(f"\n  {name} ({op}): {reason}" for name, op, reason in refused) + "\n",
            next_step="bind it with MXNET_SUBGRAPH_BACKEND=TensorRT, which leaves these nodes to MXNet",
        ),
        refused,
    )


def _numpy(value: Any) -> np.ndarray[Any, Any]:
    return value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)
