"""MXNet's graph JSON as read-only Graph, Node and Entry records.

The format is the one of nnvm's SaveJSON pass as MXNet 1.9.1 writes it (`Symbol.tojson()`, and the
texts that the native boundary hands over): nodes in topological order, `heads` and `inputs` as
`[node, output index, version]`. Symbols of older versions come through MXNet's own loader first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

import numpy as np

from mxnet_trt_property.errors import ConversionError, message

_ESCAPE = re.compile(r"\\(u00[01][0-9a-f]|.)")


def load(text: str) -> Any:
    """Returns what a JSON text of MXNet's says; names in it may have control characters, unescaped."""
    return json.loads(text, strict=False)


def dump(data: Any) -> str:
    r"""Returns a JSON text that MXNet can read: of all escapes its reader knows \" \\ \n \r \t only."""
    return _ESCAPE.sub(_plain, json.dumps(data, ensure_ascii=False))


def _plain(escape: re.Match[str]) -> str:
    return escape.group() if escape.group(1) in '"\\nrt' else str(json.loads(f'"{escape.group()}"'))


class Entry(NamedTuple):
    """One output of one node: the edge that other nodes read."""

    node: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on an edge


@dataclass(frozen=True)
class Tensor:
    """What is known of an edge before anything runs.

    Attributes:
        shape: The shape, or None where it is not known (`get_backend_symbol` has no shapes).
        dtype: The dtype, or None where it is not known.
        is_weight: Whether the edge is a parameter that is frozen into the engine as an ONNX initializer.
    """

    shape: Optional[tuple[int, ...]]
    dtype: Optional[np.dtype[Any]]
    is_weight: bool = False


@dataclass(frozen=True)
class Node:
    """One node of the graph. `op` is the canonical operator name, or "null" for a variable."""

    id: int
    op: str
    name: str
    inputs: tuple[Entry, ...]
    attrs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    has_subgraphs: bool = False

    @property
    def is_variable(self) -> bool:
        """Whether the node is a variable: an input, a parameter or an auxiliary state."""
        return self.op == "null"


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order and the entries that the graph returns."""

    nodes: tuple[Node, ...]
    heads: tuple[Entry, ...]

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """Reads the JSON text of a symbol.

        Raises:
            ConversionError: The text is not a graph of the known form.
        """
        try:
            data = load(text)
            nodes = tuple(_read_node(i, item) for i, item in enumerate(data["nodes"]))
            heads = tuple(Entry(int(h[0]), int(h[1])) for h in data["heads"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
            raise ConversionError(
                message(
                    "The symbol's JSON text cannot be read",
                    found=f"{type(error).__name__}: {error}",
                    required="the format of Symbol.tojson() of MXNet 1.9",
                    next_step="load the file with mx.sym.load and save it again",
                )
            ) from error
        for node in nodes:
            if any(not 0 <= e.node < node.id for e in node.inputs):
                raise ConversionError(
                    message(
                        f"The symbol's JSON text is not in topological order at node '{node.name}'",
                        found=f"inputs {[tuple(e) for e in node.inputs]} of node {node.id}",
                        required="inputs that come before the node",
                        next_step="load the file with mx.sym.load and save it again",
                    )
                )
        if any(e.index < 0 for node in nodes for e in node.inputs) or any(h.index < 0 for h in heads):
            raise ConversionError("The symbol's JSON text names an output below 0")
        if any(not 0 <= h.node < len(nodes) for h in heads):
            raise ConversionError(f"The symbol's JSON text names a head outside its {len(nodes)} nodes")
        return cls(nodes, heads)

    @cached_property
    def consumers(self) -> Mapping[int, tuple[tuple[int, int], ...]]:
        """For each node id, the (consumer id, input slot) pairs that read any of its outputs."""
        found: dict[int, list[tuple[int, int]]] = {node.id: [] for node in self.nodes}
        for node in self.nodes:
            for slot, entry in enumerate(node.inputs):
                found[entry.node].append((node.id, slot))
        return {key: tuple(value) for key, value in found.items()}

    @property
    def operators(self) -> tuple[Node, ...]:
        """The nodes that are not variables."""
        return tuple(node for node in self.nodes if not node.is_variable)


def _read_node(index: int, item: Mapping[str, Any]) -> Node:
    attrs = item.get("attrs") or item.get("attr") or item.get("param") or {}
    return Node(
        id=index,
        op=str(item["op"]),
        name=str(item["name"]),
        inputs=tuple(Entry(int(e[0]), int(e[1])) for e in item["inputs"]),
        attrs=MappingProxyType({str(k): str(v) for k, v in attrs.items()}),
        has_subgraphs=bool(item.get("subgraphs")),
    )
