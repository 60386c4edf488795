"""The interleaved matrix products of multi-head attention."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, row

PREFIX = "_contrib_interleaved_matmul_"


def _shapes(kind, heads, size, batch, queries, keys):
    """Returns the shapes of the inputs of one of the four products."""
    embedding = heads * size
    if kind == "selfatt_qk":
        return {"x": (queries, batch, 3 * embedding)}
    if kind == "selfatt_valatt":
        return {"x": (queries, batch, 3 * embedding), "y": (batch * heads, queries, queries)}
    if kind == "encdec_qk":
        return {"x": (queries, batch, embedding), "y": (keys, batch, 2 * embedding)}
    return {"x": (keys, batch, 2 * embedding), "y": (batch * heads, queries, keys)}


KINDS = ("selfatt_qk", "selfatt_valatt", "encdec_qk", "encdec_valatt")


def _call(kind, heads):
    inputs = ("x",) if kind == "selfatt_qk" else ("x", "y")
    return Call(PREFIX + kind, *inputs, heads=heads)


ACCEPTED = [
    Row(PREFIX + kind, name, _call(kind, sizes[0]), _shapes(kind, *sizes), 1e-5, 1e-5)
    for kind in KINDS
    for name, sizes in [
        ("heads", (3, 4, 2, 5, 7)),
        ("one_head", (1, 6, 3, 4, 1)),
        ("size_1", (4, 1, 1, 1, 3)),
    ]
]

REFUSED = [
    Refusal(PREFIX + kind, "unknown_shape", _call(kind, 2), {}, "size of the projections: found an unknown shape")
    for kind in KINDS
]
REFUSED += [
    Refusal(PREFIX + "selfatt_qk", "heads", _call("selfatt_qk", 4), {"x": (5, 2, 18)},
            "size of the projections: found 18 for 4 heads, required a multiple of 3 times the heads"),
]  # fmt: skip


@st.composite
def _product(draw: st.DrawFn, kind: str) -> Row:
    heads, size, batch, queries, keys = (draw(st.integers(1, 4)) for _ in range(5))
    # Heads that do not divide the size make MXNet read beyond its arrays.
    asked = draw(st.sampled_from([n for n in (heads, 1, 2) if heads * size % n == 0]))
    return row(
        draw,
        _call(kind, asked),
        _shapes(kind, asked, heads * size // asked, batch, queries, keys),
        atol=1e-5,
        special=False,
    )


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {PREFIX + kind: _product(kind) for kind in KINDS}
