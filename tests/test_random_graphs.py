"""Random graphs, of which TensorRT takes some nodes and MXNet keeps others: the values are MXNet's at every border."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mxnet_trt_property.environment import environment
from tests.harness import compare, mx, plugin_outputs, stock_outputs

TAKEN, KEPT, BINARY = ("tanh", "sin", "sigmoid"), ("gammaln", "gamma"), ("elemwise_add", "elemwise_mul", "_maximum")
VARIABLES = ("x", "y")
SHAPE = (2, 4)


@st.composite
def graphs(draw: st.DrawFn) -> Any:
    """Draws a symbol with heads in any order, some of them twice, and now and then two nodes of one name."""
    values = [mx.sym.var(name) for name in VARIABLES]
    for i in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(("taken", "taken", "kept", "binary", "split")))
        name = draw(st.sampled_from((f"node{i}", f"node{i}", f"node{i}", "same")))
        first, second = (values[draw(st.integers(0, len(values) - 1))] for _ in range(2))
        if kind == "taken":
            values.append(getattr(mx.sym, draw(st.sampled_from(TAKEN)))(first, name=name))
        elif kind == "kept":
            values.append(getattr(mx.sym, draw(st.sampled_from(KEPT)))(mx.sym.sigmoid(first) + 1, name=name))
        elif kind == "binary":
            operator = draw(st.sampled_from(BINARY))
            group = mx.sym._internal if operator.startswith("_") else mx.sym
            values.append(getattr(group, operator)(first, second, name=name))
        else:
            parts = mx.sym.split(first, num_outputs=2, axis=1, name=name)
            values += [mx.sym.concat(parts[1], parts[0]), mx.sym.concat(parts[0], parts[0])]
    return mx.sym.Group([values[i] for i in draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=5))])


def check(symbol: Any) -> None:
    """Compares what a program gets with and without TensorRT."""
    rng = np.random.RandomState(0)
    arrays = {name: rng.standard_normal(SHAPE).astype(np.float32) for name in symbol.list_arguments()}
    with environment({"MXNET_TENSORRT_EXCLUDE_OPS": ",".join(KEPT)}):
        found, _ = plugin_outputs(symbol, arrays)
    compare(found, stock_outputs(symbol, arrays), rtol=1e-4, atol=1e-5)


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(graphs())
def test_some_graphs(symbol: Any) -> None:
    hypothesis.note(symbol.tojson())
    check(symbol)


@pytest.mark.slow
@hypothesis.settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@hypothesis.given(graphs())
def test_many_graphs(symbol: Any) -> None:
    hypothesis.note(symbol.tojson())
    check(symbol)


def test_a_value_with_several_readers() -> None:
    """MXNet's own merging of a node's outputs connects the readers wrongly."""
    data = mx.sym.var("x")
    x, y = mx.sym.exp(data), mx.sym.sin(data)
    check(mx.sym.Group([mx.sym.gammaln(x), mx.sym.gamma(x), x, mx.sym.gammaln(y), y]))
