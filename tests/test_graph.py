"""The reader of MXNet's graph JSON: what it reads, and that no text makes it fail in another way than it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxnet_trt_property.errors import ConversionError
from mxnet_trt_property.graph import Entry, Graph
from mxnet_trt_property.infer import infer_tensors, read_symbol
from tests.symbols import conv_bn

SMALL = {
    "nodes": [
        {"op": "null", "name": "x", "inputs": []},
        {"op": "relu", "name": "y", "inputs": [[0, 0, 0]], "attrs": {"a": "1"}},
    ],
    "heads": [[1, 0, 0]],
}


def test_reads_a_symbol() -> None:
    graph = read_symbol(conv_bn())
    assert [n.op for n in graph.operators] == [
        "Convolution", "BatchNorm", "Activation", "Pooling", "FullyConnected", "SoftmaxOutput",
    ]  # fmt: skip
    conv = graph.operators[0]
    assert conv.attrs["num_filter"] == "4"
    assert graph.consumers[conv.inputs[0].node] == ((conv.id, 0),)
    assert graph.heads == (Entry(graph.operators[-1].id, 0),)


def test_inference_covers_every_visible_output() -> None:
    symbol = conv_bn()
    graph = read_symbol(symbol)
    tensors = infer_tensors(symbol, {"data": (2, 3, 8, 8)}, {"data": "float32"})
    assert tensors[Entry(graph.operators[0].id, 0)].shape == (2, 4, 8, 8)
    assert {t.dtype.name for t in tensors.values() if t.dtype} == {"float32"}
    unknown = infer_tensors(symbol, {}, {})
    assert {t.shape for t in unknown.values()} == {None}


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": None},
        {"heads": [[7, 0, 0]]},
        {"heads": "none"},
        {"nodes": [{"op": "relu", "name": "y", "inputs": [[0, 0, 0]]}], "heads": []},
        {"nodes": [{"op": "relu", "name": "y", "inputs": [["a", 0, 0]]}]},
        {"nodes": [{"name": "y", "inputs": []}]},
        {"nodes": [3]},
    ],
)
def test_wrong_texts_are_conversion_errors(change: dict[str, Any]) -> None:
    with pytest.raises(ConversionError, match="JSON text"):
        Graph.from_json(json.dumps({**SMALL, **change}))


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        Graph.from_json(text)
    except ConversionError:
        pass


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(["nodes", "heads"]), _VALUES)
def test_any_value_in_place_of_a_part_is_read_or_refused(key: str, value: Any) -> None:
    try:
        Graph.from_json(json.dumps({**SMALL, key: value}))
    except ConversionError:
        pass
