"""Nodes without inputs, whose shapes MXNet may infer from who reads them."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from mxnet_trt_property import backend, closed
from tests.harness import all_arrays, compare, plugin_outputs, stock_outputs

S = mx.sym
X = S.var("x")
OPEN = S.zeros((0, 3), name="open")


def _reasons(symbol, shapes, **options):
    names = {name: np.dtype("float32") for name in shapes}
    decisions = backend.decide(symbol, shapes, names, {"min_subgraph_size": "1", **options})
    return {d.node.name: d.reason for d in decisions.refused}


@pytest.mark.parametrize(
    ("symbol", "left"),
    [
        (S.elemwise_add(OPEN, X), set()),
        (S.elemwise_add(S.tanh(S.relu(OPEN)), S.exp(X)), set()),
        (S.elemwise_add(S.gammaln(S.relu(OPEN), name="wave"), X), {"open", "wave"}),
        (S.elemwise_add(S.gammaln(OPEN, name="wave"), X), {"open", "wave"}),
        # One group knows the size of its zeros, the other does not.
        (S.elemwise_add(S.gammaln(S.relu(OPEN), name="wave"), S.elemwise_add(S.ones((0, 3)), X)), {"open", "wave"}),
        (S.elemwise_add(S.gammaln(S.relu(S.zeros((2, 3))), name="wave"), X), {"wave"}),
    ],
    ids=["reader", "readers_reader", "beyond_a_refused_node", "read_by_a_refused_node", "two_groups", "complete"],
)
def test_a_shape_must_follow_from_inside(symbol, left) -> None:
    """What does not is left to MXNet with a reason, and all others still run."""
    shapes = {"x": (2, 3)}
    reasons = _reasons(symbol, shapes)
    assert set(reasons) == left
    assert reasons.get("open", closed.REASON) == closed.REASON
    arrays = all_arrays(symbol, shapes)
    outputs, report = plugin_outputs(symbol, arrays)
    assert set(report.refused) == left
    compare(outputs, stock_outputs(symbol, arrays), rtol=1e-6, atol=1e-6)


def test_a_dtype_must_follow_from_inside() -> None:
    """Zeros without a dtype take it from who reads them."""
    untyped = S._internal._zeros_without_dtype(shape=(2, 3), name="untyped")
    assert _reasons(S.elemwise_add(untyped, X), {"x": (2, 3)}) == {}
    reasons = _reasons(S.elemwise_add(S.gammaln(S.relu(untyped)), X), {"x": (2, 3)})
    assert reasons["untyped"] == closed.REASON


def test_an_operator_that_fails_on_an_unknown_dtype() -> None:
    """SequenceMask cannot be inferred alone, since the dtype follows from a reader outside of its group."""
    untyped = S._internal._zeros_without_dtype(shape=(2, 3), name="untyped")
    symbol = S.Group([S.elemwise_add(untyped, X, name="first"), S.SequenceMask(untyped)])
    reasons = _reasons(symbol, {"x": (2, 3)}, exclude_nodes="first")
    assert set(reasons) == {"first", "untyped"}
    assert reasons["untyped"] == closed.REASON
