"""The decisions and the groups, on graphs written by hand and drawn at random; no engine is involved."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxnet_trt_property import partition, settings
from mxnet_trt_property.graph import Entry, Graph, Tensor

TAKEN, REFUSED = "relu", "_an_operator_that_nobody_has"


def make_graph(nodes: list[tuple[str, list[int]]]) -> Graph:
    """Returns a graph from (operator, input ids); every node that nothing reads is a head."""
    text = {
        "nodes": [
            {"op": op, "name": f"n{i}", "inputs": [[j, 0, 0] for j in inputs]} for i, (op, inputs) in enumerate(nodes)
        ],
        "heads": [[i, 0, 0] for i in range(len(nodes)) if not any(i in inputs for _, inputs in nodes)],
    }
    return Graph.from_json(json.dumps(text))


def decide(graph: Graph, **options: str) -> partition.Partition:
    """Decides with every edge a (2, 2) float32 tensor."""
    tensors = {Entry(n.id, 0): Tensor((2, 2), np.dtype("float32")) for n in graph.nodes}
    return partition.decide(graph, tensors, settings.read(options))


def test_chain_is_cut_where_a_node_is_refused() -> None:
    graph = make_graph([("null", []), (TAKEN, [0]), (TAKEN, [1]), (REFUSED, [2]), (TAKEN, [3]), (TAKEN, [4])])
    found = decide(graph)
    assert found.groups == [-1, 0, 0, -1, 1, 1]
    assert found.subgraph_count == 2
    assert found.refused[0].reason == f"operator {REFUSED} has no conversion to TensorRT"
    assert found.summary() == f"4 of 5 nodes in 2 subgraphs; left with MXNet: {REFUSED} (1)"


def test_a_path_around_a_refused_node_does_not_make_a_cycle() -> None:
    # 1 -> 2(refused) -> 3 and 1 -> 3: nodes 1 and 3 in one group would wait for each other.
    graph = make_graph([("null", []), (TAKEN, [0]), (REFUSED, [1]), ("elemwise_add", [1, 2]), (TAKEN, [3])])
    assert decide(graph, min_subgraph_size="1").groups == [-1, 0, -1, 1, 1]


def test_parallel_branches_share_a_group() -> None:
    graph = make_graph([("null", []), (TAKEN, [0]), (TAKEN, [1]), (TAKEN, [1]), ("elemwise_add", [2, 3])])
    assert decide(graph).groups == [-1, 0, 0, 0, 0]


def test_what_has_no_shape_stays_with_mxnet() -> None:
    """MXNet binds a node with an empty result, whose shape it calls unknown; no engine could be declared for it."""
    graph = make_graph([("null", []), (TAKEN, [0]), (TAKEN, [1]), (TAKEN, [0]), (TAKEN, [3])])
    known = Tensor((2, 2), np.dtype("float32"))
    tensors = {Entry(n.id, 0): known for n in graph.nodes}
    tensors[Entry(1, 0)] = tensors[Entry(2, 0)] = Tensor(None, np.dtype("float32"))
    found = partition.decide(graph, tensors, settings.read({}))
    assert found.groups == [-1, -1, -1, 0, 0]
    assert all("shapes: found an axis of size 0" in str(decision.reason) for decision in found.refused)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"exclude_ops": TAKEN}, "operator relu is excluded by MXNET_TENSORRT_EXCLUDE_OPS"),
        ({"exclude_nodes": "n1"}, "node n1 is excluded by MXNET_TENSORRT_EXCLUDE_NODES"),
        ({"min_subgraph_size": "3"}, "its subgraph has 2 operator(s); MXNET_TENSORRT_MIN_SUBGRAPH_SIZE requires 3"),
    ],
)
def test_reasons_of_settings(options: dict[str, str], reason: str) -> None:
    graph = make_graph([("null", []), (TAKEN, [0]), (TAKEN, [1])])
    assert decide(graph, **options).decisions[1].reason == reason


def test_an_unknown_attribute_is_a_reason() -> None:
    nodes = [
        {"op": "null", "name": "x", "inputs": []},
        {"op": TAKEN, "name": "y", "inputs": [[0, 0, 0]], "attrs": {"strange": "1"}},
    ]
    graph = Graph.from_json(json.dumps({"nodes": nodes, "heads": [[1, 0, 0]]}))
    assert "strange" in str(decide(graph).decisions[1].reason)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draws a directed acyclic graph of taken and refused nodes."""
    nodes: list[tuple[str, list[int]]] = [("null", [])]
    for i in range(1, draw(st.integers(2, 24))):
        inputs = draw(st.lists(st.integers(0, i - 1), min_size=2, max_size=2))
        nodes.append((draw(st.sampled_from(["elemwise_add", "elemwise_mul", REFUSED])), inputs))
    return make_graph(nodes)


@given(graphs())
def test_groups_never_wait_for_each_other(graph: Graph) -> None:
    found = decide(graph, min_subgraph_size="1")
    groups = found.groups
    for node in graph.operators:
        assert (groups[node.id] >= 0) == (node.op != REFUSED)
    # Contract each group to one vertex; the result must still be acyclic.
    vertex = {n.id: ("group", groups[n.id]) if groups[n.id] >= 0 else ("node", n.id) for n in graph.nodes}
    waits_for: dict[tuple[str, int], set[tuple[str, int]]] = {v: set() for v in vertex.values()}
    for node in graph.nodes:
        for entry in node.inputs:
            if vertex[entry.node] != vertex[node.id]:
                waits_for[vertex[node.id]].add(vertex[entry.node])
    done: set[tuple[str, int]] = set()
    while len(done) < len(waits_for):
        ready = {v for v, sources in waits_for.items() if v not in done and sources <= done}
        assert ready, "the groups wait for each other in a circle"
        done |= ready
