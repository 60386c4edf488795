"""Which nodes go to TensorRT and how they are grouped. Needs no engine, no GPU and no MXNet.

Every node is judged by its registry entry; a refused one has its reason. Taken nodes are grouped so that no path
leaves a group and comes back (a group becomes one node, so such a path would be a cycle):

    stage(node) = max over its inputs of stage(input) + 1 where a refused node reads a taken one, + 0 otherwise

Along a path from a taken node through a refused one to a taken one the stage grows, so taken nodes of one stage
can only be joined by paths of taken nodes. The groups are the connected components of the taken nodes of a stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Optional

from mxnet_trt_property import convert
from mxnet_trt_property.graph import Entry, Graph, Node, Tensor
from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators import find, registry
from mxnet_trt_property.settings import Settings


@dataclass(frozen=True)
class Decision:
    """What was decided for one operator node.

    Attributes:
        node: The node.
        reason: Why it stays with MXNet, or None where it is taken.
        group: The id of its group, or -1.
    """

    node: Node
    reason: Optional[str]
    group: int = -1

    @property
    def taken(self) -> bool:
        """Whether the node becomes part of a TensorRT node."""
        return self.reason is None


@dataclass(frozen=True)
class Partition:
    """The decisions for a graph, by node id (variables have none)."""

    graph: Graph
    decisions: Mapping[int, Decision]

    @property
    def groups(self) -> list[int]:
        """The group of each node of the graph, -1 for what stays with MXNet."""
        return [self.decisions[n.id].group if n.id in self.decisions else -1 for n in self.graph.nodes]

    @property
    def taken(self) -> tuple[Decision, ...]:
        """The decisions of the nodes that are taken."""
        return tuple(d for d in self.decisions.values() if d.taken)

    @property
    def refused(self) -> tuple[Decision, ...]:
        """The decisions of the nodes that stay with MXNet."""
        return tuple(d for d in self.decisions.values() if not d.taken)

    @property
    def members(self) -> Mapping[int, list[Node]]:
        """The nodes of each group, by its id."""
        found: dict[int, list[Node]] = {}
        for decision in self.taken:
            found.setdefault(decision.group, []).append(decision.node)
        return found

    @property
    def subgraph_count(self) -> int:
        """How many TensorRT nodes the graph gets."""
        return len({d.group for d in self.taken})

    def summary(self) -> str:
        """One line for the log, such as '20 of 21 nodes in 2 subgraphs; left with MXNet: sin (1)'."""
        text = f"{len(self.taken)} of {len(self.decisions)} nodes in {self.subgraph_count} subgraphs"
        counts: dict[str, int] = {}
        for decision in self.refused:
            counts[decision.node.op] = counts.get(decision.node.op, 0) + 1
        if counts:
            text += "; left with MXNet: " + ", ".join(f"{op} ({n})" for op, n in sorted(counts.items()))
        return text


def decide(
    graph: Graph, tensors: Mapping[Entry, Tensor], settings: Settings, refused: Mapping[int, str] = MappingProxyType({})
) -> Partition:
    """Returns the decision for each operator node of `graph`.

    Args:
        graph: The whole graph of a symbol.
        tensors: What is known of its edges; shapes and dtypes may be None.
        settings: The exclusions and the smallest size of a subgraph.
        refused: Nodes that stay with MXNet whatever their entries say, with the reasons.
    """
    roles = convert.variable_roles(graph, lambda node: True)
    reasons = {
        node.id: refused.get(node.id) or _reason(graph, tensors, roles, node, settings) for node in graph.operators
    }
    for node_id in _shapeless(graph, tensors):
        reasons[node_id] = reasons[node_id] or _NO_SHAPE
    decisions = {node.id: Decision(node, reasons[node.id]) for node in graph.operators}
    for number, members in enumerate(_components(graph, reasons)):
        if len(members) < settings.min_subgraph_size:
            text = (
                f"its subgraph has {len(members)} operator(s); MXNET_TENSORRT_MIN_SUBGRAPH_SIZE requires "
                f"{settings.min_subgraph_size}"
            )
            for member in members:
                decisions[member] = replace(decisions[member], reason=text)
        else:
            for member in members:
                decisions[member] = replace(decisions[member], group=number)
    return Partition(graph, decisions)


def _reason(
    graph: Graph, tensors: Mapping[Entry, Tensor], roles: Mapping[int, convert.Role], node: Node, settings: Settings
) -> Optional[str]:
    """Returns why `node` stays with MXNet, or None."""
    if node.op in settings.exclude_ops:
        return f"operator {node.op} is excluded by MXNET_TENSORRT_EXCLUDE_OPS"
    if node.name in settings.exclude_nodes:
        return f"node {node.name} is excluded by MXNET_TENSORRT_EXCLUDE_NODES"
    entry = find(node.op)
    if entry is None:
        return f"operator {node.op} has no conversion to TensorRT"
    try:
        params = entry.parameters.parse(node.attrs)
    except registry.ParameterError as error:
        return str(error)
    info = convert.node_info(graph, tensors, roles, node)
    reason = entry.refusal(params, info)
    if reason is None:
        reason = _emission_failure(entry, params, info)
    return reason


_NO_SHAPE = registry.reason("shapes", found="an axis of size 0, or one that MXNet cannot infer", required="known sizes")


def _shapeless(graph: Graph, tensors: Mapping[Entry, Tensor]) -> set[int]:
    """Returns the nodes with an output without a shape though their inputs have theirs, and the nodes behind those.

    To MXNet an axis of size 0 is one of unknown size. It binds such nodes all the same, and an engine could not be made
    for them then.
    """
    found: set[int] = set()
    for node in graph.operators:
        has_shapes = all(entry in tensors and tensors[entry].shape for entry in node.inputs)
        outputs = convert.node_info(graph, tensors, {}, node).outputs
        is_lost = has_shapes and any(tensor.shape is None for tensor in outputs)
        if is_lost or any(entry.node in found for entry in node.inputs):
            found.add(node.id)
    return found


def _emission_failure(entry: registry.Operator, params: registry.Parameters, info: registry.NodeInfo) -> Optional[str]:
    """Tries the emission where all shapes are known, so that a fault of a converter shows before anything is bound.

    A fault found later, at the first forward, could only be met by an error: MXNet cannot run the nodes there.
    """
    if any(t.shape is None or t.dtype is None for t in (*info.inputs, *info.outputs)):
        return None
    try:
        writer = OnnxWriter()
        with writer.scope(info.name, info.op):
            entry.emit(params, info, [f"x{i}" for i in range(len(info.inputs))], writer)
    except Exception as error:  # noqa: BLE001 - whatever a converter raises, the node stays with MXNet and says why
        return f"the conversion of {info.op} fails: {type(error).__name__}: {error}"
    return None


def _components(graph: Graph, reasons: Mapping[int, Optional[str]]) -> list[list[int]]:
    """Returns the groups of taken nodes as lists of node ids, in the order of their first nodes."""
    stage: dict[int, int] = {}
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in graph.nodes:
        taken = reasons.get(node.id, "variable") is None
        sources = [graph.nodes[e.node] for e in node.inputs]
        stage[node.id] = max(
            (stage[s.id] + (1 if not taken and reasons.get(s.id, "variable") is None else 0) for s in sources),
            default=0,
        )
        if not taken:
            continue
        parent[node.id] = node.id
        for source in sources:
            if source.id in parent and stage[source.id] == stage[node.id]:
                parent[root(source.id)] = root(node.id)
    found: dict[int, list[int]] = {}
    for node_id in sorted(parent):
        found.setdefault(root(node_id), []).append(node_id)
    return sorted(found.values(), key=lambda members: members[0])


def describe(decisions: Sequence[Decision]) -> str:
    """Returns one line for each decision: node, operator, and 'taken' or the reason."""
    return "\n".join(
        f"{d.node.name} ({d.node.op}): " + (f"taken, group {d.group}" if d.taken else str(d.reason)) for d in decisions
    )
