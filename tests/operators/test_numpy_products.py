"""The products of mx.np."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, row, shapes

SIDES = {
    "matrices": ((3, 5), (5, 4)),
    "vectors": ((5,), (5,)),
    "vector_by_matrix": ((5,), (5, 4)),
    "matrix_by_vector": ((3, 5), (5,)),
    "stack_by_vector": ((2, 3, 5), (5,)),
}

ACCEPTED = [
    Row(operator, name, Call(operator, "x", "y"), {"x": left, "y": right}, 1e-5, 1e-5)
    for operator in ("_npi_matmul", "_np_dot")
    for name, (left, right) in SIDES.items()
]
ACCEPTED += [
    Row("_npi_matmul", "stacks", Call("_npi_matmul", "x", "y"), {"x": (2, 1, 3, 5), "y": (4, 5, 1)}, 1e-5, 1e-5),
    Row("_npi_matmul", "vector_by_stack", Call("_npi_matmul", "x", "y"), {"x": (5,), "y": (2, 5, 4)}, 1e-5, 1e-5),
    Row("_np_dot", "stacks", Call("_np_dot", "x", "y"), {"x": (2, 3, 5), "y": (4, 5, 2)}, 1e-5, 1e-5),
    Row("_np_dot", "vector_by_stack", Call("_np_dot", "x", "y"), {"x": (5,), "y": (2, 5, 4)}, 1e-5, 1e-5),
    Row("_np_dot", "number", Call("_np_dot", "x", "y"), {"x": (), "y": (2, 3)}, 1e-6, 1e-6),
]
ACCEPTED += [
    Row("_npi_tensordot", name, Call("_npi_tensordot", "x", "y", a_axes_summed=left, b_axes_summed=right),
        {"x": shape, "y": other}, 1e-5, 1e-5)
    for name, left, right, shape, other in [
        ("one", (1,), (0,), (3, 5), (5, 4)),
        ("swapped", (0, 2), (-1, 0), (2, 3, 4), (4, 5, 2)),
        ("all", (0, 1), (0, 1), (3, 5), (3, 5)),
        ("first", (0,), (1,), (5, 3), (4, 5)),
    ]
]  # fmt: skip
ACCEPTED += [
    Row("_npi_tensordot_int_axes", name, Call("_npi_tensordot_int_axes", "x", "y", axes=count),
        {"x": shape, "y": other}, 1e-5, 1e-5)
    for name, count, shape, other in [
        ("outer", 0, (3,), (2, 4)),
        ("one", 1, (2, 3, 5), (5, 4)),
        ("two", 2, (2, 3, 5), (3, 5, 1)),
        ("all", 2, (3, 5), (3, 5)),
    ]
]  # fmt: skip
ACCEPTED += [
    Row("_npi_einsum", name, Call("_npi_einsum", *sizes, subscripts=text), sizes, 1e-5, 1e-5)
    for name, text, sizes in [
        ("batch", "ijk,ilk->ijl", {"x": (2, 3, 5), "y": (2, 4, 5)}),
        ("implicit", "ij,jk", {"x": (3, 5), "y": (5, 4)}),
        ("implicit_order", "ba", {"x": (3, 5)}),
        ("sum", "ij->j", {"x": (3, 5)}),
        ("total", "ij,ij->", {"x": (3, 5), "y": (3, 5)}),
        ("outer", "i,j->ij", {"x": (3,), "y": (1,)}),
        ("spaces", "i j k, k -> j i", {"x": (2, 3, 4), "y": (4,)}),
    ]
]

REFUSED = [
    Refusal("_npi_einsum", name, Call("_npi_einsum", *sizes, subscripts=text), sizes, reason)
    for name, text, sizes, reason in [
        ("three", "ij,jk,kl->il", dict.fromkeys("xyz", (3, 3)), "number of operands: found 3, required 1 or 2"),
        ("ellipsis", "...ij->...ji", {"x": (2, 3)}, "required a letter for each axis"),
        ("diagonal", "ii->i", {"x": (3, 3)}, "required no letter twice in an operand"),
        ("broadcast", "ij,j->i", {"x": (3, 5), "y": (1,)}, "required one size for each letter"),
    ]
]
REFUSED += [
    Refusal("_npi_einsum", "unknown_shape", Call("_npi_einsum", "x", subscripts="ij->ji"), {}, "an unknown shape"),
    Refusal("_npi_matmul", "int32", Call("_npi_matmul", "x", "y"), {"x": (2, 3), "y": (3, 2)},
            "dtype of input 0: found int32", {"x": "int32", "y": "int32"}),
]  # fmt: skip

DTYPES = st.sampled_from(("float32",) * 4 + ("float64", "int32"))


def _products(draw: st.DrawFn, operator: str, sizes: dict[str, tuple[int, ...]], **parameters: object) -> Row:
    return row(draw, Call(operator, *sizes, **parameters), sizes, draw(DTYPES), atol=1e-5, special=())


@st.composite
def _matmul(draw: st.DrawFn) -> Row:
    inner, batch = draw(st.integers(1, 4)), draw(shapes(0, 2))
    left = draw(st.sampled_from([(inner,), (3, inner), (*batch, 2, inner)]))
    right = draw(st.sampled_from([(inner,), (inner, 3), (*batch, inner, 2), (*[1] * len(batch), inner, 2)]))
    return _products(draw, "_npi_matmul", {"x": left, "y": right})


@st.composite
def _dot(draw: st.DrawFn) -> Row:
    inner = draw(st.integers(1, 4))
    left = draw(st.sampled_from([(), (inner,), (*draw(shapes(0, 2)), inner)]))
    right = draw(st.sampled_from([(), (inner,), (*draw(shapes(0, 2)), inner, 3)]))
    return _products(draw, "_np_dot", {"x": left, "y": right})


@st.composite
def _tensordot(draw: st.DrawFn) -> Row:
    summed = draw(shapes(0, 2))
    left = draw(st.permutations([*enumerate(summed), *((None, n) for n in draw(shapes(0, 2)))]))
    right = draw(st.permutations([*enumerate(summed), *((None, n) for n in draw(shapes(0, 2)))]))
    sizes = {"x": tuple(n for _, n in left), "y": tuple(n for _, n in right)}
    places = [{which: axis for axis, (which, _) in enumerate(side) if which is not None} for side in (left, right)]
    axes = {
        name: tuple(place[which] for which in range(len(summed)))
        for name, place in zip(("a_axes_summed", "b_axes_summed"), places)
    }
    return _products(draw, "_npi_tensordot", sizes, **axes)


@st.composite
def _tensordot_int(draw: st.DrawFn) -> Row:
    summed = draw(shapes(0, 2))
    sizes = {"x": (*draw(shapes(0, 2)), *summed), "y": (*summed, *draw(shapes(0, 2)))}
    return _products(draw, "_npi_tensordot_int_axes", sizes, axes=len(summed))


@st.composite
def _einsum(draw: st.DrawFn) -> Row:
    count = draw(st.integers(1, 3))
    operands = ["".join(draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3))) for _ in range(count)]
    size = {label: draw(st.integers(1, 3)) for label in "abcd"}
    text = ",".join(operands)
    if draw(st.booleans()):
        text += "->" + "".join(draw(st.lists(st.sampled_from(sorted(set("".join(operands)))), unique=True)))
    sizes = {name: tuple(size[label] for label in labels) for name, labels in zip("xyz", operands)}
    return _products(draw, "_npi_einsum", sizes, subscripts=text)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    "_npi_matmul": _matmul(),
    "_np_dot": _dot(),
    "_npi_tensordot": _tensordot(),
    "_npi_tensordot_int_axes": _tensordot_int(),
    "_npi_einsum": _einsum(),
}
